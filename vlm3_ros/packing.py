"""Arrays and scenes to messages of any library that has classes for ROS messages, such as rclpy and rosbags.

Which library it is says the function that a `Packer` makes all messages with.
"""

from __future__ import annotations

import array
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.camera import Camera
from vlm3_ros.config import CloudConfig
from vlm3_ros.geometry import cloud
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.messages import FLOAT32, UINT32, sample_points
from vlm3_ros.perception import Frame, Matches, Scene

# Constants of visualization_msgs/Marker.
CUBE, TEXT_VIEW_FACING = 1, 9
ADD, DELETEALL = 0, 3

UNKNOWN_ROTATION = math.pi**2  # rad², variance that claims nothing about a box's rotation


class Topic(NamedTuple):
    """An output: its message type, and the task it comes from."""

    type: str
    task: str


TOPICS = {  # by relative name
    "depth/image": Topic("sensor_msgs/msg/Image", "depth"),
    "depth/camera_info": Topic("sensor_msgs/msg/CameraInfo", "depth"),
    "depth/confidence": Topic("sensor_msgs/msg/Image", "depth"),
    "depth/samples": Topic("sensor_msgs/msg/PointCloud2", "depth"),
    "points": Topic("sensor_msgs/msg/PointCloud2", "depth"),
    "camera_pose": Topic("geometry_msgs/msg/PoseWithCovarianceStamped", "pose"),
    "matches": Topic("vlm3_ros/msg/PixelMatches", "matches"),
    "objects": Topic("vision_msgs/msg/Detection3DArray", "objects"),
    "objects/markers": Topic("visualization_msgs/msg/MarkerArray", "objects"),
}


class New(Protocol):
    """Makes a message of a type such as "std_msgs/msg/Header"; fields that are not given have their defaults."""

    def __call__(self, type: str, /, **fields: Any) -> Any: ...


class Packer:
    """Makes messages."""

    def __init__(self, new: New):
        self._new = new

    def scene(self, scene: Scene, settings: CloudConfig, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
        """The outputs of TOPICS that are ``wanted``, but for the pose, in the optical frame of the image."""
        head = self.header(scene.frame)
        makers = {**self._of_depth(head, scene, settings), **self._of_others(head, scene)}
        return ((name, make()) for name, make in makers.items() if wanted(name))

    def _of_depth(self, head: Any, scene: Scene, settings: CloudConfig) -> dict[str, Callable[[], Any]]:
        if (view := scene.depth) is None:
            return {}

        def points() -> np.ndarray:
            keep = view.map.confidence >= settings.min_confidence if settings.min_confidence > 0.0 else None
            return cloud.coloured(
                view.map.depth, view.image, view.camera, settings.stride, settings.min_m, settings.max_m, keep
            )

        return {
            "depth/image": lambda: self.float_image(head, view.map.depth),
            "depth/camera_info": lambda: self.camera_info(head, view.camera),
            "depth/confidence": lambda: self.float_image(head, view.map.confidence),
            "depth/samples": lambda: self.cloud(head, sample_points(view.samples, scene.frame.camera)),
            "points": lambda: self.cloud(head, points()),
        }

    def _of_others(self, head: Any, scene: Scene) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {}
        if (matches := scene.matches) is not None:
            found["matches"] = lambda: self.matches(head, matches)
        if (objects := scene.objects) is not None:
            found["objects"] = lambda: self.detections(head, objects)
            found["objects/markers"] = lambda: self.markers(head, objects)
        return found

    def header(self, frame: Frame, frame_id: str | None = None) -> Any:
        """The header of the image a frame came from, or one with its stamp and another frame_id."""
        message = self._new("std_msgs/msg/Header", frame_id=frame.frame_id if frame_id is None else frame_id)
        message.stamp.sec, message.stamp.nanosec = divmod(frame.stamp, 10**9)
        return message

    def camera_info(self, head: Any, camera: Camera) -> Any:
        """A CameraInfo for rectified images of ``camera``: no distortion, P = K."""
        k = camera.K
        return self._new(
            "sensor_msgs/msg/CameraInfo", header=head, width=camera.width, height=camera.height,
            distortion_model="plumb_bob", d=array.array("d", [0.0] * 5), k=k.ravel(), r=np.eye(3).ravel(),
            p=np.hstack([k, np.zeros((3, 1))]).ravel(),
        )  # fmt: skip

    def colour_image(self, head: Any, image: np.ndarray) -> Any:
        """An rgb8 image from uint8 [height, width, 3] RGB."""
        return self._image(head, "rgb8", image)

    def float_image(self, head: Any, values: np.ndarray) -> Any:
        """A 32FC1 image from float32 [height, width]; depth is metres along Z with NaN unknown (REP 118)."""
        return self._image(head, "32FC1", np.ascontiguousarray(values, np.float32))

    def cloud(self, head: Any, points: np.ndarray) -> Any:
        """An unorganised cloud without invalid points, from a structured array [N]; its fields become the cloud's."""
        kinds = {name: points.dtype[name].str for name in points.dtype.names or ()}
        # RViz and PCL read packed colour as a float field named rgb.
        fields = [
            self._new(
                "sensor_msgs/msg/PointField",
                name=name,
                offset=points.dtype.fields[name][1],  # type: ignore[index]
                datatype=UINT32 if kind == "<u4" and name != "rgb" else FLOAT32,
                count=1,
            )
            for name, kind in kinds.items()
        ]
        size, count, data = points.dtype.itemsize, len(points), _bytes(points)
        del points  # with one large block less in use, malloc keeps them for the next cloud instead of unmapping them
        return self._new(
            "sensor_msgs/msg/PointCloud2", header=head, height=1, width=count, fields=fields,
            is_bigendian=False, point_step=size, row_step=size * count, data=data, is_dense=True,
        )  # fmt: skip

    def pose(self, head: Any, value: Pose) -> Any:
        """A pose in the frame of ``head``."""
        (quaternion,) = self._quaternions([value.T[:3, :3]])
        with_covariance = self._new(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=self._pose(value.T[:3, 3], quaternion),
            covariance=value.covariance.ravel(),
        )
        return self._new("geometry_msgs/msg/PoseWithCovarianceStamped", header=head, pose=with_covariance)

    def transform(self, head: Any, child: str, T: np.ndarray) -> Any:
        """The pose T [4, 4] of frame ``child`` in the frame of ``head``."""
        (quaternion,) = self._quaternions([T[:3, :3]])
        inner = self._new("geometry_msgs/msg/Transform", translation=self._vector(T[:3, 3]), rotation=quaternion)
        return self._new("geometry_msgs/msg/TransformStamped", header=head, child_frame_id=child, transform=inner)

    def transforms(self, *transforms: Any) -> Any:
        """What goes over /tf."""
        return self._new("tf2_msgs/msg/TFMessage", transforms=list(transforms))

    def matches(self, head: Any, found: Matches) -> Any:
        """Pixel correspondences from an earlier frame to this one."""
        (u1, v1), (u2, v2) = found.pixels_first.T, found.pixels.T
        return self._new(
            "vlm3_ros/msg/PixelMatches", header=head, header1=self.header(found.first),
            u1=_floats(u1), v1=_floats(v1), u2=_floats(u2), v2=_floats(v2), confidence=_floats(found.confidence),
        )  # fmt: skip

    def detections(self, head: Any, boxes: Sequence[Box3D]) -> Any:
        """Boxes in the frame of ``head``; class_id is the name that was asked for."""
        found = [self._detection(head, box, pose) for box, pose in zip(boxes, self._poses(boxes), strict=True)]
        return self._new("vision_msgs/msg/Detection3DArray", header=head, detections=found)

    def markers(self, head: Any, boxes: Sequence[Box3D]) -> Any:
        """The same boxes for RViz: a translucent box and its name each, after the old ones are deleted."""
        shown = [self._new("visualization_msgs/msg/Marker", header=head, action=DELETEALL)]
        for i, (box, pose) in enumerate(zip(boxes, self._poses(boxes), strict=True)):
            above = np.array(box.center) + np.array(box.rotation)[:, 2] * (box.size[2] / 2 + 0.1)
            shown += [
                self._new(
                    "visualization_msgs/msg/Marker", header=head, ns="boxes", id=i, type=CUBE, action=ADD,
                    pose=pose, scale=self._vector(box.size), color=self._colour(box.label, 0.4),
                ),
                self._new(
                    "visualization_msgs/msg/Marker", header=head, ns="names", id=i, type=TEXT_VIEW_FACING, action=ADD,
                    pose=self._new("geometry_msgs/msg/Pose", position=self._point(above)),
                    scale=self._vector((0.0, 0.0, 0.12)),
                    color=self._colour(box.label, 1.0), text=f"{box.label} {box.score:.2f}",
                ),
            ]  # fmt: skip
        return self._new("visualization_msgs/msg/MarkerArray", markers=shown)

    def _image(self, head: Any, encoding: str, values: np.ndarray) -> Any:
        height, width, step = *values.shape[:2], values[0].nbytes
        return self._new(
            "sensor_msgs/msg/Image", header=head, height=height, width=width, encoding=encoding, is_bigendian=0,
            step=step, data=_bytes(values),
        )  # fmt: skip

    def _detection(self, head: Any, box: Box3D, pose: Any) -> Any:
        hypothesis = self._new("vision_msgs/msg/ObjectHypothesis", class_id=box.label, score=float(box.score))
        result = self._new(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis=hypothesis,
            pose=self._new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=_covariance(box)),
        )
        bounds = self._new("vision_msgs/msg/BoundingBox3D", center=pose, size=self._vector(box.size))
        return self._new("vision_msgs/msg/Detection3D", header=head, results=[result], bbox=bounds)

    def _point(self, position: Sequence[float] | np.ndarray) -> Any:
        return self._new("geometry_msgs/msg/Point", **_xyz(position))

    def _vector(self, vector: Sequence[float] | np.ndarray) -> Any:
        return self._new("geometry_msgs/msg/Vector3", **_xyz(vector))

    def _quaternions(self, rotations: Sequence[np.ndarray]) -> list[Any]:
        """Rotation matrices as quaternions: all in one call, as SciPy takes as long for one as for a hundred."""
        if not rotations:
            return []
        found = Rotation.from_matrix(np.stack(rotations)).as_quat().tolist()
        return [self._new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w) for x, y, z, w in found]

    def _pose(self, position: np.ndarray, quaternion: Any) -> Any:
        return self._new("geometry_msgs/msg/Pose", position=self._point(position), orientation=quaternion)

    def _poses(self, boxes: Sequence[Box3D]) -> list[Any]:
        quaternions = self._quaternions([box.rotation for box in boxes])
        return [self._pose(box.center, quaternion) for box, quaternion in zip(boxes, quaternions, strict=True)]

    def _colour(self, label: str, alpha: float) -> Any:
        """A colour that is always the same for a name: its hue comes from the letters."""
        hue = sum(map(ord, label)) * 0.618034 % 1.0
        r, g, b = (0.5 + 0.5 * math.cos(2 * math.pi * (hue - shift)) for shift in (0.0, 1 / 3, 2 / 3))
        return self._new("std_msgs/msg/ColorRGBA", r=r, g=g, b=b, a=alpha)


def _covariance(box: Box3D) -> np.ndarray:
    """Covariance [36] of a box's pose, rows and columns x y z and rotations about X Y Z; -1 first where not known.

    The rotation is left unclaimed: a quarter turn about the vertical, with length and width exchanged, is the same
    box.
    """
    covariance = np.zeros((6, 6))
    if box.center_covariance is None:
        covariance[0, 0] = -1.0  # as in sensor_msgs: all of it is unknown
    else:
        covariance[:3, :3] = box.center_covariance
        covariance[3:, 3:] = UNKNOWN_ROTATION * np.eye(3)
    return covariance.ravel()


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
