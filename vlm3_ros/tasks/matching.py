"""Pixel correspondence: where in the second image is pixel (X1, Y1) of the first?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vlm3_ros.tasks.answers import Grammar, Number, Question, Reason, Refusal, without_think

LONGEST_EDGE = 1024  # px; this task needs no unified focal length
BINS = 1000  # pixel references are integers in [0, 1000]
MARGIN = 50  # a place so little off the image is a value still: the model meant its border
MAX_TOKENS, MAX_TOKENS_THINKING = 256, 2048  # as the published notebook

PROMPT = (
    "Given these two images, what pixel in the second image corresponds to pixel ({x}, {y}) in the first image? "
    "Report the answer as (x, y)."
)
THINK = ' Please think step by step and follow the format: "<think> [think process] </think>\n\n[answer]".'
GRAMMAR = Grammar(("(", Number(integer_digits=4), ", ", Number(integer_digits=4), ")"))

_NUMBER = r"(?<![\w.])[+\-−]?[0-9]{1,6}(?:\.[0-9]{1,20})?"
_ROW = re.compile(rf"""{_NUMBER}(?:\s*,\s*(?:["']?[xy]["']?\s*[=:]\s*)?{_NUMBER})+""")  # numbers with commas between
_NUMBERS = re.compile(_NUMBER)


def questions(references: Iterable[Sequence[int]], think: bool = False) -> list[Question]:
    """One question per pixel reference of the first image; ``think`` asks for reasoning first (slow, published)."""
    suffix, max_tokens = (THINK, MAX_TOKENS_THINKING) if think else ("", MAX_TOKENS)
    return [Question(PROMPT.format(x=x, y=y) + suffix, GRAMMAR, max_tokens) for x, y in references]


def answer(x: int, y: int) -> str:
    """The text of a right answer."""
    return f"({x}, {y})"


def parse(text: str) -> tuple[float, float] | Refusal:
    """Reference (x, y) in the second image, as it was said: both within MARGIN of [0, 1000]; or a Refusal.

    Brackets may be of any kind or missing, as in the published notebook. Where the thoughts were cut before the
    answer, the last two numbers that they name count: the first ones are the question's own.
    """
    answered = without_think(text)
    values = GRAMMAR.read(answered)
    if isinstance(values, Refusal):
        pairs = _pairs(answered) or (_pairs(text)[-1:] if "</think>" not in text else [])
        if not pairs:
            return Refusal(Reason.UNPARSED, text)
        values = pairs[0]
    x, y = values
    is_near = all(-MARGIN <= value <= BINS + MARGIN for value in values)
    return (x, y) if is_near else Refusal(Reason.OUT_OF_RANGE, text)


def _pairs(text: str) -> list[tuple[float, ...]]:
    """All places where exactly two numbers stand with a comma between."""
    rows = (_NUMBERS.findall(row[0]) for row in _ROW.finditer(text))
    return [tuple(float(number.replace("−", "-")) for number in row) for row in rows if len(row) == 2]
