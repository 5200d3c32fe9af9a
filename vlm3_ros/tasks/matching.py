"""Pixel correspondence: where in the second image is pixel (X1, Y1) of the first?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlm3_ros.tasks.answers import Grammar, Number, Question, Reason, Refusal, without_think

LONGEST_EDGE = 1024  # px; this task needs no unified focal length
BINS = 1000  # pixel references are integers in [0, 1000]

PROMPT = (
    "Given these two images, what pixel in the second image corresponds to pixel ({x}, {y}) in the first image? "
    "Report the answer as (x, y)."
)
THINK = ' Please think step by step and follow the format: "<think> [think process] </think>\n\n[answer]".'
GRAMMAR = Grammar(("(", Number(integer_digits=4), ", ", Number(integer_digits=4), ")"))


def questions(references: Iterable[Sequence[int]], think: bool = False) -> list[Question]:
    """One question per pixel reference of the first image; ``think`` asks for reasoning first (slow, published)."""
    suffix, max_tokens = (THINK, 2048) if think else ("", 16)
    return [Question(PROMPT.format(x=x, y=y) + suffix, GRAMMAR, max_tokens) for x, y in references]


def answer(x: int, y: int) -> str:
    """The text of a right answer."""
    return f"({x}, {y})"


def parse(text: str) -> tuple[float, float] | Refusal:
    """Reference (x, y) in the second image, both in [0, 1000], or a Refusal."""
    values = GRAMMAR.read(without_think(text))
    if isinstance(values, Refusal):
        return Refusal(values.reason, text)
    x, y = values
    return (x, y) if x <= BINS and y <= BINS else Refusal(Reason.OUT_OF_RANGE, text)
