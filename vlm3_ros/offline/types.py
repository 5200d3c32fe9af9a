"""Message types without ROS: those of Jazzy that `rosbags` brings along, and the few that it does not."""

from __future__ import annotations

import array
from functools import lru_cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

# The fields alone: comments are no part of a type, and do not change its hash.
DEFINITIONS = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id"
    ),
    "vision_msgs/msg/Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
    "vlm3_ros/msg/PixelMatches": (
        "std_msgs/Header header\nstd_msgs/Header header1\n"
        "float32[] u1\nfloat32[] v1\nfloat32[] u2\nfloat32[] v2\nfloat32[] confidence"
    ),
}
DEFAULTS = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}  # all others are empty or zero


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """All types that are read or written here."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


def new(type: str, /, **fields: Any) -> Any:
    """A message of a type by its full name; fields that are not given have their defaults (`packing.New`)."""
    store = typestore()
    values = {
        name: np.asarray(value) if isinstance(value, array.array) else value
        for name, value in {**DEFAULTS.get(type, {}), **fields}.items()
    }
    missing = {name: _empty(kind) for name, kind in store.fielddefs[type][1] if name not in values}
    return store.types[type](**values, **missing)


def _empty(field: Any) -> Any:
    """The value of a field that nobody has set."""
    node, detail = field
    if node == Nodetype.NAME:
        return new(detail)
    if node == Nodetype.BASE:
        kind, _ = detail
        return "" if kind == "string" else np.dtype(kind).type(0).item()
    (inner, of), length = detail
    if inner == Nodetype.BASE and of[0] != "string":
        return np.zeros(length if node == Nodetype.ARRAY else 0, of[0])
    return [_empty((inner, of)) for _ in range(length if node == Nodetype.ARRAY else 0)]
