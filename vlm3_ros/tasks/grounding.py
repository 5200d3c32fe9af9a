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
_TRAILING_COMMA = re.compile(r",\s*([\]}])")
_EMPTY = re.compile(
    r"\s*(?:```\w*\s*)?(?:\[[\s\[\]{}]*\]|\{\s*\}|null)\s*(?:```\s*)?", re.IGNORECASE
)  # and nothing else
_MARKUP = re.compile(r"<\|[a-z_]{1,20}\|>")  # of Qwen's earlier form: <|object_ref_start|>chair<|object_ref_end|>...
_N = r"\s{0,9}(-?[0-9]{1,6}(?:\.[0-9]{1,20})?)\s{0,9}"
_BARE = re.compile(
    rf"([^\W\d_][\w '-]{{0,60}})?[\[(]{_N},{_N}(?:,|[\])]\s{{0,9}},?\s{{0,9}}[\[(]){_N},{_N},?\s{{0,9}}[\])]"
)
_LABELS = ("label", "name", "category", "class")  # keys under which a label stands
_WORD = re.compile(r"[^\W\d_]+")
_STATEMENT = 300  # characters; a longer text is no statement that there is nothing
_THINGS = frozenset(("instance", "object", "thing", "item", "match", "category", "such", "visible", "present"))
_SEEING = frozenset(
    ("see", "find", "detect", "contain", "show", "include", "have", "identify", "locate", "a", "an", "any")
)
_NOTHING = frozenset(("none", "nothing"))
_UNSURE = frozenset(("tell", "determine", "say", "sure", "know", "unclear", "uncertain", "whether", "if", "sorry"))
_CORNERS = re.compile(r"[\[(]\s*(-?[0-9][0-9.,\s()\[\]-]*)[\])]")  # of one thing, whatever brackets they have

Spans = tuple[tuple[int, int], ...]


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

    An empty list means that the model says there is nothing, as a list or in words ("There are no chairs."). Boxes
    outside the image or without an area and those with another label are left out; a Refusal means that nothing is
    left, or that the text is no list of boxes. What else is read:

    - objects with single quotes or trailing commas; without any object, lists of four numbers, nested or not, and
      Qwen's earlier form "chair(300,300),(600,700)", with its markup or without;
    - labels that mean the one that was asked: none at all, its plural, an article or a number with it, and what ends
      in it ("office chair" is a chair, "chair leg" is none).
    """
    located = parse_located(text, label, duplicate_iou)
    return located if isinstance(located, Refusal) else [box for box, _ in located]


def parse_located(text: str, label: str, duplicate_iou: float = 0.9) -> list[tuple[Box2D, Spans]] | Refusal:
    """As `parse`, and with each box the parts of the text, as (start, end), that say that there is one more thing and
    what it is: all from the end of the box before it to its own end, but for its corners."""
    answered = without_think(text)
    shift = len(text) - len(answered)
    items = _json_objects(answered) or ([] if "{" in answered else _bare(answered))
    if not items:
        return [] if _says_nothing(answered, label) else Refusal(Reason.UNPARSED, text)
    boxes: list[tuple[Box2D, Spans]] = []
    before = 0
    for item, start, end in items:
        box = _box(item, label)
        if box and not any(box.iou(b) > duplicate_iou for b, _ in boxes):
            corners = _CORNERS.search(answered, start, end)
            inner, outer = corners.span(1) if corners else (end, end)
            boxes.append((box, ((shift + before, shift + inner), (shift + outer, shift + end))))
        before = end
    return boxes or Refusal(Reason.OUT_OF_RANGE, text)


def _json_objects(text: str) -> list[tuple[dict[str, object], int, int]]:
    """The first JSON objects in ``text`` and where they stand, whatever list, code fence or prose surrounds them or
    is cut off."""
    found: list[tuple[dict[str, object], int, int]] = []
    for candidate in islice(_OBJECT.finditer(text), MAX_BOXES):
        quoted = candidate[0] if '"' in candidate[0] else candidate[0].replace("'", '"')
        for written in (candidate[0], _TRAILING_COMMA.sub(r"\1", quoted)):
            with suppress(ValueError, RecursionError):
                found.append((json.loads(written), *candidate.span()))
                break
    return [item for item in found if item[0]]


def _bare(text: str) -> list[tuple[dict[str, object], int, int]]:
    """Four numbers in brackets, or two pairs of them, with the words that stand right before as their label, and
    where they stand; that is somewhere in the text where it has markup."""
    found: list[tuple[dict[str, object], int, int]] = []
    plain = _MARKUP.sub("", text)
    for match in islice(_BARE.finditer(plain), MAX_BOXES):
        named = {"label": match[1]} if match[1] and not match[1].endswith(" ") else {}
        span = match.span() if plain == text else (0, len(text))
        found.append(({"bbox_2d": [float(n) for n in match.groups()[1:]], **named}, *span))
    return found


def _says_nothing(text: str, label: str) -> bool:
    """Whether an answer without a box says that there is none: an empty list, "None", "There are no chairs"."""
    if _EMPTY.fullmatch(text):
        return True
    if len(text) > _STATEMENT or any(c.isdigit() for c in text):
        return False
    words = [word.casefold() for word in _WORD.findall(text.replace("n't", " not").replace("n’t", " not"))]
    if not words or _UNSURE.intersection(words):
        return False
    if _NOTHING.intersection(words) or words == ["no"]:
        return True
    asked = {_singular(word) for word in _WORD.findall(label.casefold())} | _THINGS
    for i, word in enumerate(words):
        is_negation = word in ("no", "without", "zero") or (
            word in ("not", "cannot") and bool(_SEEING.intersection(words[i + 1 : i + 3]))
        )
        if is_negation and asked.intersection(map(_singular, words[i + 1 : i + 8])):
            return True
    return False


def _singular(word: str) -> str:
    """Without the ending of a plural; the same for both numbers, be it a word or not ("boxes" and "box": "box")."""
    if word == "people":
        return "person"
    for ending, instead in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            return word.removesuffix(ending) + instead
    return word


def _means(said: str, label: str) -> bool:
    """Whether a label in an answer is that of the question, or one that ends in it."""
    if said.strip().casefold() == label.strip().casefold():
        return True
    spoken, asked = ([_singular(word) for word in _WORD.findall(text.casefold())] for text in (said, label))
    return bool(asked) and spoken[-len(asked) :] == asked


def _box(item: dict[str, object], label: str) -> Box2D | None:
    """The box a JSON object describes, if it does and has that label or none."""
    corners, said = item.get("bbox_2d"), next((item[key] for key in _LABELS if key in item), None)
    if said is not None and not (isinstance(said, str) and _means(said, label)):
        return None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    # NaN compares as False, infinity and integers too large for a float are out of range.
    if not all(isinstance(c, int | float) and not isinstance(c, bool) and abs(c) <= 2 * BINS for c in corners):
        return None
    x1, y1, x2, y2 = (min(max(float(c), 0.0), float(BINS)) for c in corners)
    return Box2D(label, x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
