"""How many frames there are, and how long they took."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment


class Frames:
    """The group `frames`; it needs no truth."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames of the recording"),
        "perceived": Metric("frames that could be used"),
        "seconds": Metric("time of computing, reading and writing not counted", "s", better="less"),
        "seconds_median": Metric("median of seconds", "s", better="less"),
        "seconds_p95": Metric("what 95 % of the frames stay below", "s", better="less"),
        "questions": Metric("questions asked"),
        "answers_without_value": Metric("share of them whose answer gave no value", better="less"),
    }

    def __init__(self) -> None:
        self._frames = self._asked = self._refused = 0
        self._seconds: list[float] = []

    def add(self, moment: Moment) -> dict[str, float]:
        self._frames += 1
        if moment.error:
            return {}
        asked, refused = int(moment.row["asked"]), int(moment.row["refused"])
        self._asked += asked
        self._refused += refused
        self._seconds.append(sum(moment.seconds.values()))
        values = {"seconds": self._seconds[-1], "questions": float(asked)}
        return values | ({"answers_without_value": refused / asked} if asked else {})

    def result(self) -> dict[str, Any]:
        known = bool(self._seconds)
        return {
            "frames": self._frames,
            "perceived": len(self._seconds),
            "seconds_median": float(np.median(self._seconds)) if known else math.nan,
            "seconds_p95": float(np.percentile(self._seconds, 95)) if known else math.nan,
            "questions": self._asked,
            "answers_without_value": self._refused / self._asked if self._asked else math.nan,
        }
