"""Auxiliary heads on pictures: what vision and the text layers should know of them before anything is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Facts
from vlm3_ros.learn.heads import FINE, FLOW_LAYER, PLACE_LAYER, VALUE_LAYER, PlaceHead, attention_loss, motion_loss
from vlm3_ros.learn.looks import Prefix, Visual
from vlm3_ros.learn.places import CELLS, by_picture, centres, of_cells, sampled, token_of, tokens_inside
from vlm3_ros.learn.targets import depths_answered, places_answered, places_asked
from vlm3_ros.tasks import grounding

CHANNELS = 64  # of what tells one surface, or one kind of thing, from another
NAMES = 256  # kinds of things that are told apart, by a hash of their names
TEMPERATURE = 0.1


class PictureHeads(nn.Module):
    """Reads depth, things, matches and motion off pictures' tokens."""

    def __init__(self, hidden: int, place: PlaceHead):
        super().__init__()
        self.cells = nn.Linear(hidden, CELLS**2)
        self.by_scale = nn.Parameter(torch.ones(()))
        self.feature = nn.Linear(hidden, CHANNELS, bias=False)
        self.thing = nn.Linear(hidden, CHANNELS)
        self.names = nn.Embedding(NAMES, CHANNELS)
        self.corners = nn.Linear(hidden, 4)
        self.place = place
        self.flow = nn.Linear(hidden, 2 * CELLS**2)
        self.motion = nn.Linear(hidden, 6)

    def forward(self, facts: Facts, prefix: Prefix) -> dict[str, Tensor]:
        """The losses against all that is known of pictures."""
        return {**self._seeing(facts, prefix.visual), **self._comparing(facts, prefix)}

    def _seeing(self, facts: Facts, visual: Visual) -> dict[str, Tensor]:
        """What the tokens of pictures should show before any text: log-depth, which things are there and from where
        to where, and which of two pictures' tokens show the same."""
        pictures = by_picture(visual.sizes, visual.tokens)
        of_each = []
        for picture, scale, exchanges in zip(pictures, facts.scales, facts.alone, strict=True):
            by_task = _by_task(exchanges)
            if "depth" in by_task:
                of_each.append(self._depths(picture, scale, by_task["depth"]))
            if "grounding" in by_task:
                of_each.append(self._things(picture, by_task["grounding"]))
        if matches := facts.of_both("matching"):
            of_each.append(self._alike(pictures[0], pictures[1], matches))
        return _means(of_each)

    def _depths(self, picture: Tensor, scale: float, exchanges: Sequence[Exchange]) -> dict[str, Tensor]:
        """How far it is, at several places in each token."""
        read = self.log_depths(picture, scale, places_asked(exchanges))
        logs = depths_answered(exchanges).log().to(read.device)
        return {"seen depth": F.smooth_l1_loss(read, logs, beta=0.1)}

    def log_depths(self, picture: Tensor, scale: float, places: Tensor) -> Tensor:
        """Log-depths [N] at places [N, 2] of a picture's tokens [rows, columns, hidden].

        What is shown smaller looks farther off by as much, to one who goes by sizes alone; how far that is so is
        learned. Without it, pictures at several scales would teach not to go by sizes at all.
        """
        return sampled(of_cells(self.cells(picture)), places)[:, 0] + self.by_scale * math.log(scale)

    def _alike(self, first: Tensor, second: Tensor, exchanges: Sequence[Exchange]) -> dict[str, Tensor]:
        """Which token of the second picture shows what a place of the first does."""
        carried = sampled(F.normalize(self.feature(first), dim=-1), places_asked(exchanges))
        tokens = F.normalize(self.feature(second), dim=-1)
        alike = F.normalize(carried, dim=-1) @ tokens.flatten(0, 1).T / TEMPERATURE
        true = token_of(places_answered(exchanges), tokens.shape[:2])
        return {"seen match": F.cross_entropy(alike, true.to(alike.device))}

    def _things(self, picture: Tensor, exchanges: Sequence[Exchange]) -> dict[str, Tensor]:
        """Which of the names asked for are at each token, and the corners of the smallest box around it."""
        rows, columns, _ = picture.shape
        names = [reading.label(exchange) for exchange in exchanges]
        boxes = [box for exchange in exchanges for box in reading.boxes(exchange)]
        hashes = torch.tensor([crc32(name.encode()) % NAMES for name in names], device=picture.device)
        likely = self.thing(picture).flatten(0, 1) @ self.names(hashes).T / CHANNELS**0.5  # [tokens, names]
        corners = torch.tensor([(b.x1, b.y1, b.x2, b.y2) for b in boxes]).view(-1, 4) / grounding.BINS
        inside = tokens_inside(corners, (rows, columns))  # [tokens, boxes]
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

    def _comparing(self, facts: Facts, prefix: Prefix) -> dict[str, Tensor]:
        """What the pictures' tokens should know in the text layers: where they are, from where in the first picture
        what they show has come, and how the camera moved."""
        sizes = prefix.visual.sizes
        places = torch.cat([centres(size) for size in sizes])  # targets are made on the CPU
        losses = {"position": self.place(prefix.states[PLACE_LAYER], places)}
        if matches := facts.of_both("matching"):
            losses |= self._flow(prefix, matches)
        if motion := facts.of_both("pose"):
            losses["motion"] = motion_loss(self.moved(prefix), motion)
        return losses

    def moved(self, prefix: Prefix) -> Tensor:
        """The motion [1, 6] between two pictures, as in `motion_answered`."""
        second = by_picture(prefix.visual.sizes, prefix.states[VALUE_LAYER])[1]
        return self.motion(second.mean(dim=(0, 1), keepdim=True)[0])

    def _flow(self, prefix: Prefix, exchanges: Sequence[Exchange]) -> dict[str, Tensor]:
        """From where in the first picture what the second shows has come."""
        sizes, images = prefix.visual.sizes, prefix.images
        came, there = places_asked(exchanges), places_answered(exchanges)
        rows, columns = sizes[0]
        token = rows * columns + token_of(there, sizes[1])
        queries, keys = prefix.queries[FLOW_LAYER][token], prefix.keys[FLOW_LAYER]
        fine = self.origins(prefix, there)
        return {
            "look back": attention_loss(queries, keys, images[token_of(came, sizes[0])], images[token]),
            "flow": self.place(prefix.states[FLOW_LAYER][token], came),
            "fine flow": F.smooth_l1_loss(fine, came.to(fine.device), beta=FINE),
        }

    def origins(self, prefix: Prefix, places: Tensor) -> Tensor:
        """Where in the first picture is what the second shows at places [N, 2]: [N, 2]."""
        second = by_picture(prefix.visual.sizes, prefix.states[FLOW_LAYER])[1]
        return sampled(of_cells(self.flow(second)), places)


def _by_task(exchanges: Sequence[Exchange]) -> dict[str, list[Exchange]]:
    found: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        found.setdefault(exchange.task, []).append(exchange)
    return found


def _means(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By name, of those that have it."""
    found: dict[str, list[Tensor]] = {}
    for several in losses:
        for name, loss in several.items():
            found.setdefault(name, []).append(loss)
    return {name: torch.stack(several).mean() for name, several in found.items()}
