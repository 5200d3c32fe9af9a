"""Metric depth of a pixel: how far is the point at (X, Y)?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from vlm3_ros.tasks.answers import (
    FARTHEST_M,
    NUMBER,
    Grammar,
    Number,
    Question,
    Reason,
    Refusal,
    Words,
    metres,
    number,
)

FOCAL = 1000.0  # px, the unified focal length of this task
BINS = 2000  # pixel references are integers in [0, 2000) of width and of height

PROMPT = (
    "Given this image, how far is the point at coordinates ({x}, {y}) from the camera? The coordinates are in "
    "normalised [0, 2000] format relative to image width and height. Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
GRAMMAR = Grammar((Words(), "<answer> ", Number(integer_digits=3, decimals=2), " </answer>"))
MAX_TOKENS = 256  # as the published notebook

_ANSWER = re.compile(r"<answer>([^<]{0,400})</answer>", re.IGNORECASE)
_UNIT = re.compile(r"[\s*_`$)\]}]*([^\W\d_]*)")  # the word behind a number, whatever markup is between
_DOUBTFUL = frozenset("<>≤≥±/^%°")  # a bound, a fraction, an angle: no length


def questions(references: Iterable[Sequence[int]]) -> list[Question]:
    """One question per pixel reference (X, Y)."""
    return [_question(x, y) for x, y in references]


@lru_cache(maxsize=1 << 14)  # frame after frame the same pixels are asked
def _question(x: int, y: int) -> Question:
    return Question(PROMPT.format(x=x, y=y), GRAMMAR, MAX_TOKENS)


def answer(length: float) -> str:
    """The text of a right answer in metres, with DepthLM's think sentence (VLM³'s is not published)."""
    think = f"<think> The point is around {length:.2f} meters away from the camera. </think>"
    return f"{think}\n\n<answer> {length:.2f} </answer>"


def parse(text: str) -> float | Refusal:
    """Metres > 0 (ray length or depth along Z: not published, see the setting depth.answer), or a Refusal.

    The number stands between the answer tags, in any form that the published notebook reads (".85", "+8.49", "1e1")
    and with a unit, markup or words around it, but alone: two numbers are no answer.
    """
    values = GRAMMAR.read(text)
    length = values[0] if not isinstance(values, Refusal) else _only_number(text)
    if length is None:
        return Refusal(Reason.UNPARSED, text)
    return length if 0.0 < length <= FARTHEST_M else Refusal(Reason.OUT_OF_RANGE, text)


def _only_number(text: str) -> float | None:
    """The only number between the answer tags, in metres where it has a unit."""
    tagged = _ANSWER.search(text)
    found = list(NUMBER.finditer(tagged[1])) if tagged else []
    if tagged is None or len(found) != 1:
        return None
    before, after = tagged[1][: found[0].start()], tagged[1][found[0].end() :]
    around = before + after
    if any(c.isdigit() or c in _DOUBTFUL for c in around) or before.rstrip().endswith(("-", "−")):
        return None
    unit = _UNIT.match(after)
    factor = metres(unit[1]) if unit and unit[1] else 1.0
    return number(found[0][0]) * factor if factor else None
