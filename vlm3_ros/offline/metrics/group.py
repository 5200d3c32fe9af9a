"""What metrics of one kind have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from vlm3_ros.offline.moments import Moment


@dataclass(frozen=True)
class Metric:
    """What a number is, for people."""

    says: str
    unit: str = ""  # empty: a share, a ratio or a count
    better: Literal["more", "less", ""] = ""  # empty: neither


Metrics = Mapping[str, Metric]


class Group(Protocol):
    """Metrics of one kind. It is shown every frame of a run once, in the order of stamps."""

    METRICS: ClassVar[Metrics]  # every single number in what `add` and `result` return, by name

    def add(self, moment: Moment) -> dict[str, float]:
        """Take a frame in, perceived or not; returns the numbers of this frame alone, none if it has none."""

    def result(self) -> dict[str, Any]:
        """The numbers of the whole run, and tables as lists of rows; empty if nothing could be compared."""
