"""Messages as rclpy has them."""

from __future__ import annotations

from typing import Any

import geometry_msgs.msg
import sensor_msgs.msg
import std_msgs.msg
import tf2_msgs.msg
import vision_msgs.msg
import visualization_msgs.msg

import vlm3_ros.msg
from vlm3_ros.messages import (
    boxes,
    calibration,
    cloud_array,
    float_array,
    matrix,
    nanoseconds,
    pose_matrix,
    sample_points,
)
from vlm3_ros.packing import Packer

__all__ = [
    "boxes",
    "calibration",
    "camera_info",
    "cloud",
    "cloud_array",
    "colour_image",
    "detections",
    "float_array",
    "float_image",
    "header",
    "markers",
    "matches",
    "matrix",
    "message_class",
    "nanoseconds",
    "packer",
    "pose",
    "pose_matrix",
    "sample_points",
    "transform",
]

_PACKAGES = {
    "geometry_msgs": geometry_msgs.msg,
    "sensor_msgs": sensor_msgs.msg,
    "std_msgs": std_msgs.msg,
    "tf2_msgs": tf2_msgs.msg,
    "vision_msgs": vision_msgs.msg,
    "visualization_msgs": visualization_msgs.msg,
    "vlm3_ros": vlm3_ros.msg,
}


def message_class(name: str) -> Any:
    """The class of a type such as "std_msgs/msg/Header"."""
    package, _, kind = name.split("/")
    return getattr(_PACKAGES[package], kind)


def _new(type: str, /, **fields: Any) -> Any:
    message = message_class(type)()
    for name, value in fields.items():
        setattr(message, name, value)  # the constructor would copy arrays once more: 7 ms for a large cloud
    return message


packer = Packer(_new)
camera_info = packer.camera_info
cloud = packer.cloud
colour_image = packer.colour_image
detections = packer.detections
float_image = packer.float_image
header = packer.header
markers = packer.markers
matches = packer.matches
pose = packer.pose
transform = packer.transform
