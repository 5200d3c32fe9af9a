"""Depth against true depth."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, ClassVar

import numpy as np

from vlm3_ros.metrics.group import Metric, Metrics, Moment, means, wanted

RANGES_M = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, np.inf)  # of the true depth
CONFIDENCES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MOST_REL = 1.0  # of an error, in true depths: that of a depth of nothing, and of an unknown one
MOST_LOG = math.log(10.0)  # of the logarithm's error
CONDITIONAL = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog")  # also over the answered pixels alone, as published


def depth_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The published measures over N > 0 pixels whose predicted and true depth [N], in metres along Z, are known.

    delta1 to delta3 are shares; abs_rel, sq_rel (metres), rmse (metres), rmse_log and silog (×100) are errors.
    """
    difference, logs = predicted - true, np.log(predicted) - np.log(true)
    return {**_shares(predicted, true), **_errors(difference, logs, true), "silog": float(np.std(logs) * 100.0)}


def complete_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The measures of N > 0 pixels with true depth [N]; where ``predicted`` is NaN, the largest error counts.

    No error counts for more: MOST_REL of the true depth, or MOST_LOG. So a refused pixel never improves anything.
    """
    errors = _errors(*_bounded(predicted, true), true)
    return {"coverage": float(np.isfinite(predicted).mean()), **_shares(predicted, true), **errors}


def right(predicted: np.ndarray, true: np.ndarray, factor: float = 1.25) -> np.ndarray:
    """Which depths are within a factor of the true ones, as delta1 counts; an unknown one is not."""
    return np.maximum(predicted / true, true / predicted) < factor  # False for NaN


def _bounded(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of depths and of their logarithms, none beyond the largest."""
    known = np.isfinite(predicted)
    difference = np.where(known, predicted - true, np.inf).clip(-MOST_REL * true, MOST_REL * true)
    logs = np.where(known, np.log(predicted) - np.log(true), np.inf).clip(-MOST_LOG, MOST_LOG)
    return difference, logs


def _shares(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {f"delta{n}": float(np.mean(right(predicted, true, 1.25**n))) for n in (1, 2, 3)}


def _errors(difference: np.ndarray, logs: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {
        "abs_rel": float(np.mean(np.abs(difference) / true)),
        "sq_rel": float(np.mean(difference**2 / true)),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "rmse_log": float(np.sqrt(np.mean(logs**2))),
    }


class Depth:
    """The group `depth`."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames with true depth, perceived or not"),
        "answered": Metric("of them with any predicted depth"),
        "pixels": Metric("pixels with true depth"),
        "coverage": Metric("share of the pixels with true depth that have a predicted one", better="more"),
        "delta1": Metric("share of pixels within a factor of 1.25; an unknown one is not", better="more"),
        "delta2": Metric("share of pixels within a factor of 1.25²", better="more"),
        "delta3": Metric("share of pixels within a factor of 1.25³", better="more"),
        "abs_rel": Metric("mean error as a part of the true depth, 1 at most and for unknown ones", better="less"),
        "sq_rel": Metric("mean squared error over true depth, errors bounded likewise", "m", better="less"),
        "rmse": Metric("root mean squared error, errors bounded likewise", "m", better="less"),
        "rmse_log": Metric("root mean squared error of the logarithm, ln 10 at most and for unknown", better="less"),
        "abs_rel_answered": Metric("mean error as a part of the true depth, of pixels with predicted depth alone"),
        "sq_rel_answered": Metric("mean squared error over true depth, of these alone", "m"),
        "rmse_answered": Metric("root mean squared error, of these alone", "m"),
        "rmse_log_answered": Metric("root mean squared error of the logarithm, of these alone"),
        "silog_answered": Metric("spread of the logarithmic error, times 100, of these alone; a wrong scale is none"),
    }

    def __init__(self) -> None:
        self._score = DepthScore()

    def add(self, moment: Moment) -> dict[str, float]:
        true = moment.true_depth if wanted(moment, "depth") else None
        if true is None:
            return {}
        predicted = moment.depth
        if predicted is None:
            return self._score.add(np.full(true.shape, np.nan), None, true)
        return self._score.add(predicted, moment.confidence, true)

    def result(self) -> dict[str, Any]:
        return self._score.result()


class DepthScore:
    """Collects frames: `complete_errors` of each and `depth_errors` of what was answered, averaged over frames, and
    pixels by range and by confidence."""

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []
        self._pixels = self._covered = 0
        self._by_range, self._by_confidence = _Bins(RANGES_M), _Bins(CONFIDENCES)

    def add(self, predicted: np.ndarray, confidence: np.ndarray | None, true: np.ndarray) -> dict[str, float]:
        """A frame: three images [h, w], NaN unknown; returns its errors, none where nothing is true."""
        known = np.isfinite(true)
        if not known.any():
            return {}
        p, t = predicted[known].astype(float), true[known].astype(float)
        answered = np.isfinite(p)
        self._pixels += len(p)
        self._covered += int(answered.sum())
        self._by_range.add(t, p, t)
        if confidence is not None:
            self._by_confidence.add(confidence[known][answered].astype(float), p[answered], t[answered])
        errors = complete_errors(p, t)
        if answered.any():
            conditional = depth_errors(p[answered], t[answered])
            errors |= {f"{name}_answered": conditional[name] for name in CONDITIONAL}
        self._frames.append(errors)
        return errors

    def result(self) -> dict[str, Any]:
        """The means over frames, the share of known pixels that were predicted, and the tables."""
        if not self._frames:
            return {}
        found = means(self._frames)
        return {
            "frames": len(self._frames),
            "answered": sum(frame["coverage"] > 0.0 for frame in self._frames),
            "pixels": self._pixels,
            **found,
            "coverage": self._covered / self._pixels,
            **{f"{name}_answered": found.get(f"{name}_answered", math.nan) for name in CONDITIONAL},
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
        difference, _ = _bounded(predicted, true)
        values = {
            "pixels": np.ones_like(true),
            "covered": np.isfinite(predicted),
            "delta1": right(predicted, true),
            "abs_rel": np.abs(difference) / true,
            "squared": difference**2,
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
                "coverage": float(sums["covered"][i] / count),
                "delta1": float(sums["delta1"][i] / count),
                "abs_rel": float(sums["abs_rel"][i] / count),
                "rmse": float(np.sqrt(sums["squared"][i] / count)),
            }
            for i, count in enumerate(sums["pixels"])
            if count
        ]
