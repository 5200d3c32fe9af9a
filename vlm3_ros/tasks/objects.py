"""Spatial questions about one or two image regions (the kinds of SpatialRGPT, arXiv 2406.01584).

A region is a box in reference numbers, written out in the question. One question text of the released checkpoint is
published (``smaller``); the others ask for the same kinds of fact in its style. Free questions with regions work the
same way: `with_regions` puts the boxes into any text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm3_ros.tasks.answers import Grammar, Number, Question, Reason, Refusal, Words

FOCAL = 1000.0  # px, the unified focal length of this task
BINS = 1000  # box corners are integers in [0, 1000) of width and of height

Region = tuple[int, int, int, int]  # x1, y1, x2, y2

COMPARISONS = {
    "above": "Can you confirm if {a} is above {b}?",
    "below": "Can you confirm if {a} is below {b}?",
    "left": "Can you confirm if {a} is to the left of {b} from the viewer's perspective?",
    "right": "Can you confirm if {a} is to the right of {b} from the viewer's perspective?",
    "bigger": "Can you confirm if {a} is bigger than {b}?",
    "smaller": "Can you confirm if {a} is smaller than {b}?",
    "taller": "Can you confirm if {a} is taller than {b}?",
    "shorter": "Can you confirm if {a} is shorter than {b}?",
    "wider": "Can you confirm if {a} is wider than {b}?",
    "thinner": "Can you confirm if {a} is thinner than {b}?",
    "behind": "Can you confirm if {a} is behind {b}?",
    "front": "Can you confirm if {a} is in front of {b}?",
}
_STATED = {  # how an answer says it: the published one is that of "smaller"
    "above": "above",
    "below": "below",
    "left": "to the left of",
    "right": "to the right of",
    "bigger": "bigger in size than",
    "smaller": "smaller in size than",
    "taller": "taller than",
    "shorter": "shorter than",
    "wider": "wider than",
    "thinner": "thinner than",
    "behind": "behind",
    "front": "in front of",
}
LENGTHS = {
    "distance": "What is the distance between {a} and {b}?",
    "horizontal distance": "What is the horizontal distance between {a} and {b}?",
    "vertical distance": "What is the vertical distance between {a} and {b}?",
    "width": "What is the approximate width of {a}?",
    "height": "What is the approximate height of {a}?",
}
DIRECTION = "If you are at {a}, where will you find {b}? Answer as a clock direction."

MAX_TOKENS = 96
YES_NO = Grammar((Words(),))
LENGTH = Grammar((Words(), Number(4, 2), " ", Words()))
CLOCK = Grammar((Words(), Number(2), " o'clock"))

_METRES = {"m": 1.0, "meter": 1.0, "metre": 1.0, "cm": 0.01, "centimeter": 0.01, "centimetre": 0.01}
_METRES |= {"mm": 0.001, "millimeter": 0.001, "millimetre": 0.001}
_METRES |= {"foot": 0.3048, "feet": 0.3048, "ft": 0.3048, "inch": 0.0254, "inches": 0.0254}
# Not the end of a number with a minus, a thousands separator or an exponent: better no answer than a wrong one.
_LENGTH = re.compile(r"(?<![\w.,−-])([0-9]{1,4}(?:\.[0-9]{1,9})?)\s*([a-z]+)", re.IGNORECASE)
_CLOCK = re.compile(r"(?<![\d.,:−-])(1[0-2]|[1-9])\s*o['’]?\s*clock", re.IGNORECASE)
_YES = re.compile(r"\s*(yes|correct|indeed|true|right|affirmative|certainly)\b", re.IGNORECASE)
_NO = re.compile(r"\s*(no|not|incorrect|false|wrong|negative|actually)\b", re.IGNORECASE)


def name(region: Region) -> str:
    """How a region is written in questions and answers."""
    return "bounding box region ({}, {}, {}, {})".format(*region)


def with_regions(text: str, regions: Sequence[Region]) -> str:
    """``text`` with every ``<region N>``, counted from 1, replaced by that region; ValueError if there is none."""

    def written(found: re.Match[str]) -> str:
        number = int(found[1])
        if not 1 <= number <= len(regions):
            raise ValueError(f"the question speaks of {found[0]}, but there are {len(regions)} regions")
        return name(regions[number - 1])

    return re.sub(r"<region (\d+)>", written, text)


def comparison(kind: str, a: Region, b: Region) -> Question:
    """A yes/no question of one of the COMPARISONS."""
    return Question(COMPARISONS[kind].format(a=name(a), b=name(b)), YES_NO, MAX_TOKENS)


def length(kind: str, a: Region, b: Region | None = None) -> Question:
    """A question for one of the LENGTHS; ``b`` where the kind is about two regions, ValueError otherwise."""
    if ("{b}" in LENGTHS[kind]) != (b is not None):
        raise ValueError(f"the {kind} is asked of {'one region' if b else 'two regions'}")
    return Question(LENGTHS[kind].format(a=name(a), b=name(b) if b else ""), LENGTH, MAX_TOKENS)


def direction(a: Region, b: Region) -> Question:
    """In which clock direction ``b`` lies for someone at ``a``."""
    return Question(DIRECTION.format(a=name(a), b=name(b)), CLOCK, MAX_TOKENS)


def grammar(text: str) -> Grammar:
    """The form of the answer to a question of one of the kinds above; words for any other."""
    start = text.split("bounding box region")[0]
    if any(question.startswith(start) for question in COMPARISONS.values()):
        return YES_NO
    if any(question.startswith(start) for question in LENGTHS.values()):
        return LENGTH
    return CLOCK if DIRECTION.startswith(start) else Grammar((Words(),))


def free(text: str, regions: Sequence[Region] = ()) -> Question:
    """Any question in words, with its regions filled in."""
    return Question(with_regions(text, regions), Grammar((Words(),)), MAX_TOKENS)


def comparison_answer(kind: str, a: Region, b: Region, is_true: bool) -> str:
    """The text of a right answer to a `comparison`, in the form of the published one."""
    verdict, negation = ("Correct", "") if is_true else ("Incorrect", "not ")
    return f"{verdict}, {name(a)} is {negation}{_STATED[kind]} {name(b)}."


def length_answer(kind: str, metres: float, a: Region, b: Region | None = None) -> str:
    """The text of a right answer to a `length` question."""
    if b is None:
        return f"The {kind} of {name(a)} is {metres:.2f} meters."
    return f"The {kind} between {name(a)} and {name(b)} is {metres:.2f} meters."


def direction_answer(a: Region, b: Region, hour: int) -> str:
    """The text of a right answer to a `direction` question."""
    return f"{name(b)[0].upper()}{name(b)[1:]} is at {hour} o'clock from {name(a)}."


def parse_yes_no(text: str) -> bool | Refusal:
    """Whether the answer confirms what the question states."""
    if _NO.match(text):
        return False
    return True if _YES.match(text) else Refusal(Reason.UNPARSED, text)


def parse_length(text: str) -> float | Refusal:
    """The first length with a unit in the answer, in metres > 0."""
    for found in _LENGTH.finditer(text):
        number, unit = found.groups()
        metres = _METRES.get(unit.lower()) or _METRES.get(unit.lower().removesuffix("s"))
        if metres:
            value = float(number) * metres
            return value if value > 0.0 else Refusal(Reason.OUT_OF_RANGE, text)
    return Refusal(Reason.UNPARSED, text)


def parse_clock(text: str) -> int | Refusal:
    """The clock direction, 1 to 12."""
    found = _CLOCK.search(text)
    return int(found[1]) if found else Refusal(Reason.UNPARSED, text)
