"""`look` and `ask`: the one interface between tasks and models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from vlm3_ros.tasks import Question, Reason, Refusal
from vlm3_ros.vlm.distribution import Distribution

T = TypeVar("T")

NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # what PyTorch and CUDA's libraries say


class ModelError(RuntimeError):
    """A model cannot be loaded or cannot answer; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and the size at which a model is to see it (`camera.unified` says which)."""

    pixels: np.ndarray  # uint8 [h, w, 3], RGB
    size: tuple[int, int]  # (width, height), multiples of 32


@dataclass(frozen=True)
class Answer:
    """The text of a greedy answer and how sure the model was of it.

    ``pieces`` are the tokens of an answer in free words (its grammar has no numbers) as text, each with its
    log-probability given all before it; empty where that is not known.
    """

    text: str
    probability: float  # of the text given the question: the product over its tokens, in [0, 1]; NaN if not known
    numbers: tuple[Distribution, ...] = field(default=())  # one per number of the grammar; empty where not measured
    tokens: int = 0  # length of the answer, the token that ends it included; 0 where not known
    is_cut: bool = False  # the token limit ended it
    pieces: tuple[tuple[str, float], ...] = field(default=())

    def read(self, parse: Callable[[str], T | Refusal]) -> T | Refusal:
        """What a task's parser finds in it.

        Where the token limit ended it, digits at its very end do not count, for more may have been to come, and a
        value that is missing was cut off.
        """
        value = parse(self.text.rstrip("0123456789.,+-−") if self.is_cut else self.text)
        if not isinstance(value, Refusal):
            return value
        is_missing = self.is_cut and value.reason is Reason.UNPARSED
        return Refusal(Reason.CUT_OFF if is_missing else value.reason, self.text)

    def probability_of(self, spans: Sequence[tuple[int, int]]) -> float:
        """Of the parts of the text from start to end [characters], each given all before it: the product over the
        tokens they touch. Where single tokens are not known it is that of the whole text, which is not more."""
        if not self.pieces:
            return self.probability
        total, start = 0.0, 0
        for text, log in self.pieces:
            end = start + len(text)
            total += log if any(start < b and a < end for a, b in spans) else 0.0
            start = end
        return math.exp(total)

    @property
    def mean_probability(self) -> float:
        """Geometric mean over the tokens, so that a long answer is not less sure than a short one."""
        return self.probability ** (1 / max(1, self.tokens))


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
