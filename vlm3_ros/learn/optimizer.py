"""Muon for the matrices of a model's layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from vlm3_ros.config import ConfigError

BETAS = (0.9, 0.98)  # of AdamW
TABLES = ("embed", "lm_head", "help.")  # matrices that are tables, or are thrown away


class MuonAndAdamW(Optimizer):
    """Matrices are moved by orthogonal steps, as long as those of AdamW, so that one learning rate serves both
    (arXiv 2502.16982).

    A small model that starts from nothing needs a fraction of the steps that AdamW alone would take. Raises
    ConfigError where PyTorch is too old to have Muon.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float):
        try:
            from torch.optim import Muon
        except ImportError as error:
            raise ConfigError("optimizer muon needs PyTorch 2.9 or newer; adamw works with any") from error
        trained = [(name, p) for name, p in named if p.requires_grad]
        matrices = [p for name, p in trained if _is_matrix(name, p)]
        others = [p for name, p in trained if not _is_matrix(name, p)]
        self._parts: tuple[Optimizer, ...] = (
            Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=weight_decay),
        )
        super().__init__(matrices + others, {"lr": learning_rate})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()

    def _share(self) -> None:
        """One list of groups, so that whoever sets the learning rate sets it for all."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and not any(table in name for table in TABLES)
