"""How well a model does on samples it was not trained on: asked as in use, measured as offline evaluation does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vlm3_ros.config import PoseConfig
from vlm3_ros.geometry import motion
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.metrics.depth import complete_errors
from vlm3_ros.metrics.matches import match_errors
from vlm3_ros.metrics.poses import pair_errors
from vlm3_ros.perception.pose import read_pose
from vlm3_ros.tasks import Grammar, Question, Refusal, Words, depth, grounding, matching, objects, pose
from vlm3_ros.vlm import VLM, Answer

SAME_PLACE = 0.5  # intersection over union at which a 2D box counts as found
SAME_LENGTH = 0.25  # relative; what SpatialRGPT-Bench counts as right


def scores(vlm: VLM, samples: Iterable[Sample]) -> dict[str, float]:
    """Measures by task, as "task measure"; only of tasks that the samples have questions of."""
    asked: dict[str, list[tuple[Sample, list[Exchange], list[Answer]]]] = defaultdict(list)
    for sample in samples:
        with vlm.look(sample.pictures) as view:
            for task in sorted({exchange.task for exchange in sample.exchanges}):
                exchanges = [exchange for exchange in sample.exchanges if exchange.task == task]
                answers = view.ask([question(exchange) for exchange in exchanges])
                asked[task].append((sample, exchanges, [a for a in answers if a is not None]))
    return {
        f"{task} {name}": value
        for task, measure in MEASURES.items()
        if task in asked
        for name, value in measure(asked[task]).items()
    }


def question(exchange: Exchange) -> Question:
    """The question with the grammar of its answer."""
    if exchange.task == "pose":
        return next(q for q in pose.QUESTIONS if q.text == exchange.question)
    if exchange.task == "objects":
        return Question(exchange.question, objects.grammar(exchange.question), objects.MAX_TOKENS)
    grammars: dict[str, tuple[Grammar, int]] = {
        "depth": (depth.GRAMMAR, depth.MAX_TOKENS),
        "matching": (matching.GRAMMAR, matching.MAX_TOKENS),
        "grounding": (grounding.GRAMMAR, grounding.MAX_TOKENS),
    }
    return Question(exchange.question, *grammars.get(exchange.task, (Grammar((Words(),)), objects.MAX_TOKENS)))


Asked = Sequence[tuple[Sample, list[Exchange], list[Answer]]]


def _depth(asked: Asked) -> dict[str, float]:
    """Greedy answers, and the medians of their digits' distributions; one without a value has the largest error."""
    right, greedy, median = [], [], []
    for _, exchanges, answers in asked:
        for exchange, answer in zip(exchanges, answers, strict=True):
            truth, read = depth.parse(exchange.answer), depth.parse(answer.text)
            if isinstance(truth, Refusal):
                continue
            right.append(truth)
            greedy.append(np.nan if isinstance(read, Refusal) else read)
            middle = answer.numbers[-1].median() if answer.numbers and not isinstance(read, Refusal) else np.nan
            median.append(middle if np.isfinite(middle) else greedy[-1])
    errors, of_median = (complete_errors(np.array(values), np.array(right)) for values in (greedy, median))
    return {
        "delta1": errors["delta1"],
        "abs_rel": errors["abs_rel"],
        "median_delta1": of_median["delta1"],
        "median_abs_rel": of_median["abs_rel"],
        "parsed": errors["coverage"],
    }


def _matching(asked: Asked) -> dict[str, float]:
    """Errors in per cent of the image's width, with images scaled to squares as the protocol's references have it."""
    found, true = [], []
    for _, exchanges, answers in asked:
        for exchange, answer in zip(exchanges, answers, strict=True):
            read, right = matching.parse(answer.text), matching.parse(exchange.answer)
            if not isinstance(right, Refusal):
                found.append((np.nan, np.nan) if isinstance(read, Refusal) else read)
                true.append(right)
    errors = match_errors(np.array(found), np.array(true), (matching.BINS, matching.BINS))
    percent = 100.0 / matching.BINS
    return {
        "epe_percent": errors["epe"] * percent,
        "epe_median_percent": errors["epe_median"] * percent,
        "parsed": errors["coverage"],
    }


def _pose(asked: Asked) -> dict[str, float]:
    perceived: list[np.ndarray | None] = []
    true = []
    for _, exchanges, answers in asked:
        if len(exchanges) < len(pose.QUESTIONS):
            continue
        read = read_pose(answers, PoseConfig())
        right = pose.parse([exchange.answer for exchange in exchanges])
        if not isinstance(right, Refusal):
            true.append(motion.relative_pose(right))
            perceived.append(None if isinstance(read, Refusal) else motion.relative_pose(read))
    return pair_errors(perceived, true) if true else {}


def _objects(asked: Asked) -> dict[str, float]:
    """Share of right answers, by form of answer and over all."""
    right: dict[str, list[bool]] = defaultdict(list)
    for _, exchanges, answers in asked:
        for exchange, answer in zip(exchanges, answers, strict=True):
            form, is_right = _judged(exchange, answer.text)
            right[form].append(is_right)
    everything = [value for values in right.values() for value in values]
    return {"right": float(np.mean(everything)), **{f"right_{name}": float(np.mean(v)) for name, v in right.items()}}


def _judged(exchange: Exchange, text: str) -> tuple[str, bool]:
    grammar = objects.grammar(exchange.question)
    if grammar is objects.YES_NO:
        return "yes_no", objects.parse_yes_no(text) == objects.parse_yes_no(exchange.answer)
    if grammar is objects.CLOCK:
        read, true = objects.parse_clock(text), objects.parse_clock(exchange.answer)
        if isinstance(read, Refusal) or isinstance(true, Refusal):
            return "clock", False
        return "clock", min((read - true) % 12, (true - read) % 12) <= 1
    length, right = objects.parse_length(text), objects.parse_length(exchange.answer)
    if isinstance(length, Refusal) or isinstance(right, Refusal):
        return "length", False
    return "length", abs(length - right) <= SAME_LENGTH * right


def _grounding(asked: Asked) -> dict[str, float]:
    """Precision and recall of named 2D boxes, and the overlap of those found."""
    found, wanted, overlaps = 0, 0, []
    for _, exchanges, answers in asked:
        for exchange, answer in zip(exchanges, answers, strict=True):
            label = reading.label(exchange)
            boxes, true = (grounding.parse(text, label) for text in (answer.text, exchange.answer))
            boxes, true = ([] if isinstance(b, Refusal) else b for b in (boxes, true))
            found, wanted = found + len(boxes), wanted + len(true)
            overlaps += _matched(boxes, true)
    return {
        "precision": len(overlaps) / max(1, found),
        "recall": len(overlaps) / max(1, wanted),
        "iou": float(np.mean(overlaps)) if overlaps else 0.0,
    }


def _matched(boxes: list[grounding.Box2D], true: list[grounding.Box2D]) -> list[float]:
    """Overlaps of the pairs of boxes that overlap enough, each box in one pair, the best first."""
    pairs = [(a.iou(b), i, j) for i, a in enumerate(boxes) for j, b in enumerate(true)]
    taken: tuple[set[int], set[int]] = set(), set()
    overlaps = []
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap >= SAME_PLACE and i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            overlaps.append(overlap)
    return overlaps


MEASURES: dict[str, Callable[[Asked], dict[str, Any]]] = {
    "depth": _depth,
    "matching": _matching,
    "pose": _pose,
    "objects": _objects,
    "grounding": _grounding,
}
