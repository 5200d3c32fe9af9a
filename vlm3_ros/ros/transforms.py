"""Where the camera sits on the robot, and the transform that moves the robot (REP 105)."""

from __future__ import annotations

from collections import deque

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from vlm3_ros.config import PoseConfig
from vlm3_ros.geometry import frames
from vlm3_ros.geometry.frames import BODY_OPTICAL
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.perception import Frame
from vlm3_ros.ros import messages
from vlm3_ros.ros.parameters import OVERRIDABLE


class MountError(LookupError):
    """It is not known how the camera is fixed to the robot; the message says what is missing."""


class Transforms:
    """Broadcasts odom → robot, and knows the static transforms that this takes.

    A frame can have one parent only. Before it broadcasts, this class therefore looks whether anyone else moves the
    same frame, and then leaves that to them.
    """

    def __init__(self, node: Node):
        self._node = node
        self._static: dict[str, tuple[str, np.ndarray]] = {}  # child: (parent, T_parent_child)
        self._others: dict[str, str] = {}  # child: parent, as somebody else broadcasts it
        self._own: dict[str, str] = {}  # child: parent, as broadcast here
        self._sent: deque[tuple[object, ...]] = deque(maxlen=256)  # what was broadcast here and will come back
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(
                TFMessage, "/tf_static", self._on_static, static, qos_overriding_options=OVERRIDABLE
            ),
            node.create_subscription(
                TFMessage, "/tf", self._on_dynamic, QoSProfile(depth=100), qos_overriding_options=OVERRIDABLE
            ),
        ]
        self._publisher = node.create_publisher(
            TFMessage, "/tf", QoSProfile(depth=100), qos_overriding_options=OVERRIDABLE
        )

    def close(self) -> None:
        """Unsubscribe and unadvertise."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._publisher)

    def moved_by_another(self, odom: str, child: str) -> str | None:
        """The parent ``child`` already has other than through our broadcasts from ``odom``, if any."""
        if child in self._static:
            return self._static[child][0]
        own = self._own.get(child, odom)
        return own if own != odom else self._others.get(child)

    def mount(self, base: str, camera: str) -> np.ndarray:
        """T_base_camera [4, 4] from /tf_static. Raises MountError if the two are not connected there."""
        base, camera = frames.bare(base), frames.bare(camera)
        T = frames.relative(base, camera, self._static.get)
        if T is not None:
            return T
        raise MountError(
            f"/tf_static does not connect {base!r} (pose.base_frame) with the camera's frame {camera!r}: start "
            "robot_state_publisher or a static_transform_publisher, or leave pose.base_frame empty"
        )

    def in_odom(self, pose: Pose, frame: Frame, settings: PoseConfig) -> Pose:
        """A pose relative to the first camera as one in the odom frame, in which z is up.

        odom is where base_frame started; without one, where a level robot looking along the first image stands.
        """
        start = self.mount(settings.base_frame, frame.frame_id) if settings.base_frame else BODY_OPTICAL
        return frames.in_odom(pose, start)

    def broadcast(self, pose: Pose, frame: Frame, odom: str, settings: PoseConfig) -> str | None:
        """Send odom → base_frame (or the camera's frame); returns why not, if it must not."""
        child = frames.bare(settings.base_frame or frame.frame_id)
        if not child:
            return "the images carry no frame_id, so nothing is broadcast on /tf: set it in the camera's driver"
        if (parent := self.moved_by_another(odom, child)) is not None:
            return (
                f"{child!r} already has the parent {parent!r} in /tf, so {odom!r} → {child!r} is not broadcast: set "
                "pose.publish_tf to false, or pose.base_frame to the root frame of the robot"
            )
        T = pose.T
        if settings.base_frame:
            T = T @ np.linalg.inv(self.mount(settings.base_frame, frame.frame_id))
        head = messages.header(frame, odom)
        transform = messages.transform(head, child, T)
        self._own[child] = odom
        self._sent.append(_identity(transform))
        self._publisher.publish(TFMessage(transforms=[transform]))
        return None

    def _on_static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            parent, child = _frames(transform)
            try:
                self._static[child] = parent, messages.matrix(transform)
            except ValueError as error:  # a quaternion of zeros, NaN
                self._node.get_logger().warning(f"/tf_static: {parent!r} → {child!r} is left out: {error}")

    def _on_dynamic(self, message: TFMessage) -> None:
        for transform in message.transforms:
            parent, child = _frames(transform)
            if child not in self._own or _identity(transform) not in self._sent:
                self._others[child] = parent


def _frames(transform: TransformStamped) -> tuple[str, str]:
    """Names of parent and child."""
    return frames.bare(transform.header.frame_id), frames.bare(transform.child_frame_id)


def _identity(transform: TransformStamped) -> tuple[object, ...]:
    """What tells a transform from any that somebody else broadcasts."""
    stamp, t = transform.header.stamp, transform.transform.translation
    return (*_frames(transform), stamp.sec, stamp.nanosec, t.x, t.y, t.z)
