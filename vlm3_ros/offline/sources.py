"""Where recorded frames come from: one form for bags and data sets."""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlm3_ros import image_files, images
from vlm3_ros.calibration import Calibration, Rectifier
from vlm3_ros.camera import CalibrationError
from vlm3_ros.config import CameraConfig
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.perception import Frame

SYNC_NS = 20_000_000  # stamps this near are of one moment, as TUM's associate.py has it
LAST_S = 1 << 33  # seconds; nanoseconds of more do not fit into 64 bits
FRAME_ID = "camera_optical_frame"  # of data sets, whose frames have no names


class SourceError(Exception):
    """A recording cannot be used as it is; the message says why and what to do."""


class FrameError(Exception):
    """One frame of a recording cannot be had; the message says why."""


@dataclass(frozen=True)
class Choices:
    """What to take where a recording leaves a choice; empty: the only one there is."""

    image: str = ""  # topic, or folder of images
    camera_info: str = ""  # topic
    true_depth: str = ""  # topic
    true_poses: str = ""  # topic: /tf or one of POSES in topics.py
    pose_of: str = ""  # the frame that a topic of true poses moves, where it does not say it
    max_pose_gap: float = 0.0  # seconds between two true poses that are interpolated; 0: as docs/metrics.md has it
    true_objects: str = ""  # topic
    intrinsics: tuple[float, ...] = ()  # fx, fy, cx, cy in pixels, of a data set that does not give them
    depth_scale: float = 0.0  # depth images of a data set that does not say it: value per metre
    lengths: str = ""  # of labelled pixels: along the "ray", or along "z"


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about a frame; None is what is not known."""

    depth: np.ndarray | None = None  # float32 [height, width] of the rectified image, metres along Z, NaN unknown
    T_world_camera: np.ndarray | None = None  # [4, 4]
    boxes: list[Box3D] | None = None  # in camera axes, in view or not
    unknown: Mapping[str, str] = field(default_factory=dict)  # why "depth", "pose" or "boxes" are None

    @classmethod
    def of(cls, **values: Callable[[], Any]) -> Truth:
        """From functions for depth, pose and boxes, by these names.

        Each returns its value, or a text that says why that is not known; a FrameError says it, too.
        """
        known, unknown = {}, {}
        for name, value in values.items():
            try:
                found = value()
            except FrameError as error:
                found = str(error)
            if name == "depth" and isinstance(found, np.ndarray) and not np.isfinite(found).any():
                found = "its depth image holds no measurement"
            if isinstance(found, str):
                unknown[name] = found
            else:
                known[name] = found
        return cls(known.get("depth"), known.get("pose"), known.get("boxes"), unknown)


class Source(Protocol):
    """The recorded images of one camera in the order of their stamps, and what is known about them."""

    @property
    def stamps(self) -> Sequence[int]:
        """Nanoseconds, in ascending order, one for each image."""

    def frame(self, index: int) -> Frame:
        """Decode and rectify an image; cheap when asked one after the other. Raises FrameError."""

    def truth(self, index: int) -> Truth:
        """What is known about an image. Raises SourceError where it cannot be told which topic is the truth."""

    def root(self) -> str:
        """The frame on which the camera is mounted in the end, '' if that is its own: what moves when it does."""

    def mount(self, base: str) -> np.ndarray:
        """T_base_camera [4, 4]: where the camera sits on the robot. Raises SourceError if that is not recorded."""


class Recording(ABC):
    """What all sources have in common: of several images with one stamp, the first is the one."""

    @property
    @abstractmethod
    def stamps(self) -> Sequence[int]: ...

    @abstractmethod
    def _frame(self, index: int) -> Frame:
        """As `Source.frame`."""

    def frame(self, index: int) -> Frame:
        if index and self.stamps[index - 1] == self.stamps[index]:
            raise FrameError("it has the stamp of the image before")
        return self._frame(index)


class DataSet(Recording):
    """What sources that are no bags have in common."""

    def root(self) -> str:
        return ""

    def mount(self, base: str) -> np.ndarray:
        raise SourceError("a data set has no /tf_static: leave pose.base_frame empty")


# ------------------------------------------------------------------------------------ from raw image to frame

_rectifier = lru_cache(maxsize=8)(Rectifier)


def rectified(
    stamp: int, frame_id: str, image: np.ndarray, calibration: Calibration | None, settings: CameraConfig
) -> Frame:
    """A frame from an image as the camera gave it, uint8 [height, width, 3] RGB. Raises FrameError."""
    rectify = rectifier((image.shape[1], image.shape[0]), calibration, settings)
    return Frame("", stamp, frame_id, rectify(image), rectify.camera, rectify.valid)


def rectified_depth(depth: np.ndarray, calibration: Calibration | None, settings: CameraConfig) -> np.ndarray:
    """Depth [height, width] on the raw image as depth on the rectified one. Raises FrameError."""
    rectify = rectifier((depth.shape[1], depth.shape[0]), calibration, settings)
    on_rectified = rectify(depth, nearest=True)
    return on_rectified if rectify.valid is None else np.where(rectify.valid, on_rectified, np.float32(np.nan))


def rectifier(size: tuple[int, int], calibration: Calibration | None, settings: CameraConfig) -> Rectifier:
    """What turns raw images of ``size`` (width, height) into those of a pinhole. Raises FrameError."""
    if settings.hfov_deg > 0.0:
        calibration = Calibration.from_fov(*size, settings.hfov_deg)
    if calibration is None:
        raise FrameError("the camera is not calibrated: set camera.hfov_deg")
    try:
        return _rectifier(calibration, size, settings.input_rectified)
    except CalibrationError as error:
        raise FrameError(str(error)) from error


def pinhole(size: tuple[int, int], intrinsics: Sequence[float]) -> Calibration:
    """The calibration of images of ``size`` (width, height) without distortion, from fx, fy, cx, cy in pixels."""
    if len(intrinsics) != 4 or not all(map(math.isfinite, intrinsics)):
        raise SourceError(f"intrinsics must be the four numbers fx fy cx cy in pixels, not {list(intrinsics)}")
    fx, fy, cx, cy = intrinsics
    k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
    return Calibration(*size, "plumb_bob", (), k, (0.0,) * 9, (0.0,) * 12)


def read_image(path: Path) -> np.ndarray:
    """The picture in a file as uint8 [height, width, 3] RGB. Raises FrameError."""
    with _file(path) as data:
        return images.colours(image_files.pixels(data))


def read_depth(path: Path, scale: float) -> np.ndarray:
    """Depth from a file of integers, ``scale`` to a metre, or of floats in metres, as `images.metres` has it."""
    with _file(path) as data:
        return images.metres(image_files.pixels(data), scale)


@contextmanager
def _file(path: Path) -> Iterator[bytes]:
    """The bytes of an image file; what goes wrong with it is a FrameError that names it."""
    try:
        yield path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also of a name with a zero in it
        raise FrameError(f"{path}: {error}") from error


def read_frame(
    path: Path,
    stamp: int,
    intrinsics: Sequence[float],
    settings: CameraConfig,
    made_for: tuple[int, int] | None = None,
) -> Frame:
    """A frame of a data set whose images have no distortion; ``intrinsics`` may be empty. Raises FrameError.

    ``made_for``: the (width, height) of the images that the intrinsics are for, where the data set says it.
    """
    image = read_image(path)
    size = (image.shape[1], image.shape[0])
    if made_for not in (None, size):
        raise FrameError(
            f"{path} is {size[0]}x{size[1]}, but its intrinsics are for {made_for[0]}x{made_for[1]}: one of the two "
            "was resized; give the intrinsics of this size"
        )
    calibration = pinhole(size, intrinsics) if intrinsics else None
    return rectified(stamp, FRAME_ID, image, calibration, settings)


def read_text(path: Path) -> str:
    """The text of a file. Raises SourceError where it is none, OSError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is no text in UTF-8: {error}") from error


def nearest(stamps: Sequence[int], stamp: int, within: int = SYNC_NS) -> int | None:
    """Index of the stamp nearest to another one, of ascending ones; None if it is not ``within`` so many ns."""
    after = bisect.bisect_left(stamps, stamp)
    near = [i for i in (after - 1, after) if 0 <= i < len(stamps)]
    best = min(near, key=lambda i: abs(stamps[i] - stamp), default=None)
    return best if best is not None and abs(stamps[best] - stamp) <= within else None


def made_up_stamps(count: int) -> range:
    """Stamps in nanoseconds of images that have none, one second apart, from one second on."""
    return range(10**9, (count + 1) * 10**9, 10**9)


def stamps_or_times(stamps: Sequence[int | None], times: Sequence[int]) -> tuple[list[int], int]:
    """Stamps of the messages of a topic, and how many have none: for these it is the time of recording.

    A stamp of 0 means that there is none, as ROS has it, if several messages have it; that of one alone is where its
    clock begins.
    """
    least = 1 if stamps.count(0) > 1 else 0
    pairs = [
        (stamp if stamp is not None and stamp >= least else None, time)
        for stamp, time in zip(stamps, times, strict=True)
    ]
    return [time if stamp is None else stamp for stamp, time in pairs], sum(stamp is None for stamp, _ in pairs)


def nanoseconds(seconds: str) -> int:
    """A stamp in seconds as text, exactly. Raises ValueError, ArithmeticError."""
    number = Decimal(seconds)
    if not 0 <= number < LAST_S:  # NaN, too
        raise ValueError(f"{seconds} is no stamp in seconds")
    return int(number * 10**9)


def seconds(stamp: int) -> str:
    """Nanoseconds as a text of seconds, exactly."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"
