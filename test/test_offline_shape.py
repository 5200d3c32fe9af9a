"""Planes and depth edges against those that are true, each measure worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from moments import moment

from vlm3_ros.camera import Camera
from vlm3_ros.config import CameraConfig
from vlm3_ros.metrics.boundaries import boundary_errors, depth_edges
from vlm3_ros.metrics.planes import Planes, find_planes, fitted, plane_errors
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.sources import Choices

CAMERA = Camera(96, 72, 80.0, 80.0, 47.5, 35.5)


def rays(camera: Camera = CAMERA) -> np.ndarray:
    return camera.rays(np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1))


def plane(normal: tuple[float, float, float], distance: float) -> np.ndarray:
    """Depth [h, w] of the plane normal · p = distance, for a normal that need not be a unit vector."""
    return distance / (rays() @ normal)


# ------------------------------------------------------------------------------------------------------- planes


def test_fitted_plane():
    # Points 1 and -1 off the plane y = 2, in turns: a deviation of 1, and its normal.
    points = np.array([[x, 2.0 + (-1.0) ** (x + z), z] for x in range(10) for z in range(10)], float)
    normal, deviation = fitted(points)
    assert deviation == pytest.approx(1.0)
    np.testing.assert_allclose(np.abs(normal), [0.0, 1.0, 0.0], atol=1e-12)


def test_plane_errors_of_a_turned_plane():
    everywhere = np.ones((72, 96), bool)
    # The wall z = 2, seen as one turned by 45° about the vertical axis: x + z = 2.
    found = plane_errors(plane((1.0, 0.0, 1.0), 2.0), plane((0, 0, 1), 2.0), everywhere, CAMERA)
    assert found["orientation_deg"] == found["orientation_deg_answered"] == pytest.approx(45.0, abs=1e-9)
    assert (found["flatness_m"], found["flatness_true_m"]) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_plane_errors_of_an_uneven_wall():
    # Like a chessboard, half at 1.9 m and half at 2.1 m: the plane that fits best is at 2.0 m, with a deviation of
    # 0.1 m. Twice as far away, the median brings it back.
    board = np.where(sum(np.indices((72, 96))) % 2, 2.1, 1.9)
    for scale in (1.0, 2.0):
        found = plane_errors(scale * board, np.full((72, 96), 2.0), np.ones((72, 96), bool), CAMERA)
        assert found["flatness_m"] == found["flatness_m_answered"] == pytest.approx(0.1, rel=1e-3)
        assert found["orientation_deg"] < 0.1


@pytest.mark.parametrize(("rows", "flatness", "orientation"), [(3, 2.0, 90.0), (0, 2.0, 90.0), (54, 1.0, 22.5)])
def test_what_is_not_predicted_of_a_plane_is_off_by_its_distance_and_a_right_angle(rows, flatness, orientation):
    predicted = np.full((72, 96), np.nan)
    predicted[:rows] = 2.0
    found = plane_errors(predicted, np.full((72, 96), 2.0), np.ones((72, 96), bool), CAMERA)
    assert (found["flatness_m"], found["orientation_deg"]) == pytest.approx((flatness, orientation), abs=1e-5)
    assert found["coverage"] == rows / 72
    assert ("flatness_m_answered" in found) == (rows == 54)


def test_one_plane_turned_by_noise_does_not_carry_the_run():
    group, wall = Planes(), np.full((72, 96), 2.0)
    for turned in (0.0, 0.0, 1.0):
        group.add(moment(depth=plane((turned, 0.0, 1.0), 2.0), true_depth=wall, camera=CAMERA))
    assert group.result()["orientation_deg"] == pytest.approx(0.0, abs=1e-5)
    assert group.result()["planes"] == 3


def test_planes_of_a_corner_are_found():
    left, right, floor = plane((-1.0, 0.0, 1.0), 3.0), plane((1.0, 0.0, 1.0), 3.0), plane((0.0, 1.0, 0.0), 0.6)
    depth = np.minimum(
        np.minimum(*(np.where(p > 0, p, np.inf) for p in (left, right))), np.where(floor > 0, floor, np.inf)
    )
    nearest = np.argmin([np.where(p > 0, p, np.inf) for p in (left, right, floor)], axis=0)
    depth[10:14, 10:14] = np.nan
    found = find_planes(depth, CAMERA)
    assert len(found) == 3
    for which in range(3):
        overlaps = [(mask & (nearest == which)).sum() / (mask | (nearest == which)).sum() for mask in found]
        assert max(overlaps) > 0.95


def test_small_and_unknown_things_are_no_planes(rng):
    depth = rng.uniform(1.0, 9.0, (72, 96))
    depth[30:45, 30:50] = 2.0  # 4 % of the image
    assert find_planes(depth, CAMERA) == []
    assert find_planes(np.full((72, 96), np.nan), CAMERA) == []


def test_planes_of_recorded_rooms_are_flat(data):
    for name, least in (("tum_fr3_cabinet", 2), ("icl_nuim_5", 3), ("sim_pybullet_room", 3)):
        source = open_source(data / name, Choices(), CameraConfig())
        depth, camera = source.truth(0).depth, source.frame(0).camera
        errors = [plane_errors(depth, depth, mask, camera) for mask in find_planes(depth, camera)]
        assert len(errors) >= least
        assert max(found["flatness_true_m"] for found in errors) < 0.015
        assert all(found["orientation_deg"] < 1e-3 for found in errors)


# -------------------------------------------------------------------------------------------------------- edges


def post(left: int, right: int, depth: float = 1.0) -> np.ndarray:
    """Something from column ``left`` to ``right`` of 60, before a wall 2 m away."""
    scene = np.full((10, 60), 2.0)
    scene[:, left : right + 1] = depth
    return scene


def test_edges_are_the_nearer_pixels():
    assert np.flatnonzero(depth_edges(post(20, 30))[0]).tolist() == [20, 30]
    assert np.flatnonzero(depth_edges(post(20, 30).T)[:, 0]).tolist() == [20, 30]
    assert not depth_edges(post(20, 30, depth=1.7)).any()  # 2 / 1.7 is no jump


def test_edges_reach_over_the_shadow_of_a_depth_camera():
    scene = post(20, 30)
    scene[:, 11:20] = np.nan  # ten pixels apart
    assert np.flatnonzero(depth_edges(scene)[0]).tolist() == [20, 30]
    scene[:, 10] = np.nan
    assert np.flatnonzero(depth_edges(scene)[0]).tolist() == [30]


@pytest.mark.parametrize(
    ("predicted", "accuracy", "completeness"),
    [
        (post(20, 30), 0.0, 0.0),
        (post(22, 30), 2 / 2, 2 / 2),  # one edge two pixels off, one right
        (post(20, 59), 0.0, 10 / 2),  # the right edge is missing: ten pixels and more
        (post(40, 59), 10.0, 10.0),  # nothing near a true edge: 40 is ten pixels from 30
        (post(20, 34), 4 / 2, 4 / 2),
        (np.full((10, 60), 2.0), 10.0, 10.0),
    ],
)
def test_boundary_errors(predicted, accuracy, completeness):
    errors = boundary_errors(predicted, post(20, 30))
    assert (errors["accuracy_px"], errors["completeness_px"]) == pytest.approx((accuracy, completeness))


def test_edges_far_from_true_ones_do_not_count():
    predicted = post(20, 30)
    predicted[:, 50:53] = 1.0
    assert boundary_errors(predicted, post(20, 30)) == {
        "coverage": 1.0,
        "accuracy_px": 0.0,
        "completeness_px": 0.0,
    }


def test_edges_that_are_not_predicted_are_far_off():
    predicted = post(20, 30)
    predicted[5:] = np.nan  # half of the true edges; the other half is right
    errors = boundary_errors(predicted, post(20, 30))
    assert errors == pytest.approx({"coverage": 0.5, "accuracy_px": 5.0, "completeness_px": 1.5})


def test_smooth_or_sparse_truth_has_no_boundary_errors():
    assert boundary_errors(post(20, 30), np.full((10, 60), 2.0)) == {}
    sparse = post(20, 30)
    sparse[::2] = np.nan
    sparse[:, ::8] = np.nan
    assert boundary_errors(post(20, 30), sparse) == {}
