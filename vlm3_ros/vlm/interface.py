"""`look` and `ask`: the one interface between tasks and models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vlm3_ros.tasks import Question
from vlm3_ros.vlm.distribution import Distribution


class ModelError(RuntimeError):
    """A model cannot be loaded or cannot answer; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and the size at which a model is to see it (`camera.unified` says which)."""

    pixels: np.ndarray  # uint8 [h, w, 3], RGB
    size: tuple[int, int]  # (width, height), multiples of 32


@dataclass(frozen=True)
class Answer:
    """The text of a greedy answer and how sure the model was of it."""

    text: str
    probability: float  # of the text given the question: the product over its tokens, in [0, 1]; NaN if not known
    numbers: tuple[Distribution, ...] = field(default=())  # one per number of the grammar; empty where not measured
    tokens: int = 0  # length of the answer, the token that ends it included; 0 where not known


class View(Protocol):
    """What a model saw in one look: ready to be asked, any number of times."""

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        """Answer all questions in their order; None for those that the time budget left unasked (from the end).

        Raises ModelError when the model cannot answer at all (out of memory, server gone).
        """


class VLM(Protocol):
    """A model that looks at pictures."""

    def look(self, pictures: Sequence[Picture]) -> AbstractContextManager[View]:
        """See one or two pictures, once; what that costs in memory is given back when the context ends."""

    def close(self) -> None:
        """Give back everything, GPU memory first; the model must not be used afterwards."""
