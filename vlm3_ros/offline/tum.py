"""A folder of the TUM RGB-D benchmark: rgb.txt, depth.txt, groundtruth.txt and the images they name.

Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012. The folders do not hold the camera's
intrinsics, so these have to be given.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.config import CameraConfig
from vlm3_ros.offline import poses
from vlm3_ros.offline.sources import (
    Choices,
    DataSet,
    SourceError,
    Truth,
    nanoseconds,
    nearest,
    read_depth,
    read_frame,
    read_text,
    seconds,
)
from vlm3_ros.perception import Frame

log = logging.getLogger(__name__)

DEPTH_SCALE = 5000.0  # of all TUM RGB-D sequences, per metre


class TumSource(DataSet):
    """Frames of rgb.txt with the depth image nearest in time and the interpolated pose of the motion capture."""

    def __init__(self, folder: Path, choices: Choices, settings: CameraConfig):
        self._folder, self._settings, self._intrinsics = folder, settings, choices.intrinsics
        if not self._intrinsics and settings.hfov_deg == 0.0:
            raise SourceError(
                f"{folder} does not say what camera it is from: give --intrinsics FX FY CX CY in pixels (for TUM's "
                "freiburg1 517.3 516.5 318.6 255.3, freiburg2 520.9 521.0 325.1 249.7, "
                "freiburg3 535.4 539.2 320.1 247.6), or --set camera.hfov_deg=..."
            )
        self._max_gap_ns = round(choices.max_pose_gap * 1e9)
        self._images = _listed(folder / "rgb.txt")
        self._stamps = [stamp for stamp, _ in self._images]
        if not self._images:
            raise SourceError(f"{folder / 'rgb.txt'} has no line with a stamp and a file name")

    @property
    def stamps(self) -> Sequence[int]:
        return self._stamps

    def _frame(self, index: int) -> Frame:
        stamp, name = self._images[index]
        return read_frame(self._folder / name, stamp, self._intrinsics, self._settings)

    def truth(self, index: int) -> Truth:
        stamp, _ = self._images[index]
        return Truth.of(depth=lambda: self._true_depth(stamp), pose=lambda: self._path.at(stamp))

    @cached_property
    def _depths(self) -> list[tuple[int, str]]:
        path = self._folder / "depth.txt"
        return _listed(path) if path.exists() else []

    @cached_property
    def _path(self) -> poses.Path:
        path = self._folder / "groundtruth.txt"
        found, left_out = poses.Path(path.name, self._max_gap_ns), Counter[str]()
        for stamp, T in read_trajectory(path, left_out) if path.exists() else ():
            found.add(stamp, T)
        found.leave_out(left_out)
        return found

    def _true_depth(self, stamp: int) -> np.ndarray | str:
        index = nearest([at for at, _ in self._depths], stamp)
        if index is None:
            return "depth.txt has no image within 20 ms"
        return read_depth(self._folder / self._depths[index][1], DEPTH_SCALE)


def read_trajectory(path: Path, left_out: Counter[str] | None = None) -> list[tuple[int, np.ndarray]]:
    """Stamp in nanoseconds and T_world_camera [4, 4] of each line stamp tx ty tz qx qy qz qw; commas may be between.

    ``left_out`` gets why other lines are none, and how many. Raises SourceError.
    """
    trajectory = []
    for line in _lines(path):
        words = line.replace(",", " ").split()
        try:
            trajectory.append((nanoseconds(words[0]), _pose([float(word) for word in words[1:8]])))
        except (ValueError, ArithmeticError) as error:
            if left_out is not None:
                left_out[str(error) if isinstance(error, _Unusable) else "no line of stamp and seven numbers"] += 1
    return trajectory


class _Unusable(ValueError):
    """Seven numbers that are no pose."""


def _pose(numbers: Sequence[float]) -> np.ndarray:
    """T [4, 4] from tx ty tz qx qy qz qw. Raises ValueError."""
    if len(numbers) != 7:
        raise ValueError
    if not np.isfinite(numbers).all():
        raise _Unusable("NaN or infinity")
    if not any(numbers[3:]):
        raise _Unusable("a quaternion of zeros")
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_quat(numbers[3:]).as_matrix(), numbers[:3]
    return T


def trajectory_text(poses: Iterable[tuple[int, np.ndarray]]) -> str:
    """What `read_trajectory` reads, from stamps in nanoseconds and poses [4, 4]."""
    lines = ["# stamp tx ty tz qx qy qz qw"]
    for stamp, T in poses:
        numbers = [*T[:3, 3], *Rotation.from_matrix(T[:3, :3]).as_quat()]
        lines.append(f"{seconds(stamp)} {' '.join(f'{number:.9f}' for number in numbers)}")
    return "\n".join(lines) + "\n"


def _listed(path: Path) -> list[tuple[int, str]]:
    """Stamp in nanoseconds and file name of each line that has them, in the order of stamps. Raises SourceError."""
    found, left_out = [], []
    for line in _lines(path):
        try:
            stamp, name, *_ = line.split() if len(line.split()) > 1 else line.split(",")
            found.append((nanoseconds(stamp), name))
        except (ValueError, ArithmeticError):
            left_out.append(line)
    if left_out:
        log.warning("%s: %d lines are left out, the first is %.80r", path, len(left_out), left_out[0])
    return sorted(found, key=lambda entry: entry[0])  # of one stamp, the first line stays the first


def _lines(path: Path) -> list[str]:
    """All lines but comments. Raises SourceError."""
    return [line for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
