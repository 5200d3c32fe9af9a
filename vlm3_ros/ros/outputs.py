"""The topics on which the scenes of one camera are published."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from vlm3_ros.config import CloudConfig
from vlm3_ros.geometry import cloud
from vlm3_ros.msg import PixelMatches
from vlm3_ros.perception import DepthView, Scene
from vlm3_ros.ros import messages
from vlm3_ros.ros.parameters import OVERRIDABLE

TOPICS: dict[str, tuple[type, str]] = {  # relative name: type, and the task it comes from
    "depth/image": (Image, "depth"),
    "depth/camera_info": (CameraInfo, "depth"),
    "depth/confidence": (Image, "depth"),
    "depth/samples": (PointCloud2, "depth"),
    "points": (PointCloud2, "depth"),
    "camera_pose": (PoseWithCovarianceStamped, "pose"),
    "matches": (PixelMatches, "matches"),
    "objects": (Detection3DArray, "objects"),
    "objects/markers": (MarkerArray, "objects"),
}


class Outputs:
    """Publishes what somebody subscribed to, stamped as the image it was perceived in.

    Reliable by default, which fits reliable and best-effort subscribers alike.
    """

    def __init__(self, node: Node, camera_name: str):
        self._node = node
        prefix = f"{camera_name}/" if camera_name else ""
        self._publishers: dict[str, Publisher] = {
            name: node.create_publisher(
                kind,
                prefix + name,
                QoSProfile(depth=5),
                qos_overriding_options=OVERRIDABLE,
            )
            for name, (kind, _) in TOPICS.items()
        }

    def close(self) -> None:
        """Unadvertise."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)

    def subscribed(self, name: str) -> bool:
        """Whether somebody listens to an output."""
        return self._publishers[name].get_subscription_count() > 0

    def tasks(self) -> set[str]:
        """The tasks whose outputs somebody listens to."""
        return {task for name, (_, task) in TOPICS.items() if self.subscribed(name)}

    def publish(self, scene: Scene, settings: CloudConfig) -> None:
        """Everything perceived but the pose, in the optical frame of the image."""
        head = messages.header(scene.frame)
        if scene.depth is not None:
            self._publish_depth(head, scene.depth, scene, settings)
        if scene.matches is not None and self.subscribed("matches"):
            self._send("matches", messages.matches(head, scene.matches))
        if scene.objects is not None:
            if self.subscribed("objects"):
                self._send("objects", messages.detections(head, scene.objects))
            if self.subscribed("objects/markers"):
                self._send("objects/markers", messages.markers(head, scene.objects))

    def publish_pose(self, message: PoseWithCovarianceStamped) -> None:
        """The pose of the camera in the odometry frame."""
        self._send("camera_pose", message)

    def _publish_depth(self, head: Header, view: DepthView, scene: Scene, settings: CloudConfig) -> None:
        if self.subscribed("depth/image"):
            self._send("depth/image", messages.float_image(head, view.map.depth))
        if self.subscribed("depth/camera_info"):
            self._send("depth/camera_info", messages.camera_info(head, view.camera))
        if self.subscribed("depth/confidence"):
            self._send("depth/confidence", messages.float_image(head, view.map.confidence))
        if self.subscribed("depth/samples"):
            self._send(
                "depth/samples", messages.cloud(head, messages.sample_points(view.samples, scene.frame.camera))
            )
        if self.subscribed("points"):
            keep = view.map.confidence >= settings.min_confidence if settings.min_confidence > 0.0 else None
            points = cloud.coloured(
                view.map.depth, view.image, view.camera, settings.stride, settings.min_m, settings.max_m, keep
            )
            self._send("points", messages.cloud(head, points))

    def _send(self, name: str, message: Any) -> None:
        self._publishers[name].publish(message)
