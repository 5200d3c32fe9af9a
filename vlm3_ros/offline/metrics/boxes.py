"""3D boxes against true boxes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment

IOU_PERCENT = (15, 25, 50)
ERRORS = ("iou", "center_m", "size_rel", "yaw_deg")  # of a true box and the one that overlaps most with it


class Objects:
    """The group `objects`."""

    METRICS: ClassVar[Metrics] = {
        "true": Metric("true boxes in view"),
        "found": Metric("perceived boxes that were compared"),
        **{f"ap{p}": Metric(f"average precision at a volume IoU of {p} %", better="more") for p in IOU_PERCENT},
        "overlapping": Metric("true boxes that are overlapped by a perceived one"),
        "iou": Metric("overlap of true boxes with the best perceived one, 0 where missed", better="more"),
        "center_m": Metric("distance of the centres", "m", better="less"),
        "size_rel": Metric("mean relative error of the three sides", better="less"),
        "yaw_deg": Metric("smallest angle between horizontal axes", "°", better="less"),
        "iou_median": Metric("median overlap of the overlapping boxes", better="more"),
        "center_m_median": Metric("median distance of the centres of overlapping boxes", "m", better="less"),
        "size_rel_median": Metric("median relative error of the sides of overlapping boxes", better="less"),
        "yaw_deg_median": Metric("median of the smallest angle between their horizontal axes", "°", better="less"),
    }

    def __init__(self) -> None:
        self._score = BoxScore()

    def add(self, moment: Moment) -> dict[str, float]:
        true, found = moment.truth.boxes, moment.boxes
        if true is None or found is None or (camera := moment.camera) is None:
            return {}
        seen = [in_view(box, camera) for box in true]
        return self._score.add(
            found,
            [box for box, visible in zip(true, seen, strict=True) if visible],
            [box for box, visible in zip(true, seen, strict=True) if not visible],
        )

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
        self._nearest: list[tuple[float, float, float, float]] = []  # IoU, centre, size and yaw errors of true boxes

    def add(self, found: Sequence[Box3D], true: Sequence[Box3D], ignored: Sequence[Box3D] = ()) -> dict[str, float]:
        """A frame; a box that fits an ``ignored`` one best, such as one half out of view, counts for nothing.

        Returns the means over the frame's true boxes: the IoU, and of those that are overlapped the ERRORS.
        """
        before = len(self._nearest)
        for label in {box.label for box in (*found, *true)}:
            mine, real, other = ([b for b in boxes if b.label == label] for boxes in (found, true, ignored))
            self._true[label].append(len(real))
            for box in mine:
                overlaps = np.array([box.iou(t) for t in real])
                if max((box.iou(o) for o in other), default=0.0) > max(overlaps, default=0.0):
                    continue
                self._overlaps[label].append((box.score, overlaps))
                self._frame[label].append(len(self._true[label]) - 1)
            self._nearest += [_errors(mine, t) for t in real if mine]
        if not true:
            return {}
        hits = np.array([errors for errors in self._nearest[before:] if errors[0] > 0.0]).reshape(-1, len(ERRORS))
        means = dict(zip(ERRORS, hits.mean(axis=0).tolist(), strict=True)) if len(hits) else {}
        return {**means, "iou": float(hits[:, 0].sum() / len(true))}

    def result(self) -> dict[str, Any]:
        """AP per label and its mean, and the errors of the boxes that overlap most with true ones."""
        labels = sorted(label for label, counts in self._true.items() if sum(counts))
        if not labels:
            return {}
        by_label = {label: {f"ap{p}": self._ap(label, p / 100) for p in IOU_PERCENT} for label in labels}
        means = {f"ap{p}": float(np.mean([ap[f"ap{p}"] for ap in by_label.values()])) for p in IOU_PERCENT}
        hits = [errors for errors in self._nearest if errors[0] > 0.0]
        medians = np.median(hits, axis=0) if hits else [math.nan] * len(ERRORS)
        return {
            "true": sum(sum(counts) for counts in self._true.values()),
            "found": sum(map(len, self._overlaps.values())),
            **means,
            "overlapping": len(hits),
            **{f"{name}_median": float(median) for name, median in zip(ERRORS, medians, strict=True)},
            "by_label": by_label,
        }

    def _ap(self, label: str, threshold: float) -> float:
        """Average precision over all frames, the area under the falling hull of precision over recall."""
        order = sorted(range(len(self._overlaps[label])), key=lambda i: -self._overlaps[label][i][0])
        taken: set[tuple[int, int]] = set()
        right = []
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
    best = max(found, key=lambda box: (box.iou(true), -float(np.linalg.norm(box.center - true.center))))
    return (
        best.iou(true),
        float(np.linalg.norm(best.center - true.center)),
        size_error(best, true),
        yaw_error_deg(best, true),
    )
