"""Messages without ROS are the messages of ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vlm3_ros.camera import Camera
from vlm3_ros.geometry import cloud
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.offline.types import DEFINITIONS, new, typestore
from vlm3_ros.packing import TOPICS, Packer
from vlm3_ros.perception import Frame, Matches
from vlm3_ros.ros import messages

CAMERA = Camera(6, 4, 5.0, 5.5, 2.5, 1.5)
FRAME = Frame("", 1234567890123456789, "optical", np.arange(72, dtype=np.uint8).reshape(4, 6, 3), CAMERA)
BOXES = [Box3D("chair", 0.5, np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]), np.eye(3))]
MATCHES = Matches(FRAME, np.arange(4.0).reshape(2, 2), np.arange(4.0).reshape(2, 2) + 1.0, np.array([0.1, 0.2]))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definitions_are_those_that_are_installed(name):
    """The hash of a type covers the names and types of all fields, at any depth."""
    package, _, _ = name.split("/")
    installed = get_typestore(Stores.ROS2_JAZZY)
    for file in Path(get_package_share_directory(package), "msg").glob("*.msg"):
        types = get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}")
        installed.register({kind: fields for kind, fields in types.items() if kind not in installed.fielddefs})
    assert typestore().hash_rihs01(name) == installed.hash_rihs01(name)


@pytest.mark.parametrize("topic", TOPICS)
def test_types_of_all_outputs_are_known(topic):
    assert TOPICS[topic].type in typestore().fielddefs


MAKERS = {
    "camera_info": lambda packer, head: packer.camera_info(head, CAMERA),
    "colour_image": lambda packer, head: packer.colour_image(head, FRAME.image),
    "float_image": lambda packer, head: packer.float_image(head, np.linspace(0.0, 1.0, 24).reshape(4, 6)),
    "cloud": lambda packer, head: packer.cloud(
        head, cloud.coloured(np.ones((4, 6), np.float32), FRAME.image, CAMERA)
    ),
    "pose": lambda packer, head: packer.pose(head, Pose(np.eye(4), np.arange(36.0).reshape(6, 6))),
    "tf": lambda packer, head: packer.transforms(packer.transform(head, "base", np.eye(4))),
    "matches": lambda packer, head: packer.matches(head, MATCHES),
    "detections": lambda packer, head: packer.detections(head, BOXES),
    "markers": lambda packer, head: packer.markers(head, BOXES),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_messages_are_those_of_rclpy(make):
    ours, theirs = (make(packer, packer.header(FRAME)) for packer in (Packer(new), messages.packer))
    kind = ours.__msgtype__
    # Compared as values, since rclpy leaves what lies between aligned fields as it was in memory.
    sent = typestore().deserialize_cdr(typestore().serialize_cdr(ours, kind), kind)
    assert as_values(sent) == as_values(typestore().deserialize_cdr(serialize_message(theirs), kind))


def as_values(message: Any) -> Any:
    """A message as nested dictionaries and lists."""
    if hasattr(message, "__dataclass_fields__"):
        return {name: as_values(getattr(message, name)) for name in message.__dataclass_fields__}
    if isinstance(message, np.ndarray):
        return message.tolist()
    return [as_values(item) for item in message] if isinstance(message, list) else message
