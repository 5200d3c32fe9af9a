"""From the texts of an exchange back to what they say, with the tasks' own parsers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.tasks import Refusal, depth, grounding, matching, objects, pose
from vlm3_ros.tasks.grounding import Box2D
from vlm3_ros.tasks.pose import PoseAnswer

T = TypeVar("T")


def _pattern(prompt: str) -> re.Pattern[str]:
    """For the questions made from a prompt; its fields become groups."""
    parts = re.split(r"\{[a-z]+\}", prompt.replace("{{", "\0").replace("}}", "\1"))
    return re.compile("(.+)".join(re.escape(p.replace("\0", "{").replace("\1", "}")) for p in parts))


_PIXEL = {"depth": _pattern(depth.PROMPT), "matching": _pattern(matching.PROMPT)}
_LABEL = _pattern(grounding.PROMPT)
REGION = re.compile(r"bounding box region \((\d+), (\d+), (\d+), (\d+)\)")
_SPOKEN = {"front": "in front of", "direction": "where will you find"}  # other kinds by their own name
_KINDS = {
    kind: re.compile(rf"\b{_SPOKEN.get(kind, kind)}\b")
    for kind in (*objects.COMPARISONS, *sorted(objects.LENGTHS, key=len, reverse=True), "direction")
}


def pixel(exchange: Exchange) -> tuple[int, int]:
    """The pixel reference that a question about depth or matching asks for."""
    found = _PIXEL[exchange.task].fullmatch(exchange.question)
    assert found is not None
    return int(found[1]), int(found[2])


def metres(exchange: Exchange) -> float:
    """The answer to a question about depth."""
    return _value(depth.parse(exchange.answer))


def match(exchange: Exchange) -> tuple[float, float]:
    """The pixel reference in the second image."""
    return _value(matching.parse(exchange.answer))


def motion(exchanges: Sequence[Exchange]) -> PoseAnswer:
    """What the answers to the pose questions say together."""
    return _value(pose.parse([exchange.answer for exchange in exchanges]))


def boxes(exchange: Exchange) -> list[Box2D]:
    """The boxes of a grounding answer."""
    return _value(grounding.parse(exchange.answer, label(exchange)))


def label(exchange: Exchange) -> str:
    """The name that a grounding question asks for."""
    found = _LABEL.fullmatch(exchange.question)
    assert found is not None
    return found[1]


def regions(exchange: Exchange) -> list[objects.Region]:
    """The regions in a question, in their order."""
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in REGION.findall(exchange.question)]


def named(exchange: Exchange) -> list[int]:
    """Where in the text of a question the name it asks for ends, or the numbers of each of its regions."""
    if exchange.task == "grounding":
        found = _LABEL.fullmatch(exchange.question)
        assert found is not None
        return [found.end(1)]
    return [found.end(4) for found in REGION.finditer(exchange.question)]


def kind(exchange: Exchange) -> str:
    """What an object question asks for, in whatever words: one of the COMPARISONS, the LENGTHS, or "direction"."""
    return next(kind for kind, spoken in _KINDS.items() if spoken.search(exchange.question))


def object_answer(exchange: Exchange) -> bool | float | int:
    """Yes or no, metres, or hours on the clock, by the `kind`."""
    asked = kind(exchange)
    if asked in objects.COMPARISONS:
        return _value(objects.parse_yes_no(exchange.answer))
    if asked in objects.LENGTHS:
        return _value(objects.parse_length(exchange.answer))
    return _value(objects.parse_clock(exchange.answer))


def _value(read: T | Refusal) -> T:
    """What a right answer says; a refusal is a mistake of whoever wrote it."""
    assert not isinstance(read, Refusal), read
    return read
