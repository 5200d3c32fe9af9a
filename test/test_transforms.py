"""TF: where odometry is expressed, what is broadcast, and when nothing may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from live import SECOND, Live, header, image, info, live, picture, unique_namespace
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from vlm3_ros.camera import Camera
from vlm3_ros.config import PoseConfig
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.perception import Frame
from vlm3_ros.ros import messages
from vlm3_ros.ros.diagnostics import NodeRecord
from vlm3_ros.ros.transforms import BODY_OPTICAL, MountError, Transforms

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
POSE = {"node.tasks": ["depth", "pose"]}
SMALL = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)


def edge(parent: str, child: str, T: np.ndarray | None = None, stamp: int = 0) -> TransformStamped:
    """A transform as some other node would broadcast it."""
    return messages.transform(header(stamp, parent), child, np.eye(4) if T is None else T)


def moved(x: float, y: float, z: float, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    T[:3, 3] = x, y, z
    return T


class Robot:
    """A node with a camera that drives, and what comes of it. Frame names are of this test alone: /tf is shared."""

    def __init__(self, running: Live):
        self.running, self.peer = running, running.peer
        self.namespace = running.namespace.strip("/")
        self.tf = self.peer.listen(TFMessage, "/tf", 200)
        self.poses = self.peer.listen(PoseWithCovarianceStamped, "camera_pose")
        self.depth = self.peer.listen(Image, "depth/image")
        self._images = self.peer.connected(Image, "image")
        self._infos = self.peer.connected(CameraInfo, "camera_info")

    def named(self, frame: str) -> str:
        return f"{self.namespace}_{frame}"

    def drive(self, ahead_m: float) -> int:
        """One frame from that far ahead of the start; returns its stamp once its depth has come."""
        number, optical = self.peer.next_stamp(), self.named("optical")
        pixels = picture(ahead=round(ahead_m * 50))
        known = len(self.depth)

        def send() -> None:
            self._infos.publish(info(frame_id=optical))
            self._images.publish(image(number, pixels, frame_id=optical))

        self.peer.until_sent(send, lambda: len(self.depth) > known, "depth image")
        return number

    def broadcast(self, child: str) -> list[TransformStamped]:
        """What has been said about where a frame is."""
        found = [t for message in self.tf for t in message.transforms]
        return [t for t in found if t.child_frame_id == self.named(child)]

    def until_broadcast(self, child: str, ahead_m: float) -> TransformStamped:
        """Drive there and wait for the frame's transform; the node may still have to hear of its mount."""
        sent: list[int] = []

        def found() -> TransformStamped | None:
            return next((t for t in self.broadcast(child) if messages.nanoseconds(t.header) in sent), None)

        return self.peer.until_sent(lambda: sent.append(self.drive(ahead_m)), found, f"a transform to {child}")

    def other(self, topic: str, *transforms: TransformStamped) -> None:
        """Somebody else broadcasts."""
        qos = LATCHED if topic == "/tf_static" else QoSProfile(depth=100)
        publisher = self.peer.connected(TFMessage, topic, qos=qos)
        publisher.publish(TFMessage(transforms=list(transforms)))

    def until_noticed(self, child: str) -> None:
        """Until the node knows that somebody else broadcasts where a frame is."""
        known = self.running.node._perceiver._transforms.moved_by_another
        self.peer.until(lambda: known("vlm_odom", self.named(child)), "notice of the other's transform")

    def pose_at(self, transform: TransformStamped) -> np.ndarray:
        """The pose T [4, 4] published with a transform."""
        stamp = transform.header.stamp
        found = self.peer.until(lambda: [p for p in self.poses if p.header.stamp == stamp], "the pose")
        return messages.pose_matrix(found[0].pose.pose)


@pytest.fixture
def robot() -> Iterator[Robot]:
    """A robot that is a camera."""
    with live(POSE) as running:
        yield Robot(running)


@pytest.fixture
def mounted() -> Iterator[Robot]:
    """A robot with a base frame."""
    namespace = unique_namespace()
    with live({**POSE, "pose.base_frame": f"{namespace.strip('/')}_base"}, namespace=namespace) as running:
        yield Robot(running)


# ------------------------------------------------------------------------------- without a robot: the camera


def test_camera_frame_moves_in_odom(robot):
    robot.drive(0.0)
    transform = robot.until_broadcast("optical", 1.0)
    assert transform.header.frame_id == "vlm_odom"
    T = messages.matrix(transform)
    np.testing.assert_allclose(T[:3, 3], [1.0, 0.0, 0.0], atol=0.02)  # ahead is odom's x, as REP 103 has it
    np.testing.assert_allclose(T[:3, :3], BODY_OPTICAL[:3, :3], atol=1e-6)
    np.testing.assert_allclose(robot.pose_at(transform), T, atol=1e-9)


def test_nothing_is_broadcast_when_switched_off():
    with live({**POSE, "pose.publish_tf": False}) as running:
        robot = Robot(running)
        for ahead in (0.0, 0.2):
            robot.drive(ahead)
        robot.peer.until(lambda: len(robot.poses) == 2, "both poses")
        assert robot.broadcast("optical") == []


def test_images_without_a_frame():
    with live(POSE) as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

        def send() -> None:
            infos.publish(info(frame_id=""))
            images.publish(image(peer.next_stamp(), frame_id=""))

        peer.until_sent(send, lambda: depth, "depth image")
        peer.logged("no frame_id", "/tf")


# ------------------------------------------------------------------------------------------------- conflicts


@pytest.mark.parametrize(("topic", "parent"), [("/tf", "map"), ("/tf", "odom")])
def test_frame_that_somebody_else_moves_is_left_to_them(robot, topic, parent):
    robot.other(topic, edge(parent, robot.named("optical")))
    robot.until_noticed("optical")
    robot.drive(0.0)
    texts = (f"'{robot.named('optical')}' already has the parent '{parent}'", "not broadcast", "pose.publish_tf")
    robot.peer.logged(*texts)
    robot.peer.diagnosed(*texts, level=DiagnosticStatus.WARN)
    robot.drive(0.2)
    robot.peer.until(lambda: len(robot.poses) == 2, "poses all the same")
    assert all(t.header.stamp.sec == 0 for t in robot.broadcast("optical"))  # the other's alone
    assert robot.peer.count("failed") == 0


def test_broadcaster_of_the_same_transform_that_starts_later(robot):
    """Another source of vlm_odom → camera: the hardest to tell from our own broadcasts coming back."""
    own = [robot.until_broadcast("optical", ahead) for ahead in (0.0, 0.2)]
    other = edge("vlm_odom", robot.named("optical"), moved(1, 2, 3), messages.nanoseconds(own[0].header))
    robot.other("/tf", other)
    robot.until_noticed("optical")
    for ahead in (0.4, 0.6):
        robot.drive(ahead)
    robot.peer.logged("already has the parent 'vlm_odom'")
    robot.peer.until(lambda: len(robot.poses) >= 4, "poses all the same")
    assert robot.broadcast("optical")[-1] == other


def test_another_who_falls_silent_is_forgotten(robot, monkeypatch):
    """One stray message does not turn the node's TF off for good; before that no pose is asked in vain."""
    monkeypatch.setattr("vlm3_ros.ros.transforms.SILENT_S", 2.0)
    peer, perceiver = robot.peer, robot.running.node._perceiver
    peer.unlisten("camera_pose")
    peer.until(lambda: not perceiver.outputs[""].subscribed("camera_pose"), "the end of listening")
    robot.other("/tf", edge("map", robot.named("optical")))
    robot.until_noticed("optical")
    robot.running.wall.questions.clear()
    for ahead in (0.0, 0.2):
        robot.drive(ahead)
    peer.logged("already has the parent 'map'")
    assert not [text for text in robot.running.wall.questions if "how far" not in text]
    moved_by_another = perceiver._transforms.moved_by_another
    peer.until(lambda: not moved_by_another("vlm_odom", robot.named("optical")), "end of the other")
    assert robot.until_broadcast("optical", 0.4).header.frame_id == "vlm_odom"
    peer.logged("'map'", "silent on /tf", "taken to have ended")
    peer.until(lambda: peer.count("parents forgotten", about="") == 1, "the count")
    assert sum("already has the parent" in line for line in peer.log()) == 1


def test_one_node_takes_over_from_another(robot, monkeypatch):
    monkeypatch.setattr("vlm3_ros.ros.transforms.SILENT_S", 2.0)
    with live(POSE) as second:
        heir = Robot(second)
        heir.named = robot.named  # they see the same camera
        second.peer.skip_stamps()  # and are told apart
        robot.until_broadcast("optical", 0.0)
        heir.until_noticed("optical")
        for ahead in (0.0, 0.2):
            robot.drive(ahead)
            heir.drive(ahead)
        second.peer.logged("already has the parent 'vlm_odom'")
        deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
        assert robot.peer.call(ChangeState, "change_state", transition=deactivate).success
        assert heir.until_broadcast("optical", 0.4).header.frame_id == "vlm_odom"
        second.peer.logged("silent on /tf")


def test_two_cameras_cannot_both_move_the_robot():
    base = f"{unique_namespace().strip('/')}_base"
    with live({**POSE, "node.cameras": ["left", "right"], "pose.base_frame": base}) as running:
        peer = running.peer
        tf = peer.listen(TFMessage, "/tf", 200)
        static = peer.connected(TFMessage, "/tf_static", qos=LATCHED)
        static.publish(TFMessage(transforms=[edge(base, f"{base}_{side}") for side in ("left", "right")]))
        images = {side: peer.connected(Image, f"{side}/image") for side in ("left", "right")}
        infos = {side: peer.connected(CameraInfo, f"{side}/camera_info") for side in ("left", "right")}
        poses = {side: peer.listen(PoseWithCovarianceStamped, f"{side}/camera_pose") for side in images}

        def send(side: str) -> None:
            infos[side].publish(info(frame_id=f"{base}_{side}"))
            images[side].publish(image(peer.next_stamp(), frame_id=f"{base}_{side}"))

        for side in ("left", "right"):
            peer.until_sent(lambda side=side: send(side), lambda side=side: poses[side], f"a pose of {side}")
        peer.logged(f"'{base}' already has the parent 'left_vlm_odom'", "'right_vlm_odom'")
        assert {t.header.frame_id for m in tf for t in m.transforms if t.child_frame_id == base} == {"left_vlm_odom"}


# ------------------------------------------------------------------------------------------------ on a robot


def test_robot_moves_as_its_camera_does(mounted):
    """The camera sits 0.3 m ahead and 0.5 m up, behind two joints, and looks to the left."""
    M = moved(0.1, 0.0, 0.5) @ moved(0.2, 0.0, 0.0, yaw_deg=90) @ BODY_OPTICAL
    mounted.other(
        "/tf_static",
        edge(mounted.named("base"), mounted.named("link"), moved(0.1, 0.0, 0.5)),
        edge(mounted.named("link"), mounted.named("optical"), moved(0.2, 0.0, 0.0, yaw_deg=90) @ BODY_OPTICAL),
        edge(mounted.named("base"), mounted.named("wheel"), moved(9, 9, 9)),
    )
    first = mounted.until_broadcast("base", 0.0)
    assert first.header.frame_id == "vlm_odom"
    np.testing.assert_allclose(messages.matrix(first), np.eye(4), atol=1e-6)  # odom is where the robot started
    np.testing.assert_allclose(mounted.pose_at(first), M, atol=1e-6)
    second = mounted.until_broadcast("base", 1.0)
    np.testing.assert_allclose(messages.matrix(second), moved(0.0, 1.0, 0.0), atol=0.02)
    assert mounted.broadcast("optical") == []


def test_base_of_a_driver_moves_with_its_camera(robot):
    """Without a base_frame, what the camera is fixed to in /tf_static is moved, by its root."""
    robot.other(
        "/tf_static",
        edge(robot.named("bottom_screw"), robot.named("link"), moved(0.0, 0.02, 0.01)),
        edge(robot.named("link"), robot.named("optical"), moved(0.0, 0.0, 0.0) @ BODY_OPTICAL),
    )
    robot.until_broadcast("bottom_screw", 0.0)
    last = robot.until_broadcast("bottom_screw", 1.0)
    assert last.header.frame_id == "vlm_odom"
    np.testing.assert_allclose(messages.matrix(last)[:3, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(robot.pose_at(last)[:3, :3], BODY_OPTICAL[:3, :3], atol=1e-6)
    robot.peer.logged("broadcasting 'vlm_odom'", robot.named("bottom_screw"), "mounted")
    assert robot.peer.count("failed") == 0


def test_mount_that_is_missing_is_said_and_may_come_later(mounted):
    mounted.drive(0.0)
    texts = ("/tf_static does not connect", mounted.named("base"), mounted.named("optical"), "robot_state_publisher")
    mounted.peer.logged(*texts)
    mounted.peer.diagnosed(*texts, level=DiagnosticStatus.WARN)
    assert mounted.poses == []
    mounted.other("/tf_static", edge(mounted.named("base"), mounted.named("optical"), moved(0.1, 0, 0)))
    mounted.until_broadcast("base", 0.1)
    mounted.peer.until(lambda: mounted.peer.count("frames perceived") >= 2, "both frames counted")


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0)])
def test_static_transform_that_is_none(mounted, quaternion):
    broken = edge(mounted.named("base"), mounted.named("optical"))
    rotation = broken.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = quaternion
    good = edge(mounted.named("base"), mounted.named("wheel"))
    mounted.other("/tf_static", broken, good)
    mounted.peer.logged("/tf_static", f"'{mounted.named('optical')}' is left out")
    mounted.drive(0.0)
    mounted.peer.logged("/tf_static does not connect")
    mounted.other("/tf_static", edge(mounted.named("base"), mounted.named("optical")))
    mounted.until_broadcast("base", 0.1)


# --------------------------------------------------------------------------------------- the tree, by itself


@pytest.fixture(scope="module")
def node() -> Iterator[Any]:
    with live(activate=False) as running:
        yield running.node


@pytest.fixture
def transforms(node) -> Iterator[Transforms]:
    transforms = Transforms(node, NodeRecord())
    yield transforms
    transforms.close()


def know(transforms: Transforms, *edges: TransformStamped) -> None:
    transforms._on_static(TFMessage(transforms=list(edges)))


def test_mount_over_a_common_ancestor(transforms):
    know(transforms, edge("body", "base", moved(0, 0, -1)), edge("body", "mast", moved(0.5, 0, 0)))
    know(transforms, edge("mast", "camera", moved(0, 0, 1, yaw_deg=90)))
    np.testing.assert_allclose(transforms.mount("base", "camera"), moved(0.5, 0, 2, yaw_deg=90), atol=1e-12)
    np.testing.assert_allclose(
        transforms.mount("camera", "base"), np.linalg.inv(moved(0.5, 0, 2, yaw_deg=90)), atol=1e-12
    )
    np.testing.assert_allclose(transforms.mount("base", "base"), np.eye(4))


@pytest.mark.parametrize("of_tf", ["", "/"])
@pytest.mark.parametrize("of_image", ["", "/"])
def test_names_with_a_slash_in_front(transforms, of_tf, of_image):
    know(transforms, edge(f"{of_tf}base", f"{of_tf}camera", moved(1, 2, 3)))
    np.testing.assert_allclose(transforms.mount("base", f"{of_image}camera"), moved(1, 2, 3))


@pytest.mark.parametrize(("base", "child"), [("", "slashed_camera"), ("/slashed_base", "slashed_base")])
def test_what_is_broadcast_has_no_slash_in_front(transforms, base, child):
    know(transforms, edge("slashed_base", "slashed_mount", moved(1, 2, 3)))
    frame = Frame("", SECOND, "/slashed_mount" if base else "/slashed_camera", picture(), SMALL)
    settings = PoseConfig(base_frame=base)
    assert transforms.broadcast(Pose(np.eye(4), np.zeros((6, 6))), frame, "odom", settings) is None
    assert {child: parent.name for child, parent in transforms._own.items()} == {child: "odom"}
    transforms._on_dynamic(TFMessage(transforms=[edge("slashed_mast", f"/{child}")]))
    said = transforms.broadcast(Pose(np.eye(4), np.zeros((6, 6))), frame, "odom", settings)
    assert f"'{child}' already has the parent 'slashed_mast'" in said


def test_loop_in_the_tree(transforms):
    know(transforms, edge("a", "b"), edge("b", "c"), edge("c", "a"))
    with pytest.raises(MountError, match="'base'"):
        transforms.mount("base", "a")


def test_corrected_mount_replaces_the_old_one(transforms):
    know(transforms, edge("base", "camera", moved(1, 0, 0)))
    know(transforms, edge("base", "camera", moved(2, 0, 0)))
    np.testing.assert_allclose(transforms.mount("base", "camera"), moved(2, 0, 0))


def test_covariance_turns_with_the_axes(transforms):
    """Uncertain along the camera's view is uncertain along odom's x; about the view's axis, about odom's x."""
    covariance = np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    pose = transforms.in_odom(Pose(np.eye(4), covariance), "optical", PoseConfig())
    np.testing.assert_allclose(np.diag(pose.covariance), [3.0, 1.0, 2.0, 6.0, 4.0, 5.0])
    np.testing.assert_allclose(pose.T, BODY_OPTICAL)
