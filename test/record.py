"""Records topics into an mcap bag: bytes as they come over DDS, written by the `rosbags` library.

    python record.py BAG TOPIC=PACKAGE/msg/TYPE ...

Prints "ready" when every topic has a publisher, and closes the bag when it is interrupted. Knows nothing of the node:
only topic names and message types, whose definitions are those installed under share/.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore


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

    def _writing(self, topic: str, name: str) -> Callable[[bytes], None]:
        connection = self._writer.add_connection(topic, name, typestore=self._store)
        return lambda raw: self._writer.write(connection, time.time_ns(), raw)


def main() -> None:
    bag, *pairs = sys.argv[1:]
    topics = dict(pair.split("=") for pair in pairs)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    with Writer(Path(bag), version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        node = Recorder(topics, writer)
        while not all(node.count_publishers(topic) for topic in topics):
            rclpy.spin_once(node, timeout_sec=0.05)
        time.sleep(0.5)  # discovery is not symmetric: the other side may still have to find this one
        print("ready", flush=True)
        try:
            while True:
                rclpy.spin_once(node, timeout_sec=0.2)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
