"""Auxiliary heads on questions: what they should know in the middle layers, before they are answered in words."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.heads import (
    FINE,
    FLOW_LAYER,
    PLACE_LAYER,
    VALUE_LAYER,
    VERDICT_LAYER,
    PlaceHead,
    corners_loss,
    motion_loss,
    place_attention_loss,
)
from vlm3_ros.learn.looks import Answered, Prefix, Result
from vlm3_ros.learn.places import middles
from vlm3_ros.learn.targets import (
    DEPTH_BINS,
    MOTION_BINS,
    MOTION_QUESTIONS,
    depths_answered,
    motion_over_bins,
    places_answered,
    places_asked,
    spread_over_bins,
)
from vlm3_ros.tasks import grounding, objects, pose


class QuestionHeads(nn.Module):
    """Reads off questions which place or thing they are about, and what is there."""

    def __init__(self, hidden: int, place: PlaceHead):
        super().__init__()
        self.place = place
        self.value = nn.Linear(hidden, DEPTH_BINS)
        self.match = nn.Linear(hidden, 2)
        self.region = nn.Linear(hidden, 4)
        self.first_region = nn.Linear(hidden, 4)
        self.verdict = nn.Linear(hidden, 1)
        self.found = nn.Linear(hidden, 5)
        self.motion = nn.Linear(hidden, 6)
        self.numbers = nn.Linear(hidden, len(MOTION_QUESTIONS) * MOTION_BINS)

    def forward(self, result: Result) -> dict[str, Tensor]:
        """The losses against what the questions' right answers say."""
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
            "look there": place_attention_loss(there, 1, answered.queries[VALUE_LAYER][at], prefix, VALUE_LAYER),
            "match": self.place(states, there),
            "fine match": F.smooth_l1_loss(fine, there.to(fine.device), beta=FINE),
        }

    def _pointed(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """Which place of the first picture a question points at."""
        at, places = _each(answered.rows.asked), places_asked(answered.rows.exchanges)
        return {
            "place": self.place(answered.states[PLACE_LAYER][at], places),
            "look": place_attention_loss(places, 0, answered.queries[FLOW_LAYER][at], prefix, FLOW_LAYER),
        }

    def _regions(self, answered: Answered, prefix: Prefix) -> dict[str, Tensor]:
        """The corners of regions, and what is in their middles, where they have been named, and with the second one
        still those of the first; what is asked for."""
        rows = answered.rows
        corners = torch.tensor([region for e in rows.exchanges for region in reading.regions(e)]) / objects.BINS
        at = torch.tensor(rows.named)
        named = tuple(at.T)
        losses = {
            "region": corners_loss(self.region(answered.states[PLACE_LAYER][named].float()), corners),
            "look into": place_attention_loss(
                middles(corners), 0, answered.queries[FLOW_LAYER][named], prefix, FLOW_LAYER
            ),
        }
        second = (at[1:, 0] == at[:-1, 0]).nonzero()[:, 0] + 1
        if len(second):
            states = answered.states[FLOW_LAYER][tuple(at[second].T)]
            losses["first region"] = corners_loss(self.first_region(states.float()), corners[second - 1])
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
        if not asked:
            return {}
        metres = torch.tensor([float(reading.object_answer(exchanges[row])) for row in asked])
        return {"length": self._metres(answered.states[VALUE_LAYER][asked, answered.rows.asked[asked]], metres)}

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
            losses["look for"] = place_attention_loss(middles(corners), 0, queries, prefix, FLOW_LAYER)
        return losses

    def _moved(self, answered: Answered, _: Prefix) -> dict[str, Tensor]:
        """How the camera moved, each question all of it; and the numbers of each question's own answer."""
        exchanges = answered.rows.exchanges
        if len(exchanges) < len(pose.QUESTIONS):  # what was not asked is not known
            return {}
        states = answered.states[VERDICT_LAYER][_each(answered.rows.asked)].float()
        read = self.numbers(states).unflatten(1, (len(MOTION_QUESTIONS), MOTION_BINS))
        own = read[MOTION_QUESTIONS, torch.arange(len(MOTION_QUESTIONS))]
        return {
            "asked motion": motion_loss(self.motion(states), exchanges),
            "asked numbers": F.cross_entropy(own, motion_over_bins(exchanges).to(own.device)),
        }

    def _metres(self, states: Tensor, metres: Tensor) -> Tensor:
        """Lengths [N] from states [N, hidden], as distributions over bins."""
        return F.cross_entropy(self.value(states.float()), spread_over_bins(metres).to(states.device))


def _each(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of one token [R] of each row."""
    return torch.arange(len(tokens)), tokens
