"""Models on this machine."""

from __future__ import annotations

from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.checkpoint import inspect
from vlm3_ros.vlm.engine import Engine
from vlm3_ros.vlm.interface import VLM
from vlm3_ros.vlm.loading import load, pick_device, resolve_precision
from vlm3_ros.vlm.memory import free_bytes

WORKING_BYTES = 1_500_000_000  # what a look and a chunk of questions need beside the weights


class LocalSource:
    """A `Source` of checkpoints by folder or hub id, all on one device. Raises ModelError for a device not there.

    ``cancel`` stops them between two passes.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: str = "auto",
        chunk: int = 0,
        distributions: bool = True,
        cancel: Cancel | None = None,
    ):
        self._device = pick_device(device)
        self._precision = precision
        self._chunk = chunk
        self._distributions = distributions
        self._cancel = cancel

    def memory_bytes(self, name: str) -> int:
        """Size of the weights once loaded; raises ModelError for a checkpoint that cannot be (nothing is loaded)."""
        info = inspect(name)
        return info.memory_bytes(resolve_precision(info, self._device, self._precision))

    def image_scale(self, name: str) -> float:
        return inspect(name).image_scale

    def free_bytes(self) -> int:
        return free_bytes(self._device) - WORKING_BYTES

    def open(self, name: str) -> VLM:
        checkpoint = load(name, str(self._device), self._precision)
        return Engine(checkpoint, self._chunk, self._distributions, cancel=self._cancel).try_out()
