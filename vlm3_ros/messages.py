"""Messages to arrays. They may be of any library that has them (rclpy, rosbags): only their fields are read."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.calibration import Calibration
from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.perception import Samples

SAMPLE = np.dtype([(name, "<f4") for name in ("x", "y", "z", "confidence", "spread")])
UINT32, FLOAT32 = 6, 7  # datatypes of sensor_msgs/PointField


def nanoseconds(header: Any) -> int:
    """The stamp of a header."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def calibration(message: Any) -> Calibration:
    """What a CameraInfo says."""
    roi = message.roi
    return Calibration(
        message.width,
        message.height,
        message.distortion_model,
        tuple(message.d),
        tuple(message.k),
        tuple(message.r),
        tuple(message.p),
        (message.binning_x, message.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )


def float_array(message: Any) -> np.ndarray:
    """The values of a 32FC1 image without row padding, float32 [height, width]."""
    return np.frombuffer(message.data, np.float32).reshape(message.height, message.width)


def cloud_array(message: Any) -> np.ndarray:
    """The points of a little-endian cloud of 4-byte fields as a structured array [N]; rgb stays packed in a float."""
    kinds = {FLOAT32: "<f4", UINT32: "<u4"}
    layout = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [kinds[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(message.data, layout)


def sample_points(samples: Samples, camera: Camera) -> np.ndarray:
    """The answered samples as a structured array of dtype SAMPLE; spread is NaN where it was not measured."""
    known = np.isfinite(samples.z)
    points = np.empty(int(known.sum()), SAMPLE)
    points["x"], points["y"], points["z"] = samples.points(camera)[known].T
    points["confidence"], points["spread"] = samples.confidence[known], samples.spread[known]
    return points


def matrix(message: Any) -> np.ndarray:
    """T [4, 4] of a TransformStamped: the pose of its child in its parent. ValueError if it is none."""
    return _matrix(message.transform.translation, message.transform.rotation)


def pose_matrix(message: Any) -> np.ndarray:
    """T [4, 4] of a Pose. ValueError if it is none."""
    return _matrix(message.position, message.orientation)


def boxes(message: Any, left_out: list[str] | None = None) -> list[Box3D]:
    """The boxes of a Detection3DArray, in the frame of their header; ``left_out`` gets why others are none."""
    found = []
    for detection in message.detections:
        try:
            found.append(_box(detection))
        except ValueError as error:
            if left_out is not None:
                left_out.append(str(error))
    return found


def _box(detection: Any) -> Box3D:
    """Raises ValueError."""
    if not len(detection.results):
        raise ValueError("it has no result, so it has no name")
    T, size = pose_matrix(detection.bbox.center), detection.bbox.size
    metres = np.array([size.x, size.y, size.z])
    if not (np.isfinite(metres).all() and (metres > 0.0).all()):
        raise ValueError("its size is not above 0 in all directions")
    named = [result.hypothesis for result in detection.results if np.isfinite(result.hypothesis.score)]
    if not named:
        raise ValueError("the score of its name is NaN or infinity")
    best = max(named, key=lambda h: h.score)
    if not best.class_id.strip():
        raise ValueError("its name is empty")
    return Box3D(best.class_id, best.score, T[:3, 3], metres, T[:3, :3])


def _matrix(position: Any, q: Any) -> np.ndarray:
    numbers = np.array([q.x, q.y, q.z, q.w, position.x, position.y, position.z])
    if not np.isfinite(numbers).all():
        raise ValueError("it holds NaN or infinity")
    if not numbers[:4].any():
        raise ValueError("its quaternion is all zeros")
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(numbers[:4]).as_matrix()
    T[:3, 3] = numbers[4:]
    return T
