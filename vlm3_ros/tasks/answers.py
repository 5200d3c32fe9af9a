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


# A number as people write it, but for a comma that may as well part thousands: "1,234" is none, "1,5" is 1.5 and
# "1,234.5" is 1234.5. Bounded, so that long texts are read in linear time.
NUMBER = re.compile(
    r"(?<![\w.,+\-−])[+\-−]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,3}\.[0-9]{1,20}|(?:[0-9]{1,12},(?:[0-9]{1,2}|[0-9]{4,20})|0,[0-9]{3})(?![0-9])"
    r"|[0-9]{0,12}\.[0-9]{1,20}|[0-9]{1,12})(?:[eE][+-]?[0-9]{1,3})?(?![0-9]|[.,][0-9])"
)

_METRES = {"m": 1.0, "meter": 1.0, "metre": 1.0, "km": 1000.0, "kilometer": 1000.0, "kilometre": 1000.0}
_METRES |= {"cm": 0.01, "centimeter": 0.01, "centimetre": 0.01, "mm": 0.001, "millimeter": 0.001, "millimetre": 0.001}
_METRES |= {"foot": 0.3048, "feet": 0.3048, "ft": 0.3048, "inch": 0.0254, "inches": 0.0254, "yard": 0.9144}
FARTHEST_M = 10_000.0  # longer lengths in an answer are absurd


def number(text: str) -> float:
    """The value of what NUMBER matches."""
    decimal = text.replace(",", "") if "." in text else text.replace(",", ".")
    return float(decimal.replace("−", "-"))


def metres(unit: str) -> float | None:
    """The length of a unit, by its name or abbreviation; None for any other word."""
    unit = unit.lower()
    return _METRES.get(unit) or _METRES.get(unit.removesuffix("s"))


@dataclass(frozen=True)
class Question:
    """One question about the image(s) of a view, and the form its answer is expected in."""

    text: str
    grammar: Grammar
    max_tokens: int  # generation is cut here; the end token ends almost every answer long before


def without_think(text: str) -> str:
    """The text after its think block, none where that was cut; all of it where there is no such block."""
    _, end, tail = text.rpartition("</think>")
    return tail if end or "<think>" not in tail else ""


def last_said(text: str) -> str:
    """The text after its think block; the thoughts themselves where they were cut."""
    return text if "</think>" not in text else without_think(text)
