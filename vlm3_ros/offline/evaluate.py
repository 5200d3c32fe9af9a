"""What a run has written against the truth of a recording."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm3_ros import messages
from vlm3_ros.offline.metrics import poses
from vlm3_ros.offline.metrics.boxes import BoxScore, in_view
from vlm3_ros.offline.metrics.confidence import Reliability
from vlm3_ros.offline.metrics.depth import DepthScore
from vlm3_ros.offline.metrics.matches import match_errors, true_pixels
from vlm3_ros.offline.reader import BagReader, Series
from vlm3_ros.offline.results import RunError
from vlm3_ros.offline.sources import FrameError, Source, Truth, nanoseconds, nearest


class Evaluation:
    """A run beside the truth; one pass over the frames for each kind of output."""

    def __init__(self, folder: Path, truth: Source):
        if not (folder / "bag" / "metadata.yaml").exists():
            raise RunError(f"{folder} holds no finished run: the same `vlm3 run` goes on with it")
        self._bag, self._truth = BagReader(folder / "bag"), truth
        with (folder / "frames.csv").open() as file:
            self._frames = list(csv.DictReader(file))
        self._stamps = [nanoseconds(row["stamp"]) for row in self._frames if not row["error"]]

    def metrics(self) -> dict[str, dict[str, Any]]:
        """All measures for which there are both outputs and truth, by group."""
        depth, confidence = self._depth()
        pairs, trajectory = self._poses()
        groups = {
            "frames": self._timings(),
            "depth": depth,
            "confidence": confidence,
            "matches": self._matches(),
            "pairs": pairs,
            "trajectory": trajectory,
            "objects": self._objects(),
        }
        return {name: values for name, values in groups.items() if values}

    def _timings(self) -> dict[str, Any]:
        """Counts, and seconds of computing per perceived frame."""
        stages = [name for name in self._frames[0] if name.endswith("_s")] if self._frames else []
        perceived = [row for row in self._frames if not row["error"]]
        totals = [sum(float(row[stage] or 0.0) for stage in stages) for row in perceived]
        asked = sum(int(row["asked"]) for row in perceived)
        return {
            "frames": len(self._frames),
            "perceived": len(perceived),
            "seconds_median": float(np.median(totals)) if totals else math.nan,
            "seconds_p95": float(np.percentile(totals, 95)) if totals else math.nan,
            "questions": asked,
            "answers_without_value": sum(int(row["refused"]) for row in perceived) / asked if asked else math.nan,
        }

    def _depth(self) -> tuple[dict[str, Any], dict[str, Any]]:
        score, reliability = DepthScore(), Reliability()
        confidences = self._series("depth/confidence")
        for message, truth in self._with_truth("depth/image"):
            if truth.depth is None:
                continue
            depth = messages.float_array(message)
            true = _at_size(truth.depth, depth.shape)
            index = None if confidences is None else nearest(confidences.stamps, _stamp(message), within=0)
            sure = None if confidences is None or index is None else messages.float_array(confidences[index])
            score.add(depth, sure, true)
            if sure is not None:
                both = np.isfinite(depth) & np.isfinite(true)
                ratio = depth[both] / true[both]
                reliability.add(sure[both], np.maximum(ratio, 1.0 / ratio) < 1.25)
        return score.result(), reliability.result()

    def _matches(self) -> dict[str, Any]:
        found, expected, size = [], [], (0, 0)
        for message, truth in self._with_truth("matches"):
            first, camera = self._truth_at(_stamp(message, "header1")), self._camera(_stamp(message))
            if first is None or camera is None:
                continue
            pixels = np.stack([message.u1, message.v1], axis=1).astype(float)
            found.append(np.stack([message.u2, message.v2], axis=1).astype(float))
            expected.append(true_pixels(pixels, first, truth, camera))
            size = camera.size
        pixels, true = np.concatenate([np.empty((0, 2)), *found]), np.concatenate([np.empty((0, 2)), *expected])
        known = np.isfinite(true).all(axis=1)
        return match_errors(pixels[known], true[known], size) if known.any() else {}

    def _poses(self) -> tuple[dict[str, Any], dict[str, Any]]:
        series = self._series("camera_pose")
        if series is None:
            return {}, {}
        perceived = {series.stamps[i]: messages.pose_matrix(series[i].pose.pose) for i in range(len(series.stamps))}
        true = {stamp: self._pose_at(stamp) for stamp in self._stamps}
        both = [(perceived[s], T) for s, T in true.items() if s in perceived and T is not None]
        moved, truly = [], []
        for a, b in pairwise(self._stamps):
            if (T_a := true[a]) is not None and (T_b := true[b]) is not None:
                known = a in perceived and b in perceived
                moved.append(np.linalg.inv(perceived[a]) @ perceived[b] if known else None)
                truly.append(np.linalg.inv(T_a) @ T_b)
        trajectory = poses.trajectory_errors(*zip(*both, strict=True)) if len(both) > 2 else {}
        return poses.pair_errors(moved, truly) if truly else {}, trajectory

    def _objects(self) -> dict[str, Any]:
        score = BoxScore()
        for message, truth in self._with_truth("objects"):
            camera = self._camera(_stamp(message))
            if truth.boxes is not None and camera is not None:
                seen = [in_view(box, camera) for box in truth.boxes]
                score.add(
                    messages.boxes(message),
                    [box for box, visible in zip(truth.boxes, seen, strict=True) if visible],
                    [box for box, visible in zip(truth.boxes, seen, strict=True) if not visible],
                )
        return score.result()

    # --------------------------------------------------------------------------------------- outputs and truth

    def _series(self, topic: str) -> Series | None:
        return Series(self._bag, f"/{topic}") if f"/{topic}" in self._bag.topics else None

    def _with_truth(self, topic: str) -> Iterator[tuple[Any, Truth]]:
        """The messages of an output with what is known about their frame, where anything is."""
        series = self._series(topic)
        for i, stamp in enumerate(series.stamps if series is not None else ()):
            if series is not None and (truth := self._truth_at(stamp)) is not None:
                yield series[i], truth

    def _truth_at(self, stamp: int) -> Truth | None:
        index = nearest(self._truth.stamps, stamp)
        return None if index is None else self._truth.truth(index)

    def _pose_at(self, stamp: int) -> np.ndarray | None:
        truth = self._truth_at(stamp)
        return None if truth is None else truth.T_world_camera

    def _camera(self, stamp: int) -> Any:
        """The camera of a frame's rectified image."""
        index = nearest(self._truth.stamps, stamp)
        try:
            return None if index is None else self._truth.frame(index).camera
        except FrameError:
            return None


def _stamp(message: Any, header: str = "header") -> int:
    return messages.nanoseconds(getattr(message, header))


def _at_size(depth: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """True depth at the size of a smaller depth image: that of the pixel at the centre of each."""
    height, width = shape
    return (
        depth if depth.shape == shape else cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    )


def table(metrics: dict[str, dict[str, Any]]) -> str:
    """The single numbers of all groups, for people."""
    lines = []
    for group, values in metrics.items():
        numbers = [(name, value) for name, value in values.items() if isinstance(value, (int, float))]
        lines += [group, *(f"  {name:<22} {value:>12.6g}" for name, value in numbers)]
    return "\n".join(lines)
