"""Help for models that start from nothing: losses that say early what the words of answers say late.

A small model that is only taught text learns to see very slowly. These heads read what vision and the middle layers
ought to know by then. They are no part of the model, which has the standard architecture, and lie beside its weights
for another run to go on with. All targets come from questions and answers: for pictures, from all about them in their
record of the data set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm3_ros.learn.heads import PlaceHead
from vlm3_ros.learn.picture_heads import PictureHeads
from vlm3_ros.learn.question_heads import QuestionHeads

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
    "asked numbers": 0.5,
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


class Auxiliary(nn.Module):
    """All heads; each of the two gives losses by name, see `total`."""

    def __init__(self, hidden: int):
        super().__init__()
        place = PlaceHead(hidden)
        self.pictures = PictureHeads(hidden, place)
        self.questions = QuestionHeads(hidden, place)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum."""
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
