"""Oriented boxes: exact overlap and corners."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlm3_ros.geometry.box3d import Box3D


def cube(size=(1.0, 1.0, 1.0), center=(0.0, 0.0, 0.0), rotation=None) -> Box3D:
    return Box3D("cube", 1.0, np.array(center), np.array(size), np.eye(3) if rotation is None else rotation)


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        (cube(), cube(), 1.0),
        (cube(), cube(center=(0.5, 0.0, 0.0)), 1 / 3),
        (cube(), cube(center=(0.5, 0.5, 0.5)), 0.125 / 1.875),
        (cube(), cube(size=(0.5, 0.5, 0.5), center=(0.1, -0.2, 0.2)), 0.125),
        (cube(size=(2.0, 0.1, 0.1)), cube(size=(0.1, 2.0, 0.1)), 0.001 / 0.039),  # a cross: no corner in the other
        (cube(), cube(center=(1.0, 0.0, 0.0)), 0.0),  # a common face
        (cube(), cube(center=(1.0, 1.0, 1.0)), 0.0),  # a common corner
        (cube(), cube(center=(5.0, 0.0, 0.0)), 0.0),
        (cube(size=(1.0, 1.0, 1e-6)), cube(size=(1.0, 0.5, 1e-6)), 0.5),
        # two squares at 45° share an octagon of area 2 (√2 - 1)
        (cube(), cube(rotation=Rotation.from_euler("z", 45, degrees=True).as_matrix()), 1 / math.sqrt(2)),
    ],
)
def test_iou_of_known_shapes(a, b, iou):
    assert a.iou(b) == pytest.approx(iou, abs=1e-6)
    assert b.iou(a) == pytest.approx(iou, abs=1e-6)


def random_box(rng) -> Box3D:
    rotation = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    return cube(rng.uniform(0.1, 1.5, 3), rng.normal(0.0, 0.3, 3), rotation)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_iou_agrees_with_monte_carlo_and_does_not_depend_on_the_frame(seed):
    rng = np.random.default_rng(seed)
    a, b = random_box(rng), random_box(rng)
    inside_a = a.center + (rng.uniform(-0.5, 0.5, (40_000, 3)) * a.size) @ a.rotation.T
    common = a.volume() * np.mean(np.all(np.abs(b.to_unit(inside_a)) <= 0.5, axis=1))
    assert a.iou(b) == pytest.approx(common / (a.volume() + b.volume() - common), abs=0.015)
    turn, shift = Rotation.from_quat(rng.normal(size=4)).as_matrix(), rng.normal(size=3)
    moved = [replace(x, center=turn @ x.center + shift, rotation=turn @ x.rotation) for x in (a, b)]
    assert moved[0].iou(moved[1]) == pytest.approx(b.iou(a), abs=1e-9)


def test_corners_are_the_ends_of_the_box_axes():
    box = random_box(np.random.default_rng(0))
    along = (box.corners() - box.center) @ box.rotation
    np.testing.assert_allclose(np.abs(along), np.tile(box.size / 2, (8, 1)))
    assert len(np.unique(np.sign(along), axis=0)) == 8
