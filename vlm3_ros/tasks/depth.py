"""Metric depth of a pixel: how far is the point at (X, Y)?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from vlm3_ros.tasks.answers import Grammar, Number, Question, Reason, Refusal, Words

FOCAL = 1000.0  # px, the unified focal length of this task
BINS = 2000  # pixel references are integers in [0, 2000) of width and of height

PROMPT = (
    "Given this image, how far is the point at coordinates ({x}, {y}) from the camera? The coordinates are in "
    "normalised [0, 2000] format relative to image width and height. Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
GRAMMAR = Grammar((Words(), "<answer> ", Number(integer_digits=3, decimals=2), " </answer>"))


def questions(references: Iterable[Sequence[int]]) -> list[Question]:
    """One question per pixel reference (X, Y)."""
    return [_question(x, y) for x, y in references]


@lru_cache(maxsize=1 << 14)  # frame after frame the same pixels are asked
def _question(x: int, y: int) -> Question:
    return Question(PROMPT.format(x=x, y=y), GRAMMAR)


def answer(metres: float) -> str:
    """The text of a right answer, as the training data has it (DepthLM's think sentence; VLM³'s is not published)."""
    think = f"<think> The point is around {metres:.2f} meters away from the camera. </think>"
    return f"{think}\n\n<answer> {metres:.2f} </answer>"


def parse(text: str) -> float | Refusal:
    """Metres > 0 (ray length or depth along Z: not published, see the setting depth.answer), or a Refusal."""
    values = GRAMMAR.read(text)
    if isinstance(values, Refusal):
        return values
    return values[0] if values[0] > 0.0 else Refusal(Reason.OUT_OF_RANGE, text)
