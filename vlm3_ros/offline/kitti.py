"""A drive of KITTI: image_02/data, proj_depth/groundtruth/image_02 and calib_cam_to_cam.txt.

Geiger et al., Vision meets Robotics: The KITTI Dataset, IJRR 2013; true depth: Uhrig et al., Sparsity Invariant CNNs,
3DV 2017 (its "annotated depth maps", whose proj_depth folder belongs into the drive).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from vlm3_ros.config import CameraConfig
from vlm3_ros.offline.sources import Choices, DataSet, SourceError, Truth, read_depth, read_frame, read_text
from vlm3_ros.perception import Frame

DEPTH_SCALE = 256.0  # per metre, of the depth development kit
CALIBRATION = "calib_cam_to_cam.txt"


class KittiSource(DataSet):
    """The rectified images of one camera, with the depth of the laser scanner."""

    def __init__(self, drive: Path, choices: Choices, settings: CameraConfig):
        name = _camera(drive, choices.image)
        self._images = sorted((drive / name / "data").glob("*.png")) or sorted((drive / name / "data").glob("*.jpg"))
        self._stamps = _stamps(drive / name / "timestamps.txt", self._images)
        self._depths = drive / "proj_depth" / "groundtruth" / name
        self._settings = settings
        self._intrinsics, self._size = choices.intrinsics, None
        if not self._intrinsics:
            self._intrinsics, self._size = _intrinsics(drive, name.removeprefix("image_"))

    @property
    def stamps(self) -> Sequence[int]:
        return self._stamps

    def _frame(self, index: int) -> Frame:
        return read_frame(self._images[index], self._stamps[index], self._intrinsics, self._settings, self._size)

    def truth(self, index: int) -> Truth:
        path = self._depths / f"{self._images[index].stem}.png"
        return Truth.of(depth=lambda: self._depth(path), pose=lambda: "poses of KITTI are not read")

    def _depth(self, path: Path) -> np.ndarray | str:
        if not path.exists():  # the first and last five images of a drive have none
            return f"{path.parent} has none for the image"
        return read_depth(path, DEPTH_SCALE)


def is_drive(folder: Path) -> bool:
    """Whether a folder is a KITTI drive, by its folders of images."""
    return any(folder.glob("image_0?/data"))


def _camera(drive: Path, named: str) -> str:
    """The folder of the camera that was named, or of the only one. Raises SourceError."""
    found = sorted(path.parent.name for path in drive.glob("image_0?/data"))
    if named or len(found) > 1:
        if named not in found:
            suggestion = "image_02" if "image_02" in found else found[0]
            raise SourceError(
                f"{drive} has images in {', '.join(found)}: name the camera that is meant, for example "
                f"--image {suggestion} (00 and 01 are grey, 02 and 03 in colour)"
            )
        return named
    return found[0]


def _intrinsics(drive: Path, camera: str) -> tuple[tuple[float, ...], tuple[int, int] | None]:
    """fx, fy, cx, cy and size of the rectified images, from P_rect and S_rect. Raises SourceError."""
    path = next((folder / CALIBRATION for folder in (drive, drive.parent) if (folder / CALIBRATION).exists()), None)
    if path is None:
        raise SourceError(
            f"neither {drive} nor the folder above it has a {CALIBRATION}: put it there, or give --intrinsics"
        )
    lines = dict(line.partition(":")[::2] for line in read_text(path).splitlines())
    if f"P_rect_{camera}" not in lines:
        raise SourceError(f"{path} has no P_rect_{camera}")
    try:
        p = np.array(lines[f"P_rect_{camera}"].split(), float).reshape(3, 4)
        size = [int(float(number)) for number in lines.get(f"S_rect_{camera}", "").split()]
    except ValueError as error:
        raise SourceError(f"P_rect_{camera} or S_rect_{camera} in {path} is no matrix: {error}") from error
    return (p[0, 0], p[1, 1], p[0, 2], p[1, 2]), (size[0], size[1]) if len(size) == 2 else None


def _stamps(path: Path, images: Sequence[Path]) -> list[int]:
    """Nanoseconds of each image, whose names count the lines of timestamps.txt. Raises SourceError."""
    if not path.exists():
        raise SourceError(f"{path} does not exist: the stamps of the images are in it")
    lines = read_text(path).split("\n")
    try:
        stamps = [_nanoseconds(lines[int(image.stem)]) for image in images]
    except (ValueError, IndexError) as error:
        raise SourceError(f"{path} does not have a line with date and time for every image: {error}") from error
    if stamps != sorted(set(stamps)):
        raise SourceError(f"the stamps in {path} do not ascend")
    return stamps


def _nanoseconds(text: str) -> int:
    """Such as 2011-09-26 13:02:25.964389445, taken for UTC."""
    seconds, _, fraction = text.strip().partition(".")
    moment = datetime.strptime(seconds, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9])
