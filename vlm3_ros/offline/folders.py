"""Two folders, of images and of their depth, paired by name, or by the last number in it where no names are equal.

    rgb/lab_01.png     depth/lab_01.png              as iBims-1 has them
    rgb/rgb_00045.jpg  depth/sync_depth_00045.png    as the sync folders of NYUv2

What such folders do not say is asked for: the intrinsics, and how many units of a depth image are a metre.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm3_ros.config import CameraConfig
from vlm3_ros.offline.sources import (
    Choices,
    DataSet,
    SourceError,
    Truth,
    made_up_stamps,
    read_depth,
    read_frame,
)
from vlm3_ros.perception import Frame

log = logging.getLogger(__name__)

IMAGE_FOLDERS = ("rgb", "color", "image", "images")
SUFFIXES = (".png", ".jpg", ".jpeg")


class FolderSource(DataSet):
    """Images in the order of their names or numbers, one second apart."""

    def __init__(self, folder: Path, choices: Choices, settings: CameraConfig):
        self._images = _files(folder / _image_folder(folder, choices.image))
        self._depths = _files(folder / "depth", may_be_empty=True)
        if self._depths and not self._images.keys() & self._depths.keys():
            self._images, self._depths = _by_number(self._images), _by_number(self._depths)
        self._order = sorted(self._images, key=_counting)
        self._settings, self._intrinsics, self._scale = settings, choices.intrinsics, choices.depth_scale
        if not self._intrinsics and settings.hfov_deg == 0.0:
            raise SourceError(
                f"{folder} does not say what camera it is from: give --intrinsics FX FY CX CY in pixels (NYUv2's "
                "colour camera: 518.9 519.5 325.6 253.7), or --set camera.hfov_deg=..."
            )

    @property
    def stamps(self) -> Sequence[int]:
        return made_up_stamps(len(self._order))

    def _frame(self, index: int) -> Frame:
        path = self._images[self._order[index]]
        return read_frame(path, self.stamps[index], self._intrinsics, self._settings)

    def truth(self, index: int) -> Truth:
        return Truth.of(depth=lambda: self._depth(index))

    def _depth(self, index: int) -> np.ndarray | str:
        path = self._depths.get(self._order[index])
        if path is None:
            return "no file in depth belongs to the image"
        if not self._scale:
            raise SourceError(
                f"{path.parent} does not say how many units are a metre: give --depth-scale, for example 1000 "
                "(millimetres: RealSense, ScanNet, NYUv2's sync folders), 5000 (TUM), 256 (KITTI), 1310.7 (iBims-1)"
            )
        return read_depth(path, self._scale)


def is_pair(folder: Path) -> bool:
    """Whether a folder holds images and depth side by side."""
    return (folder / "depth").is_dir() and any((folder / name).is_dir() for name in IMAGE_FOLDERS)


def _image_folder(folder: Path, named: str) -> str:
    """The folder of images that was named, or the only one. Raises SourceError."""
    found = [name for name in IMAGE_FOLDERS if (folder / name).is_dir()]
    if named or len(found) > 1:
        if not named or not (folder / named).is_dir():
            raise SourceError(
                f"{folder} has images in {', '.join(found)}: name the folder that is meant, for example "
                f"--image {found[0]}"
            )
        return named
    return found[0]


def _files(folder: Path, may_be_empty: bool = False) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix. Raises SourceError."""
    files: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        if files.setdefault(path.stem, path) != path:
            log.warning("%s is left out: %s has its name too", path, files[path.stem])
    if not files and not may_be_empty:
        raise SourceError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return files


def _by_number(files: dict[str, Path]) -> dict[str, Path]:
    """The same by the last number in their names. Raises SourceError."""
    numbered: dict[str, Path] = {}
    for name, path in files.items():
        numbers = re.findall("[0-9]+", name)
        if not numbers:
            raise SourceError(f"{path} can be paired neither by its name nor by a number in it")
        key = str(int(numbers[-1]))
        if key in numbered:
            raise SourceError(f"{numbered[key]} and {path} have the same number, so it is not known which is which")
        numbered[key] = path
    return numbered


def _counting(name: str) -> list[str]:
    """What sorts names as people count: 9 before 10."""
    return [part.zfill(20) if part.isdigit() else part for part in re.split("([0-9]+)", name)]
