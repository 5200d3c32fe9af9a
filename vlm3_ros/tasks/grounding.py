"""Open-vocabulary grounding: where in the image are the things with this name? (Qwen3-VL's own 2D boxes)

One name is asked for at a time: the questions of a frame are answered side by side, so that takes as long as the
longest list and not as all together, each list has its own probability, and one without an end spoils no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from vlm3_ros.tasks.answers import Grammar, Question, Reason, Refusal, Words, without_think

FOCAL = 1000.0  # px; any size will do, this one lets a jointly trained checkpoint share its look with depth
BINS = 1000  # box corners are numbers in [0, 1000] of width and of height

PROMPT = (
    "Locate every instance of the following categories in the image: {label}. Report the bounding boxes in JSON "
    'format like this: [{{"bbox_2d": [x1, y1, x2, y2], "label": "category"}}].'
)
GRAMMAR = Grammar((Words(),))
MAX_TOKENS = 512  # some 17 boxes
MAX_BOXES = MAX_TOKENS // 16  # a box takes more tokens than that: beyond, the model repeats itself

_OBJECT = re.compile(r'\{(?:[^{}"\\]|"(?:[^"\\]|\\.)*")*\}')  # of JSON, with no other one inside
_EMPTY_LIST = re.compile(r"\s*(?:```\w*\s*)?\[\s*\]\s*(?:```\s*)?")  # and nothing else: "[]" in passing means nothing


@dataclass(frozen=True)
class Box2D:
    """A named box in reference numbers [0, 1000], x1 < x2 and y1 < y2."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    def iou(self, other: Box2D) -> float:
        """Intersection over union of the two areas."""
        w = min(self.x2, other.x2) - max(self.x1, other.x1)
        h = min(self.y2, other.y2) - max(self.y1, other.y1)
        common = max(0.0, w) * max(0.0, h)
        union = (self.x2 - self.x1) * (self.y2 - self.y1) + (other.x2 - other.x1) * (other.y2 - other.y1) - common
        return common / union


def question(label: str) -> Question:
    """Where all things with this name are."""
    return Question(PROMPT.format(label=label), GRAMMAR, MAX_TOKENS)


def answer(boxes: Sequence[Box2D]) -> str:
    """The text of a right answer."""
    items = [{"bbox_2d": [round(c) for c in (b.x1, b.y1, b.x2, b.y2)], "label": b.label} for b in boxes]
    return json.dumps(items, ensure_ascii=False)


def parse(text: str, label: str, duplicate_iou: float = 0.9) -> list[Box2D] | Refusal:
    """The boxes of an answer, nothing else: those of the label, duplicates merged, cut JSON read as far as it goes.

    An empty list means that the model says there is nothing. Boxes outside the image or without an area and those
    with another label are left out; a Refusal means that nothing is left, or that the text is no list of boxes.
    """
    answered = without_think(text)
    items = _json_objects(answered)
    if not items:
        return [] if _EMPTY_LIST.fullmatch(answered) else Refusal(Reason.UNPARSED, text)
    boxes: list[Box2D] = []
    for item in items:
        box = _box(item, label)
        if box and not any(box.iou(b) > duplicate_iou for b in boxes):
            boxes.append(box)
    return boxes or Refusal(Reason.OUT_OF_RANGE, text)


def _json_objects(text: str) -> list[dict[str, object]]:
    """The first JSON objects in ``text``, whatever list, code fence or prose surrounds them or is cut off."""
    found: list[dict[str, object]] = []
    for candidate in islice(_OBJECT.finditer(text), MAX_BOXES):
        with suppress(ValueError, RecursionError):
            found.append(json.loads(candidate[0]))
    return found


def _key(label: str) -> str:
    return label.strip().casefold()


def _box(item: dict[str, object], label: str) -> Box2D | None:
    """The box a JSON object describes, if it does and has that label."""
    corners, said = item.get("bbox_2d"), item.get("label")
    if not isinstance(said, str) or _key(said) != _key(label):
        return None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    # NaN compares as False, infinity and integers too large for a float are out of range.
    if not all(isinstance(c, int | float) and not isinstance(c, bool) and abs(c) <= 2 * BINS for c in corners):
        return None
    x1, y1, x2, y2 = (min(max(float(c), 0.0), float(BINS)) for c in corners)
    return Box2D(label, x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
