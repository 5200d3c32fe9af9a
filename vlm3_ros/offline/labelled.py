"""Images with labelled pixels, such as DepthLM's iBims-1 file: a recording with true depth here and there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from vlm3_ros.calibration import Calibration
from vlm3_ros.camera import Camera
from vlm3_ros.config import CameraConfig
from vlm3_ros.offline.labels import DepthLabels, LabelFile
from vlm3_ros.offline.sources import (
    FRAME_ID,
    Choices,
    DataSet,
    SourceError,
    Truth,
    made_up_stamps,
    pinhole,
    read_image,
    rectified,
    rectified_depth,
)
from vlm3_ros.perception import Frame

WHICH = (
    "say with --lengths what they are: z for iBims-1, NuScenes and DDAD as DepthLM curates them, ray for its "
    "Argoverse2, Waymo, ScanNet++, ETH3D, Matterport3D, NYUv2 and SUN RGB-D and for VLM³'s own sample"
)


class LabelledSource(DataSet):
    """The images of a label file in its order, one second apart."""

    def __init__(self, path: Path, choices: Choices, settings: CameraConfig):
        self._file, self._lengths, self._settings = LabelFile(path), choices.lengths, settings
        if self._file.kind != "depth":
            raise SourceError(f"{path} labels no depth but {self._file.kind}: `vlm3 benchmark` asks such questions")
        self._labels = lru_cache(maxsize=2)(self._file.__getitem__)

    @property
    def stamps(self) -> Sequence[int]:
        return made_up_stamps(len(self._file))

    def _frame(self, index: int) -> Frame:
        labels: DepthLabels = self._labels(index)
        return labelled_frame(labels.image, labels.camera, self.stamps[index], self._settings)

    def truth(self, index: int) -> Truth:
        if not self._lengths:
            raise SourceError(f"{self._file.path} does not tell lengths of rays from depth along Z: {WHICH}")
        return Truth.of(depth=lambda: self._depth(index))

    def _depth(self, index: int) -> np.ndarray:
        labels: DepthLabels = self._labels(index)
        return rectified_depth(_sparse(labels, self._lengths), _calibration(labels.camera), self._settings)


def labelled_frame(image: Path, camera: Camera, stamp: int, settings: CameraConfig) -> Frame:
    """A frame of an image that must be of the size it was labelled at. Raises FrameError."""
    return rectified(stamp, FRAME_ID, read_image(image), _calibration(camera), settings)


def _calibration(camera: Camera) -> Calibration:
    return pinhole(camera.size, (camera.fx, camera.fy, camera.cx, camera.cy))


def _sparse(labels: DepthLabels, lengths: str) -> np.ndarray:
    """Depth along Z [height, width], NaN but for the labelled pixels."""
    camera, z = labels.camera, labels.metres
    if lengths == "ray":
        z = z / np.linalg.norm(camera.rays(labels.pixels), axis=-1)
    depth = np.full((camera.height, camera.width), np.nan, np.float32)
    column, row = np.rint(labels.pixels).astype(int).T
    depth[row, column] = z
    return depth
