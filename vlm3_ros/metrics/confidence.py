"""Whether a confidence is the probability that it claims to be."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from vlm3_ros.metrics.depth import right
from vlm3_ros.metrics.group import Metric, Metrics, Moment, wanted

BINS = 10


class Confidence:
    """The group `confidence`: of depth, which is right if it counts for delta1."""

    METRICS: ClassVar[Metrics] = {
        "pixels": Metric("pixels with true depth"),
        "coverage": Metric("share of them with predicted depth", better="more"),
        "ece": Metric("mean distance between confidence and share right, over ten bins; unknown: 1", better="less"),
        "brier": Metric("mean squared distance of the confidence from 1 (right) or 0; unknown: 1", better="less"),
        "ece_answered": Metric("mean distance between confidence and share right, of pixels with depth alone"),
        "brier_answered": Metric("mean squared distance of the confidence from 1 or 0, of these alone"),
    }

    def __init__(self) -> None:
        self._reliability = Reliability()

    def add(self, moment: Moment) -> dict[str, float]:
        true = moment.true_depth if wanted(moment, "depth") else None
        if true is None or not (known := np.isfinite(true)).any():
            return {}
        of_frame = Reliability()
        for reliability in (self._reliability, of_frame):
            if moment.depth is None or moment.confidence is None:
                reliability.miss(int(known.sum()))
            else:
                both = known & np.isfinite(moment.depth)
                reliability.miss(int(known.sum() - both.sum()))
                reliability.add(moment.confidence[both], right(moment.depth[both], true[both]))
        found = of_frame.result()
        return {name: found[name] for name in ("coverage", "brier")}

    def result(self) -> dict[str, Any]:
        return self._reliability.result()


class Reliability:
    """Collects confidences and whether what they stand for was right, in bins of equal width."""

    def __init__(self) -> None:
        self._count, self._confidence, self._right, self._squared = np.zeros((4, BINS))
        self._missed = 0

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """``confidence`` [N] in [0, 1], ``right`` bool [N]."""
        index = (np.asarray(confidence) * BINS).astype(int).clip(0, BINS - 1)
        self._count += np.bincount(index, minlength=BINS)
        self._confidence += np.bincount(index, confidence, BINS)
        self._right += np.bincount(index, right, BINS)
        self._squared += np.bincount(index, (np.asarray(confidence) - right) ** 2, BINS)

    def miss(self, count: int) -> None:
        """So many more that were not answered: each counts like one that was sure and wrong, in a bin of its own."""
        self._missed += count

    def result(self) -> dict[str, Any]:
        """Expected calibration error, Brier score, and a row a bin; empty before anything was added."""
        answered = self._count.sum()
        total = answered + self._missed
        if not total:
            return {}
        gaps, squared = float(np.abs(self._right - self._confidence).sum()), float(self._squared.sum())
        return {
            "pixels": int(total),
            "coverage": float(answered / total),
            "ece": (gaps + self._missed) / total,
            "brier": (squared + self._missed) / total,
            "ece_answered": gaps / answered if answered else np.nan,
            "brier_answered": squared / answered if answered else np.nan,
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
