"""Plays the camera of a recorded bag as ROS topics, as it was recorded, byte for byte.

    python replay.py BAG [--answer depth/image] [--frames N]

Publishes the bag's colour images on image (or image/compressed) and its camera_info. The next image is sent when a
message with the stamp of the last one has come on the topic given by --answer, so that a slow node loses none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

TIMEOUT_S = 50.0  # less than the tests wait, so that they show what was missing
LOST_S = 15.0  # without an answer for so long, an image is sent again: transport is best effort
IMAGES = {
    "sensor_msgs/msg/CompressedImage": ("image/compressed", CompressedImage),
    "sensor_msgs/msg/Image": ("image", Image),
}


class Replay(Node):
    """One camera, frame by frame."""

    def __init__(self, answer: str):
        super().__init__("replay")
        self._answer = answer
        self._answered: set[tuple[int, int]] = set()
        self._diagnosed = 0
        self.create_subscription(Image, answer, self._on_answer, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_answer(self, message: Image) -> None:
        self._answered.add((message.header.stamp.sec, message.header.stamp.nanosec))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._diagnosed += 1

    def play(self, bag: Path, frames: int | None) -> int:
        """Send the images one after the other; returns how many."""
        sent = 0
        with AnyReader([bag]) as reader:
            connections = [c for c in reader.connections if "/color/" in c.topic]
            image_type = next(c.msgtype for c in connections if c.msgtype in IMAGES)
            topic, kind = IMAGES[image_type]
            images = self.create_publisher(kind, topic, 10)
            infos = self.create_publisher(CameraInfo, "camera_info", 10)
            self._until(lambda: images.get_subscription_count() and infos.get_subscription_count(), "a subscriber")
            self._until(lambda: self.count_publishers(self._answer), f"somebody who answers on {self._answer}")
            time.sleep(0.5)  # the other side may not have found this one yet
            info = None
            waiting = []
            for connection, _, raw in reader.messages(connections):
                if connection.msgtype == "sensor_msgs/msg/CameraInfo":
                    info = raw
                elif connection.msgtype == image_type:
                    waiting.append((raw, reader.deserialize(raw, connection.msgtype).header.stamp))
                while info is not None and waiting and sent != frames:
                    raw, stamp = waiting.pop(0)

                    def send(info: bytes = info, image: bytes = raw) -> None:
                        infos.publish(bytes(info))
                        images.publish(bytes(image))

                    send()
                    self._until(lambda s=stamp: (s.sec, s.nanosec) in self._answered, f"an answer to {stamp}", send)
                    sent += 1
        # The second from now on is made after the last image was perceived.
        enough = self._diagnosed + 2
        self._until(lambda: self._diagnosed >= enough, "the node's diagnostics")
        return sent

    def _until(self, condition: Callable[[], object], what: str, again: Callable[[], None] | None = None) -> None:
        """Wait for something; do what would bring it ``again`` where that seems lost."""
        start = tried = time.monotonic()
        while not condition():
            rclpy.spin_once(self, timeout_sec=0.05)
            now = time.monotonic()
            if now - start > TIMEOUT_S:
                raise SystemExit(f"replay: waited {TIMEOUT_S:.0f} s for {what}")
            if again is not None and now - tried > LOST_S:
                again()
                tried = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--answer", default="depth/image")
    parser.add_argument("--frames", type=int)
    arguments, _ = parser.parse_known_args()
    rclpy.init()
    print(Replay(arguments.answer).play(arguments.bag, arguments.frames), "images sent", flush=True)


if __name__ == "__main__":
    main()
