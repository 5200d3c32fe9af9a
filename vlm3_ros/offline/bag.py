"""A ROS 2 bag as a source of frames and truth."""

from __future__ import annotations

import bisect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from vlm3_ros.offline.sources import (
    Choices,
    FrameError,
    Recording,
    SourceError,
    Truth,
    nearest,
    rectified_depth,
    rectifier,
    stamps_or_times,
)
from vlm3_ros.perception import Frame

log = logging.getLogger(__name__)

PoseAt = Callable[[int], "np.ndarray | str"]  # the pose at a stamp, or why it is not known


class BagSource(Recording):
    """Images, CameraInfo, and as truth: depth images, /tf or poses, and detections in the camera's frame."""

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

    def _frame(self, index: int) -> Frame:
        stamp = self.stamps[index]
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
        return Truth.of(
            depth=lambda: self._true_depth(stamp),
            pose=lambda: self._pose_at(stamp),
            boxes=lambda: self._true_boxes(stamp),
        )

    def root(self) -> str:
        root = self._transforms.static_root(self._frame_id)
        return "" if root == self._frame_id else root

    def mount(self, base: str) -> np.ndarray:
        T = self._transforms.static(base, self._frame_id)
        if T is None:
            raise SourceError(
                f"/tf_static of {self._bag.path} does not connect {base!r} with the camera's frame "
                f"{self._frame_id!r}: leave pose.base_frame empty to move what it is mounted on there"
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
        times, infos = [], []
        for time, info in self._bag.messages(topic):
            times.append(time)
            infos.append(info)
        stamps, _ = stamps_or_times([messages.nanoseconds(info.header) for info in infos], times)
        for stamp, message in sorted(zip(stamps, infos, strict=True), key=lambda entry: entry[0]):
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

    def _true_depth(self, stamp: int) -> np.ndarray | str:
        if self._depth is None:
            return "the bag has no topic with depth in the frame of the images"
        if (index := nearest(self._depth.stamps, stamp)) is None:
            return f"{self._depth.topic} has no message within 20 ms"
        try:
            message = self._depth[index]
            compressed = self._bag.topics[self._depth.topic] == topics.COMPRESSED
            depth = images.compressed_depth(message) if compressed else images.depth(message)
        except ImageError as error:
            raise FrameError(f"{self._depth.topic}: {error}") from error
        return rectified_depth(depth, self._calibration(stamp), self._settings)

    @cached_property
    def _objects(self) -> Series | None:
        found = self._bag.of_type(topics.OBJECTS)
        named = self._choices.true_objects
        topic = topics.only(self._bag, "true objects", "--true-objects", named, (topics.OBJECTS,), found)
        if topic is None:
            return None
        left_out: Counter[str] = Counter()
        for _, message in self._bag.messages(topic):
            reasons: list[str] = []
            messages.boxes(message, reasons)
            left_out.update(reasons)
        if left_out:
            listed = ", ".join(f"{count} x {reason}" for reason, count in left_out.most_common())
            log.warning("%s: %d boxes are left out: %s", topic, left_out.total(), listed)
        return Series(self._bag, topic)

    def _true_boxes(self, stamp: int) -> list[Box3D] | str:
        if self._objects is None:
            return f"the bag has no topic of type {topics.OBJECTS}"
        if (index := nearest(self._objects.stamps, stamp)) is None:
            return f"{self._objects.topic} has no message within 20 ms"
        message = self._objects[index]
        if not frames.same(message.header.frame_id, self._frame_id):
            return (
                f"{self._objects.topic} is in frame {message.header.frame_id!r}, not in that of the images, "
                f"{self._frame_id!r}: true boxes must be in the camera's frame"
            )
        left_out: list[str] = []
        found = messages.boxes(message, left_out)
        return f"none of a message of {self._objects.topic} can be used" if left_out and not found else found

    @property
    def _max_gap_ns(self) -> int:
        return round(self._choices.max_pose_gap * 1e9)

    @cached_property
    def _transforms(self) -> poses.TransformTree:
        tree = poses.TransformTree(self._max_gap_ns)
        for topic in self._bag.of_type(topics.TF):
            static = topic.endswith("tf_static")
            for _, message in self._bag.messages(topic):
                for transform in message.transforms:
                    _add(tree, transform, static)
        for fault in tree.faults():
            log.warning("%s", fault)
        return tree

    @cached_property
    def _pose_at(self) -> PoseAt:
        """T_world_camera at a stamp, from the only topic that has it or the one that was named."""
        named = self._choices.true_poses
        root = self._transforms.moving_root(self._frame_id)
        fitting = [*(["/tf"] if root is not None else []), *self._bag.of_type(topics.ODOMETRY)]
        others = self._bag.of_type(topics.TRANSFORM, *topics.STAMPED_POSES)
        if not named and not fitting:  # goals and guesses are of these types too: two are not to stop anything
            fitting = others if len(others) == 1 else []
        topic = topics.only(self._bag, "true poses", "--true-poses", named, (topics.TF, *topics.POSES), fitting)
        if topic is None:
            return lambda stamp: (
                f"--true-poses has to say which is meant of {', '.join(others)}"
                if others
                else f"nothing in /tf moves the camera's frame {self._frame_id!r}, and no other topic has poses"
            )
        if topic == "/tf" and root is None:
            raise SourceError(f"/tf of {self._bag.path} does not move the camera's frame {self._frame_id!r}")
        if topic == "/tf":
            return lambda stamp: self._transforms.at(str(root), self._frame_id, stamp)
        return self._on_topic(topic)

    def _on_topic(self, topic: str) -> PoseAt:
        kind = self._bag.topics[topic]
        if kind not in topics.POSES:
            raise SourceError(f"{topic} is {kind}; true poses come from /tf or {', '.join(topics.POSES)}")
        named = self._choices.pose_of
        wanted = self._bag.first(topic)  # of a topic with the poses of several frames
        if named and not frames.same(_child(wanted), named):
            of_named = (m for _, m in self._bag.messages(topic) if _child(m) and frames.same(_child(m), named))
            wanted = next(of_named, wanted)
        child = named or _child(wanted)
        if not child:
            child = self._frame_id
            log.warning(
                "%s does not say what it is the pose of: taken for that of the camera's optical frame, %r; another "
                "frame, which /tf_static connects with it, can be named with --pose-of",
                topic,
                child,
            )
        mount = self._transforms.static(child, self._frame_id)
        if mount is None:
            return lambda stamp: (
                f"{topic} moves {child!r}, but /tf_static does not say where on it the camera's frame "
                f"{self._frame_id!r} is"
            )
        path = poses.Path(topic, self._max_gap_ns)
        for _, message in self._bag.messages(topic):
            other = _other_frames(message, wanted)
            for stamp, T in _stamped_poses(message):
                if other or isinstance(T, str):
                    path.leave_out(Counter([other or str(T)]))
                else:
                    path.add(stamp, T)

        def pose_at(stamp: int) -> np.ndarray | str:
            T = path.at(stamp)
            return T if isinstance(T, str) else T @ mount

        return pose_at


def _child(message: Any) -> str:
    """What a message is the pose of; nothing where it does not say it."""
    return str(getattr(message, "child_frame_id", ""))


def _other_frames(message: Any, wanted: Any) -> str:
    """Why a message of a topic of poses is not of the frames of another one; nothing where it is."""
    parent, child = message.header.frame_id, _child(message)
    if not frames.same(child, _child(wanted)):
        return f"of {child!r}, not of {_child(wanted)!r}"
    return "" if frames.same(parent, wanted.header.frame_id) else f"in {parent!r}, not in {wanted.header.frame_id!r}"


def _stamped_poses(message: Any) -> Iterator[tuple[int, np.ndarray | str]]:
    """Stamp and T [4, 4] of each pose in a message of one of topics.POSES, or why it is none."""
    for entry in message.poses if hasattr(message, "poses") else [message]:
        stamp = messages.nanoseconds(entry.header)
        try:
            if hasattr(entry, "transform"):
                yield stamp, messages.matrix(entry)
            else:  # one with covariance is a field deeper
                yield stamp, messages.pose_matrix(getattr(entry.pose, "pose", entry.pose))
        except ValueError as error:
            yield stamp, str(error)


def _add(tree: poses.TransformTree, transform: Any, static: bool) -> None:
    parent, child = transform.header.frame_id, transform.child_frame_id
    try:
        T = messages.matrix(transform)
    except ValueError as error:
        if static:
            log.warning("%r → %r is left out: %s", parent, child, error)
        else:
            tree.leave_out(parent, child, str(error))
        return
    tree.add(parent, child, None if static else messages.nanoseconds(transform.header), T)
