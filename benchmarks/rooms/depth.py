"""Metric depth of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import Place
from vlm3_ros.config import Config
from vlm3_ros.learn.data.sample import Known
from vlm3_ros.learn.data.views import depth_at
from vlm3_ros.perception.depth import ask_depth
from vlm3_ros.perception.scene import Samples

PIXELS = 96
RATIO = 1.25
CONSTANTS = np.geomspace(0.2, 10.0, 400)  # metres
ROWS = {
    "delta1": "δ1, greedy",
    "delta1_median": "δ1, median of the digits",
    "delta1_inside": "δ1, greedy, not beside depth edges",
    "abs_rel": "AbsRel, greedy, of answered ones",
    "abs_rel_median": "AbsRel, median of the digits, of answered ones",
    "auroc": "AUROC of the confidence for being within 25 %",
    "answered": "share of questions answered",
}


@dataclass(frozen=True, eq=False)
class Record:
    """Depth along Z in metres of N pixels."""

    true: np.ndarray  # [N]
    inside: np.ndarray  # bool [N]: not beside a depth edge
    greedy: np.ndarray  # [N], NaN without an answer
    median: np.ndarray  # [N]
    confidence: np.ndarray  # [N]


def ask(place: Place, show: Show, config: Config) -> Record:
    pixels = place.pixels(PIXELS)
    sight, known = show(place.first.frame), place.first
    greedy, median = (
        ask_depth(sight, config.updated({"depth.statistic": statistic}), pixels) for statistic in ("greedy", "median")
    )
    assert known.depth is not None
    inside = np.isfinite(depth_at(known.depth, pixels))
    return Record(true_depth(known, pixels), inside, greedy.z, median.z, greedy.confidence)


def scene(place: Place, show: Show, config: Config) -> Samples:
    """What was answered about the whole view; nothing is asked again."""
    return ask_depth(show(place.first.frame), config, place.pixels(PIXELS))


def true_depth(known: Known, pixels: np.ndarray) -> np.ndarray:
    """[N] at whole pixels [N, 2]."""
    assert known.depth is not None
    return known.depth[pixels[:, 1], pixels[:, 0]].astype(float)


def measure(records: Sequence[Record]) -> dict[str, float]:
    true, inside, greedy, median, confidence = (
        np.concatenate([getattr(record, name) for record in records])
        for name in ("true", "inside", "greedy", "median", "confidence")
    )
    return {
        "delta1": float(right(greedy, true).mean()),
        "delta1_median": float(right(median, true).mean()),
        "delta1_inside": float(right(greedy, true)[inside].mean()),
        "abs_rel": abs_rel(greedy, true),
        "abs_rel_median": abs_rel(median, true),
        "auroc": auroc(confidence, right(greedy, true)),
        "answered": float(np.isfinite(greedy).mean()),
    }


def constant(other: Sequence[Record]) -> Callable[[Record], Record]:
    """The depth for which δ1 is best as the greedy answer, the one for which AbsRel is as the median."""
    true = np.concatenate([record.true for record in other])
    delta1 = max(CONSTANTS, key=lambda z: right(z, true).mean())
    least = min(CONSTANTS, key=lambda z: abs_rel(np.full(len(true), z), true))
    return lambda r: replace(
        r,
        greedy=np.full(len(r.true), delta1),
        median=np.full(len(r.true), least),
        confidence=np.ones(len(r.true)),
    )


def right(z: np.ndarray | float, true: np.ndarray) -> np.ndarray:
    """Which count for δ1; without an answer none does."""
    return np.maximum(z / true, true / z) < RATIO


def abs_rel(z: np.ndarray, true: np.ndarray) -> float:
    """Mean relative error of what was answered."""
    known = np.isfinite(z)
    return float(np.mean(np.abs(z[known] / true[known] - 1.0))) if known.any() else np.nan


def auroc(score: np.ndarray, is_right: np.ndarray) -> float:
    """Probability that something right has a higher score than something wrong; ties count half."""
    n, wrong = int(is_right.sum()), int((~is_right).sum())
    if not n or not wrong:
        return np.nan
    return float((rankdata(score)[is_right].sum() - n * (n + 1) / 2) / (n * wrong))
