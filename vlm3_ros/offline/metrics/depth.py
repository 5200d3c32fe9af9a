"""Depth against true depth."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import numpy as np

from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment

RANGES_M = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, np.inf)  # of the true depth
CONFIDENCES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def depth_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The usual measures over N pixels whose predicted and true depth [N], in metres along Z, are known; N > 0.

    delta1 to delta3 are shares; abs_rel, sq_rel (metres), rmse (metres), rmse_log and silog (×100) are errors.
    """
    ratio = np.maximum(predicted / true, true / predicted)
    difference, logs = predicted - true, np.log(predicted) - np.log(true)
    return {
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.25**2)),
        "delta3": float(np.mean(ratio < 1.25**3)),
        "abs_rel": float(np.mean(np.abs(difference) / true)),
        "sq_rel": float(np.mean(difference**2 / true)),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "rmse_log": float(np.sqrt(np.mean(logs**2))),
        "silog": float(np.std(logs) * 100.0),
    }


class Depth:
    """The group `depth`."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames with predicted and true depth"),
        "pixels": Metric("pixels with predicted and true depth"),
        "coverage": Metric("share of the pixels with true depth that have a predicted one", better="more"),
        "delta1": Metric("share of pixels within a factor of 1.25", better="more"),
        "delta2": Metric("share of pixels within a factor of 1.25²", better="more"),
        "delta3": Metric("share of pixels within a factor of 1.25³", better="more"),
        "abs_rel": Metric("mean error as a part of the true depth", better="less"),
        "sq_rel": Metric("mean squared error over true depth", "m", better="less"),
        "rmse": Metric("root mean squared error", "m", better="less"),
        "rmse_log": Metric("root mean squared error of the logarithm", better="less"),
        "silog": Metric("spread of the logarithmic error, times 100; a wrong scale alone is none", better="less"),
    }

    def __init__(self) -> None:
        self._score = DepthScore()

    def add(self, moment: Moment) -> dict[str, float]:
        if moment.depth is None or moment.true_depth is None:
            return {}
        return self._score.add(moment.depth, moment.confidence, moment.true_depth)

    def result(self) -> dict[str, Any]:
        return self._score.result()


class DepthScore:
    """Collects frames: `depth_errors` of each, averaged over frames, and pixels by range and by confidence."""

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []
        self._known = self._covered = 0
        self._by_range, self._by_confidence = _Bins(RANGES_M), _Bins(CONFIDENCES)

    def add(self, predicted: np.ndarray, confidence: np.ndarray | None, true: np.ndarray) -> dict[str, float]:
        """A frame: three images [h, w], NaN unknown; returns its errors, none where nothing is known of both."""
        known = np.isfinite(true)
        both = known & np.isfinite(predicted)
        self._known += int(known.sum())
        self._covered += int(both.sum())
        if not both.any():
            return {}
        p, t = predicted[both].astype(float), true[both].astype(float)
        self._by_range.add(t, p, t)
        if confidence is not None:
            self._by_confidence.add(confidence[both].astype(float), p, t)
        errors = depth_errors(p, t)
        self._frames.append(errors)
        return {"coverage": float(both.sum() / known.sum()), **errors}

    def result(self) -> dict[str, Any]:
        """The means over frames, the share of known pixels that were predicted, and the tables."""
        if not self._frames:
            return {}
        means = {name: float(np.mean([frame[name] for frame in self._frames])) for name in self._frames[0]}
        return {
            "frames": len(self._frames),
            "pixels": self._covered,
            "coverage": self._covered / self._known,
            **means,
            "by_range_m": self._by_range.rows(),
            "by_confidence": self._by_confidence.rows(),
        }


class _Bins:
    """Sums over pixels between edges, the last bin with its upper edge; memory does not grow with the pixels."""

    def __init__(self, edges: tuple[float, ...]):
        self._edges = edges
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(edges) - 1))

    def add(self, key: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
        index = (np.searchsorted(self._edges, key, side="right") - 1).clip(0, len(self._edges) - 2)
        values = {
            "pixels": np.ones_like(true),
            "delta1": np.maximum(predicted / true, true / predicted) < 1.25,
            "abs_rel": np.abs(predicted - true) / true,
            "squared": (predicted - true) ** 2,
        }
        for name, value in values.items():
            self._sums[name] += np.bincount(index, value, len(self._edges) - 1)

    def rows(self) -> list[dict[str, float]]:
        sums = self._sums
        return [
            {
                "from": self._edges[i],
                "to": self._edges[i + 1],
                "pixels": int(count),
                "delta1": float(sums["delta1"][i] / count),
                "abs_rel": float(sums["abs_rel"][i] / count),
                "rmse": float(np.sqrt(sums["squared"][i] / count)),
            }
            for i, count in enumerate(sums["pixels"])
            if count
        ]
