"""Bad input: each is refused with a message that helps, and the next good frame is perceived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from live import SIZE, Live, compressed, header, image, info, live, picture, stamp
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection3DArray

NAN = float("nan")
JPEG = bytes(compressed(0, np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).data)

# What is sent instead of a good image or camera_info, and what the node must say.
BAD_IMAGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown encoding": ({"encoding": "rgb24"}, ("/image:", "unknown encoding 'rgb24'", "rgb8, bgr8")),
    "depth image": ({"encoding": "32FC1"}, ("/image:", "unknown encoding '32FC1'")),
    "no encoding": ({"encoding": ""}, ("/image:", "unknown encoding ''")),
    "truncated data": ({"data": bytes(9000)}, ("/image:", "truncated", "9000 bytes", "64x48 rgb8", "9216")),
    "no data": ({"data": b""}, ("/image:", "truncated", "0 bytes")),
    "step too small": ({"step": 191}, ("/image:", "step 191 is too small", "192 bytes")),
    "no step": ({"step": 0}, ("/image:", "step 0 is too small")),
    "no pixels": ({"width": 0, "height": 0, "step": 0, "data": b""}, ("/image:", "empty (0x0)")),
    "more rows than data": ({"height": 2**32 - 1}, ("/image:", "truncated")),
}
BAD_INFOS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "zero intrinsics": ({"k": [0.0] * 9, "p": [0.0] * 12}, ("/camera_info:", "not calibrated", "camera.hfov_deg")),
    "NaN intrinsics": ({"k": [NAN] * 9}, ("/camera_info:", "NaN", "camera.hfov_deg")),
    "NaN distortion": ({"d": [NAN] * 5}, ("/camera_info:", "NaN")),
    "infinite projection": ({"p": [float("inf")] * 12}, ("/camera_info:", "infinity")),
    "size mismatch": ({"width": 128, "height": 96}, ("/camera_info:", "64x48", "128x96", "camera.hfov_deg")),
    "unknown distortion": (
        {"distortion_model": "mirror", "d": [0.1] * 4},
        ("/camera_info:", "'mirror'", "plumb_bob"),
    ),
    "distortion of another model": ({"d": [0.1] * 7}, ("/camera_info:", "7 coefficients", "plumb_bob")),
    "binning of another mode": ({"binning_x": 2, "binning_y": 2}, ("/camera_info:", "64x48", "32x24")),
}
BAD_FILES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no data": ({"data": b""}, ("/image/compressed:", "holds no data")),
    "no image file": ({"data": bytes(range(256)) * 4}, ("/image/compressed:", "1024 bytes", "'jpeg'")),
    "truncated": ({"data": JPEG[: len(JPEG) // 2]}, ("/image/compressed:", "truncated")),
    "header only": ({"data": JPEG[:20]}, ("/image/compressed:", "20 bytes")),
}


def perceives(running: Live, message: Callable[[int], Any], topic: str = "image", **camera: Any) -> Image:
    """Send until the depth image of a frame sent here has come; returns that."""
    peer = running.peer
    depth = peer.heard["depth/image"] or peer.listen(Image, "depth/image")
    images = peer.connected(type(message(0)), topic)
    infos = peer.connected(CameraInfo, "camera_info")
    sent: list[int] = []

    def send() -> None:
        sent.append(peer.next_stamp())
        infos.publish(info(**camera))
        images.publish(message(sent[-1]))

    return peer.until_sent(send, lambda: next((d for d in depth if stamp(d) in sent), None), "depth image")


def refuses(
    running: Live, message: Callable[[int], Any], camera: CameraInfo, *texts: str, topic: str = "image"
) -> None:
    """Send until the node has said in its log and in its diagnostics what is wrong."""
    peer = running.peer
    peer.heard["depth/image"] or peer.listen(Image, "depth/image")
    images = peer.connected(type(message(0)), topic)
    infos = peer.connected(CameraInfo, "camera_info")

    def send() -> None:
        infos.publish(camera)
        images.publish(message(peer.next_stamp()))

    peer.until_sent(send, lambda: peer.count("refused") or peer.count("failed"), "refusal")
    peer.logged("refused", *texts)
    peer.diagnosed(*texts, level=DiagnosticStatus.ERROR)
    assert not peer.heard["depth/image"]


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_bad_image(bad):
    fields, texts = BAD_IMAGES[bad]
    with live() as running:
        refuses(running, lambda stamp: image(stamp, **fields), info(), *texts)
        perceives(running, image)


@pytest.mark.parametrize("bad", BAD_INFOS)
def test_bad_calibration(bad):
    fields, texts = BAD_INFOS[bad]
    with live() as running:
        refuses(running, image, info(**fields), *texts)
        perceives(running, image)


@pytest.mark.parametrize("bad", BAD_FILES)
def test_bad_compressed_image(bad):
    fields, texts = BAD_FILES[bad]
    with live({"node.image_transport": "compressed"}) as running:
        refuses(running, lambda s: compressed(s, **fields), info(), *texts, topic="image/compressed")
        perceives(running, compressed, "image/compressed")


def test_camera_info_of_another_camera():
    with live() as running:
        image_topic, info_topic = f"{running.namespace}/image", f"{running.namespace}/camera_info"
        texts = (f"{image_topic} is in frame 'optical'", f"{info_topic} is for frame 'depth_frame'", "remap")
        refuses(running, image, info(frame_id="depth_frame"), *texts)
        perceives(running, image)


@pytest.mark.parametrize(("image_frame", "info_frame"), [("optical", ""), ("", "optical"), ("/optical", "optical")])
def test_names_of_frames_that_do_not_contradict(image_frame, info_frame):
    with live() as running:
        depth = perceives(running, lambda s: image(s, header=header(s, image_frame)), frame_id=info_frame)
        assert depth.header.frame_id == "optical"


def test_camera_info_of_another_frame_may_be_meant():
    with live({"camera.ignore_info_frame": True}) as running:
        perceives(running, image, frame_id="camera_link")


def test_no_camera_info():
    with live() as running:
        peer = running.peer
        images = peer.connected(Image, "image")
        texts = (f"{running.namespace}/image", f"nothing on {running.namespace}/camera_info", "camera.hfov_deg")
        peer.until_sent(
            lambda: images.publish(image(peer.next_stamp())), lambda: peer.count("images in") > 0, "an image"
        )
        peer.logged(*texts)
        peer.diagnosed(*texts, level=DiagnosticStatus.ERROR)
        perceives(running, image)
        peer.diagnosed("receiving images", level=DiagnosticStatus.OK)


def test_camera_info_that_was_published_once_before_the_node_came():
    """As latched topics are: the publisher keeps its message for who comes later."""
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
    with live(activate=False) as running:
        peer = running.peer
        peer.node.create_publisher(CameraInfo, "camera_info", kept).publish(info())
        running.node.trigger_configure()
        running.node.trigger_activate()
        depth, images = peer.listen(Image, "depth/image"), peer.connected(Image, "image")
        peer.until_sent(lambda: images.publish(image(peer.next_stamp())), lambda: depth, "depth")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 300)])
def test_tiny_image(size):
    """Too small to mean anything: whatever the node does with it, the next camera mode works."""
    with live() as running:
        peer = running.peer
        depth = peer.listen(Image, "depth/image")
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

        def send() -> None:
            infos.publish(info(size))
            images.publish(image(peer.next_stamp(), picture(100, size)))

        peer.until_sent(send, lambda: depth or peer.count("refused"), "depth image or refusal")
        assert not peer.count("failed")
        assert all((d.width, d.height) == size for d in depth)
        running.peer.heard["depth/image"].clear()
        assert (perceives(running, image).width, SIZE[0]) == (64, 64)


def test_8k_image():
    size = (7680, 4320)
    with live({"node.image_transport": "compressed"}) as running:
        file = compressed(0, picture(100, size)).data
        big = perceives(running, lambda s: compressed(s, data=file), "image/compressed", size=size)
        assert (big.width, big.height) == (640, 360)  # depth.max_width
        np.testing.assert_allclose(np.frombuffer(big.data, np.float32), 2.0, rtol=0.01)
        assert perceives(running, compressed, "image/compressed").width == SIZE[0]
        assert not running.peer.count("failed")


def test_8k_raw_image():
    """99 MB a frame, more than the shared-memory segment holds."""
    size = (7680, 4320)
    with live() as running:
        pixels = picture(100, size)
        assert perceives(running, lambda s: image(s, pixels), size=size).width == 640


def test_model_that_fails_once():
    from doubles import ModelError

    with live() as running:
        running.wall.raises += [ModelError("out of memory"), ZeroDivisionError("a bug")]
        perceives(running, image)
        peer = running.peer
        peer.logged("frame failed", "out of memory")
        peer.logged("frame failed", "ZeroDivisionError", "a bug")
        peer.until(lambda: peer.count("failed") == 2, "two failed frames")
        peer.diagnosed("a bug", level=DiagnosticStatus.ERROR)


@pytest.mark.parametrize(("errors", "failed"), [(1, 0), (2, 1)])
def test_model_that_fails_for_one_task_costs_no_other(errors, failed):
    """Depth is looked at first, then objects: one error leaves the frame its objects, two leave it nothing."""
    from doubles import ModelError

    with live({"node.tasks": ["depth", "objects"]}) as running:
        peer = running.peer
        objects = peer.listen(Detection3DArray, "objects")
        outputs = running.node._perceiver.outputs[""]
        depth = peer.listen(Image, "depth/image")
        peer.until(lambda: outputs.tasks() == {"depth", "objects"}, "both subscriptions")
        running.wall.raises += [ModelError("the server is gone")] * errors
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
        infos.publish(info())
        first = peer.next_stamp()
        peer.until_sent(lambda: images.publish(image(first)), lambda: not running.wall.raises, "a frame")
        peer.logged(f"{'frame' if failed else 'depth'} failed: the server is gone")
        peer.diagnosed("the server is gone", level=DiagnosticStatus.ERROR)
        assert peer.count("failed") == failed
        assert failed or peer.count("failed depth") == 1
        perceives(running, image)
        assert (first in map(stamp, objects)) == (not failed)
        assert first not in map(stamp, depth)


def test_model_that_has_lost_its_device_is_not_asked_again_and_that_is_said():
    with live({"node.tasks": ["depth"]}) as running:
        peer = running.peer
        running.wall.raises += [RuntimeError("CUDA error: an illegal memory access was encountered")]
        depth = peer.listen(Image, "depth/image")
        outputs = running.node._perceiver.outputs[""]
        peer.until(lambda: outputs.tasks() == {"depth"}, "the subscription")
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
        infos.publish(info())
        for frames in (1, 2):
            peer.until_sent(
                lambda: images.publish(image(peer.next_stamp())),
                lambda frames=frames: peer.count("failed") >= frames,
                "a failed frame",
            )
        peer.logged("frame failed", "illegal memory access", "start it again")
        peer.diagnosed("start it again", level=DiagnosticStatus.ERROR)
        assert running.wall.in_hand == 1
        assert not depth


def test_camera_that_stops():
    with live({"node.camera_timeout_s": 0.5}) as running:
        peer = running.peer
        peer.diagnosed(f"no image on {running.namespace}/image", level=DiagnosticStatus.WARN)
        perceives(running, image)
        peer.heard["/diagnostics"].clear()
        peer.diagnosed(f"no image on {running.namespace}/image", level=DiagnosticStatus.WARN)
        perceives(running, image)


def test_a_flood_of_the_same_complaint_is_said_once():
    with live() as running:
        peer = running.peer
        peer.listen(Image, "depth/image")
        images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
        sent = iter(range(10**6))

        def send() -> None:
            infos.publish(info())
            images.publish(image(peer.next_stamp(), data=bytes(next(sent))))

        peer.until_sent(send, lambda: peer.count("refused") > 10, "many refusals")
        assert len([line for line in peer.log() if "truncated" in line]) == 1
