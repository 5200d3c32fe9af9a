"""3D boxes against true boxes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.metrics.group import Metric, Metrics, Moment, wanted

IOU_PERCENT = (15, 25, 50)
ERRORS = ("iou", "center_m", "size_rel", "yaw_deg")  # of a true box and the one that overlaps most with it


class Objects:
    """The group `objects`."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames whose boxes are known, perceived or not"),
        "answered": Metric("of them with a list of boxes"),
        "true": Metric("true boxes in view"),
        "found": Metric("perceived boxes that were compared"),
        "coverage": Metric("share of the true boxes whose name was asked for and got a list", better="more"),
        **{f"ap{p}": Metric(f"average precision at a volume IoU of {p} %", better="more") for p in IOU_PERCENT},
        "overlapping": Metric("true boxes that are overlapped by a perceived one"),
        "iou": Metric("overlap of true boxes with the best perceived one, 0 where missed", better="more"),
        "iou_median": Metric("median overlap of the true boxes, 0 where missed", better="more"),
        "center_m_overlapping": Metric("distance of the centres, of overlapped boxes alone", "m"),
        "size_rel_overlapping": Metric("mean relative error of the three sides, of overlapped boxes alone"),
        "yaw_deg_overlapping": Metric("smallest angle between horizontal axes, of overlapped boxes alone", "°"),
        "iou_median_overlapping": Metric("median overlap of the overlapped boxes alone"),
        "center_m_median_overlapping": Metric("median distance of the centres of overlapped boxes alone", "m"),
        "size_rel_median_overlapping": Metric("median relative error of the sides of overlapped boxes alone"),
        "yaw_deg_median_overlapping": Metric("median angle between horizontal axes of overlapped boxes alone", "°"),
    }

    def __init__(self) -> None:
        self._score = BoxScore()
        self._camera: Camera | None = None  # the last one that was known

    def add(self, moment: Moment) -> dict[str, float]:
        self._camera = camera = moment.camera or self._camera
        true = moment.truth.boxes if wanted(moment, "objects") else None
        if true is None or camera is None:
            return {}
        seen = [box for box in true if in_view(box, camera)]
        hidden = [box for box in true if not in_view(box, camera)]
        return self._score.add(moment.boxes, seen, hidden, moment.settings["objects.labels"])

    def result(self) -> dict[str, Any]:
        return self._score.result()


def in_view(box: Box3D, camera: Camera) -> bool:
    """Whether a box is wholly in front of the camera, and its centre in the image."""
    center = camera.project(box.center)
    return bool(
        np.isfinite(camera.project(box.corners())).all() and (center >= 0).all() and (center < camera.size).all()
    )


def yaw_error_deg(a: Box3D, b: Box3D) -> float:
    """Smallest angle between a horizontal axis of one box and one of the other, in degrees in [0, 45].

    A box is the same after a quarter turn with its sides swapped, and which side is the length is a convention.
    """
    angles = [
        math.degrees(math.acos(min(1.0, abs(float(a.rotation[:, i] @ b.rotation[:, j])))))
        for i in (0, 1)
        for j in (0, 1)
    ]
    return min(angles)


def size_error(a: Box3D, b: Box3D) -> float:
    """Mean relative difference of the sides of ``a`` from those of the true ``b``, each box's sides sorted."""
    mine, true = np.sort(a.size), np.sort(b.size)
    return float(np.mean(np.abs(mine - true) / true))


class BoxScore:
    """Collects frames of boxes; boxes are only compared with those of the same label."""

    def __init__(self) -> None:
        self._overlaps: dict[str, list[tuple[float, np.ndarray]]] = defaultdict(list)  # score, IoU with each true box
        self._true: dict[str, list[int]] = defaultdict(list)  # per frame of the label: how many
        self._frame: dict[str, list[int]] = defaultdict(list)  # of each found box
        self._covered: Counter[str] = Counter()  # true boxes whose label was asked for and got a list
        self._refused: list[Counter[str]] = []  # per frame without a list: true boxes by label
        self._answered = 0  # frames
        self._best: list[tuple[float, float, float, float]] = []  # of each true box, ERRORS of the best found one

    def add(
        self,
        found: Sequence[Box3D] | None,
        true: Sequence[Box3D],
        ignored: Sequence[Box3D] = (),
        asked: Collection[str] | None = None,
    ) -> dict[str, float]:
        """A frame; a box that fits an ``ignored`` one best, such as one half out of view, counts for nothing.

        ``found`` is None where there is no list. ``asked`` are the labels that were asked for; None: all.
        Returns the numbers of this frame alone, none where nothing is true.
        """
        counts = Counter(box.label for box in true)
        covered = {} if found is None else {n: c for n, c in counts.items() if asked is None or n in asked}
        self._covered.update(covered)
        self._answered += found is not None
        if found is None:
            self._refused.append(counts)
        before = len(self._best)
        for label in {box.label for box in (*(found or ()), *true)}:
            mine, real, other = ([b for b in boxes if b.label == label] for boxes in (found or (), true, ignored))
            self._true[label].append(len(real))
            for box in mine:
                overlaps = np.array([box.iou(t) for t in real])
                if max((box.iou(o) for o in other), default=0.0) > max(overlaps, default=0.0):
                    continue
                self._overlaps[label].append((box.score, overlaps))
                self._frame[label].append(len(self._true[label]) - 1)
            self._best += [_errors(mine, t) for t in real]
        if not true:
            return {}
        best = np.array(self._best[before:])
        hits = best[best[:, 0] > 0.0]
        overlapping = dict(zip(ERRORS[1:], hits.mean(axis=0)[1:].tolist(), strict=True)) if len(hits) else {}
        return {
            "coverage": sum(covered.values()) / len(true),
            "iou": float(best[:, 0].mean()),
            **{f"{name}_overlapping": value for name, value in overlapping.items()},
        }

    def result(self) -> dict[str, Any]:
        """AP per label and its mean, and the errors of the boxes that overlap most with true ones."""
        true = {label: sum(counts) for label, counts in sorted(self._true.items()) if sum(counts)}
        if not true:
            return {}
        by_label = {
            label: {
                "true": count,
                "found": len(self._overlaps[label]),
                "coverage": self._covered[label] / count,
                **{f"ap{p}": self._ap(label, p / 100) for p in IOU_PERCENT},
            }
            for label, count in true.items()
        }
        best = np.array(self._best)
        hits = best[best[:, 0] > 0.0]
        medians = np.median(hits, axis=0) if len(hits) else [math.nan] * len(ERRORS)
        return {
            "frames": self._answered + len(self._refused),
            "answered": self._answered,
            "true": sum(true.values()),
            "found": sum(map(len, self._overlaps.values())),
            "coverage": self._covered.total() / sum(true.values()),
            **{f"ap{p}": float(np.mean([of[f"ap{p}"] for of in by_label.values()])) for p in IOU_PERCENT},
            "iou_median": float(np.median(best[:, 0])),
            "overlapping": len(hits),
            **{f"{name}_median_overlapping": float(m) for name, m in zip(ERRORS, medians, strict=True)},
            "by_label": by_label,
        }

    def _ap(self, label: str, threshold: float) -> float:
        """Average precision over all frames, the area under the falling hull of precision over recall.

        A refused list counts as one that names with certainty something wrong for each thing that is there, and one
        at least: nothing at all is what an empty list says, and that is an answer.
        """
        order = sorted(range(len(self._overlaps[label])), key=lambda i: -self._overlaps[label][i][0])
        taken: set[tuple[int, int]] = set()
        right = [False] * sum(max(1, counts[label]) for counts in self._refused)
        for i in order:
            frame, overlaps = self._frame[label][i], self._overlaps[label][i][1]
            free = [(iou, j) for j, iou in enumerate(overlaps) if (frame, j) not in taken and iou >= threshold]
            if free:
                taken.add((frame, max(free)[1]))
            right.append(bool(free))
        return average_precision(right, sum(self._true[label]))


def average_precision(right: Sequence[bool], true: int) -> float:
    """Of detections in the order of falling scores, right or wrong, of which ``true`` > 0 could be right."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    hull = np.maximum.accumulate(precision[::-1])[::-1]
    return float((hull * np.asarray(right, float)).sum() / true)


def _errors(found: Sequence[Box3D], true: Box3D) -> tuple[float, float, float, float]:
    if not found:
        return 0.0, math.nan, math.nan, math.nan
    best = max(found, key=lambda box: (box.iou(true), -float(np.linalg.norm(box.center - true.center))))
    return (
        best.iou(true),
        float(np.linalg.norm(best.center - true.center)),
        size_error(best, true),
        yaw_error_deg(best, true),
    )
