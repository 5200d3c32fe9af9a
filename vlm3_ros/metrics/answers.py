"""Answers to spatial questions against the right ones, in the kinds of SpatialRGPT-Bench.

Cheng et al., SpatialRGPT, NeurIPS 2024 (arXiv 2406.01584). There a language model reads the answers; here the task's
own parsers do, so that a number is the same every time.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlm3_ros.tasks import Reason, Refusal, objects

WITHIN = 0.25  # relative error of a length that counts as right
HOURS = 1  # difference of clock directions that counts as right
HOUR_DEG = 30.0
MOST = {"length": 1.0, "clock": 180.0}  # of errors, as of poses: relative, and in degrees
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


class _Judged(NamedTuple):
    kind: str
    is_right: bool
    error: float  # NaN of kinds that have none, and without a value
    answered: bool


class AnswerScore:
    """Collects answers by category."""

    def __init__(self) -> None:
        self._of: dict[str, list[_Judged]] = defaultdict(list)
        self.unknown = 0  # right answers of no known kind

    def add(self, category: str, given: str, right: str) -> None:
        """An answer of a category, and the right one."""
        errors = answer_errors(given, right)
        if errors is None:
            self.unknown += 1
        else:
            answered = not isinstance(READERS[errors[0]](given), Refusal)
            self._of[category].append(_Judged(*errors, answered))

    def result(self) -> dict[str, Any]:
        """Accuracies and mean errors of all, and rows by category. An answer without a value is wrong, and has the
        largest error there is (MOST); no error counts for more, but in those over the answered ones alone.

        Of lengths and directions there are two means: over the questions, and over the categories, each with the same
        weight, as the paper's tables have it.
        """
        everything = [answer for answers in self._of.values() for answer in answers]
        lengths, clocks = ([a for a in everything if a.kind == kind] for kind in ("length", "clock"))
        by_length = self._measured("length")
        return {
            "questions": len(everything),
            "coverage": _mean([answer.answered for answer in everything]),
            "qualitative": _accuracy([a for a in everything if a.kind in ("yes_no", "which")]),
            "quantitative": _mean([_accuracy(answers) for answers in self._measured("length", "clock")]),
            "quantitative_questions": _accuracy([*lengths, *clocks]),
            "length_rel": _mean([_error(answers) for answers in by_length]),
            "length_rel_questions": _error(lengths),
            "clock_deg": _error(clocks),
            "length_rel_answered": _mean([_answered_error(answers) for answers in by_length]),
            "length_rel_questions_answered": _answered_error(lengths),
            "clock_deg_answered": _answered_error(clocks),
            "by_category": [
                {
                    "category": category,
                    "questions": len(answers),
                    "coverage": _mean([answer.answered for answer in answers]),
                    "accuracy": _accuracy(answers),
                    "error": _error(answers),
                    "error_answered": _answered_error(answers),
                }
                for category, answers in sorted(self._of.items())
            ],
        }

    def _measured(self, *kinds: str) -> list[list[_Judged]]:
        """The answers of these kinds by category."""
        found = ([answer for answer in answers if answer.kind in kinds] for answers in self._of.values())
        return [answers for answers in found if answers]


def _accuracy(answers: Sequence[_Judged]) -> float:
    return _mean([answer.is_right for answer in answers])


def _error(answers: Sequence[_Judged]) -> float:
    measured = [answer for answer in answers if answer.kind in MOST]
    return _mean([min(a.error, MOST[a.kind]) if a.answered else MOST[a.kind] for a in measured])


def _answered_error(answers: Sequence[_Judged]) -> float:
    return _mean([answer.error for answer in answers])


def _mean(values: Sequence[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
