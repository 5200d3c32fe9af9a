"""Arrays and scenes as messages: byte layouts, conventions of ROS, and no field that rclpy copies item by item."""

from __future__ import annotations

import array
import struct
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, PointField, RegionOfInterest
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from vlm3_ros.calibration import Rectifier
from vlm3_ros.camera import Camera
from vlm3_ros.geometry import cloud as clouds
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.perception import Frame, Matches, Samples
from vlm3_ros.ros import messages

HEAD = Header(stamp=Time(sec=12, nanosec=345), frame_id="optical")
CAMERA = Camera(64, 48, 60.0, 61.0, 31.0, 23.0)
FRAME = Frame("", 12 * 10**9 + 345, "optical", np.zeros((48, 64, 3), np.uint8), CAMERA)
TURNED = Rotation.from_euler("xyz", [10, -20, 130], degrees=True).as_matrix()


def boxes(*labels: str) -> list[Box3D]:
    return [
        Box3D(n, 0.25, np.array([1.0, 2.0, 3.0 + i]), np.array([0.5, 0.6, 0.7]), TURNED) for i, n in enumerate(labels)
    ]


def sent(message: Any) -> Any:
    """What a subscriber gets."""
    return deserialize_message(serialize_message(message), type(message))


def rotation(q: Quaternion) -> np.ndarray:
    return Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()


# --------------------------------------------------------------------------------------------------- headers


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_are_exact(nanoseconds):
    head = messages.header(Frame("", nanoseconds, "f", FRAME.image, CAMERA))
    assert 0 <= head.stamp.nanosec < 10**9
    assert messages.nanoseconds(sent(head)) == nanoseconds


def test_header_is_that_of_the_image():
    assert messages.header(FRAME) == HEAD


# ---------------------------------------------------------------------------------------------- calibrations


def test_camera_info_leads_back_to_the_same_camera():
    message = sent(messages.camera_info(HEAD, CAMERA))
    assert message.header == HEAD
    assert (message.distortion_model, list(message.d)) == ("plumb_bob", [0.0] * 5)
    assert Rectifier(messages.calibration(message), CAMERA.size).camera == CAMERA
    assert Rectifier(messages.calibration(message), CAMERA.size, already_rectified=True).camera == CAMERA


def test_calibration_takes_over_every_field():
    roi = RegionOfInterest(x_offset=1, y_offset=2, width=30, height=40)
    message = CameraInfo(
        width=640, height=480, distortion_model="equidistant", d=[0.1, 0.2, 0.3, 0.4], k=np.arange(9.0),
        r=np.arange(9.0) + 10, p=np.arange(12.0) + 20, binning_x=2, binning_y=3, roi=roi,
    )  # fmt: skip
    c = messages.calibration(message)
    assert (c.width, c.height, c.distortion_model, c.d) == (640, 480, "equidistant", (0.1, 0.2, 0.3, 0.4))
    assert (c.k, c.r, c.p) == (tuple(range(9)), tuple(range(10, 19)), tuple(range(20, 32)))
    assert (c.binning, c.roi) == ((2, 3), (1, 2, 30, 40))


# ------------------------------------------------------------------------------------------ images and clouds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_image(dtype, rng):
    values = rng.random((48, 64)).astype(dtype)[:, ::2]  # neither contiguous nor of the right type
    values[3, 5] = np.nan
    message = sent(messages.float_image(HEAD, values))
    assert (message.header, message.encoding, message.is_bigendian) == (HEAD, "32FC1", 0)
    assert (message.width, message.height, message.step) == (32, 48, 128)
    assert struct.unpack_from("<f", message.data, 128 * 2 + 4 * 7) == pytest.approx((values[2, 7],))
    np.testing.assert_array_equal(messages.float_array(message), values.astype(np.float32))


def coloured(rng: np.random.Generator) -> np.ndarray:
    depth = rng.uniform(1.0, 3.0, (48, 64)).astype(np.float32)
    depth[:10] = np.nan
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    return clouds.coloured(depth, image, CAMERA)


def test_cloud_layout(rng):
    points = coloured(rng)
    message = sent(messages.cloud(HEAD, points))
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        ("x", 0, PointField.FLOAT32, 1),
        ("y", 4, PointField.FLOAT32, 1),
        ("z", 8, PointField.FLOAT32, 1),
        ("rgb", 12, PointField.FLOAT32, 1),  # as RViz and PCL expect it
    ]
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 38 * 64, 16, 38 * 64 * 16)
    assert (message.header, message.is_dense, message.is_bigendian) == (HEAD, True, False)
    assert len(message.data) == message.row_step
    x, y, z = struct.unpack_from("<3f", message.data, 16 * 100)
    assert (x, y, z) == tuple(points[100][["x", "y", "z"]])


def test_colour_is_packed_as_rviz_unpacks_it():
    depth, image = np.ones((1, 1), np.float32), np.array([[[200, 100, 50]]], np.uint8)
    message = messages.cloud(HEAD, clouds.coloured(depth, image, Camera(1, 1, 1.0, 1.0, 0.0, 0.0)))
    (packed,) = struct.unpack_from("<f", message.data, 12)  # a float by its field ...
    (number,) = struct.unpack("<I", struct.pack("<f", packed))  # ... whose bits are 0x00RRGGBB
    assert (number >> 16, number >> 8 & 255, number & 255) == (200, 100, 50)


def test_empty_cloud():
    message = sent(messages.cloud(HEAD, np.empty(0, clouds.POINT)))
    assert (message.width, message.height, len(message.data), len(message.fields)) == (0, 1, 0, 4)


def test_cloud_array_reads_what_was_written(rng):
    points = coloured(rng)
    read = messages.cloud_array(sent(messages.cloud(HEAD, points)))
    assert read.dtype.names == points.dtype.names
    assert read.tobytes() == points.tobytes()


def test_samples_are_the_answered_pixels():
    pixels = np.array([[31.0, 23.0], [0.0, 0.0], [31.0, 84.0]])
    samples = Samples(
        pixels, np.array([2.0, np.nan, 3.0]), np.array([0.9, 0.0, 0.5]), np.array([0.1, np.nan, np.nan])
    )
    points = messages.sample_points(samples, CAMERA)
    assert points.dtype.names == ("x", "y", "z", "confidence", "spread")
    np.testing.assert_allclose(points[0].tolist(), [0.0, 0.0, 2.0, 0.9, 0.1], rtol=1e-6)
    np.testing.assert_allclose(points[1].tolist(), [0.0, 3.0, 3.0, 0.5, np.nan], rtol=1e-6)
    assert len(points) == 2


@pytest.mark.parametrize("columns", [("x", "y", "z", "rgb"), ("x", "y", "z", "confidence", "spread")])
def test_as_sensor_msgs_py_packs_it(columns, rng):
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is not installed")
    points = np.zeros(7, np.dtype([(name, "<f4") for name in columns]))
    for name in columns:
        points[name] = rng.random(7)
    ours = messages.cloud(HEAD, points)
    theirs = point_cloud2.create_cloud(HEAD, ours.fields, points)
    assert (ours.data, ours.point_step, ours.row_step) == (theirs.data, theirs.point_step, theirs.row_step)
    np.testing.assert_array_equal(point_cloud2.read_points(ours), points)


# ----------------------------------------------------------------------------------------------------- poses


@given(
    st.lists(st.floats(-180.0, 180.0), min_size=3, max_size=3),
    st.lists(st.floats(-99.0, 99.0), min_size=3, max_size=3),
)
def test_transform_there_and_back(angles, position):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    T[:3, 3] = position
    message = sent(messages.transform(HEAD, "child", T))
    assert (message.header, message.child_frame_id) == (HEAD, "child")
    q = message.transform.rotation
    assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0)
    np.testing.assert_allclose(messages.matrix(message), T, atol=1e-9)


def test_quaternion_is_x_y_z_w():
    T = np.eye(4)
    T[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # 90° about z
    q = messages.transform(HEAD, "child", T).transform.rotation
    half = np.sqrt(0.5)
    np.testing.assert_allclose(np.array([q.x, q.y, q.z, q.w]) * np.sign(q.w), [0, 0, half, half])


@pytest.mark.parametrize("wrong", [(0.0, 0.0, 0.0, 0.0), (np.nan, 0.0, 0.0, 1.0), (np.inf, 0.0, 0.0, 1.0)])
def test_transform_that_is_none(wrong):
    message = messages.transform(HEAD, "child", np.eye(4))
    q = message.transform.rotation
    q.x, q.y, q.z, q.w = wrong
    with pytest.raises(ValueError, match=r"NaN|all zeros"):
        messages.matrix(message)


def test_pose_with_its_covariance_row_by_row():
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = TURNED, (1.0, 2.0, 3.0)
    covariance = np.arange(36.0).reshape(6, 6)  # x y z, then rotation about x y z, as ROS orders it
    message = sent(messages.pose(HEAD, Pose(T, covariance)))
    assert message.header == HEAD
    np.testing.assert_allclose(messages.pose_matrix(message.pose.pose), T, atol=1e-12)
    assert message.pose.covariance[0 * 6 + 5] == 5.0
    assert message.pose.covariance[5 * 6 + 0] == 30.0


def test_as_tf_transformations_computes_it():
    tf_transformations = pytest.importorskip("tf_transformations", reason="tf_transformations is not installed")
    T = np.eye(4)
    T[:3, :3] = TURNED
    q = messages.transform(HEAD, "child", T).transform.rotation
    ours, theirs = np.array([q.x, q.y, q.z, q.w]), np.array(tf_transformations.quaternion_from_matrix(T))
    np.testing.assert_allclose(ours * np.sign(ours[3]), theirs * np.sign(theirs[3]), atol=1e-12)
    np.testing.assert_allclose(tf_transformations.quaternion_matrix(ours), T, atol=1e-12)


# --------------------------------------------------------------------------------------------------- objects


def test_detections():
    message = sent(messages.detections(HEAD, boxes("chair", "table")))
    assert message.header == HEAD
    assert [d.header for d in message.detections] == [HEAD, HEAD]
    chair = message.detections[0]
    (result,) = chair.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("chair", 0.25)
    assert result.pose.pose == chair.bbox.center
    np.testing.assert_allclose(messages.pose_matrix(chair.bbox.center)[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(rotation(chair.bbox.center.orientation), TURNED, atol=1e-12)
    assert (chair.bbox.size.x, chair.bbox.size.y, chair.bbox.size.z) == (0.5, 0.6, 0.7)
    for box, read in zip(boxes("chair", "table"), messages.boxes(message), strict=True):
        assert (read.label, read.score) == (box.label, box.score)
        assert read.iou(box) == pytest.approx(1.0)


def test_markers_delete_the_old_ones_first():
    message = sent(messages.markers(HEAD, boxes("chair", "chair")))
    first, *shown = message.markers
    assert first.action == Marker.DELETEALL
    assert [m.action for m in shown] == [Marker.ADD] * 4
    assert len({(m.ns, m.id) for m in shown}) == 4
    assert {m.header.frame_id for m in message.markers} == {"optical"}
    solid, name = shown[:2]
    assert (solid.type, name.type, name.text) == (Marker.CUBE, Marker.TEXT_VIEW_FACING, "chair 0.25")
    assert (solid.scale.x, solid.scale.y, solid.scale.z) == (0.5, 0.6, 0.7)
    np.testing.assert_allclose(rotation(solid.pose.orientation), TURNED, atol=1e-12)
    assert 0.0 < solid.color.a < name.color.a == 1.0
    assert shown[0].color == shown[2].color  # one name, one colour


def test_no_objects_is_a_message_too():
    assert sent(messages.detections(HEAD, [])).detections == []
    (only,) = sent(messages.markers(HEAD, [])).markers
    assert only.action == Marker.DELETEALL


# --------------------------------------------------------------------------------------------------- matches


def test_matches():
    earlier = Frame("", 7, "other_optical", FRAME.image, CAMERA)
    here, there = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    message = sent(messages.matches(HEAD, Matches(earlier, here, there, np.array([0.5, 1.0]))))
    assert message.header == HEAD
    assert (message.header1.frame_id, message.header1.stamp.nanosec) == ("other_optical", 7)
    assert [list(column) for column in (message.u1, message.v1)] == [[1, 3], [2, 4]]
    assert [list(column) for column in (message.u2, message.v2)] == [[5, 7], [6, 8]]
    assert list(message.confidence) == [0.5, 1.0]


def test_no_matches():
    none = np.empty((0, 2))
    message = sent(messages.matches(HEAD, Matches(FRAME, none, none, np.empty(0))))
    assert [len(c) for c in (message.u1, message.v1, message.u2, message.v2, message.confidence)] == [0] * 5


# ----------------------------------------------------------------------------------------------------- speed


def test_big_fields_are_assigned_in_the_fast_form(rng, monkeypatch):
    """rclpy takes over an array.array of the right type as it is, and walks through anything else."""
    given: list[tuple[str, type, str]] = []

    def watch(kind: type, field: str) -> None:
        setter = getattr(kind, field).fset

        def watched(self: Any, value: Any) -> None:
            if len(value):  # constructors assign an empty one first
                given.append((field, type(value), getattr(value, "typecode", "")))
            setter(self, value)

        monkeypatch.setattr(kind, field, getattr(kind, field).setter(watched))

    image = messages.float_image(HEAD, np.ones((2, 2)))
    points = messages.cloud(HEAD, coloured(rng))
    found = messages.matches(HEAD, Matches(FRAME, np.ones((3, 2)), np.ones((3, 2)), np.ones(3)))
    for kind, field in (
        (type(image), "data"),
        (type(points), "data"),
        (type(found), "u1"),
        (type(found), "confidence"),
    ):
        watch(kind, field)
    messages.float_image(HEAD, np.ones((2, 2)))
    messages.colour_image(HEAD, np.ones((2, 2, 3), np.uint8))
    messages.cloud(HEAD, coloured(rng))
    messages.matches(HEAD, Matches(FRAME, np.ones((3, 2)), np.ones((3, 2)), np.ones(3)))
    assert given == [("data", array.array, "B")] * 3 + [("u1", array.array, "f"), ("confidence", array.array, "f")]
