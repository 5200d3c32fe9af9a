"""Who listens in the demo: messages on many topics, put together to what was said about one image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import Detection3DArray

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.ros import messages
from vlm3_ros.ros.diagnostics import ERROR
from vlm3_ros.ros.images import rgb

ALWAYS = {  # what comes with every perceived image
    "image": Image,
    "camera_info": CameraInfo,
    "depth/image": Image,
    "points": PointCloud2,
    "truth/depth/image": Image,
    "truth/objects": Detection3DArray,
    "truth/camera_pose": PoseWithCovarianceStamped,
}
SOMETIMES = {  # what a model may refuse to answer
    "objects": Detection3DArray,
    "camera_pose": PoseWithCovarianceStamped,
}


@dataclass(frozen=True, eq=False)
class Moment:
    """All that was said about one image."""

    image: np.ndarray  # uint8 [h, w, 3] RGB
    camera: Camera
    depth: np.ndarray  # [h, w] metres, NaN unknown
    true_depth: np.ndarray
    points: np.ndarray  # [N, 3] camera axes
    colours: np.ndarray  # uint8 [N, 3]
    boxes: list[Box3D] | None  # None: the model gave no list
    true_boxes: list[Box3D]
    T_odom_camera: np.ndarray | None  # None: the model's answers about the motion were refused
    T_world_camera: np.ndarray


class Witness(Node):
    """Listens to all topics. ``fault`` is why the node called "vlm3" is not configured, if it is not.

    A moment is whole when all has come that may come, or when the node has gone on to a later image: then what is
    missing of this one was refused.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """``labels`` of the true boxes that count."""
        super().__init__("demo")
        self.moments: list[Moment] = []
        self.fault = ""
        self._labels = labels
        self._heard: dict[int, dict[str, Any]] = defaultdict(dict)
        for topic, kind in {**ALWAYS, **SOMETIMES}.items():
            self.create_subscription(kind, topic, self._listener(topic), 50)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            stamp = messages.nanoseconds(message.header)
            if topic == "depth/image":
                self._leave_behind(stamp)
            self._heard[stamp][topic] = message
            if self._heard[stamp].keys() == {*ALWAYS, *SOMETIMES}:
                self._close(stamp)

        return hear

    def _leave_behind(self, stamp: int) -> None:
        """Images are perceived in order, so nothing more comes about earlier ones; most were never looked at."""
        for earlier in sorted(s for s in self._heard if s < stamp):
            if self._heard[earlier].keys() >= ALWAYS.keys():
                self._close(earlier)
            else:
                del self._heard[earlier]

    def _close(self, stamp: int) -> None:
        self.moments.append(_moment(self._heard.pop(stamp), self._labels))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/vlm3":
                self.fault = status.message if status.level == ERROR else ""


def _moment(heard: dict[str, Any], labels: Sequence[str]) -> Moment:
    info = heard["camera_info"]
    points = messages.cloud_array(heard["points"])
    packed = points["rgb"].view(np.uint32)
    objects, pose = heard.get("objects"), heard.get("camera_pose")
    return Moment(
        image=rgb(heard["image"]),
        camera=Camera(info.width, info.height, info.k[0], info.k[4], info.k[2], info.k[5]),
        depth=messages.float_array(heard["depth/image"]),
        true_depth=messages.float_array(heard["truth/depth/image"]),
        points=np.stack([points["x"], points["y"], points["z"]], axis=-1),
        colours=np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8),
        boxes=None if objects is None else messages.boxes(objects),
        true_boxes=[box for box in messages.boxes(heard["truth/objects"]) if box.label in labels],
        T_odom_camera=None if pose is None else messages.pose_matrix(pose.pose.pose),
        T_world_camera=messages.pose_matrix(heard["truth/camera_pose"].pose.pose),
    )
