"""A folder of the TUM RGB-D benchmark: rgb.txt, depth.txt, groundtruth.txt and the images they name.

Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012. The folders do not hold the camera's
intrinsics, so these have to be given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    read_frame,
    read_truth,
    seconds,
)
from vlm3_ros.perception import Frame

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
        self._images = _listed(folder / "rgb.txt")
        self._stamps = [stamp for stamp, _ in self._images]
        self._depths = _listed(folder / "depth.txt") if (folder / "depth.txt").exists() else []
        self._path = poses.Path()
        if (folder / "groundtruth.txt").exists():
            for stamp, T in read_trajectory(folder / "groundtruth.txt"):
                self._path.add(stamp, T)

    @property
    def stamps(self) -> Sequence[int]:
        return self._stamps

    def frame(self, index: int) -> Frame:
        stamp, name = self._images[index]
        return read_frame(self._folder / name, stamp, self._intrinsics, self._settings)

    def truth(self, index: int) -> Truth:
        stamp, _ = self._images[index]
        return Truth(self._true_depth(stamp), self._path.at(stamp))

    def _true_depth(self, stamp: int) -> np.ndarray | None:
        index = nearest([at for at, _ in self._depths], stamp)
        if index is None:
            return None
        return read_truth(self._folder / self._depths[index][1], DEPTH_SCALE)


def read_trajectory(path: Path) -> list[tuple[int, np.ndarray]]:
    """Stamp in nanoseconds and T_world_camera [4, 4] of each line stamp tx ty tz qx qy qz qw. Raises SourceError."""
    trajectory = []
    for number, words in _lines(path):
        try:
            stamp, (x, y, z, *quaternion) = nanoseconds(words[0]), map(float, words[1:8])
            T = np.eye(4)
            T[:3, :3], T[:3, 3] = Rotation.from_quat(quaternion).as_matrix(), (x, y, z)
        except (ValueError, ArithmeticError) as error:
            raise SourceError(f"{path}:{number} is no line of stamp tx ty tz qx qy qz qw: {error}") from error
        trajectory.append((stamp, T))
    return trajectory


def trajectory_text(poses: Iterable[tuple[int, np.ndarray]]) -> str:
    """What `read_trajectory` reads, from stamps in nanoseconds and poses [4, 4]."""
    lines = ["# stamp tx ty tz qx qy qz qw"]
    for stamp, T in poses:
        numbers = [*T[:3, 3], *Rotation.from_matrix(T[:3, :3]).as_quat()]
        lines.append(f"{seconds(stamp)} {' '.join(f'{number:.9f}' for number in numbers)}")
    return "\n".join(lines) + "\n"


def _listed(path: Path) -> list[tuple[int, str]]:
    """Stamp in nanoseconds and file name of each line, in the order of stamps. Raises SourceError."""
    try:
        return sorted((nanoseconds(stamp), name) for _, (stamp, name, *_) in _lines(path))
    except (ValueError, ArithmeticError) as error:
        raise SourceError(f"{path} is no list of stamps and file names: {error}") from error


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and words of all lines but comments."""
    lines = enumerate(path.read_text().splitlines(), 1)
    return [(number, line.split()) for number, line in lines if line.strip() and not line.startswith("#")]
