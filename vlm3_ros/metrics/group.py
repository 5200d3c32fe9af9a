"""What metrics of one kind have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D


@dataclass(frozen=True)
class Metric:
    """What a number is, for people."""

    says: str
    unit: str = ""  # empty: a share, a ratio or a count
    better: Literal["more", "less", ""] = ""  # empty: neither, such as a number over the answered ones alone


Metrics = Mapping[str, Metric]


class Truth(Protocol):
    """What is known about a frame; None is what is not known."""

    @property
    def depth(self) -> np.ndarray | None:
        """float32 [height, width] of the rectified image, metres along Z, NaN unknown."""

    @property
    def T_world_camera(self) -> np.ndarray | None:
        """[4, 4]."""

    @property
    def boxes(self) -> list[Box3D] | None:
        """In camera axes, in view or not."""


class Moment(Protocol):
    """One frame of a run: what it gave, and what is true of it. None is what it did not give or is not known."""

    @property
    def stamp(self) -> int:
        """Nanoseconds."""

    @property
    def error(self) -> str:
        """Why it was not perceived; empty if it was."""

    @property
    def row(self) -> Mapping[str, str]:
        """How many questions were ``asked`` and ``refused``."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the run by name, such as "node.tasks"."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Time of computing by stage."""

    @property
    def camera(self) -> Camera | None:
        """Of the rectified image."""

    @property
    def valid(self) -> np.ndarray | None:
        """bool [height, width]: what the raw image shows of the rectified one; None: everything."""

    @property
    def depth(self) -> np.ndarray | None:
        """float32 [h, w], metres along Z, NaN unknown."""

    @property
    def confidence(self) -> np.ndarray | None:
        """float32 [h, w] of the depth."""

    @property
    def pose(self) -> np.ndarray | None:
        """T_odom_camera [4, 4]."""

    @property
    def boxes(self) -> list[Box3D] | None:
        """In camera axes; None where the list was refused."""

    @property
    def matches(self) -> Any:
        """A vlm3_ros/PixelMatches message."""

    @property
    def truth(self) -> Truth:
        """What is known about the frame."""

    @property
    def true_depth(self) -> np.ndarray | None:
        """True depth at the size of `depth`."""


class Group(Protocol):
    """Metrics of one kind. It is shown every frame of a run once, in the order of stamps.

    A frame counts if its task was wanted (`wanted`) and the truth about it is known, whatever became of it: one that
    was lost, refused or left out is missed.
    """

    METRICS: ClassVar[Metrics]  # every single number in what `add` and `result` return, by name

    def add(self, moment: Moment) -> dict[str, float]:
        """Take a frame in, perceived or not; returns the numbers of this frame alone, none if it has none."""

    def result(self) -> dict[str, Any]:
        """The numbers of the whole run, and tables as lists of rows; empty if nothing could be compared."""


COVERAGE = "coverage"  # of every group that has truth: the share of what was asked or present that was answered


def wanted(moment: Moment, task: str) -> bool:
    """Whether a run perceives this task (of config.TASKS)."""
    return task in moment.settings["node.tasks"]


def means(frames: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the frames that have it; NaN where none has."""
    names = dict.fromkeys(name for frame in frames for name in frame)
    values = {name: [frame[name] for frame in frames if math.isfinite(frame.get(name, math.nan))] for name in names}
    return {name: float(np.mean(of)) if of else math.nan for name, of in values.items()}


def rms(values: Sequence[float] | np.ndarray) -> float:
    """Root mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else math.nan


def median(values: Sequence[float] | np.ndarray) -> float:
    """NaN of nothing."""
    return float(np.median(values)) if len(values) else math.nan
