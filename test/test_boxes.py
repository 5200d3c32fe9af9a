"""3D boxes from depth answers: planes, sampling and fits, on scenes made here and on recorded ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from benchmarks.boxes import recorded
from benchmarks.boxes.measure import CASES, measured
from vlm3_ros.camera import Camera
from vlm3_ros.geometry import gravity, planes
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.boxes import fit_box, outline, sample_pixels
from vlm3_ros.tasks import Refusal

CAMERA = Camera(320, 240, 275.0, 275.0, 159.5, 119.5)
RAYS = CAMERA.rays(np.stack(np.meshgrid(np.arange(320), np.arange(240)), axis=-1))
UP = np.array([0.0, -1.0, 0.0])
COUNT = 120


# ------------------------------------------------------------------------------------------------------- scenes


@dataclass
class Scene:
    """Depth of every pixel, the object's true box, its 2D box, and what the camera sees as up."""

    depth: np.ndarray
    truth: Box3D
    edges: tuple[float, float, float, float]
    up: np.ndarray

    def points(self, pixels: np.ndarray, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Answers as points [M, 3], and which pixels [N, 2] have one."""
        z = self.depth[pixels[:, 1], pixels[:, 0]]
        known = z < 40.0
        z = np.round(z[known] * np.exp(rng.normal(0.0, noise, known.sum())), 2)
        return CAMERA.rays(pixels[known]) * z[:, None], known

    def fit(self, noise: float, rng: np.random.Generator, outliers: float = 0.0, up=None) -> Box3D | Refusal:
        pixels, inside = sample_pixels(self.edges, CAMERA.size, COUNT)
        points, known = self.points(pixels, noise, rng)
        wrong = rng.random(len(points)) < outliers
        points[wrong] *= rng.uniform(0.6, 2.0, (wrong.sum(), 1))
        return fit_box("thing", 0.5, points, inside[known], outline(self.edges, CAMERA), up)


def to_box(box: Box3D) -> np.ndarray:
    """Depth along Z of a box, infinity where a pixel does not see it (slab method)."""
    start, step = -box.center @ box.rotation, RAYS @ box.rotation
    with np.errstate(divide="ignore"):
        ends = np.stack([(-box.size / 2 - start) / step, (box.size / 2 - start) / step])
    enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.where((enter <= leave) & (enter > 0.0), enter, np.inf)


def to_ball(box: Box3D) -> np.ndarray:
    """Depth along Z of the ball in a box."""
    square, along = (RAYS**2).sum(axis=-1), RAYS @ box.center
    inner = along**2 - square * (box.center @ box.center - box.size[0] ** 2 / 4)
    return np.where(inner > 0.0, (along - np.sqrt(inner.clip(min=0.0))) / square, np.inf)


def to_plane(normal: np.ndarray, height: float) -> np.ndarray:
    """Depth along Z of the plane normal · p = height."""
    with np.errstate(divide="ignore"):
        z = height / (RAYS @ normal)
    return np.where(z > 0.0, z, np.inf)


@dataclass
class Setting:
    """How a random scene is made; metres and degrees."""

    size: tuple[float, float] | tuple[tuple[float, float, float]] = (0.2, 1.0)  # range of each side, or the sides
    pitch: tuple[float, float] = (0.0, 45.0)
    height: tuple[float, float] = (0.5, 2.0)  # of the camera
    yaw: tuple[float, float] = (0.0, 90.0)
    wall: float | None = None  # gap behind the object; random without
    lift: float = 0.0  # above the floor
    table: float = 0.0  # height of a table under the object
    is_ball: bool = False
    occluder: bool = False  # a small box that hides a part of the object's foot

    def scene(self, seed: int) -> Scene:
        """A scene with the whole object in the image and at least 200 pixels of it visible."""
        rng = np.random.default_rng(seed)
        while True:
            scene = self._draw(rng)
            if scene is not None:
                return scene

    def _draw(self, rng: np.random.Generator) -> Scene | None:
        tilt = Rotation.from_euler("zx", [rng.uniform(-3, 3), rng.uniform(*self.pitch)], degrees=True)
        up, camera_height = tilt.apply(UP), rng.uniform(*self.height)
        ahead = np.array([0.0, 0.0, 1.0]) - up * up[2]
        ahead /= np.linalg.norm(ahead)
        level = np.stack([np.cross(ahead, up), ahead, up], axis=1)  # right, ahead, up
        size = np.array(self.size[0]) if len(self.size) == 1 else rng.uniform(*self.size, 3)
        size = np.full(3, size[0]) if self.is_ball else size
        distance, floor = rng.uniform(1.0, 5.0), -camera_height
        place = np.array([rng.uniform(-0.4, 0.4) * distance, distance, floor + self.table + self.lift + size[2] / 2])
        turn = Rotation.from_euler("z", rng.uniform(*self.yaw), degrees=True).as_matrix()
        truth = Box3D("thing", 1.0, level @ place, size, level @ turn)
        pixels = CAMERA.project(truth.corners())
        if not (
            (pixels > 5).all() and (pixels < np.array(CAMERA.size) - 5).all() and truth.corners()[:, 2].min() > 0.3
        ):
            return None
        behind = place[1] + np.abs(turn[1]) @ size / 2 + (rng.uniform(0.5, 3.0) if self.wall is None else self.wall)
        background = [to_plane(up, floor), to_plane(ahead, behind)]
        if self.table:
            top = place * [1, 1, 0] + [*rng.uniform(-0.2, 0.2, 2), floor + self.table - 0.02]
            background.append(to_box(Box3D("table", 1.0, level @ top, np.array([1.6, 1.2, 0.04]), level)))
        if self.occluder:
            beside = [rng.choice([-0.4, 0.4]) * size[0], -np.hypot(*size[:2]) / 2 - 0.2, floor + 0.2 * size[2]]
            block = size * [0.4, 0.0, 0.4] + [0.0, 0.1, 0.0]
            background.append(to_box(Box3D("block", 1.0, level @ (place * [1, 1, 0] + beside), block, level)))
        thing, rest = (to_ball if self.is_ball else to_box)(truth), np.min(background, axis=0)
        rows, columns = np.nonzero(thing < rest)
        if len(rows) < 200:
            return None
        edges = (columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0)
        return Scene(np.minimum(thing, rest), truth, edges, up)


SEEN_FROM_ABOVE = Setting(pitch=(20.0, 40.0), height=(1.0, 1.8))
HANGING = Setting(pitch=(0.0, 10.0), height=(1.0, 1.5), lift=0.6, size=(0.2, 0.6))
ON_TABLE = Setting(size=((0.2, 0.25, 0.2),), table=0.7, height=(1.2, 1.6))
SEEN_FRONTALLY = Setting(yaw=(0.0, 0.0), pitch=(0.0, 5.0), height=(0.5, 0.9))
ON_WALL = Setting(size=((0.8, 0.2, 0.3),), yaw=(0.0, 0.0), pitch=(0.0, 5.0), height=(1.2, 1.6), lift=1.0, wall=0.0)
POSTER = Setting(size=((0.6, 0.003, 0.8),), yaw=(0.0, 0.0), pitch=(0.0, 10.0), height=(1.0, 1.6), lift=0.9, wall=0.0)


# ------------------------------------------------------------------------------------------- planes and gravity


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05, 0.1])
def test_noise_is_found_from_the_answers_alone(noise, rng):
    found = []
    for seed in range(8):
        scene = Setting().scene(seed)
        pixels, _ = sample_pixels(scene.edges, CAMERA.size, COUNT)
        found.append(planes.scattered_noise(scene.points(pixels, noise, rng)[0]))
    assert np.median(found) == pytest.approx(noise, rel=0.3, abs=0.005)


@pytest.mark.parametrize(("noise", "error_deg"), [(0.0, 0.5), (0.02, 2.5), (0.05, 4.5)])
def test_gravity_comes_from_the_floor(noise, error_deg, rng):
    grid = np.mgrid[8:320:16, 8:240:16].reshape(2, -1).T
    for seed in range(8):
        scene = Setting(pitch=(0.0, 20.0)).scene(seed)
        points, _ = scene.points(grid, noise, rng)
        up = gravity.up(points, planes.scattered_noise(points))
        assert np.linalg.norm(up) == pytest.approx(1.0)
        assert math.degrees(math.acos(min(1.0, up @ scene.up))) < error_deg


def test_a_wall_is_no_floor(rng):
    grid = np.mgrid[8:320:16, 8:240:16].reshape(2, -1).T
    for noise in (0.0, 0.02, 0.12):
        wall = CAMERA.rays(grid) * (3.0 * np.exp(rng.normal(0.0, noise, (len(grid), 1))))
        assert math.degrees(math.acos(gravity.up(wall, noise) @ UP)) < 12.0
    np.testing.assert_array_equal(gravity.up(wall[:3], 0.0), UP)


# ----------------------------------------------------------------------------------------------------- sampling


@given(
    st.tuples(st.floats(0, 300), st.floats(0, 220), st.floats(1, 320), st.floats(1, 240)),
    st.integers(20, 250),
)
@settings(deadline=None)
def test_pixels_are_inside_the_box_or_in_the_ring_around_it(box, count):
    x, y, w, h = box
    edges = (x, y, min(320.0, x + w), min(240.0, y + h))
    sides = np.array([edges[2] - edges[0], edges[3] - edges[1]])
    pixels, inside = sample_pixels(edges, CAMERA.size, count)
    assert len(np.unique(pixels, axis=0)) == len(pixels) <= 1.25 * count
    assert (pixels >= 0).all()
    assert (pixels < CAMERA.size).all()
    out = np.maximum(edges[:2] - (pixels + 0.5), pixels + 0.5 - edges[2:])  # beyond the edges, in pixels
    assert (out[inside] <= 0.5).all()
    assert (sides < 10).any() or (out[~inside].max(axis=1, initial=-1.0) >= -0.5).all()
    assert (out <= 0.25 * sides + 0.5).all()


def test_enough_of_the_pixels_lie_around_the_box():
    pixels, inside = sample_pixels((100, 75, 200, 165), CAMERA.size, COUNT)
    assert len(pixels) == pytest.approx(COUNT, abs=8)
    assert inside.mean() == pytest.approx(3 / 4, abs=0.05)


def test_an_outline_touches_a_box_where_it_is_seen():
    scene = Setting().scene(3)
    beyond = scene.truth.corners() @ outline(scene.edges, CAMERA).normals.T
    assert beyond.shape == (8, 4)
    assert beyond.max(axis=0) == pytest.approx(0.0, abs=0.02)
    assert outline((0.0, 50.0, 320.0, 150.0), CAMERA).is_cut.tolist() == [True, False, True, False]


# --------------------------------------------------------------------------------------------------------- fits


def mean_iou(
    setting: Setting, noise: float, rng, outliers: float = 0.0, gravity: bool = True, scenes: int = 6
) -> float:
    ious = []
    for seed in range(scenes):
        scene = setting.scene(seed)
        box = scene.fit(noise, rng, outliers, scene.up if gravity else None)
        ious.append(0.0 if isinstance(box, Refusal) else box.iou(scene.truth))
    return float(np.mean(ious))


@pytest.mark.parametrize(
    ("setting", "exact", "noisy"),
    [
        pytest.param(Setting(), 0.85, 0.45, id="on the floor"),
        pytest.param(SEEN_FROM_ABOVE, 0.87, 0.45, id="seen from above"),
        pytest.param(Setting(wall=0.0), 0.77, 0.42, id="against a wall"),
        pytest.param(Setting(is_ball=True), 0.45, 0.32, id="ball"),
        pytest.param(Setting(occluder=True), 0.55, 0.36, id="foot hidden"),
        pytest.param(ON_TABLE, 0.8, 0.4, id="on a table"),
        pytest.param(SEEN_FRONTALLY, 0.7, 0.43, id="one face visible"),
        pytest.param(HANGING, 0.82, 0.48, id="hanging"),
    ],
)
def test_boxes_are_found(setting, exact, noisy, rng):
    assert mean_iou(setting, 0.0, rng) > exact
    assert mean_iou(setting, 0.05, rng) > noisy


@pytest.mark.parametrize(("outliers", "least"), [(0.15, 0.83), (0.3, 0.4)])
def test_wrong_answers_do_little_harm(outliers, least, rng):
    assert mean_iou(Setting(), 0.0, rng, outliers, scenes=8) > least


def test_gravity_is_found_around_the_object_where_nobody_gives_it(rng):
    assert mean_iou(SEEN_FROM_ABOVE, 0.01, rng, gravity=False) > 0.5


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_box_stands_upright_in_a_right_handed_frame(noise, rng):
    for seed in range(10):
        scene = Setting().scene(seed)
        box = scene.fit(noise, rng, up=scene.up)
        np.testing.assert_allclose(box.rotation.T @ box.rotation, np.eye(3), atol=1e-9)
        assert np.linalg.det(box.rotation) == pytest.approx(1.0)
        np.testing.assert_allclose(box.rotation[:, 2], scene.up, atol=1e-9)
        assert (box.size > 0.0).all()
        assert (box.label, box.score) == ("thing", 0.5)


def bottom(box: Box3D, up: np.ndarray) -> float:
    return float((box.corners() @ up).min())


@pytest.mark.parametrize(
    "setting", [Setting(occluder=True), HANGING, ON_TABLE], ids=["hidden", "hanging", "on a table"]
)
def test_the_bottom_is_the_surface_the_object_stands_on_and_no_other(setting, rng):
    errors = []
    for seed in range(6):
        scene = setting.scene(seed)
        box = scene.fit(0.0, rng, up=scene.up)
        errors.append(abs(bottom(box, scene.up) - bottom(scene.truth, scene.up)))
    assert np.median(errors) < 0.02
    assert np.quantile(errors, 0.8) < 0.1


def test_what_is_fixed_to_a_wall_has_nothing_below_it(rng):
    for seed in range(8):
        scene = ON_WALL.scene(seed)
        box = scene.fit(0.0, rng, up=scene.up)
        assert bottom(box, scene.up) == pytest.approx(bottom(scene.truth, scene.up), abs=0.03)


def test_an_unseen_far_side_gets_the_depth_of_the_shorter_visible_side_but_not_through_the_wall(rng):
    alone = replace(SEEN_FRONTALLY, size=((0.6, 0.2, 0.5),), wall=2.0).scene(1)
    assert alone.fit(0.0, rng, up=alone.up).size.min() == pytest.approx(0.5, rel=0.3)
    before_wall = replace(SEEN_FRONTALLY, size=((0.6, 0.2, 0.5),), wall=0.0).scene(1)
    assert before_wall.fit(0.0, rng, up=before_wall.up).size.min() == pytest.approx(0.2, abs=0.06)


def test_a_poster_on_a_wall_is_thin(rng):
    for seed in range(5):
        scene = POSTER.scene(seed)
        box = scene.fit(0.0, rng, up=scene.up)
        assert box.size.min() < 0.05
        assert sorted(box.size)[1:] == pytest.approx([0.6, 0.8], rel=0.15)


def test_an_object_cut_by_the_image_is_not_squeezed_into_it(rng):
    scene = SEEN_FROM_ABOVE.scene(2)
    x1, y1, x2, y2 = scene.edges
    crop = replace(CAMERA, width=int(0.35 * x1 + 0.65 * x2))  # a third of the object is beyond the right border
    edges = (x1, y1, float(crop.width), y2)
    pixels, inside = sample_pixels(edges, crop.size, COUNT)
    points, known = scene.points(pixels, 0.0, rng)
    box = fit_box("thing", 1.0, points, inside[known], outline(edges, crop), scene.up)
    assert box.iou(scene.truth) > 0.4
    assert outline(edges, crop).is_cut.sum() == 1


@pytest.mark.parametrize("known", [0, 1, 5])
def test_too_few_answers_are_refused_with_a_reason(known, rng):
    points = rng.uniform(1.0, 2.0, (30, 3))
    refusal = fit_box("cup", 1.0, points, np.arange(30) < known, outline((10.0, 20.0, 200.0, 150.0), CAMERA))
    assert isinstance(refusal, Refusal)
    assert f"cup: only {known} depths" in refusal.text


@given(
    st.integers(0, 2**32 - 1), st.integers(6, 60), st.sampled_from(["scattered", "one ray", "one point", "one depth"])
)
@settings(max_examples=15, deadline=None)
def test_any_answers_give_a_finite_box_or_a_refusal(seed, count, kind):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 240, (count, 2))
    pixels[:] = pixels[0] if kind in ("one ray", "one point") else pixels
    z = rng.uniform(0.01, 100.0, (count, 1))
    z[:] = z[0] if kind in ("one point", "one depth") else z
    sight = outline((10.0, 20.0, 200.0, 150.0), CAMERA)
    box = fit_box("x", 1.0, CAMERA.rays(pixels) * z, rng.random(count) < 0.7, sight)
    if isinstance(box, Box3D):
        assert np.isfinite([*box.center, *box.size, *box.rotation.ravel()]).all()
        assert (box.size > 0.0).all()
    else:
        assert isinstance(box, Refusal)


# ---------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(("noise", "least"), [(0.0, 0.8), (0.05, 0.6)])
def test_the_recorded_cabinet(data, noise, least):
    ious, _ = recorded.evaluate(data / "tum_fr3_cabinet", noise)
    assert len(ious["cabinet"]) > 50
    assert np.mean(ious["cabinet"]) > least


# ------------------------------------------------------------------------------------- through the public pipeline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "least"),
    [("0 %", 0.75), ("12 %", 0.28)],
)
def test_boxes_are_better_than_one_depth_and_the_2d_box(case, least):
    iou = np.array([score.iou for score in measured(CASES[case], rooms=8, count=5)])
    product, baseline = np.median(iou, axis=0)
    assert len(iou) > 50
    assert product > max(least, baseline)
