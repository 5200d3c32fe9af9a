"""Arrays and scenes to messages, and back: with images.py the only place where the two meet."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, PoseWithCovarianceStamped, Quaternion, TransformStamped, Vector3
from geometry_msgs.msg import Pose as PoseMessage
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from vlm3_ros.camera import Calibration, Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.msg import PixelMatches
from vlm3_ros.perception import Frame, Matches, Samples

SAMPLE = np.dtype([(name, "<f4") for name in ("x", "y", "z", "confidence", "spread")])
_POINT_FIELD = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32}


def header(frame: Frame) -> Header:
    """The header of the image a frame came from."""
    message = Header(frame_id=frame.frame_id)
    message.stamp.sec, message.stamp.nanosec = divmod(frame.stamp, 10**9)
    return message


def nanoseconds(message: Header) -> int:
    """The stamp of a header."""
    return message.stamp.sec * 10**9 + message.stamp.nanosec


def calibration(message: CameraInfo) -> Calibration:
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


def camera_info(head: Header, camera: Camera) -> CameraInfo:
    """A CameraInfo for rectified images of ``camera``: no distortion, P = K."""
    k = camera.K
    message = CameraInfo(header=head, width=camera.width, height=camera.height, distortion_model="plumb_bob")
    message.d = [0.0] * 5
    message.k = k.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([k, np.zeros((3, 1))]).ravel()
    return message


def colour_image(head: Header, image: np.ndarray) -> Image:
    """An rgb8 image from uint8 [height, width, 3] RGB."""
    height, width, _ = image.shape
    return Image(header=head, height=height, width=width, encoding="rgb8", step=3 * width, data=_bytes(image))


def float_image(head: Header, values: np.ndarray) -> Image:
    """A 32FC1 image from float32 [height, width]; depth is metres along Z with NaN unknown (REP 118)."""
    height, width = values.shape
    values = np.ascontiguousarray(values, np.float32)
    return Image(
        header=head, height=height, width=width, encoding="32FC1", step=4 * width, is_bigendian=0, data=_bytes(values)
    )


def float_array(message: Image) -> np.ndarray:
    """The values of a 32FC1 image without row padding, float32 [height, width]."""
    return np.frombuffer(message.data, np.float32).reshape(message.height, message.width)


def cloud(head: Header, points: np.ndarray) -> PointCloud2:
    """An unorganised cloud without invalid points, from a structured array [N]; its fields become the cloud's."""
    kinds = {name: points.dtype[name].str for name in points.dtype.names}
    # RViz and PCL read packed colour as a float field named rgb.
    fields = [
        PointField(
            name=name,
            offset=points.dtype.fields[name][1],
            datatype=PointField.FLOAT32 if name == "rgb" else _POINT_FIELD[kind],
            count=1,
        )
        for name, kind in kinds.items()
    ]
    size = points.dtype.itemsize
    return PointCloud2(
        header=head, height=1, width=len(points), fields=fields, is_bigendian=False, point_step=size,
        row_step=size * len(points), data=_bytes(points), is_dense=True,
    )  # fmt: skip


def cloud_array(message: PointCloud2) -> np.ndarray:
    """The points of a little-endian cloud of 4-byte fields as a structured array [N]; rgb stays packed in a float."""
    kinds = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    layout = {
        "names": [field.name for field in message.fields],
        "formats": [kinds[field.datatype] for field in message.fields],
        "offsets": [field.offset for field in message.fields],
        "itemsize": message.point_step,
    }
    return np.frombuffer(message.data, np.dtype(layout))


def sample_points(samples: Samples, camera: Camera) -> np.ndarray:
    """The answered samples as a structured array of dtype SAMPLE; spread is NaN where it was not measured."""
    known = np.isfinite(samples.z)
    points = np.empty(int(known.sum()), SAMPLE)
    points["x"], points["y"], points["z"] = samples.points(camera)[known].T
    points["confidence"], points["spread"] = samples.confidence[known], samples.spread[known]
    return points


def pose(head: Header, value: Pose) -> PoseWithCovarianceStamped:
    """A pose in the frame of ``head``."""
    message = PoseWithCovarianceStamped(header=head)
    message.pose.pose = _pose(value.T[:3, 3], value.T[:3, :3])
    message.pose.covariance = value.covariance.ravel()
    return message


def transform(head: Header, child: str, T: np.ndarray) -> TransformStamped:
    """The pose T [4, 4] of frame ``child`` in the frame of ``head``."""
    message = TransformStamped(header=head, child_frame_id=child)
    message.transform.translation = Vector3(**_xyz(T[:3, 3]))
    message.transform.rotation = _quaternion(T[:3, :3])
    return message


def matrix(message: TransformStamped) -> np.ndarray:
    """T [4, 4] of a transform message: the pose of its child in its parent. ValueError if it is none."""
    return _matrix(message.transform.translation, message.transform.rotation)


def pose_matrix(message: PoseMessage) -> np.ndarray:
    """T [4, 4] of a pose message."""
    return _matrix(message.position, message.orientation)


def matches(head: Header, found: Matches) -> PixelMatches:
    """Pixel correspondences from an earlier frame to this one."""
    message = PixelMatches(header=head, header1=header(found.first))
    message.u1, message.v1 = (_floats(column) for column in found.pixels_first.T)
    message.u2, message.v2 = (_floats(column) for column in found.pixels.T)
    message.confidence = _floats(found.confidence)
    return message


def detections(head: Header, boxes: Sequence[Box3D]) -> Detection3DArray:
    """Boxes in the frame of ``head``; class_id is the name that was asked for."""
    message = Detection3DArray(header=head)
    for box in boxes:
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = box.label
        hypothesis.hypothesis.score = float(box.score)
        hypothesis.pose.pose = _pose(box.center, box.rotation)
        detection = Detection3D(header=head, results=[hypothesis])
        detection.bbox.center = _pose(box.center, box.rotation)
        detection.bbox.size = Vector3(**_xyz(box.size))
        message.detections.append(detection)
    return message


def boxes(message: Detection3DArray) -> list[Box3D]:
    """The boxes of detections, in the frame of their header."""
    found = []
    for detection in message.detections:
        T, size = pose_matrix(detection.bbox.center), detection.bbox.size
        best = max((result.hypothesis for result in detection.results), key=lambda h: h.score)
        found.append(Box3D(best.class_id, best.score, T[:3, 3], np.array([size.x, size.y, size.z]), T[:3, :3]))
    return found


def markers(head: Header, boxes: Sequence[Box3D]) -> MarkerArray:
    """The same boxes for RViz: a translucent box and its name each, after the old ones are deleted."""
    shown = [Marker(header=head, action=Marker.DELETEALL)]
    for i, box in enumerate(boxes):
        solid = Marker(header=head, ns="boxes", id=i, type=Marker.CUBE, action=Marker.ADD)
        solid.pose, solid.scale = _pose(box.center, box.rotation), Vector3(**_xyz(box.size))
        solid.color = _colour(box.label, 0.4)
        name = Marker(header=head, ns="names", id=i, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
        above = np.array(box.center) + np.array(box.rotation)[:, 2] * (box.size[2] / 2 + 0.1)
        name.pose, name.text = _pose(above, np.eye(3)), f"{box.label} {box.score:.2f}"
        name.scale.z = 0.12
        name.color = _colour(box.label, 1.0)
        shown += [solid, name]
    return MarkerArray(markers=shown)


def _bytes(values: np.ndarray) -> array.array:
    """The bytes of an array in the one form that rclpy takes over quickly on every distribution."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data


def _floats(values: np.ndarray) -> array.array:
    data = array.array("f")
    data.frombytes(np.ascontiguousarray(values, np.float32).tobytes())
    return data


def _xyz(vector: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip("xyz", vector, strict=True)}


def _matrix(position: Point | Vector3, q: Quaternion) -> np.ndarray:
    numbers = np.array([q.x, q.y, q.z, q.w, position.x, position.y, position.z])
    if not np.isfinite(numbers).all():
        raise ValueError("it holds NaN or infinity")
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(numbers[:4]).as_matrix()
    T[:3, 3] = numbers[4:]
    return T


def _quaternion(rotation: np.ndarray) -> Quaternion:
    x, y, z, w = Rotation.from_matrix(np.asarray(rotation)).as_quat()
    return Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))


def _pose(position: Sequence[float] | np.ndarray, rotation: np.ndarray) -> PoseMessage:
    return PoseMessage(position=Point(**_xyz(position)), orientation=_quaternion(rotation))


def _colour(label: str, alpha: float) -> ColorRGBA:
    """A colour that is always the same for a name: its hue comes from the letters."""
    hue = sum(map(ord, label)) * 0.618034 % 1.0
    r, g, b = (0.5 + 0.5 * math.cos(2 * math.pi * (hue - shift)) for shift in (0.0, 1 / 3, 2 / 3))
    return ColorRGBA(r=r, g=g, b=b, a=alpha)
