"""Named things as 3D boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from benchmarks.rooms import depth
from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import Place
from vlm3_ros.config import Config
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.perception.objects import perceive_objects

IOU = 0.25  # from here on a box is right
LEVEL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # axes of a box that faces along the view
ROWS = {
    "iou": "mean IoU of matched boxes",
    "recall": "recall: true boxes with a match",
    "recall25": "recall at an IoU of 25 %",
    "precision": "precision: boxes with a match",
    "center_m": "median distance of matched centres, m",
    "score": "median score",
    "score_auroc": "AUROC of the score for an IoU above 25 %",
}


@dataclass(frozen=True, eq=False)
class Record:
    """In camera axes."""

    true: list[Box3D]
    found: list[Box3D]


def ask(place: Place, show: Show, config: Config) -> Record:
    labels = config.objects.labels
    true = [region.box for region in place.first.regions if region.label in labels]
    samples = depth.scene(place, show, config)
    return Record(true, perceive_objects(show(place.first.frame), config, samples) or [])


def measure(records: Sequence[Record]) -> dict[str, float]:
    matches = [match for record in records for match in matched(record.found, record.true)]
    overlaps = np.array([overlap for overlap, _, _ in matches])
    true, found = (max(1, sum(len(getattr(r, name)) for r in records)) for name in ("true", "found"))
    scores, is_right = _scored(records)
    apart = [np.linalg.norm(a.center - b.center) for _, a, b in matches]
    return {
        "iou": float(overlaps.mean()) if len(overlaps) else np.nan,
        "recall": len(overlaps) / true,
        "recall25": int((overlaps >= IOU).sum()) / true,
        "precision": len(overlaps) / found,
        "center_m": float(np.median(apart)) if apart else np.nan,
        "score": float(np.median(scores)) if len(scores) else np.nan,
        "score_auroc": _auroc(scores, is_right),
    }


def _scored(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N] of all found boxes whose score is known, and whether each is right [N]."""
    scores, is_right = [], []
    for record in records:
        right = {id(a) for overlap, a, _ in matched(record.found, record.true) if overlap > IOU}
        known = [box for box in record.found if np.isfinite(box.score)]
        scores += [box.score for box in known]
        is_right += [id(box) in right for box in known]
    return np.array(scores), np.array(is_right, bool)


def _auroc(scores: np.ndarray, is_right: np.ndarray) -> float:
    """Probability that a right box has a higher score than a wrong one; ties count half."""
    good, bad = scores[is_right], scores[~is_right]
    if not len(good) or not len(bad):
        return np.nan
    ranks = rankdata(np.concatenate([good, bad]))[: len(good)].sum()
    return float((ranks - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad)))


def matched(found: Sequence[Box3D], true: Sequence[Box3D]) -> list[tuple[float, Box3D, Box3D]]:
    """Found and true boxes of one name that overlap, each in one pair, those that overlap most first."""
    pairs = [(a.iou(b), i, j) for i, a in enumerate(found) for j, b in enumerate(true) if a.label == b.label]
    free_found, free_true = set(range(len(found))), set(range(len(true)))
    matches = []
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap > 0.0 and i in free_found and j in free_true:
            free_found.remove(i)
            free_true.remove(j)
            matches.append((overlap, found[i], true[j]))
    return matches


def constant(other: Sequence[Record]) -> Callable[[Record], Record]:
    """For each name a box of the median size at the median place."""
    true = [box for record in other for box in record.true]
    found = [_median([box for box in true if box.label == label]) for label in sorted({box.label for box in true})]
    return lambda record: replace(record, found=found)


def _median(boxes: Sequence[Box3D]) -> Box3D:
    center, size = (np.median([getattr(box, name) for box in boxes], axis=0) for name in ("center", "size"))
    return Box3D(boxes[0].label, 1.0, center, size, LEVEL)
