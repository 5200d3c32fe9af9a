"""From image topics to output topics: newest frame first, camera by camera, and only what somebody wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from doubles import METRES_PER_LEVEL
from geometry_msgs.msg import PoseWithCovarianceStamped
from live import FRAME, SECOND, Live, compressed, image, info, live, picture, stamp
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vlm3_ros.msg import PixelMatches

from vlm3_ros.geometry.motion import LOST_VARIANCE
from vlm3_ros.tasks import pose


def metres(depth: Image) -> float:
    """The distance of the wall in a depth image."""
    values = np.frombuffer(depth.data, np.float32)
    assert values.max() - values.min() < 0.05
    return float(np.median(values))


class Camera:
    """Sends frames of one camera to a node that listens."""

    def __init__(self, running: Live, name: str = "", frame_id: str = FRAME):
        self._running, self._name, self._frame_id = running, name, frame_id
        self._peer = running.peer
        prefix = f"{name}/" if name else ""
        self._image = running.peer.connected(Image, f"{prefix}image")
        self._info = running.peer.connected(CameraInfo, f"{prefix}camera_info")
        self.sent: list[int] = []
        self._info.publish(info(frame_id=frame_id))

    def send(self, level: int = 100, stamp: int = 0) -> int:
        """Send one frame and wait until the node counts it; returns its stamp."""
        stamp = stamp or self._peer.next_stamp()
        before = self._running.received(self._name)
        self._info.publish(info(frame_id=self._frame_id))
        self._image.publish(image(stamp, picture(level), frame_id=self._frame_id))
        self._peer.until(lambda: self._running.received(self._name) > before, "the image at the node")
        self.sent.append(stamp)
        return stamp


def test_newest_frame_wins():
    with live() as running:
        peer, wall = running.peer, running.wall
        depth = peer.listen(Image, "depth/image")
        camera = Camera(running)
        wall.gate.clear()
        first = camera.send(50)
        peer.until(lambda: wall.in_hand, "the first frame in hand")
        for level in (60, 70):
            camera.send(level)
        newest = camera.send(200)
        wall.gate.set()
        peer.until(lambda: len(depth) == 2, "two depth images")
        assert [stamp(d) for d in depth] == [first, newest]
        assert metres(depth[1]) == pytest.approx(200 * METRES_PER_LEVEL, rel=0.01)
        peer.until(lambda: peer.count("frames perceived") == 2, "two frames counted")
        assert (peer.count("images in"), peer.count("dropped for a newer one")) == (4, 2)


def test_two_cameras_share_a_model_in_turn():
    with live({"node.cameras": ["left", "right"], "node.tasks": ["depth", "pose"]}) as running:
        peer, wall = running.peer, running.wall
        order: list[str] = []
        for name in ("left", "right"):
            peer.listen(PoseWithCovarianceStamped, f"{name}/camera_pose")
            peer.listen(Image, f"{name}/depth/image")
            peer.node.create_subscription(Image, f"{name}/depth/image", lambda _, n=name: order.append(n), 10)
        left, right = Camera(running, "left", "left_optical"), Camera(running, "right", "right_optical")
        wall.gate.clear()
        left.send(50)
        peer.until(lambda: wall.in_hand, "a frame in hand")
        left.send(60)
        right.send(200)
        wall.gate.set()
        peer.until(lambda: len(order) == 3, "three depth images")
        peer.until(lambda: len(peer.heard["left/camera_pose"]) == 2, "both poses of the left camera")
        assert order == ["left", "right", "left"]
        for camera, name, level in ((left, "left", 60), (right, "right", 200)):
            depth, where = peer.heard[f"{name}/depth/image"][-1], peer.heard[f"{name}/camera_pose"][-1]
            assert (stamp(depth), depth.header.frame_id) == (camera.sent[-1], f"{name}_optical")
            assert metres(depth) == pytest.approx(level * METRES_PER_LEVEL, rel=0.01)
            assert where.header.frame_id == f"{name}_vlm_odom"
        model = f"model test:doubles:shared:{running.namespace}"
        peer.until(lambda: peer.count("looks", model) == 4, "a look a frame and one at a pair in the diagnostics")
        assert peer.count("loads", model) == 1


def test_nobody_listens_nobody_asks():
    with live({"pose.publish_tf": False, "node.tasks": ["depth", "pose"]}) as running:
        peer, wall = running.peer, running.wall
        camera = Camera(running)
        for _ in range(2):
            camera.send()
            peer.until(running.taken, "the frame taken")
        assert wall.questions == []
        depth = peer.listen(Image, "depth/image")
        peer.until_sent(camera.send, lambda: depth, "depth image")
        assert wall.questions
        assert not {q.text for q in pose.QUESTIONS} & set(wall.questions)
        peer.unlisten("depth/image")
        outputs = running.node._perceiver.outputs[""]
        peer.until(lambda: not outputs.subscribed("depth/image"), "the end of the subscription")
        asked = []
        for _ in range(3):
            camera.send()
            peer.until(running.taken, "the frame taken")
            asked.append(len(wall.questions))
        assert len(set(asked)) == 1


def test_tf_alone_asks_for_the_pose_alone():
    with live({"node.tasks": ["depth", "pose", "objects"]}) as running:
        camera = Camera(running)
        running.peer.until_sent(camera.send, lambda: running.wall.questions, "a question")
        assert set(running.wall.questions) == {q.text for q in pose.QUESTIONS}


@pytest.mark.parametrize(
    ("back_s", "said"),
    [(0.0, "two publishers on"), (0.05, "0.050 s before that of the last one"), (0.9, "0.900 s before")],
)
def test_late_frame_is_left_out(back_s, said):
    with live() as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        camera = Camera(running)
        peer.until_sent(camera.send, lambda: depth, "depth image")
        last = camera.sent[-1]
        camera.send(stamp=last - int(back_s * SECOND))
        peer.logged("left out", said)
        peer.diagnosed("left out", said, level=DiagnosticStatus.WARN)
        assert (peer.count("late"), peer.count("time jumps")) == (1, 0)
        camera.send(stamp=last + 1)
        peer.until(lambda: stamp(depth[-1]) == last + 1, "the next frame")
        stamps = [stamp(d) for d in depth]
        assert stamps == sorted(set(stamps))


def test_images_without_a_stamp_are_said_to_have_none():
    with live() as running:
        peer = running.peer
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

        def send() -> None:
            infos.publish(info())
            images.publish(image(0))

        peer.until_sent(send, lambda: peer.count("late"), "a late frame")
        peer.logged("left out, its stamp is 0", f"{running.namespace}/image does not stamp the images")


def test_jump_back_in_time_starts_anew():
    with live({"node.tasks": ["pose"]}) as running:
        peer = running.peer
        where = peer.listen(PoseWithCovarianceStamped, "camera_pose")
        camera = Camera(running)
        peer.until_sent(lambda: camera.send(stamp=100 * SECOND + peer.next_stamp()), lambda: len(where) > 1, "a pose")
        assert any(where[-1].pose.covariance)
        known = len(where)
        again = camera.send(stamp=10 * SECOND)
        peer.until(lambda: len(where) > known, "a pose after the jump")
        assert (stamp(where[-1]), where[-1].pose.covariance.any()) == (again, False)
        peer.logged("time jumped back by 9", "odometry and matching start anew")
        peer.until(lambda: peer.count("time jumps") == 1, "one jump counted")


def test_jump_back_that_nobody_watches_is_counted():
    with live({"pose.publish_tf": False}) as running:
        camera = Camera(running)
        for stamp_s in (100, 10):
            camera.send(stamp=stamp_s * SECOND)
            running.peer.until(running.taken, "the frame taken")
        running.peer.logged("time jumped back by 90")
        running.peer.until(lambda: running.peer.count("time jumps") == 1, "one jump counted")
        assert running.wall.questions == []


@pytest.mark.parametrize("others", [[], ["depth/image"]], ids=["of everything", "of the pose"])
def test_after_a_pause_odometry_starts_anew(others):
    with live({"node.tasks": ["depth", "pose", "matches"], "pose.publish_tf": False, "matches.points": 9}) as running:
        peer, outputs = running.peer, running.node._perceiver.outputs[""]
        kinds: dict[str, Any] = {"camera_pose": PoseWithCovarianceStamped, "matches": PixelMatches}
        poses, matches = (peer.listen(kind, topic) for topic, kind in kinds.items())
        for topic in others:
            peer.listen(Image, topic)
        camera = Camera(running)
        peer.until_sent(camera.send, lambda: matches and len(poses) > 1, "matches and a second pose")
        assert any(poses[-1].pose.covariance)
        for topic in kinds:
            peer.unlisten(topic)
        peer.until(lambda: not any(map(outputs.subscribed, kinds)), "the end of the subscriptions")
        last = camera.send()
        memory = running.node._perceiver._perception.memory
        peer.until(lambda: memory("").track is None, "the end of the odometry")
        for topic, kind in kinds.items():
            peer.listen(kind, topic)
        peer.until(lambda: all(map(outputs.subscribed, kinds)), "the subscriptions")
        del poses[:], matches[:]
        camera.send()
        peer.until(lambda: poses, "a pose")
        assert not any(poses[0].pose.covariance)
        camera.send()
        peer.until(lambda: matches, "matches")
        assert stamp(poses[0]) == camera.sent[-2]
        before = matches[0].header1.stamp
        assert before.sec * SECOND + before.nanosec == (last if others else camera.sent[-2])
        peer.logged("nobody used its pose", "odometry starts anew")
        peer.until(lambda: peer.count("odometry pauses") == 1, "one pause counted")


def test_lost_tracking_is_said_once_and_shown_until_there_is_a_pose():
    with live({"node.tasks": ["pose"], "pose.publish_tf": False, "pose.lost_after": 2}) as running:
        peer = running.peer
        poses = peer.listen(PoseWithCovarianceStamped, "camera_pose")
        camera = Camera(running)
        peer.until_sent(camera.send, lambda: poses, "a pose")
        running.wall.blind = True
        before = len(running.wall.questions)
        peer.until_sent(camera.send, lambda: len(running.wall.questions) >= before + 20, "five frames without a pose")
        peer.diagnosed("tracking is lost", level=DiagnosticStatus.WARN)
        peer.logged("tracking is lost", "2 frames in a row")
        assert peer.count("tracking losses") == 1
        running.wall.blind = False
        known = len(poses)
        peer.until_sent(camera.send, lambda: len(poses) > known, "a pose")
        assert poses[-1].pose.covariance[0] >= LOST_VARIANCE
        peer.diagnosed("receiving images", level=DiagnosticStatus.OK)
        assert peer.count("tracking losses") == 1


def test_questions_that_the_budget_leaves_out_are_counted_and_no_trouble():
    with live({"depth.budget_s": 0.5}) as running:
        peer = running.peer
        running.wall.at_most = 5
        depth = peer.listen(Image, "depth/image")
        camera = Camera(running)
        peer.until_sent(camera.send, lambda: depth, "depth image")
        peer.until(lambda: peer.count("questions"), "the questions counted")
        frames = peer.count("frames perceived")
        assert (peer.count("questions"), peer.count("questions left out")) == (5 * frames, 7 * frames)  # of 12 points
        assert not any("no value" in line for line in peer.log())


def _padded_mono16(stamp: int, level: int) -> Image:
    rows = np.zeros((48, 70), ">u2")
    rows[:, :64] = level * 257
    return image(stamp, encoding="mono16", is_bigendian=1, step=140, data=rows.tobytes())


def _bgra8(stamp: int, level: int) -> Image:
    pixels = np.empty((48, 64, 4), np.uint8)
    pixels[:] = (7, 99, level, 255)
    return image(stamp, encoding="bgra8", step=256, data=pixels.tobytes())


def _bayer(stamp: int, level: int) -> Image:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[1::2, 1::2] = level  # bggr: red sits in the odd rows and columns
    return image(stamp, encoding="bayer_bggr8", step=64, data=pixels.tobytes())


def _nv12(stamp: int, level: int) -> Image:
    rows = np.full((72, 64), 128, np.uint8)  # grey: no colour in the last third
    rows[:48] = 16 + level * 219 / 255
    return image(stamp, encoding="nv12", step=64, data=rows.tobytes())


@pytest.mark.parametrize("form", [_padded_mono16, _bgra8, _bayer, _nv12])
def test_encoding_reaches_the_model_as_rgb(form: Callable[[int, int], Image]):
    with live() as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

        def send() -> None:
            infos.publish(info())
            images.publish(form(peer.next_stamp(), 150))

        peer.until_sent(send, lambda: depth, "depth image")
        assert metres(depth[0]) == pytest.approx(150 * METRES_PER_LEVEL, rel=0.015)


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_compressed_input(form):
    with live({"node.image_transport": "compressed", "camera.hfov_deg": 56.14}) as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        sent: list[int] = []
        images = peer.connected(type(compressed(0)), "image/compressed")

        def send() -> None:
            sent.append(peer.next_stamp())
            images.publish(compressed(sent[-1], picture(100), form))

        peer.until_sent(send, lambda: depth, "depth image")
        assert stamp(depth[0]) in sent
        assert metres(depth[0]) == pytest.approx(2.0, rel=0.01)


def test_new_calibration_is_taken_up():
    """The focal length of the outputs follows camera_info while images keep coming."""
    with live() as running:
        peer = running.peer
        infos = peer.listen(CameraInfo, "depth/camera_info")
        camera = Camera(running)
        peer.until_sent(camera.send, lambda: infos, "camera_info")
        assert infos[-1].k[0] == 60.0
        images, ins = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
        k = [80.0, 0.0, 31.5, 0.0, 80.0, 23.5, 0.0, 0.0, 1.0]

        def send() -> None:
            ins.publish(info(k=k, p=[0.0] * 12))
            images.publish(image(peer.next_stamp()))

        peer.until_sent(send, lambda: infos[-1].k[0] == 80.0, "the new focal length")


def test_outputs_of_one_frame_agree():
    with live() as running:
        peer = running.peer
        kinds: dict[str, Any] = {"depth/image": Image, "depth/confidence": Image, "depth/camera_info": CameraInfo}
        kinds |= {"depth/samples": PointCloud2, "points": PointCloud2}
        heard = [peer.listen(kind, topic) for topic, kind in kinds.items()]
        camera = Camera(running)
        peer.until_sent(camera.send, lambda: all(heard), "all outputs")
        assert len({stamp(messages[-1]) for messages in heard}) == 1
        assert {messages[-1].header.frame_id for messages in heard} == {FRAME}
        depth, confidence, camera_info, samples, points = (messages[-1] for messages in heard)
        assert (depth.width, depth.height) == (confidence.width, confidence.height) == (64, 48)
        assert (camera_info.width, camera_info.height) == (64, 48)
        assert points.width == 64 * 48
        assert samples.width == 12  # depth.points
