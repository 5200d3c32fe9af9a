"""Two views with depth and poses: against the simulator, which traces every ray, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning import known, tour, wall
from numpy.testing import assert_allclose

from vlm3_ros import sim
from vlm3_ros.learn.data.views import agreement, carried_depth, correspondences, covisibility, depth_at

PAIRS = [(0, 1), (0, 3), (5, 4), (8, 10)]
GRID = np.mgrid[4:160:7, 4:120:7].reshape(2, -1).T


@given(st.floats(-2e-3, 2e-3), st.floats(-2e-3, 2e-3), st.floats(0, 159), st.floats(0, 119))
def test_depth_of_a_plane_is_exact_between_pixels(a, b, u, v):
    def inverse(u, v):
        return 0.5 + a * (u - 80) + b * (v - 60)

    v_whole, u_whole = np.mgrid[:120, :160]
    depth = 1.0 / inverse(u_whole, v_whole)
    assert_allclose(depth_at(depth, np.array([[u, v]])), 1.0 / inverse(u, v), rtol=1e-9)


def test_beside_an_edge_or_a_hole_there_is_no_depth():
    depth = np.full((120, 160), 2.0)
    depth[:, 80:] = 3.0
    depth[60, 20] = np.nan
    asked = [(79.0, 5.0), (79.5, 5.0), (80.0, 5.0), (78.0, 5.0), (19.5, 59.5), (20, 60), (20, 61.0), (159.0, 119.0)]
    assert_allclose(depth_at(depth, np.array(asked)), [np.nan, np.nan, 3, 2, np.nan, np.nan, 2, 3])


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_correspondences_are_those_of_the_simulator(i, j):
    a, b = tour()[i], tour()[j]
    there, seen = correspondences(known(a), known(b), GRID)
    expected, expected_seen = sim.correspondences(a, b, GRID)
    has_depth = np.isfinite(there).all(axis=1)
    assert has_depth.mean() > 0.9
    assert_allclose(there[has_depth], expected[has_depth], atol=1e-3)
    assert not (seen & ~expected_seen)[has_depth].any()  # nothing hidden is taken for seen
    assert seen[has_depth & expected_seen].mean() > 0.8  # and all that is seen, but beside edges


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_without_depth_in_the_second_view_that_of_the_first_tells_what_is_hidden(i, j):
    a, b = tour()[i], tour()[j]
    blind = replace(known(b), depth=None)
    _, seen = correspondences(known(a), blind, GRID)
    _, expected = sim.correspondences(a, b, GRID)
    assert (seen & ~expected).mean() < 0.01  # what only b sees may hide something
    assert seen[expected].mean() > 0.7  # the depth buffer is coarse on slanted surfaces
    carried = carried_depth(known(a), blind)
    both = np.isfinite(carried)
    assert np.median(np.abs(carried[both] / b.depth[both] - 1.0)) < 0.01


def test_a_nearer_surface_hides_what_is_behind_it_in_a_view_without_depth():
    """A panel at 1 m over a wall at 2 m: from 20 cm to the right it covers other pixels of the wall."""
    a = wall(2.0, T=np.eye(4))
    a.depth[:, 60:100] = 1.0
    T = np.eye(4)
    T[0, 3] = 0.2
    b = replace(wall(2.0, T=T), depth=None)
    _, seen = correspondences(a, b, np.array([(50, 60), (30, 60), (110, 60), (80, 60)]))
    # Wall pixels move by 130 · 0.2 / 2 = 13 px to the left, the panel by 26: it then covers 34 to 73.
    assert seen.tolist() == [False, True, True, True]


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_covisibility_is_about_that_of_the_simulator(i, j):
    a, b = tour()[i], tour()[j]
    assert covisibility(known(a), known(b), step=8) == pytest.approx(sim.covisibility(a, b), abs=0.12)
    assert covisibility(known(a), known(b)) == covisibility(known(b), known(a))


@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_views_of_a_still_room_are_not_in_conflict(i, j):
    assert agreement(known(tour()[i]), known(tour()[j]), step=4).conflicting < 0.02


def test_wrong_poses_and_moved_things_are_in_conflict():
    a, b = known(tour()[0]), known(tour()[1])
    shifted = b.T_world_camera.copy()
    shifted[:3, 3] += shifted[:3, 2] * 0.4
    assert agreement(a, replace(b, T_world_camera=shifted), step=4).conflicting > 0.2
    passing = b.depth.copy()
    passing[:, 40:80] = 0.6  # somebody in front of the camera: hides things, and was not there before
    assert agreement(a, replace(b, depth=passing), step=4).conflicting > 0.2


def test_depth_behind_a_camera_is_nowhere():
    back = np.diag([-1.0, 1.0, -1.0, 1.0])
    there, seen = correspondences(wall(2.0, T=np.eye(4)), wall(2.0, T=back), GRID)
    assert np.isnan(there).all()
    assert not seen.any()
    assert covisibility(wall(2.0, T=np.eye(4)), wall(2.0, T=back)) == 0.0
