"""The topics on which the scenes of one camera are published."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from vlm3_ros.config import CloudConfig
from vlm3_ros.packing import TOPICS
from vlm3_ros.perception import Scene
from vlm3_ros.ros import messages
from vlm3_ros.ros.parameters import OVERRIDABLE


class Outputs:
    """Publishes what somebody subscribed to of the outputs of ``tasks``, stamped as the image it was perceived in.

    Reliable by default, which fits reliable and best-effort subscribers alike.
    """

    def __init__(self, node: Node, camera_name: str, tasks: Collection[str]):
        self._node = node
        prefix = f"{camera_name}/" if camera_name else ""
        self._publishers: dict[str, Publisher] = {
            name: node.create_publisher(
                messages.message_class(topic.type),
                prefix + name,
                QoSProfile(depth=5),
                qos_overriding_options=OVERRIDABLE,
            )
            for name, topic in TOPICS.items()
            if topic.task in tasks
        }

    def close(self) -> None:
        """Unadvertise."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)

    def subscribed(self, name: str) -> bool:
        """Whether somebody listens to an output that there is."""
        publisher = self._publishers.get(name)
        return publisher is not None and publisher.get_subscription_count() > 0

    def tasks(self) -> set[str]:
        """The tasks whose outputs somebody listens to."""
        return {topic.task for name, topic in TOPICS.items() if self.subscribed(name)}

    def publish(self, scene: Scene, settings: CloudConfig) -> None:
        """Everything perceived but the pose, in the optical frame of the image."""
        for name, message in messages.packer.scene(scene, settings, self.subscribed):
            self._send(name, message)

    def publish_pose(self, message: Any) -> None:
        """The pose of the camera in the odometry frame."""
        self._send("camera_pose", message)

    def _send(self, name: str, message: Any) -> None:
        self._publishers[name].publish(message)
