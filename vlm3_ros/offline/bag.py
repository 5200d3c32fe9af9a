"""A ROS 2 bag as a source of frames and truth."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros import images, messages
from vlm3_ros.calibration import Calibration
from vlm3_ros.config import CameraConfig
from vlm3_ros.geometry import frames
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.images import ImageError
from vlm3_ros.offline import poses, topics
from vlm3_ros.offline.reader import BagReader, Series
from vlm3_ros.offline.sources import Choices, FrameError, SourceError, Truth, nearest, rectified_depth, rectifier
from vlm3_ros.perception import Frame

log = logging.getLogger(__name__)

PoseAt = Callable[[int], "np.ndarray | None"]


class BagSource:
    """Images, CameraInfo, and as truth: depth images, /tf or odometry, and detections in the camera's frame."""

    def __init__(self, path: Path, choices: Choices, settings: CameraConfig):
        self._bag = BagReader(path)
        self._choices, self._settings = choices, settings
        self._topic = topics.image_topic(self._bag, choices.image)
        self._images = Series(self._bag, self._topic)
        try:
            self._frame_id = frames.bare(self._bag.first(self._topic).header.frame_id)
        except FrameError as error:
            raise SourceError(str(error)) from error
        self._calibrations = self._read_calibrations()

    @property
    def stamps(self) -> Sequence[int]:
        return self._images.stamps

    def frame(self, index: int) -> Frame:
        stamp = self.stamps[index]
        if index and self.stamps[index - 1] == stamp:
            raise FrameError("it has the stamp of the image before")
        message = self._images[index]
        compressed = self._bag.topics[self._topic] == topics.COMPRESSED
        try:
            # What does not fit the calibration is not decoded.
            rectify = rectifier(images.size(message), self._calibration(stamp), self._settings)
            image = images.decompressed(message) if compressed else images.decoded(message)
        except ImageError as error:
            raise FrameError(str(error)) from error
        frame_id = frames.bare(message.header.frame_id) or self._frame_id
        return Frame("", stamp, frame_id, rectify(image), rectify.camera, rectify.valid)

    def truth(self, index: int) -> Truth:
        stamp = self.stamps[index]
        return Truth(self._true_depth(stamp), self._pose_at(stamp), self._true_boxes(stamp))

    def mount(self, base: str) -> np.ndarray:
        T = self._transforms.static(base, self._frame_id)
        if T is None:
            raise SourceError(
                f"/tf_static of {self._bag.path} does not connect {base!r} with the camera's frame "
                f"{self._frame_id!r}: leave pose.base_frame empty to move the camera's own frame"
            )
        return T

    # ------------------------------------------------------------------------------------------- calibration

    def _read_calibrations(self) -> list[tuple[int, Calibration]]:
        """Stamp and calibration, wherever it changes."""
        if self._settings.hfov_deg > 0.0:
            return []
        topic = topics.info_topic(self._bag, self._choices.camera_info, self._topic, self._frame_id)
        if topic is None:
            raise SourceError(
                f"{self._bag.path} has no camera_info for {self._topic}, which is in frame {self._frame_id!r}: name "
                "its topic with --camera-info, or give the camera's field of view with --set camera.hfov_deg=..."
            )
        found: list[tuple[int, Calibration]] = []
        stamped = sorted(
            ((messages.nanoseconds(m.header) or time, m) for time, m in self._bag.messages(topic)), key=lambda e: e[0]
        )
        for stamp, message in stamped:
            self._frame_id = self._frame_id or frames.bare(message.header.frame_id)
            calibration = messages.calibration(message)
            if not found or found[-1][1] != calibration:
                found.append((stamp, calibration))
            if not self._settings.ignore_info_frame and not frames.same(message.header.frame_id, self._frame_id):
                raise SourceError(
                    f"{self._topic} is in frame {self._frame_id!r}, but {topic} is for frame "
                    f"{message.header.frame_id!r}: the two belong to different cameras; name another --camera-info, "
                    "or --set camera.ignore_info_frame=true if they are of one camera all the same"
                )
        return found

    def _calibration(self, stamp: int) -> Calibration | None:
        """The newest calibration at a stamp, or the first one."""
        after = bisect.bisect_right(self._calibrations, stamp, key=lambda entry: entry[0])
        return self._calibrations[max(0, after - 1)][1] if self._calibrations else None

    # ------------------------------------------------------------------------------------------------- truth

    @cached_property
    def _depth(self) -> Series | None:
        topic = topics.depth_topic(self._bag, self._choices.true_depth, self._frame_id)
        return None if topic is None else Series(self._bag, topic)

    def _true_depth(self, stamp: int) -> np.ndarray | None:
        if self._depth is None or (index := nearest(self._depth.stamps, stamp)) is None:
            return None
        try:
            message = self._depth[index]
            compressed = self._bag.topics[self._depth.topic] == topics.COMPRESSED
            depth = images.compressed_depth(message) if compressed else images.depth(message)
            return rectified_depth(depth, self._calibration(stamp), self._settings)
        except (FrameError, ImageError) as error:
            log.warning("%s at %d ns: %s", self._depth.topic, stamp, error)
            return None

    @cached_property
    def _objects(self) -> Series | None:
        found = self._bag.of_type(topics.OBJECTS)
        topic = topics.only(self._bag, "true objects", "--true-objects", self._choices.true_objects, found)
        return None if topic is None else Series(self._bag, topic)

    def _true_boxes(self, stamp: int) -> list[Box3D] | None:
        if self._objects is None or (index := nearest(self._objects.stamps, stamp)) is None:
            return None
        message = self._objects[index]
        if not frames.same(message.header.frame_id, self._frame_id):
            raise SourceError(
                f"{self._objects.topic} is in frame {message.header.frame_id!r}, not in that of the images, "
                f"{self._frame_id!r}: true boxes must be in the camera's frame"
            )
        return messages.boxes(message)

    @cached_property
    def _transforms(self) -> poses.TransformTree:
        tree = poses.TransformTree()
        for topic in self._bag.of_type("tf2_msgs/msg/TFMessage"):
            static = topic.endswith("tf_static")
            for _, message in self._bag.messages(topic):
                for transform in message.transforms:
                    _add(tree, transform, static)
        for child, parents in tree.conflicts().items():
            log.warning("/tf gives %r other parents too, which are left out: %s", child, ", ".join(sorted(parents)))
        return tree

    @cached_property
    def _pose_at(self) -> PoseAt:
        """T_world_camera at a stamp, from the only topic that has it or the one that was named."""
        root = self._transforms.moving_root(self._frame_id)
        fitting = [*(["/tf"] if root is not None else []), *self._bag.of_type(topics.ODOMETRY)]
        topic = topics.only(self._bag, "true poses", "--true-poses", self._choices.true_poses, fitting)
        if topic is None:
            return lambda stamp: None
        if topic != "/tf":
            return self._odometry(topic)
        if root is None:
            raise SourceError(f"/tf of {self._bag.path} does not move the camera's frame {self._frame_id!r}")
        return lambda stamp: self._transforms.at(root, self._frame_id, stamp)

    def _odometry(self, topic: str) -> PoseAt:
        if self._bag.topics[topic] != topics.ODOMETRY:
            raise SourceError(f"{topic} is {self._bag.topics[topic]}; true poses come from /tf or {topics.ODOMETRY}")
        path = poses.Path()
        child = self._bag.first(topic).child_frame_id
        for _, message in self._bag.messages(topic):
            path.add(messages.nanoseconds(message.header), messages.pose_matrix(message.pose.pose))
        mount = self._transforms.static(child, self._frame_id)
        if mount is None:
            raise SourceError(
                f"{topic} moves {child!r}, but /tf_static does not say where on it the camera's frame "
                f"{self._frame_id!r} is"
            )

        def pose_at(stamp: int) -> np.ndarray | None:
            T = path.at(stamp)
            return None if T is None else T @ mount

        return pose_at


def _add(tree: poses.TransformTree, transform: Any, static: bool) -> None:
    parent, child = transform.header.frame_id, transform.child_frame_id
    try:
        T = messages.matrix(transform)
    except ValueError as error:  # a quaternion of zeros, NaN
        log.warning("%r → %r is left out: %s", parent, child, error)
        return
    tree.add(parent, child, None if static else messages.nanoseconds(transform.header), T)
