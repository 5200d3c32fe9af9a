"""Simulated time: /clock rules what the node says about time, and nothing of what it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live import SECOND, Live, image, info, live, stamp
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from vlm3_ros.srv import Ask


@pytest.fixture
def running() -> Iterator[Live]:
    with live({"use_sim_time": True}) as node:
        yield node


def tick(running: Live, seconds: int) -> None:
    """Set the clock, and wait until the node knows."""
    clock = running.peer.connected(Clock, "/clock")
    message = Clock()
    message.clock.sec = seconds
    now = running.node.get_clock().now
    running.peer.until_sent(lambda: clock.publish(message), lambda: now().nanoseconds == seconds * SECOND, "the time")


def test_node_works_while_the_clock_stands_still(running):
    peer = running.peer
    depth = peer.listen(Image, "depth/image")
    images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
    tick(running, 100)
    sent = []

    def send() -> None:
        sent.append(95 * SECOND + peer.next_stamp())
        infos.publish(info())
        images.publish(image(sent[-1]))

    peer.until_sent(send, lambda: depth, "depth image")
    assert stamp(depth[0]) in sent
    number = len(peer.heard["/diagnostics"])
    peer.until(lambda: len(peer.heard["/diagnostics"]) > number + 1, "diagnostics")
    assert stamp(peer.heard["/diagnostics"][-1]) == 100 * SECOND
    values = {value.key: value.value for value in peer.status("camera").values}
    assert float(values["age of the last frame (ms)"]) == pytest.approx(
        (100 * SECOND - stamp(depth[-1])) / 1e6, rel=0.01
    )


def test_timeout_of_a_question_runs_on_wall_time(running):
    peer = running.peer
    tick(running, 100)
    images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

    def send() -> None:
        infos.publish(info())
        images.publish(image(peer.next_stamp()))

    peer.until_sent(send, running.received, "a frame at the node")
    running.wall.gate.clear()
    response = peer.call(Ask, "ask", question="what?", timeout_s=0.2)
    assert "no answer within 0.2 s" in response.message


def test_without_any_clock(running):
    """No /clock yet: time is 0, which is no reason to wait."""
    peer = running.peer
    depth = peer.listen(Image, "depth/image")
    images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")

    def send() -> None:
        infos.publish(info())
        images.publish(image(peer.next_stamp()))

    peer.until_sent(send, lambda: depth, "depth image")
    peer.diagnosed("active", about="")
