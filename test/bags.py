"""Small bags made for a test, written by `rosbags`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from vlm3_ros.camera import Camera
from vlm3_ros.offline.types import new, typestore
from vlm3_ros.packing import Packer
from vlm3_ros.perception import Frame

SECOND = 10**9
CAMERA = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
PACKER = Packer(new)

Entry = tuple[str, int, Any]  # topic, time of recording in nanoseconds, message


def header(stamp: int, frame_id: str = "camera") -> Any:
    return PACKER.header(Frame("", stamp, frame_id, np.zeros((1, 1, 3), np.uint8), CAMERA))


def image(stamp: int, level: int = 100, frame_id: str = "camera", camera: Camera = CAMERA) -> Any:
    """A picture of one colour."""
    return PACKER.colour_image(header(stamp, frame_id), np.full((camera.height, camera.width, 3), level, np.uint8))


def depth(stamp: int, metres: float = 2.0, frame_id: str = "camera") -> Any:
    return PACKER.float_image(header(stamp, frame_id), np.full((CAMERA.height, CAMERA.width), metres))


def info(stamp: int, frame_id: str = "camera", camera: Camera = CAMERA) -> Any:
    return PACKER.camera_info(header(stamp, frame_id), camera)


def transform(stamp: int, parent: str, child: str, x: float = 0.0) -> Any:
    T = np.eye(4)
    T[0, 3] = x
    return PACKER.transforms(PACKER.transform(header(stamp, parent), child, T))


def odometry(stamp: int, child: str, x: float) -> Any:
    message = new("nav_msgs/msg/Odometry", header=header(stamp, "odom"), child_frame_id=child)
    message.pose.pose.position.x = x
    return message


def write(
    path: Path,
    entries: Iterable[Entry],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A bag of these messages, in this order; returns its folder."""
    store = typestore()
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, time, message in entries:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], time, store.serialize_cdr(message, kind))
    return path


def camera(stamps: Iterable[int], name: str = "/camera") -> list[Entry]:
    """A camera_info and images whose level counts from 1."""
    stamps = list(stamps)
    entries: list[Entry] = [(f"{name}/camera_info", stamps[0], info(stamps[0]))]
    return entries + [(f"{name}/image", t, image(t, level)) for level, t in enumerate(stamps, 1)]
