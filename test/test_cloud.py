"""The coloured cloud: where its points are, and its bytes as sensor_msgs/PointCloud2 describes them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from vlm3_ros.camera import Camera
from vlm3_ros.geometry import cloud

CAMERA = Camera(8, 6, 10.0, 12.0, 3.3, 2.1)
NAN = np.nan


@pytest.fixture
def picture(rng) -> tuple[np.ndarray, np.ndarray]:
    """Depth and image of CAMERA's size."""
    return rng.uniform(1, 9, (6, 8)).astype(np.float32), rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def xyz(points: np.ndarray) -> np.ndarray:
    return np.stack([points[name] for name in "xyz"], axis=-1)


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 50])
def test_points_are_where_the_camera_sees_them(picture, stride):
    depth, image = picture
    points = cloud.coloured(depth, image, CAMERA, stride)
    rows, columns = np.mgrid[0:6:stride, 0:8:stride]
    assert len(points) == rows.size
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(CAMERA.project(xyz(points)), pixels, atol=1e-5)
    np.testing.assert_array_equal(points["z"], depth[::stride, ::stride].ravel())
    colours = np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], axis=-1)
    np.testing.assert_array_equal(colours, image[::stride, ::stride].reshape(-1, 3))
    assert (points["rgb"] >> 24 == 0).all()


def test_bytes_are_x_y_z_and_a_packed_colour():
    """16 bytes little endian; in memory the colour is blue, green, red, 0, as PCL and RViz read it."""
    points = cloud.coloured(np.float32([[2.0]]), np.uint8([[[10, 20, 30]]]), Camera(1, 1, 1.0, 1.0, -0.5, -1.0))
    assert points.tobytes() == struct.pack("<fffBBBB", 1.0, 2.0, 2.0, 30, 20, 10, 0)
    assert cloud.POINT.itemsize == 16
    assert {name: cloud.POINT.fields[name][1] for name in cloud.POINT.names} == {"x": 0, "y": 4, "z": 8, "rgb": 12}


def test_layout_is_the_one_sensor_msgs_py_writes(picture):
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2")
    header, fields = pytest.importorskip("std_msgs.msg"), pytest.importorskip("sensor_msgs.msg").PointField
    points = cloud.coloured(*picture, CAMERA)
    described = [
        fields(name=n, offset=4 * i, datatype=fields.FLOAT32, count=1) for i, n in enumerate(("x", "y", "z"))
    ]
    described += [fields(name="rgb", offset=12, datatype=fields.UINT32, count=1)]
    message = point_cloud2.create_cloud(header.Header(), described, points)
    assert bytes(message.data) == points.tobytes()


@pytest.mark.parametrize("unknown", [NAN, -1.0, np.inf])
def test_what_is_not_known_is_left_out(picture, unknown):
    depth, image = picture
    depth[2, 3] = unknown
    points = cloud.coloured(depth, image, CAMERA, max_m=30.0)
    assert len(points) == depth.size - 1
    assert np.isfinite(xyz(points)).all()
    assert not (np.abs(CAMERA.project(xyz(points)) - [3, 2]) < 0.5).all(axis=-1).any()


def test_range_and_mask_limit_the_points(picture):
    depth, image = picture
    keep = np.zeros(depth.shape, bool)
    keep[::2, ::2] = True
    near, far = np.sort(depth, axis=None)[[10, 30]]
    inside = (depth >= near) & (depth <= far)
    np.testing.assert_array_equal(cloud.coloured(depth, image, CAMERA, 1, near, far)["z"], depth[inside])
    np.testing.assert_array_equal(cloud.coloured(depth, image, CAMERA, 1, near, far, keep)["z"], depth[inside & keep])
    assert len(cloud.coloured(depth, image, CAMERA, 2, keep=keep)) == 12
    assert len(cloud.coloured(depth, image, CAMERA, keep=np.zeros_like(keep))) == 0


def test_nothing_known_is_an_empty_cloud():
    points = cloud.coloured(np.full((6, 8), NAN, np.float32), np.zeros((6, 8, 3), np.uint8), CAMERA)
    assert points.dtype == cloud.POINT
    assert points.shape == (0,)
