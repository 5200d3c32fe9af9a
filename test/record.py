"""Records topics into an mcap bag: bytes as they come over DDS, written by the `rosbags` library.

    python record.py BAG TOPIC=PACKAGE/msg/TYPE ...

Prints "ready" when every topic has a publisher and the node has found this side, which its diagnostics tell, and
closes the bag when it is interrupted. Knows nothing else of the node: only topic names and message types, whose
definitions are those installed under share/.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

QUIET_S = 1.0  # without a message for so long, nothing is on its way any more


def typestore() -> Typestore:
    """rosbags' own Jazzy types, and those of installed packages that it does not bring along."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for prefix in os.environ["AMENT_PREFIX_PATH"].split(os.pathsep):
        for package in ("vision_msgs", "vlm3_ros"):
            for file in Path(prefix, "share", package, "msg").glob("*.msg"):
                types = get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}")
                store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
    return store


class Recorder(Node):
    """Subscribes and writes."""

    def __init__(self, topics: dict[str, str], writer: Writer):
        super().__init__("recorder")
        self._writer = writer
        self._store = typestore()
        for topic, name in topics.items():
            package, _, kind = name.split("/")
            message = getattr(import_module(f"{package}.msg"), kind)
            self.create_subscription(message, topic, self._writing(topic, name), 100, raw=True)
        # Discovery is not symmetric: that this side knows a publisher does not mean that it is known to it.
        self.heard = False
        self.last_written = time.monotonic()
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 1)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.heard = True

    def _writing(self, topic: str, name: str) -> Callable[[bytes], None]:
        connection = self._writer.add_connection(topic, name, typestore=self._store)

        def write(raw: bytes) -> None:
            self._writer.write(connection, time.time_ns(), raw)
            if topic != "/diagnostics":
                self.last_written = time.monotonic()

        return write


def main() -> None:
    bag, *pairs = sys.argv[1:]
    topics = dict(pair.split("=") for pair in pairs)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    with Writer(Path(bag), version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        node = Recorder(topics, writer)
        while not (node.heard and all(node.count_publishers(topic) for topic in topics)):
            rclpy.spin_once(node, timeout_sec=0.05)
        interrupted: list[int] = []
        signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
        print("ready", flush=True)
        # What has arrived by then is still written, however busy the machine is.
        while not interrupted or time.monotonic() - node.last_written < QUIET_S:
            rclpy.spin_once(node, timeout_sec=0.1)


if __name__ == "__main__":
    main()
