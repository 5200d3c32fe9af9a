"""Help for models that start from nothing: losses that say early what the words of answers say late.

A small model that is only taught text learns to see very slowly. These heads read what vision and the middle layers
ought to know by then. They are thrown away after training: the checkpoint has the standard architecture. All targets
come from the questions and answers themselves.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm3_ros.learn.looks import Lesson, Result, Rows
from vlm3_ros.tasks import Refusal, depth, matching

CELLS = 4  # per side of a token: how finely its log-depth is read
BINS = 16  # per side of an image: how finely places are told apart
PLACE_LAYER, VALUE_LAYER = 1, 3  # text layers after which a question knows its pixel, and what is there
WEIGHTS = {"seen depth": 2.0, "seen match": 0.5, "position": 0.2, "place": 0.3, "depth": 2.0, "match": 0.3}
WEIGHTS |= {"flow": 0.3}
TEMPERATURE = 0.1
_PIXEL = re.compile(r"\((\d+), (\d+)\)")


class Auxiliary(nn.Module):
    """The heads, and their losses for one lesson."""

    def __init__(self, hidden: int):
        super().__init__()
        self.cells = nn.Linear(hidden, CELLS**2)
        self.feature = nn.Linear(hidden, 64, bias=False)
        self.place = nn.Linear(hidden, 2 * BINS)
        self.value = nn.Linear(hidden, 1)

    def seeing(self, lesson: Lesson, visual: Tensor) -> dict[str, Tensor]:
        """What the tokens of the pictures [V, hidden] should show before any question: log-depth, and which of two
        pictures' tokens show the same."""
        losses = {}
        pictures = self._pictures(lesson, visual.float())
        for _, rows in lesson.groups:
            if rows.task == "depth":
                read = _sampled(self._fine(pictures[0]), _asked(rows))[:, 0]
                losses["seen depth"] = _log_error(read, _numbers(rows)[:, 0])
            elif rows.task == "matching":
                first, second = (F.normalize(self.feature(p), dim=-1) for p in pictures)
                alike = F.normalize(_sampled(first, _asked(rows)), dim=-1) @ second.flatten(0, 1).T / TEMPERATURE
                token = _token(_answered(rows), lesson.sizes[1])
                losses["seen match"] = F.cross_entropy(alike, token.to(alike.device))
        return losses

    def knowing(self, lesson: Lesson, result: Result) -> dict[str, Tensor]:
        """What the middle layers should know: where a token is, where a question points, and what is there."""
        places = torch.cat([_centres(size) for size in lesson.sizes])  # targets are made on the CPU
        losses = {"position": self._place(result.prefix[PLACE_LAYER], places)}
        for rows, _, states in result.rows:
            if rows.task not in ("depth", "matching"):
                continue
            index = torch.arange(len(rows.asked)), rows.asked
            losses["place"] = self._place(states[PLACE_LAYER][index], _asked(rows))
            known = states[VALUE_LAYER][index]
            if rows.task == "depth":
                losses["depth"] = _log_error(self.value(known.float())[:, 0], _numbers(rows)[:, 0])
            else:
                losses["match"] = self._place(known, _answered(rows))
                second = self._pictures(lesson, result.prefix[VALUE_LAYER].float())[1]
                token = _token(_answered(rows), lesson.sizes[1])
                losses["flow"] = self._place(second.flatten(0, 1)[token], _asked(rows))
        return losses

    @staticmethod
    def _pictures(lesson: Lesson, tokens: Tensor) -> list[Tensor]:
        """Tokens of all pictures in a row [V, hidden] as [rows, columns, hidden] for each."""
        parts = tokens.split([rows * columns for rows, columns in lesson.sizes])
        return [part.view(*size, -1) for part, size in zip(parts, lesson.sizes, strict=True)]

    def _fine(self, picture: Tensor) -> Tensor:
        """Log-depth on CELLS × CELLS places of each token [rows · CELLS, columns · CELLS, 1]."""
        rows, columns, _ = picture.shape
        fine = self.cells(picture).view(rows, columns, CELLS, CELLS).transpose(1, 2)
        return fine.reshape(rows * CELLS, columns * CELLS, 1)

    def _place(self, states: Tensor, places: Tensor) -> Tensor:
        """Places [N, 2] in [0, 1) of an image, from states [N, hidden]."""
        x, y = self.place(states.float()).split(BINS, dim=1)
        bins = (places * BINS).long().clamp(0, BINS - 1).to(x.device)
        return F.cross_entropy(x, bins[:, 0]) + F.cross_entropy(y, bins[:, 1])


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum; 0 of nothing."""
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum() if losses else torch.zeros(())


def _sampled(image: Tensor, places: Tensor) -> Tensor:
    """An image [rows, columns, C] at places [N, 2] in [0, 1): [N, C], bilinear."""
    grid = (2 * places - 1)[None, None].to(image.device)
    read = F.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border")
    return read[0, :, 0].T


def _log_error(logs: Tensor, metres: Tensor) -> Tensor:
    """How far log-depths [N] are from true depths [N]."""
    return F.smooth_l1_loss(logs, metres.log().to(logs.device), beta=0.1)


def _centres(size: tuple[int, int]) -> Tensor:
    """Places [rows · columns, 2] of a picture's tokens."""
    rows, columns = size
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _token(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Numbers [N] of the tokens that show places [N, 2]."""
    rows, columns = size
    x, y = (places * torch.tensor([columns, rows])).long().T
    return y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)


def _asked(rows: Rows) -> Tensor:
    """Places [R, 2] in [0, 1) that questions are about."""
    bins = depth.BINS if rows.task == "depth" else matching.BINS
    found = [_PIXEL.search(exchange.question) for exchange in rows.exchanges]
    return torch.tensor([[int(x) for x in pixel.groups()] for pixel in found if pixel]) / bins


def _answered(rows: Rows) -> Tensor:
    """Places [R, 2] in [0, 1] that answers name."""
    return _numbers(rows) / matching.BINS


def _numbers(rows: Rows) -> Tensor:
    """The numbers [R, N] in answers."""
    values = []
    for exchange in rows.exchanges:
        read = depth.parse(exchange.answer) if rows.task == "depth" else matching.parse(exchange.answer)
        assert not isinstance(read, Refusal)
        values.append(read if isinstance(read, tuple) else (read,))
    return torch.tensor(values)
