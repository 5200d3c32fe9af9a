"""Answers to spatial questions against the right ones, in the kinds of SpatialRGPT-Bench.

Cheng et al., SpatialRGPT, NeurIPS 2024 (arXiv 2406.01584). There a language model reads the answers; here the task's
own parsers do, so that a number is the same every time.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlm3_ros.tasks import Reason, Refusal, objects

WITHIN = 0.25  # relative error of a length that counts as right
HOURS = 1  # difference of clock directions that counts as right
HOUR_DEG = 30.0
REGION = re.compile(r"region \((\d+, \d+, \d+, \d+)\)")


def _region(text: str) -> str | Refusal:
    """The first region that is named."""
    found = REGION.search(text)
    return found[1] if found else Refusal(Reason.UNPARSED, text)


READERS: dict[str, Callable[[str], Any]] = {
    "clock": objects.parse_clock,
    "yes_no": objects.parse_yes_no,
    "length": objects.parse_length,
    "which": _region,
}


def kind(right: str) -> str | None:
    """Which of READERS a right answer is for: a clock direction, a yes or no, a length, or which of two regions."""
    for name in ("clock", "yes_no", "length"):
        if not isinstance(READERS[name](right), Refusal):
            return name
    return "which" if len(set(REGION.findall(right))) == 1 else None


def answer_errors(given: str, right: str) -> tuple[str, bool, float] | None:
    """How an answer compares with the right one; None where the right one is of no known kind.

    Returns the `kind`, whether the answer is right, and by how much it is off: of a length relative, of a clock
    direction in degrees, NaN of the others and for an answer without a value.
    """
    asked = kind(right)
    if asked is None:
        return None
    found, true = READERS[asked](given), READERS[asked](right)
    if isinstance(found, Refusal):
        return asked, False, np.nan
    if asked == "clock":
        apart = min((found - true) % 12, (true - found) % 12)
        return asked, apart <= HOURS, apart * HOUR_DEG
    if asked == "length":
        error = abs(found / true - 1.0)
        return asked, error <= WITHIN, error
    return asked, found == true, np.nan


class AnswerScore:
    """Collects answers by category."""

    def __init__(self) -> None:
        self._of: dict[str, list[tuple[str, bool, float]]] = defaultdict(list)
        self.unknown = 0  # right answers of no known kind

    def add(self, category: str, given: str, right: str) -> None:
        """An answer of a category, and the right one."""
        errors = answer_errors(given, right)
        if errors is None:
            self.unknown += 1
        else:
            self._of[category].append(errors)

    def result(self) -> dict[str, Any]:
        """Accuracies and mean errors of all, and rows by category; errors are over the answers that have a value.

        Of lengths and directions there are two means: over the questions, and over the categories, each with the same
        weight, as the paper's tables have it.
        """
        everything = [answer for answers in self._of.values() for answer in answers]
        qualitative = [a for a in everything if a[0] in ("yes_no", "which")]
        quantitative = [a for a in everything if a[0] in ("length", "clock")]
        return {
            "questions": len(everything),
            "qualitative": _accuracy(qualitative),
            "quantitative": _mean([_accuracy(answers) for answers in self._measured("length", "clock")]),
            "quantitative_questions": _accuracy(quantitative),
            "length_rel": _mean([_error(answers) for answers in self._measured("length")]),
            "length_rel_questions": _error([a for a in quantitative if a[0] == "length"]),
            "clock_deg": _error([a for a in quantitative if a[0] == "clock"]),
            "by_category": [
                {"category": c, "questions": len(a), "accuracy": _accuracy(a), "error": _error(a)}
                for c, a in sorted(self._of.items())
            ],
        }

    def _measured(self, *kinds: str) -> list[list[tuple[str, bool, float]]]:
        """The answers of these kinds by category."""
        found = ([answer for answer in answers if answer[0] in kinds] for answers in self._of.values())
        return [answers for answers in found if answers]


def _accuracy(answers: Sequence[tuple[str, bool, float]]) -> float:
    return float(np.mean([right for _, right, _ in answers])) if answers else np.nan


def _error(answers: Sequence[tuple[str, bool, float]]) -> float:
    return _mean([error for _, _, error in answers])


def _mean(values: Sequence[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
