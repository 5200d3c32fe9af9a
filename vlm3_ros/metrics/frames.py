"""How many frames there are, how long they took, and what would become of them on a robot."""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from vlm3_ros.metrics.group import Metric, Metrics, Moment, median

REASONS = 20  # for leaving frames out that are listed, the most frequent ones


class Frames:
    """The group `frames`; it needs no truth."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames of the recording"),
        "perceived": Metric("frames that could be used; times are theirs alone"),
        "coverage": Metric("share of the frames that could be used", better="more"),
        "seconds": Metric("time of computing, reading and writing not counted", "s", better="less"),
        "seconds_median": Metric("median time of computing a frame", "s", better="less"),
        "seconds_p95": Metric("time of computing that 95 % of the frames stay below", "s", better="less"),
        "questions": Metric("questions asked"),
        "answers_without_value": Metric("share of a frame's answers without a value; lost frames: 1", better="less"),
        "live_dropped": Metric("share of frames that a node this fast would leave out", better="less"),
        "live_age_s_median": Metric("median age of its outputs, from the image's stamp", "s", better="less"),
        "live_age_s_p95": Metric("what 95 % of its outputs are younger than", "s", better="less"),
    }

    def __init__(self) -> None:
        self._frames = self._asked = 0
        self._without_value: list[float] = []  # shares, of each frame
        self._stamps: list[int] = []
        self._seconds: list[float] = []
        self._stages: dict[str, list[float]] = defaultdict(list)
        self._left_out: Counter[str] = Counter()

    def add(self, moment: Moment) -> dict[str, float]:
        self._frames += 1
        if moment.error:
            self._left_out[moment.error] += 1
            self._without_value.append(1.0)
            return {"answers_without_value": 1.0}
        asked, refused = int(moment.row["asked"]), int(moment.row["refused"])
        self._asked += asked
        self._without_value += [refused / asked] if asked else []
        for stage, seconds in moment.seconds.items():
            self._stages[stage].append(seconds)
        self._stamps.append(moment.stamp)
        self._seconds.append(sum(moment.seconds.values()))
        values = {"seconds": self._seconds[-1], "questions": float(asked)}
        return values | ({"answers_without_value": refused / asked} if asked else {})

    def result(self) -> dict[str, Any]:
        ages = live_ages(self._stamps, self._seconds)
        known = bool(self._seconds)
        return {
            "frames": self._frames,
            "perceived": len(self._seconds),
            "coverage": len(self._seconds) / self._frames if self._frames else math.nan,
            "seconds_median": median(self._seconds),
            "seconds_p95": _p95(self._seconds),
            "questions": self._asked,
            "answers_without_value": float(np.mean(self._without_value)) if self._without_value else math.nan,
            "live_dropped": 1.0 - len(ages) / len(self._seconds) if known else math.nan,
            "live_age_s_median": median(ages),
            "live_age_s_p95": _p95(ages),
            "by_stage": [
                {"stage": stage, "frames": len(s), "seconds_median": median(s), "seconds_p95": _p95(s)}
                for stage, s in sorted(self._stages.items())
            ],
            "left_out": [{"frames": count, "because": error} for error, count in self._left_out.most_common(REASONS)],
        }


def live_ages(stamps: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Ages in seconds of the outputs of a node that takes the newest frame whenever it is free, as ours does.

    ``stamps`` [N] in nanoseconds, ascending, are when frames arrive, ``seconds`` [N] how long each would take.
    """
    ages, index, free = [], 0, 0.0  # free: seconds after the first frame
    arrivals = [(stamp - stamps[0]) / 1e9 for stamp in stamps]
    while index < len(arrivals):
        free = max(free, arrivals[index]) + seconds[index]
        ages.append(free - arrivals[index])
        index = max(index + 1, bisect.bisect_right(arrivals, free) - 1)
    return ages


def _p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95)) if len(values) else math.nan
