"""Spatial questions about one or two image regions (the kinds of SpatialRGPT, arXiv 2406.01584).

A region is a box in reference numbers, written out in the question. Of the released checkpoint one question is
published (``smaller``), and it is SpatialRGPT's template word for word; so the others are such templates too. Free
questions with regions work the same way: `with_regions` puts the boxes into any text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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
BINS = 1000  # box corners are integers in [0, 1000) of width and of height

Region = tuple[int, int, int, int]  # x1, y1, x2, y2

# Questions and answers of SpatialRGPT's public templates (AnjieCheng/SpatialRGPT, prompt_template.py).
COMPARISONS = {
    "above": "Can you confirm if {a} is positioned above {b}?",
    "below": "Can you confirm if {a} is positioned below {b}?",
    "left": "Can you confirm if {a} is positioned to the left of {b}?",
    "right": "Can you confirm if {a} is positioned to the right of {b}?",
    "bigger": "Can you confirm if {a} is bigger than {b}?",
    "smaller": "Can you confirm if {a} is smaller than {b}?",
    "taller": "Can you confirm if {a} is taller than {b}?",
    "shorter": "Can you confirm if {a} is shorter than {b}?",
    "wider": "Can you confirm if {a} is wider than {b}?",
    "thinner": "Can you confirm if {a} is thinner than {b}?",
    "behind": "Is {a} behind {b}?",
    "front": "Is {a} in front of {b}?",
}
_CONFIRMED = {  # answers to comparisons that are true, and to those that are not
    "above": ("Yes, {a} is above {b}.", "No, {a} is not above {b}."),
    "below": ("Yes, {a} is below {b}.", "No, {a} is not below {b}."),
    "left": ("Yes, {a} is to the left of {b}.", "No, {a} is not to the left of {b}."),
    "right": ("Yes, {a} is to the right of {b}.", "No, {a} is not to the right of {b}."),
    "bigger": ("Yes, {a} is bigger than {b}.", "No, {a} is not bigger than {b}."),
    "smaller": ("Yes, {a} is smaller than {b}.", "No, {a} is not smaller than {b}."),
    "taller": ("Yes, {a} is taller than {b}.", "No, {a} is not taller than {b}."),
    "shorter": ("Yes, {a} is shorter than {b}.", "No, {a} is not shorter than {b}."),
    "wider": ("Yes, {a} is wider than {b}.", "No, {a} is not wider than {b}."),
    "thinner": ("Yes, {a} is thinner than {b}.", "No, {a} is not thinner than {b}."),
    "behind": ("Yes, {a} is behind {b}.", "No, {b} is in front of {a}."),
    "front": ("Yes, {a} is in front of {b}.", "No, {a} is behind {b}."),
}
LENGTHS = {
    "distance": "What is the distance between {a} and {b}?",
    "horizontal distance": "What is the horizontal distance between {a} and {b}?",
    "vertical distance": "What is the vertical distance between {a} and {b}?",
    "width": "What is the approximate width of {a}?",
    "height": "What is the approximate height of {a}?",
}
DIRECTION = "If you are at {a}, where will you find {b}?"

MAX_TOKENS = 512  # as the published notebook
_REGION = r"(?P<{}>bounding box region \([0-9, ]{{1,40}}\))"
_ASKED = {
    kind: re.compile(re.escape(text).replace(r"\{a\}", _REGION.format("a")).replace(r"\{b\}", _REGION.format("b")))
    for kind, text in {**COMPARISONS, **LENGTHS, "direction": DIRECTION}.items()
}

YES_NO = Grammar((Words(),))
LENGTH = Grammar((Words(), Number(4, 2), " ", Words()))
CLOCK = Grammar((Words(), Number(2), " o'clock"))

_LENGTH = re.compile(rf"({NUMBER.pattern})\s*([a-z]+)", re.IGNORECASE)
_CLOCK = re.compile(r"(?<![\d.,:−-])(1[0-2]|[1-9])(?:\.0)?\s*o['’]?\s*clock", re.IGNORECASE)
_LEAD = r"(?:in fact|actually|well|so|the answer is|answer|that is|that['’]s|this is|it is|it['’]s)"
_OPENING = re.compile(rf"(?:[\s*_\"'`“]{{0,8}}{_LEAD}\b[\s*_:,]{{0,8}})?[\s*_\"'`“]{{0,8}}", re.IGNORECASE)
_YES = re.compile(r"(?:yes|yeah|correct|indeed|true|right|affirmative|certainly|exactly|absolutely)\b", re.IGNORECASE)
_NO = re.compile(r"(?:no|nope|not|incorrect|false|untrue|wrong|negative)\b", re.IGNORECASE)
_CONTRARY = re.compile(r"[\s*_\"'`“]{0,8}(?:in fact|actually|on the contrary|quite the opposite)\b", re.IGNORECASE)


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


def worded(text: str, wording: Mapping[str, str]) -> str:
    """A question of one of the kinds above in another ``wording`` (by kind, "direction" too); others as they are."""
    for kind, other in wording.items():
        if kind in _ASKED and (found := _ASKED[kind].fullmatch(text)):
            return other.format(**found.groupdict())
    return text


def free(text: str, regions: Sequence[Region] = ()) -> Question:
    """Any question in words, with its regions filled in."""
    return Question(with_regions(text, regions), Grammar((Words(),)), MAX_TOKENS)


def comparison_answer(kind: str, a: Region, b: Region, is_true: bool) -> str:
    """The text of a right answer to a `comparison`."""
    confirmed, denied = _CONFIRMED[kind]
    return (confirmed if is_true else denied).format(a=name(a), b=name(b))


def length_answer(kind: str, length: float, a: Region, b: Region | None = None) -> str:
    """The text of a right answer in metres to a `length` question."""
    if b is None:
        return f"The {kind} of {name(a)} is {length:.2f} meters."
    return f"The {kind} of {name(a)} from {name(b)} is {length:.2f} meters."


def direction_answer(a: Region, b: Region, hour: int) -> str:
    """The text of a right answer to a `direction` question."""
    return f"{name(b)} is roughly at {hour} o'clock from {name(a)}."


def decisive(text: str) -> tuple[int, int] | None:
    """Which part of an answer, as (start, end), its meaning hangs on: the word that confirms or denies, the hour, the
    first length with its unit; None for any other text."""
    for pattern in (_NO, _YES, _CLOCK, _LENGTH):
        found = pattern.match(text) if pattern in (_NO, _YES) else pattern.search(text)
        if found:
            return (found.start(1), found.end()) if pattern in (_CLOCK, _LENGTH) else (0, found.end())
    return None


def parse_yes_no(text: str) -> bool | Refusal:
    """Whether the answer confirms what the question states.

    It says so at its start: "Yes", "Correct", "That is True.", "No", "Incorrect", ... "In fact, ..." and
    "Actually, ..." put something else in the place of what was stated, unless a yes follows.
    """
    opening = _OPENING.match(text)
    start = opening.end() if opening else 0
    if _NO.match(text, start):
        return False
    if _YES.match(text, start):
        return True
    return False if _CONTRARY.match(text) else Refusal(Reason.UNPARSED, text)


def parse_length(text: str) -> float | Refusal:
    """The first length with a unit in the answer, in metres > 0."""
    for found in _LENGTH.finditer(text):
        value, factor = number(found[1]), metres(found[2])
        if factor:
            length = value * factor
            return length if 0.0 < length <= FARTHEST_M else Refusal(Reason.OUT_OF_RANGE, text)
    return Refusal(Reason.UNPARSED, text)


def parse_clock(text: str) -> int | Refusal:
    """The clock direction, 1 to 12."""
    found = _CLOCK.search(text)
    return int(found[1]) if found else Refusal(Reason.UNPARSED, text)
