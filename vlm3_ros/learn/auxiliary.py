"""Help for models that start from nothing: losses that say early what the words of answers say late.

A small model that is only taught text learns to see very slowly. These heads read what vision and the middle layers
ought to know by then. They are thrown away after training: the checkpoint has the standard architecture. All targets
come from questions and answers: for pictures, from all of the data set that are about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Facts
from vlm3_ros.learn.looks import Answered, Prefix, Result, Visual
from vlm3_ros.learn.places import CELLS, by_picture, centres, middles, of_cells, sampled, token_of, tokens_inside
from vlm3_ros.learn.targets import (
    DEPTH_BINS,
    depths_answered,
    motion_answered,
    places_answered,
    places_asked,
    spread_over_bins,
)
from vlm3_ros.tasks import grounding, objects, pose

BINS = 16  # per side of an image: how finely places are told apart
CHANNELS = 64  # of what tells one surface, or one kind of thing, from another
NAMES = 256  # kinds of things that are told apart, by a hash of their names
PLACE_LAYER = 1  # text layer after which tokens know where they are, and questions which place they are about,
FLOW_LAYER = 2  # tokens of a second image which place of the first they show,
VALUE_LAYER = 3  # questions what they ask for
VERDICT_LAYER = 4  # and whether the answer is yes, or how the camera moved
WEIGHTS = {
    "seen depth": 2.0,
    "seen match": 0.5,
    "seen thing": 2.0,
    "seen box": 2.0,
    "position": 0.2,
    "look back": 0.3,
    "flow": 0.3,
    "fine flow": 5.0,
    "motion": 2.0,
    "asked motion": 1.0,
    "place": 0.3,
    "look": 0.3,
    "look there": 0.3,
    "depth": 0.5,
    "match": 0.3,
    "fine match": 5.0,
    "look into": 0.3,
    "region": 2.0,
    "first region": 2.0,
    "verdict": 0.5,
    "length": 0.3,
    "look for": 0.3,
    "found": 0.5,
    "found box": 2.0,
}
TEMPERATURE = 0.1
FINE = 0.02  # of an image: errors of places below this count less than in proportion


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
        self.flow = nn.Linear(hidden, 2 * CELLS**2)
        self.motion = nn.Linear(hidden, 6)
        self.asked_motion = nn.Linear(hidden, 6)
        self.match = nn.Linear(hidden, 2)
        self.region = nn.Linear(hidden, 4)
        self.first_region = nn.Linear(hidden, 4)
        self.verdict = nn.Linear(hidden, 1)
        self.found = nn.Linear(hidden, 5)

    def seeing(self, facts: Facts, visual: Visual) -> dict[str, Tensor]:
        """What the tokens of pictures should show before any text: log-depth, which things are there and from where
        to where, and which of two pictures' tokens show the same."""
        pictures = by_picture(visual.sizes, visual.tokens)
        of_each = []
        for picture, exchanges in zip(pictures, facts.alone, strict=True):
            by_task = _by_task(exchanges)
            if "depth" in by_task:
                of_each.append(self._depths(picture, by_task["depth"]))
            if "grounding" in by_task:
                of_each.append(self._things(picture, by_task["grounding"]))
        if matches := facts.of_both("matching"):
            of_each.append(self._alike(*pictures, matches))
        return _means(of_each)

    def _depths(self, picture: Tensor, exchanges: Sequence[Exchange]) -> dict[str, Tensor]:
        """How far it is, at several places in each token."""
        read = self.log_depths(picture, places_asked(exchanges))
        logs = depths_answered(exchanges).log().to(read.device)
        return {"seen depth": F.smooth_l1_loss(read, logs, beta=0.1)}

    def log_depths(self, picture: Tensor, places: Tensor) -> Tensor:
        """Log-depths [N] at places [N, 2] of a picture's tokens [rows, columns, hidden]."""
        return sampled(of_cells(self.cells(picture)), places)[:, 0]

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

    def comparing(self, facts: Facts, prefix: Prefix) -> dict[str, Tensor]:
        """What the pictures' tokens should know in the text layers: where they are, from where in the first picture
        what they show has come, and how the camera moved."""
        sizes = prefix.visual.sizes
        places = torch.cat([centres(size) for size in sizes])  # targets are made on the CPU
        losses = {"position": self._place(prefix.states[PLACE_LAYER], places)}
        if matches := facts.of_both("matching"):
            losses |= self._flow(prefix, matches)
        if motion := facts.of_both("pose"):
            losses["motion"] = _motion(self.way(prefix), motion)
        return losses

    def way(self, prefix: Prefix) -> Tensor:
        """The motion [6] between two pictures, as in `motion_answered`."""
        second = by_picture(prefix.visual.sizes, prefix.states[VALUE_LAYER])[1]
        return self.motion(second.mean(dim=(0, 1)))

    def _flow(self, prefix: Prefix, exchanges: Sequence[Exchange]) -> dict[str, Tensor]:
        """From where in the first picture what the second shows has come."""
        sizes, images = prefix.visual.sizes, prefix.images
        came, there = places_asked(exchanges), places_answered(exchanges)
        rows, columns = sizes[0]
        token = rows * columns + token_of(there, sizes[1])
        queries, keys = prefix.queries[FLOW_LAYER][token], prefix.keys[FLOW_LAYER]
        fine = self.origins(prefix, there)
        return {
            "look back": _looks(queries, keys, images[token_of(came, sizes[0])], images[token]),
            "flow": self._place(prefix.states[FLOW_LAYER][token], came),
            "fine flow": F.smooth_l1_loss(fine, came.to(fine.device), beta=FINE),
        }

    def origins(self, prefix: Prefix, places: Tensor) -> Tensor:
        """Where in the first picture is what the second shows at places [N, 2]: [N, 2]."""
        second = by_picture(prefix.visual.sizes, prefix.states[FLOW_LAYER])[1]
        return sampled(of_cells(self.flow(second)), places)

    def knowing(self, result: Result) -> dict[str, Tensor]:
        """What questions should know in the middle layers: which place or thing they are about, and what is there."""
        of_task: dict[str, Callable[[Answered, Prefix], dict[str, Tensor]]] = {
            "depth": self._depth,
            "matching": self._match,
            "objects": self._regions,
            "grounding": self._found,
            "pose": self._moved,
        }
        losses: dict[str, Tensor] = {}
        for answered in result.answered:
            if answered.rows.task in of_task:
                losses |= of_task[answered.rows.task](answered, result.prefix)
        return losses

    def _depth(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """How far the surface is."""
        asked, exchanges = answered.rows.asked, answered.rows.exchanges
        depths = self._metres(answered.states[VALUE_LAYER][_each(asked)], depths_answered(exchanges))
        return {**self._pointed(answered, prefix), "depth": depths}

    def _match(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """Where the surface is in the second picture."""
        at, there = _each(answered.rows.asked), places_answered(answered.rows.exchanges)
        states = answered.states[VALUE_LAYER][at]
        fine = self.match(states.float())
        return {
            **self._pointed(answered, prefix),
            "look there": _looks_at(there, 1, answered.queries[VALUE_LAYER][at], prefix, VALUE_LAYER),
            "match": self._place(states, there),
            "fine match": F.smooth_l1_loss(fine, there.to(fine.device), beta=FINE),
        }

    def _pointed(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """Which place of the first picture a question points at."""
        at, places = _each(answered.rows.asked), places_asked(answered.rows.exchanges)
        return {
            "place": self._place(answered.states[PLACE_LAYER][at], places),
            "look": _looks_at(places, 0, answered.queries[FLOW_LAYER][at], prefix, FLOW_LAYER),
        }

    def _regions(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """The corners of regions, and what is in their middles, where they have been named, and with the second one
        still those of the first; what is asked for."""
        rows = answered.rows
        corners = torch.tensor([region for e in rows.exchanges for region in reading.regions(e)]) / objects.BINS
        at = torch.tensor(rows.named)
        named = tuple(at.T)
        losses = {
            "region": _corners(self.region(answered.states[PLACE_LAYER][named].float()), corners),
            "look into": _looks_at(middles(corners), 0, answered.queries[FLOW_LAYER][named], prefix, FLOW_LAYER),
        }
        second = (at[1:, 0] == at[:-1, 0]).nonzero()[:, 0] + 1
        if len(second):
            states = answered.states[FLOW_LAYER][tuple(at[second].T)]
            losses["first region"] = _corners(self.first_region(states.float()), corners[second - 1])
        return losses | self._verdicts(answered) | self._lengths(answered)

    def _verdicts(self, answered: Answered) -> dict[str, Tensor]:
        """Whether the answer to a comparison is yes."""
        exchanges = answered.rows.exchanges
        asked = [row for row, e in enumerate(exchanges) if reading.kind(e) in objects.COMPARISONS]
        if not asked:
            return {}
        states = answered.states[VERDICT_LAYER][asked, answered.rows.asked[asked]]
        right = torch.tensor([float(reading.object_answer(exchanges[row])) for row in asked])
        likely = self.verdict(states.float())[:, 0]
        return {"verdict": F.binary_cross_entropy_with_logits(likely, right.to(likely.device))}

    def _lengths(self, answered: Answered) -> dict[str, Tensor]:
        """How many metres are asked for."""
        exchanges = answered.rows.exchanges
        asked = [row for row, e in enumerate(exchanges) if reading.kind(e) in objects.LENGTHS]
        metres = torch.tensor([float(reading.object_answer(exchanges[row])) for row in asked])
        if not (metres > 0.0).any():
            return {}
        states = answered.states[VALUE_LAYER][asked, answered.rows.asked[asked]]
        return {"length": self._metres(states[metres > 0.0], metres[metres > 0.0])}

    def _found(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """For each name, once it has been read, whether there is such a thing, and the corners of the first."""
        rows = answered.rows
        corners = torch.full((len(rows.named), 4), torch.nan)
        for i, exchange in enumerate(rows.exchanges):
            if boxes := reading.boxes(exchange):
                corners[i] = torch.tensor([boxes[0].x1, boxes[0].y1, boxes[0].x2, boxes[0].y2]) / grounding.BINS
        at = torch.tensor(rows.named)
        read = self.found(answered.states[VALUE_LAYER][tuple(at.T)].float())
        there = ~corners.isnan().any(dim=1)
        losses = {"found": F.binary_cross_entropy_with_logits(read[:, 4], there.float().to(read.device))}
        if there.any():
            corners, queries = corners[there], answered.queries[FLOW_LAYER][tuple(at[there].T)]
            losses["found box"] = F.smooth_l1_loss(read[there, :4], corners.to(read.device), beta=0.05)
            losses["look for"] = _looks_at(middles(corners), 0, queries, prefix, FLOW_LAYER)
        return losses

    def _moved(self, answered: Answered, _: Prefix) -> dict[str, Tensor]:
        """How the camera moved, each question all of it."""
        if len(answered.rows.exchanges) < len(pose.QUESTIONS):  # what was not asked is not known
            return {}
        states = answered.states[VERDICT_LAYER][_each(answered.rows.asked)]
        read = [self.asked_motion(state) for state in states.float()]
        return {"asked motion": torch.stack([_motion(one, answered.rows.exchanges) for one in read]).mean()}

    def _metres(self, states: Tensor, metres: Tensor) -> Tensor:
        """Lengths [N] from states [N, hidden], as distributions over bins."""
        return F.cross_entropy(self.value(states.float()), spread_over_bins(metres).to(states.device))

    def _place(self, states: Tensor, places: Tensor) -> Tensor:
        """Places [N, 2] in [0, 1) of an image, from states [N, hidden]."""
        x, y = self.place(states.float()).split(BINS, dim=1)
        bins = (places * BINS).long().clamp(0, BINS - 1).to(x.device)
        return F.cross_entropy(x, bins[:, 0]) + F.cross_entropy(y, bins[:, 1])


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum; 0 of nothing."""
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum() if losses else torch.zeros(())


def _each(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of one token [R] of each row."""
    return torch.arange(len(tokens)), tokens


def _looks_at(places: Tensor, picture: int, queries: Tensor, prefix: Prefix, layer: int) -> Tensor:
    """Whether queries [N, H, D] of a layer single out places [N, 2] of a picture."""
    sizes = prefix.visual.sizes
    before = sum(rows * columns for rows, columns in sizes[:picture])
    return _looks(queries, prefix.keys[layer], prefix.images[before + token_of(places, sizes[picture])])


def _looks(queries: Tensor, keys: Tensor, target: Tensor, own: Tensor | None = None) -> Tensor:
    """Whether the first head's queries [N, H, D] of a layer single out certain ones [N] of its keys [P, Hkv, D].

    Where the queries are of some of the same tokens, ``own`` [N] says of which: those behind are not seen.
    """
    scores = (queries[:, 0] @ keys[:, 0].T).float() * queries.shape[-1] ** -0.5
    if own is not None:
        scores = scores.masked_fill(torch.arange(len(keys), device=own.device) > own[:, None], float("-inf"))
    return F.cross_entropy(scores, target)


def _motion(read: Tensor, exchanges: Sequence[Exchange]) -> Tensor:
    """How far a motion [6] that was read is from the one of the pose answers."""
    return F.smooth_l1_loss(read, motion_answered(exchanges).to(read.device), beta=0.1)


def _corners(read: Tensor, corners: Tensor) -> Tensor:
    """How far corners [N, 4] that were read are from the true ones."""
    return F.smooth_l1_loss(read, corners.to(read.device), beta=FINE)


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
