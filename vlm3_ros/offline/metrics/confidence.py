"""Whether a confidence is the probability that it claims to be."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment

BINS = 10


class Confidence:
    """The group `confidence`: of depth, which is right if it counts for delta1."""

    METRICS: ClassVar[Metrics] = {
        "ece": Metric("mean distance between confidence and share right, over ten bins", better="less"),
        "brier": Metric("mean squared distance of the confidence from 1 (right) or 0 (wrong)", better="less"),
    }

    def __init__(self) -> None:
        self._reliability = Reliability()

    def add(self, moment: Moment) -> dict[str, float]:
        depth, true, confidence = moment.depth, moment.true_depth, moment.confidence
        if depth is None or true is None or confidence is None:
            return {}
        both = np.isfinite(depth) & np.isfinite(true)
        if not both.any():
            return {}
        ratio = depth[both] / true[both]
        right = np.maximum(ratio, 1.0 / ratio) < 1.25
        self._reliability.add(confidence[both], right)
        return {"brier": float(np.mean((confidence[both] - right) ** 2))}

    def result(self) -> dict[str, Any]:
        return self._reliability.result()


class Reliability:
    """Collects confidences and whether what they stand for was right, in bins of equal width."""

    def __init__(self) -> None:
        self._count, self._confidence, self._right, self._squared = np.zeros((4, BINS))

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """``confidence`` [N] in [0, 1], ``right`` bool [N]."""
        index = (np.asarray(confidence) * BINS).astype(int).clip(0, BINS - 1)
        self._count += np.bincount(index, minlength=BINS)
        self._confidence += np.bincount(index, confidence, BINS)
        self._right += np.bincount(index, right, BINS)
        self._squared += np.bincount(index, (np.asarray(confidence) - right) ** 2, BINS)

    def result(self) -> dict[str, Any]:
        """Expected calibration error, Brier score, and a row a bin; empty before anything was added."""
        total = self._count.sum()
        if not total:
            return {}
        return {
            "ece": float(np.abs(self._right - self._confidence).sum() / total),
            "brier": float(self._squared.sum() / total),
            "bins": [
                {
                    "count": int(count),
                    "confidence": float(self._confidence[i] / count),
                    "right": float(self._right[i] / count),
                }
                for i, count in enumerate(self._count)
                if count
            ],
        }
