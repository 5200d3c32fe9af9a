"""Where the camera sits on the robot, and the transform that moves the robot (REP 105)."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

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
from vlm3_ros.ros.diagnostics import NodeRecord
from vlm3_ros.ros.parameters import OVERRIDABLE

SILENT_S = 10.0  # listeners of tf2 keep transforms that long; whoever sends none for longer is not there any more
LONGEST_SILENT_S = 60.0  # for one who is slower: three of his intervals, but no longer than this


class MountError(LookupError):
    """It is not known how the camera is fixed to the robot; the message says what is missing."""


@dataclass
class _Parent:
    """Who moves a frame in /tf, as heard lately. Times are those of the node's clock, in seconds."""

    name: str
    heard: float
    gap: float = 0.0  # between the last two messages

    def again(self, name: str, now: float) -> _Parent:
        """The same after one more message."""
        return _Parent(name, now, max(0.0, now - self.heard) if name == self.name else 0.0)

    def silent_s(self, now: float) -> float:
        """Since when nothing was heard, if that is long enough to mean the end; else 0.

        Nothing can be told from what was heard before a simulated clock began, at 0. If time jumped back since, it
        counts as heard now.
        """
        self.heard = now if self.heard <= 0.0 else min(self.heard, now)
        silent = now - self.heard
        return silent if silent > min(max(SILENT_S, 3.0 * self.gap), LONGEST_SILENT_S) else 0.0


class Transforms:
    """Broadcasts odom → robot, and knows the static transforms that this takes.

    The robot is pose.base_frame; without one, what the camera hangs on in /tf_static, up to its root (a driver's own
    base), or else the camera's frame. A frame can have one parent only. Before it broadcasts, this class therefore
    looks whether anyone else moves the same frame, and then leaves that to them until they fall silent.
    """

    def __init__(self, node: Node, record: NodeRecord):
        self._node = node
        self._record = record
        self._static: dict[str, tuple[str, np.ndarray]] = {}  # child: (parent, T_parent_child)
        self._lock = threading.Lock()  # of the two below
        self._others: dict[str, _Parent] = {}  # by child, as somebody else broadcasts it
        self._own: dict[str, _Parent] = {}  # by child, as broadcast here
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
        own = self._parent(self._own, child)
        return own if own not in (None, odom) else self._parent(self._others, child)

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

    def moved(self, camera: str, settings: PoseConfig) -> str:
        """The frame that moves in odom when the camera does."""
        return frames.bare(settings.base_frame) or list(frames.ancestors(frames.bare(camera), self._static.get))[-1]

    def in_odom(self, pose: Pose, camera: str, settings: PoseConfig) -> Pose:
        """A pose of the frame ``camera`` relative to the first one as a pose in the odom frame, in which z is up.

        odom is where the frame that moves started; for the camera itself, where a level robot looking along the
        first image stands. Raises MountError.
        """
        moved = self.moved(camera, settings)
        is_camera = not settings.base_frame and moved == frames.bare(camera)
        return frames.in_odom(pose, BODY_OPTICAL if is_camera else self.mount(moved, camera))

    def obstacle(self, camera: str, odom: str, settings: PoseConfig) -> str | None:
        """Why nothing may be broadcast for the frame ``camera``; None where it may."""
        child = self.moved(camera, settings)
        if not child:
            return "the images carry no frame_id, so nothing is broadcast on /tf: set it in the camera's driver"
        if (parent := self.moved_by_another(odom, child)) is not None:
            return (
                f"{child!r} already has the parent {parent!r} in /tf, so {odom!r} → {child!r} is not broadcast: set "
                "pose.publish_tf to false, or pose.base_frame to the root frame of the robot"
            )
        return None

    def broadcast(self, pose: Pose, frame: Frame, odom: str, settings: PoseConfig) -> str | None:
        """Send odom → what moves, from the camera's pose in odom; returns why not, if it must not."""
        if (obstacle := self.obstacle(frame.frame_id, odom, settings)) is not None:
            return obstacle
        child = self.moved(frame.frame_id, settings)
        T = pose.T @ np.linalg.inv(self.mount(child, frame.frame_id))
        transform = messages.transform(messages.header(frame, odom), child, T)
        with self._lock:
            is_first = child not in self._own
            self._own[child] = self._own.get(child, _Parent(odom, self._now())).again(odom, self._now())
            self._sent.append(_identity(transform))
        if is_first:
            below = "" if child == frame.frame_id else f", on which the camera {frame.frame_id!r} is mounted"
            self._node.get_logger().info(f"broadcasting {odom!r} → {child!r}{below}")
        self._publisher.publish(TFMessage(transforms=[transform]))
        return None

    def _parent(self, parents: dict[str, _Parent], child: str) -> str | None:
        """Whom a frame belongs to; one that fell silent is forgotten, and said and counted if it was another's."""
        with self._lock:
            parent = parents.get(child)
            if parent is None or not (silent := parent.silent_s(self._now())):
                return None if parent is None else parent.name
            del parents[child]
        if parents is self._others:
            self._record.count("forgotten")
            self._node.get_logger().warning(
                f"{parent.name!r} → {child!r} has been silent on /tf for {silent:.0f} s and is taken to have ended"
            )
        return None

    def _now(self) -> float:
        """Seconds of the node's clock: while a bag pauses, nobody falls silent."""
        return self._node.get_clock().now().nanoseconds / 1e9

    def _on_static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            parent, child = _frames(transform)
            try:
                self._static[child] = parent, messages.matrix(transform)
            except ValueError as error:  # a quaternion of zeros, NaN
                self._node.get_logger().warning(f"/tf_static: {parent!r} → {child!r} is left out: {error}")

    def _on_dynamic(self, message: TFMessage) -> None:
        now = self._now()
        with self._lock:
            for transform in message.transforms:
                parent, child = _frames(transform)
                if child not in self._own or _identity(transform) not in self._sent:
                    known = self._others.get(child, _Parent(parent, now))
                    self._others[child] = known.again(parent, now)


def _frames(transform: TransformStamped) -> tuple[str, str]:
    """Names of parent and child."""
    return frames.bare(transform.header.frame_id), frames.bare(transform.child_frame_id)


def _identity(transform: TransformStamped) -> tuple[object, ...]:
    """What tells a transform from any that somebody else broadcasts."""
    stamp, t = transform.header.stamp, transform.transform.translation
    return (*_frames(transform), stamp.sec, stamp.nanosec, t.x, t.y, t.z)
