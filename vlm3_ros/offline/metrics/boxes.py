"""3D boxes against true boxes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D

IOU_PERCENT = (15, 25, 50)


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

    def add(self, found: Sequence[Box3D], true: Sequence[Box3D], ignored: Sequence[Box3D] = ()) -> None:
        """A frame; a box that fits an ``ignored`` one best, such as one half out of view, counts for nothing."""
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

    def result(self) -> dict[str, object]:
        """AP per label and its mean, and the errors of the boxes that overlap most with true ones."""
        labels = sorted(label for label, counts in self._true.items() if sum(counts))
        if not labels:
            return {}
        by_label = {label: {f"ap{p}": self._ap(label, p / 100) for p in IOU_PERCENT} for label in labels}
        means = {f"ap{p}": float(np.mean([ap[f"ap{p}"] for ap in by_label.values()])) for p in IOU_PERCENT}
        hits = [errors for errors in self._nearest if errors[0] > 0.0]
        names = ("iou_median", "center_m_median", "size_rel_median", "yaw_deg_median")
        medians = np.median(hits, axis=0) if hits else [math.nan] * 4
        return {
            "true": sum(sum(counts) for counts in self._true.values()),
            "found": sum(map(len, self._overlaps.values())),
            **means,
            "overlapping": len(hits),
            **dict(zip(names, map(float, medians), strict=True)),
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
