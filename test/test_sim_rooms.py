"""Simulated rooms and walks through them: sound for any seed, and those of the demo."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from rooms import CAMERAS, QVGA, bare, single

from vlm3_ros.sim import (
    covisibility,
    demo_room,
    random_room,
    render,
    viewpoint,
    visible_boxes,
    walk,
)
from vlm3_ros.sim.demo import WALK_SEED
from vlm3_ros.sim.floorplan import clearance, disjoint
from vlm3_ros.sim.path import SPEED, TURN_RATE, pose

SEEDS = st.integers(0, 10**6)


# ---------------------------------------------------------------------------------------------------- rooms and walks


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_random_rooms_are_sound(seed):
    room = random_room(seed)
    assert len(room.things) >= 2
    for thing in room.things:
        assert (abs(thing.footprint) <= np.array(room.size[:2]) / 2).all()
        assert -1e-9 <= thing.bottom < thing.top < room.size[2]
        supports = [0.0, *(t.top for t in room.things if t is not thing and t.top <= thing.bottom + 1e-6)]
        assert np.min(abs(np.array(supports) - thing.bottom)) < 1e-6, f"{thing.label} hangs in the air"
        assert_allclose(
            [np.min([np.subtract(p.center, np.array(p.size) / 2) for p in thing.parts], 0)],
            [-np.array(thing.size) / 2],
            atol=1e-9,
        )
    for a, b in itertools.combinations(room.things, 2):
        assert disjoint(a, b), f"{a.label} and {b.label} intersect"


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from(list(CAMERAS)))
def test_depth_is_finite_everywhere_from_any_viewpoint(seed, name):
    room, camera = random_room(seed), CAMERAS[name]
    view = render(room, camera, viewpoint(room, np.random.default_rng(seed)), np.random.default_rng(0))
    assert np.isfinite(view.depth).all()
    assert (view.depth > 0.02).all()
    assert view.depth.max() < np.linalg.norm(room.size)
    assert (view.thing >= -1).all()
    assert (view.thing < len(room.things)).all()
    assert view.image.std() > 2


def test_the_same_seed_gives_the_same_room_walk_and_picture():
    once, again, other = random_room(7), random_room(7), random_room(8)
    assert (once.size, once.things, once.decor, once.walls) == (again.size, again.things, again.decor, again.walls)
    assert once.things != other.things
    assert_allclose(walk(once, 40, seed=3), walk(again, 40, seed=3), atol=0)
    assert abs(walk(once, 40, seed=3) - walk(once, 40, seed=4)).max() > 0.1
    T = walk(once, 1)[0]
    pictures = [render(r, QVGA, T, np.random.default_rng(n)).image for r, n in ((once, 1), (again, 1), (once, 2))]
    assert (pictures[0] == pictures[1]).all()
    assert 0.5 < abs(pictures[0].astype(int) - pictures[2]).mean() < 8  # noise, but little
    clean = render(once, QVGA, T).image
    assert (clean == render(once, QVGA, T).image).all()


def test_random_rooms_differ():
    rooms = [random_room(seed) for seed in range(40)]
    assert len({thing.label for room in rooms for thing in room.things}) >= 10
    assert len({room.floor.pattern for room in rooms}) >= 4
    assert len({wall.pattern for room in rooms for wall in room.walls}) >= 4
    assert np.ptp([room.size[0] for room in rooms]) > 2.0


@settings(max_examples=12, deadline=None)
@given(SEEDS)
def test_walks_are_smooth_and_clear(seed):
    room = random_room(seed)
    T = walk(room, 200, rate=10.0, seed=seed)
    centers = T[:, :3, 3]
    assert T.shape == (200, 4, 4)
    assert room.contains(centers).all()
    assert clearance(room, centers[:, :2]).min() >= 0.25
    assert_allclose(
        T[:, :3, :3] @ T[:, :3, :3].transpose(0, 2, 1), np.broadcast_to(np.eye(3), (200, 3, 3)), atol=1e-9
    )
    assert (np.linalg.det(T[:, :3, :3]) > 0).all()
    step = np.linalg.norm(np.diff(centers[:, :2], axis=0), axis=1)
    assert step.max() <= SPEED / 10 * 1.02
    assert np.median(step) >= SPEED / 10 * 0.95
    turned = np.einsum("nij,nij->n", T[1:, :3, :3], T[:-1, :3, :3])
    angle = np.arccos(np.clip((turned - 1) / 2, -1, 1))
    assert angle.max() < 1.6 * TURN_RATE / 10
    assert (T[:, 2, 1] < -0.8).all()  # the image's down stays down


def test_a_room_without_free_floor_is_refused():
    with pytest.raises(ValueError, match="no floor of this room"):
        walk(bare(single("box", (4.8, 3.8, 0.5), (0.0, 0.0, 0.0))), 10)


# ------------------------------------------------------------------------------------------------------- the demo


def test_the_demo_room_is_sound():
    room = demo_room()
    solid = [d for d in room.decor if d.label not in ("rug", "skirting")]
    for a, b in [*itertools.combinations(room.things, 2), *itertools.product(room.things, solid)]:
        assert disjoint(a, b), f"{a.label} and {b.label} intersect"
    for thing in room.things:
        assert room.contains(np.add(thing.corners, [0.0, 0.0, 1e-6])).all(), thing.label


def test_the_demo_walk_shows_things_moves_and_overlaps():
    room = demo_room()
    T = walk(room, 300, seed=WALK_SEED)
    views = [render(room, CAMERAS["qvga"].resized(80, 60), each) for each in T[::25]]
    seen = [{box.label for box in visible_boxes(view, min_pixels=8) if box.visible > 0.3} for view in views]
    assert min(map(len, seen)) >= 2
    assert np.mean([len(labels) for labels in seen]) >= 3
    assert len(set.union(*seen)) >= 7
    assert np.ptp(T[:, :2, 3], axis=0).max() > 1.5
    neighbours = [render(room, views[0].camera, each) for each in T[100:104]]
    assert min(covisibility(a, b, step=4) for a, b in itertools.pairwise(neighbours)) > 0.85


def test_the_lamp_makes_near_things_brighter_and_warmer():
    """White wall at three distances: the depth cue of the pictures."""
    room = bare()
    means = [
        render(room, QVGA, pose(np.array([3.0 - distance, 0.0, 1.25]), 0.0, 0.0)).image[100:140, 140:180].mean((0, 1))
        for distance in (0.7, 1.5, 3.0, 5.0)
    ]
    brightness = [float(mean.sum()) for mean in means]
    warmth = [float(mean[0] / mean[2]) for mean in means]
    assert brightness == sorted(brightness, reverse=True)
    assert warmth == sorted(warmth, reverse=True)
    assert warmth[0] / warmth[-1] > 1.2
