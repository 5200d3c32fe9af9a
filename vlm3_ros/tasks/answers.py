"""What every task shares: a question, the grammar of its answer, and a typed refusal for what does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property


class Reason(str, Enum):
    """Why an answer gave no value."""

    UNPARSED = "unparsed"  # the text does not follow the answer grammar
    OUT_OF_RANGE = "out_of_range"  # it does, but the value cannot be true (no distance, a pixel off the image)
    INCONSISTENT = "inconsistent"  # answers that must agree do not
    CUT_OFF = "cut_off"  # the token limit ended it before it said a value


@dataclass(frozen=True)
class Refusal:
    """An answer that gave no value: why, and the text (or what else there is to say about it)."""

    reason: Reason
    text: str = ""


EXAMPLE = 160  # most characters of an answer that is shown to people


def describe(asked: int, refused: Mapping[Reason, int], example: str = "") -> str:
    """What people are told of answers without a value: how many of how many, why, and one of them, shortened.

    For example "3 of 50 answers gave no value (2 cut off, 1 unparsed), such as 'The point is'". Empty where all did.
    """
    count = sum(refused.values())
    if not count:
        return ""
    why = ", ".join(f"{n} {Reason(reason).value.replace('_', ' ')}" for reason, n in refused.items() if n)
    text = " ".join(example.split())
    text = text if len(text) <= EXAMPLE else f"{text[: EXAMPLE - 1]}…"
    return f"{count} of {asked} answers gave no value ({why})" + (f", such as {text!r}" if text else "")


@dataclass(frozen=True)
class Number:
    """A decimal number in an answer: at most this many digits before and after the point, with or without a sign."""

    integer_digits: int
    decimals: int = 0
    signed: bool = False

    @property
    def pattern(self) -> str:
        sign = r"[+\-−]?" if self.signed else ""
        return rf"({sign}[0-9]{{1,{self.integer_digits}}}(?:\.[0-9]{{1,{self.decimals or 1}}}[0-9]*)?)"


@dataclass(frozen=True)
class Words:
    """Free text in an answer whose wording the protocol does not fix (a think block, say); it may be empty."""

    pattern = ".*?"


@dataclass(frozen=True)
class Grammar:
    """The form of an answer: literal text, free words and numbers in order.

    One description for both ends: the parser reads with it, leniently about blanks, and the engine knows from it
    which tokens of an answer carry numbers.
    """

    parts: tuple[str | Number | Words, ...]

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers in the answer, in order."""
        return tuple(part for part in self.parts if isinstance(part, Number))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        # A search may start anywhere, so words in front match nothing more and only make it quadratic.
        parts = self.parts[1:] if isinstance(self.parts[0], Words) else self.parts
        return re.compile("".join(map(_pattern, parts)), re.DOTALL | re.IGNORECASE)

    def read(self, text: str) -> tuple[float, ...] | Refusal:
        """The numbers of an answer as finite floats, or a Refusal if the text has another form."""
        found = self._regex.search(text)
        if found is None:
            return Refusal(Reason.UNPARSED, text)
        values = tuple(float(group.replace("−", "-")) for group in found.groups())
        if not all(map(math.isfinite, values)):
            return Refusal(Reason.OUT_OF_RANGE, text)
        return values

    def spans(self, text: str) -> tuple[tuple[int, int], ...]:
        """Where in an answer its numbers stand, as (start, end); empty if the text has another form."""
        found = self._regex.search(text)
        return tuple(found.regs[1:]) if found else ()


def _pattern(part: str | Number | Words) -> str:
    """Literal text matches with any amount of white space, none included, wherever it has some."""
    if not isinstance(part, str):
        return part.pattern
    if part.isspace():
        return r"\s*"
    head = r"\s*" if part[:1].isspace() else ""
    tail = r"\s*" if part[-1:].isspace() else ""
    return head + r"\s+".join(map(re.escape, part.split())) + tail


@dataclass(frozen=True)
class Question:
    """One question about the image(s) of a view, and the form its answer is expected in."""

    text: str
    grammar: Grammar
    max_tokens: int = 64  # generation is cut here


def without_think(text: str) -> str:
    """The text after its think block, none where that was cut; all of it where there is no such block."""
    _, end, tail = text.rpartition("</think>")
    return tail if end or "<think>" not in tail else ""
