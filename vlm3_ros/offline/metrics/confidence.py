"""Whether a confidence is the probability that it claims to be."""

from __future__ import annotations

import numpy as np

BINS = 10


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

    def result(self) -> dict[str, object]:
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
