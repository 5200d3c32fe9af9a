"""Open-vocabulary grounding: where in the image are the things with these names? (Qwen3-VL's own 2D boxes)"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlm3_ros.tasks.answers import Grammar, Question, Reason, Refusal, Words, without_think

FOCAL = 1000.0  # px; any size will do, this one lets a jointly trained checkpoint share its look with depth
BINS = 1000  # box corners are numbers in [0, 1000] of width and of height

PROMPT = (
    "Locate every instance of the following categories in the image: {labels}. Report the bounding boxes in JSON "
    'format like this: [{{"bbox_2d": [x1, y1, x2, y2], "label": "category"}}].'
)
GRAMMAR = Grammar((Words(),))
MAX_TOKENS = 1024


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


def question(labels: Sequence[str]) -> Question:
    """One question for all labels."""
    return Question(PROMPT.format(labels=", ".join(labels)), GRAMMAR, MAX_TOKENS)


def answer(boxes: Sequence[Box2D]) -> str:
    """The text of a right answer."""
    items = [{"bbox_2d": [round(c) for c in (b.x1, b.y1, b.x2, b.y2)], "label": b.label} for b in boxes]
    return json.dumps(items, ensure_ascii=False)


def parse(text: str, labels: Sequence[str], duplicate_iou: float = 0.9) -> list[Box2D] | Refusal:
    """The boxes of an answer, nothing else: only asked labels, duplicates merged, cut JSON read as far as it goes.

    An empty list means that the model says there is nothing. Boxes outside the image or without an area and
    labels nobody asked for are left out; a Refusal means that the text is no list of boxes at all.
    """
    items = _json_objects(without_think(text))
    if items is None:
        return Refusal(Reason.UNPARSED, text)
    wanted = {label.casefold(): label for label in labels}
    boxes: list[Box2D] = []
    for item in items:
        box = _box(item, wanted)
        if box and not any(box.label == b.label and box.iou(b) > duplicate_iou for b in boxes):
            boxes.append(box)
    if items and not boxes:
        return Refusal(Reason.OUT_OF_RANGE, text)
    return boxes


def _json_objects(text: str) -> list[object] | None:
    """The objects of the JSON list in ``text``, also when code fences surround it or its end is missing."""
    start = text.find("[")
    if start < 0:
        return None
    try:
        found = json.JSONDecoder().raw_decode(text, start)[0]
        return found if isinstance(found, list) else None
    except (ValueError, RecursionError):
        pass
    whole = []
    for candidate in re.findall(r"\{[^{}]*\}", text[start:]):
        try:
            whole.append(json.loads(candidate))
        except (ValueError, RecursionError):
            continue
    return whole or None


def _box(item: object, wanted: dict[str, str]) -> Box2D | None:
    if not isinstance(item, dict):
        return None
    corners, label = item.get("bbox_2d"), item.get("label")
    if not isinstance(label, str) or label.casefold() not in wanted:
        return None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    if not all(isinstance(c, int | float) and not isinstance(c, bool) and abs(c) <= 2 * BINS for c in corners):
        return None
    if not all(math.isfinite(c) for c in corners):
        return None
    x1, y1, x2, y2 = (min(max(float(c), 0.0), float(BINS)) for c in corners)
    return Box2D(wanted[label.casefold()], x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
