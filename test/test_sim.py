"""Pictures of the simulated room: depth against closed forms, its truth against its pictures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from rooms import CAMERAS, QVGA, bare, single

from vlm3_ros.camera import Camera
from vlm3_ros.sim import (
    Rendering,
    correspondences,
    covisibility,
    demo_room,
    random_room,
    relative_pose,
    render,
    viewpoint,
    visible_boxes,
)
from vlm3_ros.sim.path import pose


def world_rays(camera: Camera, T_world_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3] and directions [h, w, 3] with camera Z component 1, in float64."""
    v, u = np.mgrid[: camera.height, : camera.width]
    return T_world_cam[:3, 3], camera.rays(np.stack([u, v], -1)) @ T_world_cam[:3, :3].T


# ------------------------------------------------------------------------------------------------- depth is exact


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0.0, 0.0, 0.0), (2.3, -0.6, 0.1), (-1.1, 0.5, -0.2)])
def test_the_shell_has_the_depth_of_its_planes(camera, yaw, pitch, roll):
    T = pose(np.array([0.7, -0.4, 1.3]), yaw, pitch, roll)
    o, d = world_rays(camera, T)
    with np.errstate(divide="ignore"):
        planes = [(sign * half - o[k]) / d[..., k] for k, half in ((0, 3.0), (1, 2.5)) for sign in (-1, 1)]
        planes += [(height - o[2]) / d[..., 2] for height in (0.0, 2.5)]
    expected = np.min([np.where(t > 0, t, np.inf) for t in planes], axis=0)
    view = render(bare(), camera, T)
    assert_allclose(view.depth, expected, rtol=1e-5)
    assert view.depth.dtype == np.float32
    assert view.image.shape == (camera.height, camera.width, 3)
    assert (view.thing == -1).all()


def sphere_depth(o, d, center, radius):
    """Quadratic formula in float64; NaN where the ray misses."""
    a, b, c = (d * d).sum(-1), d @ (o - center), (o - center) @ (o - center) - radius**2
    return (-b - np.sqrt(np.where(b * b > a * c, b * b - a * c, np.nan))) / a


def cylinder_depth(o, d, center, radius, height):
    """Nearest of the mantle and the two caps, each checked to be within the other's bounds."""
    o = o - center
    a, b = d[..., 0] ** 2 + d[..., 1] ** 2, d[..., :2] @ o[:2]
    root = b * b - a * (o[:2] @ o[:2] - radius**2)
    mantle = (-b - np.sqrt(np.where(root > 0, root, np.nan))) / a
    mantle = np.where(abs(o[2] + mantle * d[..., 2]) <= height / 2, mantle, np.nan)
    cap = (height / 2 - o[2]) / d[..., 2]
    inside = np.linalg.norm(o[:2] + cap[..., None] * d[..., :2], axis=-1) <= radius
    return np.fmin(mantle, np.where(inside & (cap > 0), cap, np.nan))


def box_depth(o, d, center, size, R):
    """Nearest point over the six face planes that lies within its face."""
    o, d = R.T @ (o - center), d @ R
    best = np.full(d.shape[:-1], np.nan)
    for axis, sign in itertools.product(range(3), (-1, 1)):
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (sign * size[axis] / 2 - o[axis]) / d[..., axis]
            p = o + t[..., None] * d
            others = [k for k in range(3) if k != axis]
            within = (t > 0) & all_within(p, size, others)
        best = np.fmin(best, np.where(within, t, np.nan))
    return best


def all_within(points, size, axes):
    return np.all([abs(points[..., k]) <= size[k] / 2 for k in axes], axis=0)


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize(
    ("thing", "closed_form"),
    [
        (single("ellipsoid", (0.7, 0.7, 0.7), (1.2, 0.4, 0.5)), lambda o, d, t: sphere_depth(o, d, t.center, 0.35)),
        (
            single("cylinder", (0.6, 0.6, 0.8), (1.4, 0.2, 0.2)),
            lambda o, d, t: cylinder_depth(o, d, t.center, 0.3, 0.8),
        ),
        (
            single("box", (0.5, 0.9, 0.7), (1.3, 0.3, 0.3), 0.6),
            lambda o, d, t: box_depth(o, d, t.center, t.size, t.R),
        ),
    ],
    ids=["sphere", "cylinder", "box"],
)
def test_things_have_the_depth_of_their_closed_forms(camera, thing, closed_form):
    T = pose(np.array([-1.0, -0.5, 1.5]), 0.35, -0.35, 0.05)
    expected = closed_form(*world_rays(camera, T), thing)
    view = render(bare(thing), camera, T)
    seen = view.thing == 0
    assert seen.sum() > 300
    # The last pixel of an outline may fall to either side in float32.
    assert (seen != np.isfinite(expected)).mean() < 1e-3
    both = seen & np.isfinite(expected)
    # At an outline depth is infinitely steep, so few pixels may be less exact than the rest.
    error = abs(view.depth[both] / expected[both] - 1.0)
    assert np.quantile(error, 0.99) < 2e-5
    assert error.max() < 2e-3


@pytest.mark.parametrize("pitch", [-0.5, 0.0, 0.4])
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_what_reaches_past_the_camera_is_seen_up_to_its_edges(camera, pitch):
    """Beams along both sides, above and below, that begin behind the camera: nothing of them is cut off."""
    middles = ((-0.2, 1.0), (0.2, 1.0), (0.0, 0.8), (0.0, 1.2))  # y and z, the camera between them
    beams = [single("box", (5.0, 0.2, 0.2), (0.0, y, z - 0.1)) for y, z in middles]
    T = pose(np.array([-1.0, 0.0, 1.0]), 0.0, pitch, 0.1)
    o, d = world_rays(camera, T)
    expected = np.fmin.reduce([box_depth(o, d, beam.center, beam.size, beam.R) for beam in beams])
    view = render(bare(*beams), camera, T)
    assert ((view.thing >= 0) != np.isfinite(expected)).mean() < 1e-3


def test_a_squashed_ellipsoid_is_a_scaled_sphere():
    thing = single("ellipsoid", (0.4, 1.0, 0.6), (1.0, 0.0, 0.4), 0.9)
    T = pose(np.array([-1.0, 0.3, 1.2]), 0.0, -0.2)
    view = render(bare(thing), QVGA, T)
    o, d = world_rays(QVGA, T)
    seen = view.thing == 0
    assert seen.sum() > 1000
    points = (o + d[seen] * view.depth[seen, None] - thing.center) @ thing.R / (np.array(thing.size) / 2)
    assert_allclose(np.linalg.norm(points, axis=1), 1.0, atol=1e-4)


def test_a_camera_outside_the_room_is_refused():
    with pytest.raises(ValueError, match="not inside the room"):
        render(bare(), QVGA, pose(np.array([0.0, 0.0, 2.6]), 0.0, 0.0))


# ---------------------------------------------------------------------------------------------- boxes and masks


@pytest.mark.parametrize("seed", range(4))
def test_masks_lie_inside_the_projected_boxes_and_reach_their_sides(seed):
    room = random_room(seed)
    T = viewpoint(room, np.random.default_rng(seed))
    view = render(room, QVGA, T)
    boxes = visible_boxes(view)
    assert boxes
    for box in boxes:
        rows, columns = np.nonzero(view.thing == box.thing)
        assert box.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        corners = box.center + (np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * box.size) @ box.R.T
        points = QVGA.rays(np.stack([columns, rows], -1)) * view.depth[rows, columns, None]
        assert (abs((points - box.center) @ box.R) <= box.size / 2 + 1e-4).all()
        if corners[:, 2].min() > 0.05:
            low, high = QVGA.project(corners).min(0), QVGA.project(corners).max(0)
            assert (low <= [columns.min(), rows.min()]).all()
            assert (high >= [columns.max(), rows.max()]).all()


def test_the_mask_of_a_lone_box_fills_its_projection():
    thing = single("box", (0.6, 0.8, 0.7), (1.0, 0.1, 0.4), 0.4)
    T = pose(np.array([-1.5, 0.0, 1.0]), 0.0, -0.1)
    view = render(bare(thing), QVGA, T)
    (box,) = visible_boxes(view)
    T_cam_world = np.linalg.inv(T)
    pixels = QVGA.project(thing.corners @ T_cam_world[:3, :3].T + T_cam_world[:3, 3])
    assert_allclose(box.box, [*np.ceil(pixels.min(0)), *(np.floor(pixels.max(0)) + 1)])
    assert box.visible == 1.0
    assert_allclose(T[:3, :3] @ box.center + T[:3, 3], thing.center, atol=1e-9)


def test_the_visible_share_counts_what_hides_a_thing_and_what_the_image_cuts_off():
    far = single("box", (0.2, 1.0, 1.0), (2.0, 0.0, 0.5))
    screen = single("box", (0.02, 2.0, 2.4), (1.0, -1.0, 0.05))  # hides what is right of the optical axis
    T = pose(np.array([-1.0, 0.0, 1.0]), 0.0, 0.0)
    (alone,) = visible_boxes(render(bare(far), QVGA, T))
    half = visible_boxes(render(bare(far, screen), QVGA, T))[0]
    assert alone.visible == 1.0
    assert half.visible == pytest.approx(0.5, abs=0.02)
    cut = replace(QVGA, cx=QVGA.cx + 160.0)  # the optical axis at the right edge of the image
    (at_edge,) = visible_boxes(render(bare(far), cut, T))
    assert at_edge.visible == pytest.approx(0.5, abs=0.02)


# --------------------------------------------------------------------------------------- what two views share


def two_views(seed: int, turn: float = 0.25) -> tuple[Rendering, Rendering]:
    """Two pictures of one room, the second a step to the side and a turn later; the lamp is out in both."""
    room = replace(random_room(seed), lamp=0.0)
    T = viewpoint(room, np.random.default_rng(seed))
    c, s = math.cos(turn), math.sin(turn)
    T_b = T.copy()
    T_b[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ T[:3, :3]
    T_b[:3, 3] += 0.12 * T[:3, 0]
    return render(room, QVGA, T), render(room, QVGA, T_b)


@pytest.mark.parametrize("seed", range(5))
def test_correspondences_show_the_same_spot(seed):
    a, b = two_views(seed)
    pixels = np.stack(np.meshgrid(np.arange(2, 318, 5), np.arange(2, 238, 5)), -1).reshape(-1, 2)
    matched, seen = correspondences(a, b, pixels)
    assert seen.sum() > 500
    back, seen_back = correspondences(b, a, np.rint(matched[seen]).astype(int).clip(0, [319, 239]))
    # Rounding moves the match by up to half a pixel in b, and further in a only where a surface is foreshortened.
    error = np.linalg.norm(back - pixels[seen], axis=1)[seen_back]
    assert np.median(error) < 0.5
    colour_a = a.image[pixels[seen][:, 1], pixels[seen][:, 0]].astype(int)
    u, v = np.rint(matched[seen]).astype(int).clip(0, [319, 239]).T
    difference = abs(colour_a - b.image[v, u]).max(1)
    assert np.median(difference) <= 4
    assert (difference < 25).mean() > 0.9
    shuffled = abs(colour_a - np.random.default_rng(0).permutation(colour_a)).max(1)
    assert np.median(shuffled) > 4 * np.median(difference)


@pytest.mark.parametrize("seed", range(3))
def test_correspondences_are_exact_against_depth_of_the_other_view(seed):
    a, b = two_views(seed)
    pixels = np.stack(np.meshgrid(np.arange(3, 317, 7), np.arange(3, 237, 7)), -1).reshape(-1, 2)
    matched, seen = correspondences(a, b, pixels)
    world_a = QVGA.rays(pixels) * a.depth[pixels[:, 1], pixels[:, 0], None]
    world_a = world_a @ a.T_world_cam[:3, :3].T + a.T_world_cam[:3, 3]
    in_b = (world_a - b.T_world_cam[:3, 3]) @ b.T_world_cam[:3, :3]
    ahead = in_b[:, 2] > 0
    assert_allclose(matched[ahead], QVGA.project(in_b)[ahead], atol=1e-6)
    assert np.isnan(matched[~ahead]).all()
    assert not seen[~ahead].any()
    # Same mask on both sides, apart from pixels that straddle an outline.
    u, v = np.rint(matched[seen]).astype(int).clip(0, [319, 239]).T
    assert (a.thing[pixels[seen][:, 1], pixels[seen][:, 0]] == b.thing[v, u]).mean() > 0.97


def test_what_is_hidden_in_the_other_view_is_not_seen():
    screen = single("box", (0.05, 0.6, 2.0), (0.0, 0.0, 0.0))
    far = single("box", (0.2, 0.6, 0.6), (2.0, 0.0, 0.7))
    room = bare(screen, far)
    a = render(room, QVGA, pose(np.array([-2.0, 1.9, 1.0]), -0.45, 0.0))  # looks past the screen
    b = render(room, QVGA, pose(np.array([-2.0, 0.0, 1.0]), 0.0, 0.0))  # behind it
    rows, columns = np.nonzero(a.thing == 1)
    matched, seen = correspondences(a, b, np.stack([columns, rows], -1))
    assert len(rows) > 100
    assert ((matched > 0) & (matched < [319, 239])).all()
    assert not seen.any()


def test_the_relative_pose_is_camera_b_in_the_axes_of_a():
    T_a, T_b = pose(np.array([0.0, 0.0, 1.0]), 0.0, 0.0), pose(np.array([1.0, -0.5, 1.2]), -math.pi / 2, 0.0)
    T = relative_pose(T_a, T_b)
    assert_allclose(T[:3, 3], [0.5, -0.2, 1.0], atol=1e-12)  # right, up, forward
    assert_allclose(T[:3, 2], [1.0, 0.0, 0.0], atol=1e-12)  # turned to the right by 90°


def test_covisibility_is_one_for_one_view_none_back_to_back_and_symmetric():
    room = demo_room()
    views = [render(room, QVGA, pose(np.array([0.0, 0.0, 1.2]), yaw, 0.0)) for yaw in (0.0, 0.3, math.pi)]
    assert covisibility(views[0], views[0]) == 1.0
    assert covisibility(views[0], views[2]) == 0.0
    assert 0.4 < covisibility(views[0], views[1]) < 0.9
    assert covisibility(views[0], views[1]) == covisibility(views[1], views[0])
