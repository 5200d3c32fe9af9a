"""The frames of a finished run, each beside what is true of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm3_ros import messages
from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.reader import BagReader, Series
from vlm3_ros.offline.results import RunError, read_description
from vlm3_ros.offline.sources import FrameError, Source, Truth, nanoseconds, nearest
from vlm3_ros.perception import Frame


class Moment:
    """One frame of a run and its truth, each part read when it is first asked for.

    Reading is cheap for the newest moment only: what is needed of an earlier one is to be kept when it passes.
    """

    def __init__(
        self, row: Mapping[str, str], settings: Mapping[str, Any], outputs: Mapping[str, Series], truth: Source
    ):
        self.row = row  # of frames.csv
        self.settings = settings  # of the run, by name
        self.stamp = nanoseconds(row["stamp"])
        self.error = row["error"]  # why it was not perceived
        self._outputs, self._source = outputs, truth

    def output(self, topic: str) -> Any:
        """The message that the frame gave for a topic, such as "depth/image"; None if it gave none."""
        series = self._outputs.get(f"/{topic}")
        if series is None or self.error or (index := nearest(series.stamps, self.stamp, within=0)) is None:
            return None
        return series[index]

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Time of computing by stage."""
        return {name.removesuffix("_s"): float(s) for name, s in self.row.items() if name.endswith("_s") and s}

    # ------------------------------------------------------------------------------------------- what it gave

    @cached_property
    def depth(self) -> np.ndarray | None:
        """float32 [h, w], metres along Z, NaN unknown."""
        return self._array("depth/image")

    @cached_property
    def confidence(self) -> np.ndarray | None:
        """float32 [h, w] of the depth."""
        return self._array("depth/confidence")

    @cached_property
    def pose(self) -> np.ndarray | None:
        """T_odom_camera [4, 4]."""
        message = self.output("camera_pose")
        return None if message is None else messages.pose_matrix(message.pose.pose)

    @cached_property
    def boxes(self) -> list[Box3D] | None:
        """In camera axes."""
        message = self.output("objects")
        return None if message is None else messages.boxes(message)

    @cached_property
    def matches(self) -> Any:
        """The vlm3_ros/PixelMatches message."""
        return self.output("matches")

    def _array(self, topic: str) -> np.ndarray | None:
        message = self.output(topic)
        return None if message is None else messages.float_array(message)

    # ------------------------------------------------------------------------------------------- what is true

    @cached_property
    def truth(self) -> Truth:
        """What is known about the frame."""
        if self._index is None:
            return Truth(unknown=dict.fromkeys(("depth", "pose", "boxes"), "no image within 20 ms"))
        return self._source.truth(self._index)

    @cached_property
    def true_depth(self) -> np.ndarray | None:
        """True depth at the size of `depth`: of a smaller one, that of the pixel at the centre of each of its own."""
        true, depth = self.truth.depth, self.depth
        if true is None or depth is None or true.shape == depth.shape:
            return true
        height, width = depth.shape
        return cv2.resize(true, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)

    @property
    def image(self) -> np.ndarray | None:
        """The rectified image, uint8 [height, width, 3] RGB."""
        return None if self._frame is None else self._frame.image

    @property
    def camera(self) -> Camera | None:
        """Of the rectified image."""
        return None if self._frame is None else self._frame.camera

    @property
    def valid(self) -> np.ndarray | None:
        """bool [height, width]: what the raw image shows of the rectified one; None: everything."""
        return None if self._frame is None else self._frame.valid

    @cached_property
    def _frame(self) -> Frame | None:
        try:
            return None if self._index is None else self._source.frame(self._index)
        except FrameError:
            return None

    @cached_property
    def _index(self) -> int | None:
        return nearest(self._source.stamps, self.stamp)


class Moments:
    """All frames of a finished run, in the order of their stamps; may be gone through again."""

    def __init__(self, folder: Path, truth: Source):
        """Raises RunError if the folder holds no finished run."""
        if not (folder / "bag" / "metadata.yaml").exists():
            raise RunError(f"{folder} holds no finished run: the same `vlm3 run` goes on with it")
        self._settings = read_description(folder)["settings"]
        bag = BagReader(folder / "bag")
        self._outputs = {topic: Series(bag, topic) for topic in _STAMPED if topic in bag.topics}
        self._truth = truth
        with (folder / "frames.csv").open() as file:
            self._rows = list(csv.DictReader(file))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Moment]:
        for row in self._rows:
            yield Moment(row, self._settings, self._outputs, self._truth)


_STAMPED = ("/depth/image", "/depth/confidence", "/matches", "/camera_pose", "/objects")
