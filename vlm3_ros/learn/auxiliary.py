"""Help for models that start from nothing: losses that say early what the words of answers say late.

A small model that is only taught text learns to see very slowly. These heads read what vision and the middle layers
ought to know by then. They are thrown away after training: the checkpoint has the standard architecture. All targets
come from the questions and answers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.learn.looks import Lesson, Result, Rows
from vlm3_ros.tasks import depth, grounding, matching, pose

CELLS = 4  # per side of a token: how finely its log-depth is read
BINS = 16  # per side of an image: how finely places are told apart
CHANNELS = 64  # of what tells one surface, or one kind of thing, from another
NAMES = 256  # kinds of things that are told apart, by a hash of their names
DEPTHS_M = (0.25, 16.0)  # where bins of depth, equal in its logarithm, begin and end
DEPTH_BINS = 72
SPREAD = 1.0  # in bins: standard deviation of the distribution that stands for a depth
PLACE_LAYER, FETCH_LAYER, VALUE_LAYER = 1, 2, 3  # text layers after which a question knows its pixel, what its
# surface looks like, and how far it is or where it is in the other image
WEIGHTS = {
    "seen depth": 2.0,
    "seen match": 0.5,
    "seen thing": 2.0,
    "seen box": 2.0,
    "position": 0.2,
    "place": 0.3,
    "depth": 0.5,
    "fetched": 0.3,
    "match": 0.3,
    "flow": 0.3,
    "motion": 1.0,
}
TEMPERATURE = 0.1


class Auxiliary(nn.Module):
    """The heads, and their losses for one lesson."""

    def __init__(self, hidden: int):
        super().__init__()
        self.cells = nn.Linear(hidden, CELLS**2)
        self.feature = nn.Linear(hidden, CHANNELS, bias=False)
        self.thing = nn.Linear(hidden, CHANNELS)
        self.names = nn.Embedding(NAMES, CHANNELS)
        self.corners = nn.Linear(hidden, 4)
        self.place = nn.Linear(hidden, 2 * BINS)
        self.value = nn.Linear(hidden, DEPTH_BINS)
        self.fetched = nn.Linear(hidden, CHANNELS, bias=False)
        self.motion = nn.Linear(hidden, 6)

    def seeing(self, sample: Sample, sizes: Sequence[tuple[int, int]], visual: Tensor) -> dict[str, Tensor]:
        """What the tokens of a sample's pictures [V, hidden] should show before any question: log-depth, which things
        are there and from where to where, and which of two pictures' tokens show the same.

        ``sizes`` are (rows, columns) of tokens of each picture.
        """
        losses = {}
        pictures = _pictures(sizes, visual.float())
        for task, exchanges in _by_task(sample):
            if task == "depth":
                read = _sampled(self._fine(pictures[0]), _asked(exchanges))[:, 0]
                logs = _metres(exchanges).log().to(read.device)
                losses["seen depth"] = F.smooth_l1_loss(read, logs, beta=0.1)
            elif task == "grounding":
                losses |= self._things(pictures[0], exchanges[0])
            elif task == "matching":
                carried = _sampled(F.normalize(self.feature(pictures[0]), dim=-1), _asked(exchanges))
                losses["seen match"] = self._same(carried, pictures[1], _answered(exchanges))
        return losses

    def _things(self, picture: Tensor, exchange: Exchange) -> dict[str, Tensor]:
        """Which of the names asked for are at each token, and the corners of the smallest box around it."""
        rows, columns, _ = picture.shape
        names, boxes = reading.labels(exchange), reading.boxes(exchange)
        hashes = torch.tensor([crc32(name.encode()) % NAMES for name in names], device=picture.device)
        likely = self.thing(picture).flatten(0, 1) @ self.names(hashes).T / CHANNELS**0.5  # [tokens, names]
        corners = torch.tensor([(b.x1, b.y1, b.x2, b.y2) for b in boxes]).view(-1, 4) / grounding.BINS
        inside = _inside(corners, (rows, columns))  # [tokens, boxes]
        true = torch.zeros(rows * columns, len(names))
        for box, covered in zip(boxes, inside.T, strict=True):
            true[covered, names.index(box.label)] = 1.0
        losses = {"seen thing": F.binary_cross_entropy_with_logits(likely, true.to(likely.device))}
        if inside.any():
            area = (corners[:, 2:] - corners[:, :2]).prod(dim=1)
            smallest = torch.where(inside, area, torch.inf).argmin(dim=1)
            found = inside.any(dim=1)
            read = self.corners(picture).flatten(0, 1)[found.to(picture.device)]
            losses["seen box"] = F.smooth_l1_loss(read, corners[smallest[found]].to(read.device), beta=0.05)
        return losses

    def _same(self, carried: Tensor, second: Tensor, places: Tensor) -> Tensor:
        """How well features [N, CHANNELS] point out the tokens of a picture that show places [N, 2] of it."""
        tokens = F.normalize(self.feature(second), dim=-1).flatten(0, 1)
        alike = F.normalize(carried, dim=-1) @ tokens.T / TEMPERATURE
        return F.cross_entropy(alike, _token(places, second.shape[:2]).to(alike.device))

    def knowing(self, lesson: Lesson, result: Result) -> dict[str, Tensor]:
        """What the middle layers should know: where a token is, where a question points, and what is there."""
        places = torch.cat([_centres(size) for size in lesson.sizes])  # targets are made on the CPU
        losses = {"position": self._place(result.prefix[PLACE_LAYER], places)}
        for rows, _, states in result.rows:
            asked = [state[torch.arange(len(rows.asked)), rows.asked] for state in states]  # [R, hidden] by layer
            if rows.task == "depth":
                true = _spread(_metres(rows.exchanges)).to(asked[0].device)
                losses["place"] = self._place(asked[PLACE_LAYER], _asked(rows.exchanges))
                losses["depth"] = F.cross_entropy(self.value(asked[VALUE_LAYER].float()), true)
            elif rows.task == "matching":
                losses["place"] = self._place(asked[PLACE_LAYER], _asked(rows.exchanges))
                losses |= self._matched(rows, lesson, result, asked)
            elif rows.task == "pose" and len(rows.exchanges) == len(pose.QUESTIONS):
                second = _pictures(lesson.sizes, result.prefix[VALUE_LAYER].float())[1]
                read = self.motion(second.mean(dim=(0, 1)))
                losses["motion"] = F.smooth_l1_loss(read, _motion(rows.exchanges).to(read.device), beta=0.1)
        return losses

    def _matched(self, rows: Rows, lesson: Lesson, result: Result, asked: list[Tensor]) -> dict[str, Tensor]:
        """What the surface asked about looks like, where it is in the other image, and, there, where it was."""
        answered = _answered(rows.exchanges)
        _, second = _pictures(lesson.sizes, result.visual.float())
        _, known = _pictures(lesson.sizes, result.prefix[VALUE_LAYER])
        there = known.flatten(0, 1)[_token(answered, lesson.sizes[1])]
        return {
            "fetched": self._same(self.fetched(asked[FETCH_LAYER].float()), second, answered),
            "match": self._place(asked[VALUE_LAYER], answered),
            "flow": self._place(there, _asked(rows.exchanges)),
        }

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


def _by_task(sample: Sample) -> list[tuple[str, list[Exchange]]]:
    return [(task, list(asked)) for task, asked in groupby(sample.exchanges, key=lambda exchange: exchange.task)]


def _pictures(sizes: Sequence[tuple[int, int]], tokens: Tensor) -> list[Tensor]:
    """Tokens of all pictures in a row [V, hidden] as [rows, columns, hidden] for each."""
    parts = tokens.split([rows * columns for rows, columns in sizes])
    return [part.view(*size, -1) for part, size in zip(parts, sizes, strict=True)]


def _sampled(image: Tensor, places: Tensor) -> Tensor:
    """An image [rows, columns, C] at places [N, 2] in [0, 1): [N, C], bilinear."""
    grid = (2 * places - 1)[None, None].to(image.device)
    read = F.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border")
    return read[0, :, 0].T


def _spread(metres: Tensor) -> Tensor:
    """Depths [N] as distributions over bins [N, DEPTH_BINS].

    A bin for every depth is easier to turn into digits than one number, and neighbours are nearly right.
    """
    nearest, farthest = torch.tensor(DEPTHS_M).log()
    at = (metres.log() - nearest) / (farthest - nearest) * DEPTH_BINS - 0.5
    return (-0.5 * ((torch.arange(DEPTH_BINS) - at[:, None]) / SPREAD) ** 2).softmax(dim=1)


def _centres(size: tuple[int, int]) -> Tensor:
    """Places [rows · columns, 2] of a picture's tokens."""
    rows, columns = size
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _token(places: Tensor, size: Sequence[int]) -> Tensor:
    """Numbers [N] of the tokens that show places [N, 2]."""
    rows, columns = size
    x, y = (places * torch.tensor([columns, rows])).long().T
    return y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)


def _inside(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Which tokens have their middle in which boxes [B, 4], or the box's middle in them: [tokens, B]."""
    centres = _centres(size)[:, None]
    inside = ((centres >= corners[:, :2]) & (centres <= corners[:, 2:])).all(dim=-1)
    middle = _token((corners[:, :2] + corners[:, 2:]) / 2, size)
    inside[middle, torch.arange(len(corners))] = True
    return inside


def _asked(exchanges: Sequence[Exchange]) -> Tensor:
    """Places [N, 2] in [0, 1) that questions are about."""
    bins = depth.BINS if exchanges[0].task == "depth" else matching.BINS
    return torch.tensor([reading.pixel(exchange) for exchange in exchanges]) / bins


def _answered(exchanges: Sequence[Exchange]) -> Tensor:
    """Places [N, 2] in [0, 1] that answers name."""
    return torch.tensor([reading.match(exchange) for exchange in exchanges]) / matching.BINS


def _metres(exchanges: Sequence[Exchange]) -> Tensor:
    """Depths [N] in answers."""
    return torch.tensor([reading.metres(exchange) for exchange in exchanges])


def _motion(exchanges: Sequence[Exchange]) -> Tensor:
    """Yaw, pitch and roll in tens of degrees, and the way of the camera's centre in metres, from pose answers [6]."""
    said = reading.motion(exchanges)
    way = said.distance_m * torch.tensor(said.direction)
    return torch.cat([torch.tensor(said.yaw_pitch_roll_deg) / 10.0, way])
