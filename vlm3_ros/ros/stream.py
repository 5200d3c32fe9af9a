"""The images of one camera as they come in, newest first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vlm3_ros.calibration import Calibration, Rectifier
from vlm3_ros.camera import CalibrationError
from vlm3_ros.config import Config
from vlm3_ros.geometry import frames
from vlm3_ros.images import size
from vlm3_ros.perception import Frame
from vlm3_ros.ros.images import rgb
from vlm3_ros.ros.messages import calibration, nanoseconds
from vlm3_ros.ros.parameters import OVERRIDABLE


class Stream:
    """Subscribes to a camera and keeps its newest image; older ones that nobody took are dropped and counted.

    Callbacks only store. What they store is read by the worker thread, under ``wake``'s lock.
    """

    def __init__(self, node: Node, name: str, config: Config, wake: threading.Condition):
        self.name = name
        self.received = 0
        self.dropped = 0
        self.last_arrival = time.monotonic()
        self._wake = wake
        self._settings = config.camera
        self._newest: Image | CompressedImage | None = None
        self._taken = True
        self._info: CameraInfo | None = None
        self._rectifier: tuple[Calibration, tuple[int, int], Rectifier] | None = None
        prefix = f"{name}/" if name else ""
        compressed = config.node.image_transport == "compressed"
        self._node = node
        # Best effort, one deep: fits every publisher, and a slow model wants nothing but the newest frame.
        self._image = node.create_subscription(
            CompressedImage if compressed else Image,
            _compressed_topic(node, f"{prefix}image") if compressed else f"{prefix}image",
            self._on_image,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            qos_overriding_options=OVERRIDABLE,
        )
        self._camera_info = node.create_subscription(
            CameraInfo,
            f"{prefix}camera_info",
            self._on_info,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            qos_overriding_options=OVERRIDABLE,
        )
        self.image_topic = str(self._image.topic_name)  # full names
        self.info_topic = str(self._camera_info.topic_name)
        self._latched: Subscription | None = None
        self._closed = False
        self._opening = threading.Lock()  # the executor may look for a latched camera_info while a transition closes
        self._destroy: list[Callable[[], object]] = [
            lambda: node.destroy_subscription(self._image),
            lambda: node.destroy_subscription(self._camera_info),
        ]

    @property
    def waiting(self) -> bool:
        """Whether there is an image that can be used and was not taken yet."""
        return not self._taken and not self.lacks_calibration

    @property
    def lacks_calibration(self) -> bool:
        """Whether images come without any camera_info, and one is needed."""
        return self._newest is not None and self._info is None and self._settings.hfov_deg == 0.0

    @property
    def without_calibration(self) -> str:
        """What to say while `lacks_calibration`."""
        return (
            f"images come on {self.image_topic}, but nothing on {self.info_topic}: publish or remap it, or set "
            "camera.hfov_deg"
        )

    def find_latched_info(self) -> None:
        """Subscribe to a camera_info that was published once, before this node was there, and is kept for others.

        Only where there is a publisher that keeps it: every other one would warn that it cannot serve such a
        subscription. To be called now and then while `lacks_calibration`.
        """
        offered = [end.qos_profile for end in self._node.get_publishers_info_by_topic(self.info_topic)]
        if self._latched is None and any(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered):
            qos = QoSProfile(
                depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
            )
            with self._opening:
                if self._closed:  # by a transition's thread
                    return
                latched = self._node.create_subscription(CameraInfo, self.info_topic, self._on_info, qos)
                self._destroy.append(lambda: self._node.destroy_subscription(latched))
                self._latched = latched

    def close(self) -> None:
        """Unsubscribe."""
        with self._opening:
            self._closed = True
        for destroy in self._destroy:
            destroy()

    def take(self) -> Image | CompressedImage | None:
        """The newest image, marked as taken; None before the first."""
        with self._wake:
            self._taken = True
            return self._newest

    def peek(self) -> Image | CompressedImage | None:
        """The newest image, taken or not; None before the first."""
        return self._newest

    def frame(self, message: Image | CompressedImage) -> Frame:
        """Decode and rectify. Raises ImageError or CalibrationError."""
        rectify = self._rectify(message, size(message))  # what does not fit the calibration is not decoded
        stamp, frame_id = nanoseconds(message.header), self.frame_id(message)
        return Frame(self.name, stamp, frame_id, rectify(rgb(message)), rectify.camera, rectify.valid)

    def frame_id(self, message: Image | CompressedImage) -> str:
        """The frame of an image; where it names none, that of the camera_info."""
        return frames.bare(message.header.frame_id) or self._info_frame

    @property
    def _info_frame(self) -> str:
        return frames.bare(self._info.header.frame_id) if self._info is not None else ""

    def _rectify(self, message: Image | CompressedImage, of: tuple[int, int]) -> Rectifier:
        calibrated = self._calibration(message, of)
        if self._rectifier is None or self._rectifier[:2] != (calibrated, of):
            try:
                rectifier = Rectifier(calibrated, of, self._settings.input_rectified)
            except CalibrationError as error:
                raise CalibrationError(f"{self.info_topic}: {error}") from error
            self._rectifier = calibrated, of, rectifier
        return self._rectifier[2]

    def _calibration(self, message: Image | CompressedImage, of: tuple[int, int]) -> Calibration:
        if self._settings.hfov_deg > 0.0:
            return Calibration.from_fov(*of, self._settings.hfov_deg)
        info = self._info
        if info is None:
            raise CalibrationError(self.without_calibration)
        if not self._settings.ignore_info_frame and not frames.same(info.header.frame_id, message.header.frame_id):
            raise CalibrationError(
                f"{self.image_topic} is in frame {message.header.frame_id!r}, but {self.info_topic} is for frame "
                f"{info.header.frame_id!r}: the two belong to different cameras; remap one of them, or set "
                "camera.ignore_info_frame if they are of one camera all the same"
            )
        return calibration(info)

    def _on_image(self, message: Image | CompressedImage) -> None:
        with self._wake:
            self.received += 1
            self.dropped += not self._taken
            self.last_arrival = time.monotonic()
            self._newest, self._taken = message, False
            self._wake.notify()

    def _on_info(self, message: CameraInfo) -> None:
        with self._wake:
            self._info = message
            self._wake.notify()


def _compressed_topic(node: Node, image: str) -> str:
    """Where compressed images of a topic come, as image_transport has it: below what the topic is remapped to.

    A remapping of the compressed topic itself goes before.
    """
    own = f"{image}/compressed"
    remapped = node.resolve_topic_name(own)
    if remapped != node.resolve_topic_name(own, only_expand=True):
        return remapped
    return f"{node.resolve_topic_name(image)}/compressed"
