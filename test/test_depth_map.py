"""From a grid of depths to a dense map: planes are exact, edges are sharp, holes are told, confidence is honest."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, map_coordinates

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.depth_map import DepthMap, Grid, densify
from vlm3_ros.geometry.plate import grid_noise
from vlm3_ros.metrics.boundaries import depth_edges

WIDTH, HEIGHT = 160, 120
CAMERA = Camera(WIDTH, HEIGHT, 130.0, 128.0, 81.0, 57.5)
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
PIXELS = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)


def plane(pixels: np.ndarray, normal: tuple[float, float, float], distance: float) -> np.ndarray:
    """Depth along Z of the plane normal · X = distance."""
    return distance / (CAMERA.rays(pixels) @ np.array(normal))


def dense(
    grid: Grid, z: np.ndarray, image: np.ndarray | None = None, trust: float = 1.0, **settings: Any
) -> DepthMap:
    image = np.full((grid.height, grid.width, 3), 128, np.uint8) if image is None else image
    return densify(grid, z, np.where(np.isnan(z), 0.0, trust), image, **settings)


# -------------------------------------------------------------------------------------------------------- the grid

sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))


@given(sizes)
def test_a_grid_lies_inside_its_image_and_evenly(size):
    width, height, points = size
    grid = Grid.of(width, height, points)
    assert 1 <= grid.columns <= width
    assert 1 <= grid.rows <= height
    for nodes, side in ((grid.u, width), (grid.v, height)):
        assert nodes[0] >= -0.5
        assert nodes[-1] <= side - 0.5
        assert nodes[0] + 0.5 == pytest.approx(side - 0.5 - nodes[-1])  # the same on both sides
        if len(nodes) > 1:
            assert np.diff(nodes) == pytest.approx(np.diff(nodes)[0])
            assert nodes[0] + 0.5 < np.diff(nodes)[0] / 2  # the border is near to an answer
    assert grid.columns * grid.rows <= max(4, 1.25 * points + 4)
    if width * height > 50 * points and 1 / 3 < width / height < 3 and points > 20:
        assert grid.columns * grid.rows == pytest.approx(points, rel=0.2)
        assert np.diff(grid.u)[0] == pytest.approx(np.diff(grid.v)[0], rel=0.35)  # square cells
    assert grid.pixels.tolist() == [[u, v] for v in grid.v for u in grid.u]


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1242, 375), (160, 120)])
def test_coarse_first_is_evenly_spread_wherever_it_is_cut(size):
    """The largest hole is about that of an even grid of as many points; every half of the image gets its share."""
    grid = Grid.of(*size, 432)
    order = grid.coarse_first
    assert sorted(order) == list(range(grid.columns * grid.rows))
    rows, columns = np.divmod(order, grid.columns)
    for count in range(4, len(order) + 1, 7):
        asked = np.zeros((grid.rows, grid.columns), bool)
        asked[rows[:count], columns[:count]] = True
        hole = distance_transform_edt(~asked).max()
        even = np.sqrt(len(order) / count)
        assert hole <= 1.6 * even + 0.5, count
        if count > 40:
            half_rows, half_columns = grid.rows // 2, grid.columns // 2
            for part, of in (
                (asked[:half_rows], half_rows / grid.rows),
                (asked[-half_rows:], half_rows / grid.rows),
                (asked[:, :half_columns], half_columns / grid.columns),
                (asked[:, -half_columns:], half_columns / grid.columns),
            ):
                assert part.sum() / count == pytest.approx(of, abs=0.15), count


def test_half_of_the_points_are_a_checkerboard():
    grid = Grid(640, 640, 16, 16)
    rows, columns = np.divmod(grid.coarse_first[:128], 16)
    assert ((rows + columns) % 2 == 0).all()


# ------------------------------------------------------------------------------------------------- inside surfaces


@pytest.mark.parametrize(
    ("normal", "distance"),
    [
        ((0, 0, 1), 3.0),
        ((0.3, 0.1, 0.9), 2.0),
        ((-0.4, -0.3, 0.8), 5.0),
        ((0, 0.7, 0.7), 1.2),
        ((0, 0.9, 0.43), 0.3),  # a floor, seen nearly up to its horizon
        ((0.7, -0.1, 0.7), 0.8),
    ],
)
@pytest.mark.parametrize("points", [16, 108, 432])
def test_planes_are_exact_up_to_the_border(normal, distance, points):
    grid = Grid.of(WIDTH, HEIGHT, points)
    found = dense(grid, plane(grid.pixels, normal, distance))
    np.testing.assert_allclose(found.depth, plane(PIXELS, normal, distance), rtol=1e-4)
    assert found.depth.dtype == found.confidence.dtype == np.float32


@given(st.integers(0, 2**32 - 1), st.floats(0, 2 * np.pi), st.floats(1.0, 40.0), st.sampled_from([30, 108, 432]))
def test_planes_of_any_slope_have_no_stairs(seed, angle, ratio, points):
    """The farthest pixel is ``ratio`` times as far as the nearest, in any picture."""
    ramp = PIXELS @ np.array([np.cos(angle), np.sin(angle)])
    inverse = 1.0 / ratio + (1.0 - 1.0 / ratio) * (ramp - ramp.min()) / np.ptp(ramp)
    image = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = dense(*sampled(1.0 / inverse, points), image)
    np.testing.assert_allclose(found.depth, 1.0 / inverse, rtol=2e-3)


def sampled(depth: np.ndarray, points: int) -> tuple[Grid, np.ndarray]:
    """A grid and the depth [height, width] at it, linear in inverse depth between the pixels."""
    grid = Grid.of(WIDTH, HEIGHT, points)
    at = grid.pixels.T[::-1]
    return grid, 1.0 / map_coordinates(1.0 / depth, at, order=1, mode="nearest")


def test_a_plane_goes_on_where_answers_are_missing(rng):
    grid = Grid.of(WIDTH, HEIGHT, 432)
    z = plane(grid.pixels, (0.2, 0.5, 0.84), 2.0)
    z[rng.random(len(z)) < 0.2] = np.nan
    found = dense(grid, z).depth
    known = np.isfinite(found)
    assert known.mean() > 0.95
    np.testing.assert_allclose(found[known], plane(PIXELS, (0.2, 0.5, 0.84), 2.0)[known], rtol=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(4, 200), st.floats(0.01, 100.0))
def test_depth_stays_near_the_answers_and_scales_with_them(seed, points, factor):
    rng = np.random.default_rng(seed)
    grid = Grid.of(WIDTH, HEIGHT, points)
    z = np.exp(rng.normal(1.0, 0.5, grid.columns * grid.rows))
    z[1:][rng.random(len(z) - 1) < 0.2] = np.nan
    spread = z * rng.uniform(0.0, 0.3, len(z))
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = dense(grid, z, image, spread=spread)
    known = np.isfinite(found.depth)
    between = known & inside(grid)
    assert (found.depth[known] > 0.0).all()
    assert (found.depth[between] < 1.5 * np.nanmax(z)).all()
    assert (found.depth[between] > np.nanmin(z) / 1.5).all()
    scaled = dense(grid, factor * z, image, spread=factor * spread)
    np.testing.assert_allclose(scaled.depth, factor * found.depth, rtol=1e-4)
    np.testing.assert_allclose(scaled.confidence, found.confidence, rtol=1e-4)  # and so are its edges


def inside(grid: Grid) -> np.ndarray:
    """Pixels [height, width] with grid points on all sides."""
    (u0, u1), (v0, v1) = grid.u[[0, -1]], grid.v[[0, -1]]
    u, v = PIXELS[..., 0], PIXELS[..., 1]
    return (u >= u0) & (u <= u1) & (v >= v0) & (v <= v1)


def test_steep_slopes_do_not_run_off_at_the_border():
    """With edges switched off, extrapolation beyond the outermost points would reach infinity and turn negative."""
    grid = Grid.of(WIDTH, HEIGHT, 24)
    z = np.where(np.arange(grid.columns * grid.rows) % grid.columns == 0, 50.0, 1.0)
    found = dense(grid, z, edge_ratio=100.0).depth
    assert found.min() > 0.5
    assert found.max() <= 8 * 50.0001


# ----------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("sigma", [0.03, 0.12, 0.25])
def test_noise_is_measured_on_a_slope_with_a_step_and_told_from_curvature(rng, sigma):
    """Whatever the spread says of its size; of exact answers of a curved surface there is next to none."""
    v, u = np.mgrid[:18, :24]
    inverse = (0.1 + 0.05 * v) * np.where(u < 9, 1.0, 2.0)
    noisy = inverse * np.exp(rng.normal(0.0, sigma, inverse.shape))
    for spread in (np.nan, 0.0, 0.01, 0.5):
        assert grid_noise(noisy, np.full(inverse.shape, spread)).mean() == pytest.approx(sigma, rel=0.2)
    curved = 1.0 + 0.01 * (u - 12.0) ** 2 + 0.01 * (v - 9.0) ** 2
    assert grid_noise(curved, np.full(inverse.shape, np.nan)).max() < 0.004


@pytest.mark.parametrize("sigma", [0.03, 0.12, 0.25])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("normal", [(0, 0, 1), (0.3, 0.1, 0.9), (0, 0.7, 0.7)])
def test_noise_makes_no_edges_on_a_plane_and_is_smoothed(rng, sigma, told, normal):
    grid, true = Grid.of(WIDTH, HEIGHT, 432), plane(PIXELS, normal, 3.0)
    z = plane(grid.pixels, normal, 3.0) * np.exp(rng.normal(0.0, sigma, len(grid.pixels)))
    found = dense(grid, z, spread=sigma * z if told else None)
    assert not depth_edges(found.depth).any()
    assert np.std(np.log(found.depth / true)) < 0.6 * sigma


@pytest.mark.parametrize("sigma", [0.03, 0.12])
def test_a_step_in_noise_stays_a_step(rng, sigma):
    """Every pixel is near to one side or the other, and on the side of its colour."""
    left = PIXELS[..., 0] < 77
    image = np.where(left[..., None], np.uint8([200, 40, 40]), np.uint8([40, 60, 200])).astype(np.uint8)
    grid, truth = Grid.of(WIDTH, HEIGHT, 432), np.where(left, 1.0, 2.5)
    z = truth[np.rint(grid.pixels[:, 1]).astype(int), np.rint(grid.pixels[:, 0]).astype(int)]
    found = dense(grid, z * np.exp(rng.normal(0.0, sigma, len(z))), image).depth
    assert (np.abs(np.log(found / truth)) < 2.5 * sigma).mean() > 0.995


def test_exact_answers_stay_whatever_spread_they_claim():
    """A floor, a wall and a box before them."""
    grid = Grid.of(WIDTH, HEIGHT, 432)
    u, v = grid.pixels.T
    z = np.minimum(4.0, 1.0 / np.maximum((v - 50.0) / 80.0, 0.01))
    z = np.where((np.abs(u - 90.0) < 25.0) & (np.abs(v - 70.0) < 20.0), 1.2, z)
    found = dense(grid, z).depth
    sure = dense(grid, z, spread=0.3 * z).depth
    np.testing.assert_allclose(sure, found, rtol=1e-5)
    on = found[np.rint(grid.v).astype(int)][:, np.rint(grid.u).astype(int)]
    assert np.median(np.abs(on / z.reshape(on.shape) - 1.0)) < 0.03  # a point lies up to half a pixel beside a pixel


def test_an_answer_with_more_spread_than_others_counts_less(rng):
    grid = Grid.of(WIDTH, HEIGHT, 432)
    z = 3.0 * np.exp(rng.normal(0.0, 0.08, len(grid.pixels)))
    middle = (grid.rows // 2) * grid.columns + grid.columns // 2
    z[middle] = 4.0
    u, v = np.rint(grid.pixels[middle]).astype(int)
    at = {}
    for name, factor in {"sure": 1.0, "unsure": 3.0}.items():
        spread = 0.08 * z
        spread[middle] *= factor
        at[name] = dense(grid, z, spread=spread).depth[v, u]
    assert abs(at["unsure"] - 3.0) < 0.5 * abs(at["sure"] - 3.0)


# ---------------------------------------------------------------------------------------------------------- edges


def test_an_edge_is_where_the_image_has_it():
    """Two walls, of two colours, that meet where no grid point is: the step follows the colour to the pixel."""
    left = PIXELS[..., 0] < 77
    image = np.where(left[..., None], np.uint8([200, 40, 40]), np.uint8([40, 60, 200])).astype(np.uint8)
    grid = Grid.of(WIDTH, HEIGHT, 108)
    truth = np.where(left, 1.0, 4.0)
    z = truth[np.rint(grid.pixels[:, 1]).astype(int), np.rint(grid.pixels[:, 0]).astype(int)]
    found = dense(grid, z, image)
    assert set(np.unique(found.depth.round(4))) == {1.0, 4.0}
    assert np.isclose(found.depth, truth, rtol=1e-4).mean() > 0.995
    blind = dense(grid, z, GREY)
    assert (
        np.isclose(blind.depth, truth, rtol=1e-4).mean() < 0.985
    )  # without colours the step is half-way between the points


def test_an_edge_at_the_border_is_where_the_image_has_it():
    """The colour of an outermost grid point is the one at that point, not the one at the image's border."""
    grid = Grid.of(WIDTH, HEIGHT, 24)
    frame = 3  # px of another colour around the image; the outermost points lie farther in
    assert grid.u[0] > frame + 2
    left = PIXELS[..., 0] < np.mean(grid.u[:2]) + 6
    image = np.where(left[..., None], np.uint8([200, 40, 40]), np.uint8([40, 60, 200])).astype(np.uint8)
    image[:, :frame] = [40, 60, 200]
    truth = np.where(left, 1.0, 4.0)
    z = truth[np.rint(grid.pixels[:, 1]).astype(int), np.rint(grid.pixels[:, 0]).astype(int)]
    found = dense(grid, z, image).depth[:, frame + 2 :]
    assert np.isclose(found, truth[:, frame + 2 :], rtol=1e-4).mean() > 0.98


@pytest.mark.parametrize(("ratio", "sharp"), [(1.3, False), (1.5, True)])
def test_edge_ratio_tells_an_edge_from_a_slope(ratio, sharp):
    grid = Grid.of(WIDTH, HEIGHT, 108)
    z = np.where(grid.pixels[:, 0] < 77, 2.0, 2.0 * ratio)
    found = dense(grid, z, edge_ratio=1.4)
    between = (found.depth > 2.01) & (found.depth < 2.0 * ratio - 0.01)
    assert between.any() != sharp


# ---------------------------------------------------------------------------------------------------------- holes


def test_a_hole_is_bridged_and_a_large_one_is_not():
    grid = Grid.of(WIDTH, HEIGHT, 432)
    z = np.full((grid.rows, grid.columns), 2.0)
    z[3, 3] = np.nan
    z[8:16, 10:20] = np.nan
    found = dense(grid, z.ravel())
    at = {name: (round(grid.v[j]), round(grid.u[i])) for name, (j, i) in {"small": (3, 3), "large": (11, 15)}.items()}
    assert found.depth[at["small"]] == pytest.approx(2.0)
    assert 0 < found.confidence[at["small"]] < 0.6
    assert np.isnan(found.depth[at["large"]])
    np.testing.assert_array_equal(found.confidence == 0, np.isnan(found.depth))
    assert np.isfinite(found.depth).mean() > 0.8


def test_the_fewer_answers_the_wider_they_reach():
    """A time budget that ends after a twelfth of the points leaves a map of the whole image."""
    grid = Grid.of(WIDTH, HEIGHT, 432)
    z = np.full(grid.columns * grid.rows, np.nan)
    z[grid.coarse_first[:36]] = 2.0
    found = dense(grid, z)
    assert np.isfinite(found.depth).mean() > 0.95
    assert found.confidence.mean() < 0.4


def test_no_answer_is_no_depth():
    grid = Grid.of(WIDTH, HEIGHT, 40)
    found = dense(grid, np.full(grid.columns * grid.rows, np.nan))
    assert np.isnan(found.depth).all()
    assert (found.confidence == 0).all()
    assert found.depth.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (4000, 2)])
@pytest.mark.parametrize("points", [1, 4, 5000])
def test_tiny_images_and_grids(size, points):
    grid = Grid.of(*size, points)
    z = np.linspace(1.0, 1.2, grid.columns * grid.rows)
    found = dense(grid, z)
    assert found.depth.shape == found.confidence.shape == (size[1], size[0])
    assert (found.depth >= 0.9).all()
    assert (found.depth <= 1.35).all()
    assert (found.confidence > 0).all()


# ----------------------------------------------------------------------------------------------------- confidence


@given(st.integers(0, 2**32 - 1), st.integers(4, 300), st.floats(0.0, 0.9))
def test_confidence_is_a_probability_and_zero_only_where_unknown(seed, points, refused):
    rng = np.random.default_rng(seed)
    grid = Grid.of(WIDTH, HEIGHT, points)
    count = grid.columns * grid.rows
    z = np.where(rng.random(count) < refused, np.nan, np.exp(rng.normal(1.0, 0.6, count)))
    trust = np.where(np.isnan(z), 0.0, rng.uniform(0.01, 1.0, count))
    found = densify(grid, z, trust, GREY)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    np.testing.assert_array_equal(found.confidence == 0, np.isnan(found.depth))
    assert (found.confidence <= trust.max() * 1.00001).all()
    assert not np.isinf(found.depth).any()


def test_confidence_falls_with_the_distance_to_the_answers():
    grid = Grid.of(WIDTH, HEIGHT, 24)
    found = dense(grid, np.full(grid.columns * grid.rows, 2.0), trust=0.8)
    on = found.confidence[np.rint(grid.v).astype(int)][:, np.rint(grid.u).astype(int)]
    np.testing.assert_allclose(on, 0.8, atol=0.01)
    row, first, second = round(grid.v[1]), round(grid.u[1]), round(grid.u[2])
    middle = (first + second) // 2
    assert (np.diff(found.confidence[row, first : middle + 1]) <= 1e-6).all()
    assert (np.diff(found.confidence[row, middle + 1 : second]) >= -1e-6).all()
    assert found.confidence[row, middle] == pytest.approx(0.8 / 1.25, rel=0.02)  # half a step away
    z = np.full((grid.rows, grid.columns), 2.0)
    z[1, 2] = np.nan
    hole = dense(grid, z.ravel(), trust=0.8)
    assert hole.confidence[row, second] == pytest.approx(0.4, rel=0.05)  # a whole step away
    assert (np.diff(hole.confidence[row, first : second + 1]) <= 1e-3).all()


def test_confidence_falls_towards_the_border_beside_a_hole_as_well():
    grid = Grid.of(WIDTH, HEIGHT, 24)
    z = np.full((grid.rows, grid.columns), 2.0)
    z[:, 1] = np.nan
    row, beyond = round(grid.v[1]), grid.u[0] / (grid.u[1] - grid.u[0])  # steps from the border to the first point
    confidence = dense(grid, z.ravel(), trust=0.8).confidence[row]
    assert confidence[0] == pytest.approx(0.8 / (1 + beyond**2), rel=0.01)
    assert (np.diff(confidence[: round(grid.u[0])]) > 0).all()


def test_confidence_is_lower_at_an_edge():
    grid = Grid.of(WIDTH, HEIGHT, 108)
    z = np.where(grid.pixels[:, 0] < 77, 2.0, 4.0)
    flat, edge = dense(grid, np.full_like(z, 2.0)).confidence, dense(grid, z).confidence
    ratio = edge / flat
    assert set(np.round(np.unique(ratio), 3)) == {0.5, 1.0}


# ------------------------------------------------------------------------------------------------- real frames, cost


def test_real_frames_come_back_from_a_grid_of_their_depth(data):
    import truth

    for fingerprint, frame in list(truth.manifest_frames(data / "tum_fr3_cabinet").items())[::20]:
        grid = Grid.of(640, 480, 432)
        pixels = np.rint(grid.pixels).astype(int)
        z = frame.depth[pixels[:, 1], pixels[:, 0]]
        found = densify(grid, z, np.isfinite(z).astype(float), np.zeros((480, 640, 3), np.uint8))
        both = np.isfinite(found.depth) & np.isfinite(frame.depth)
        ratio = np.maximum(found.depth[both] / frame.depth[both], frame.depth[both] / found.depth[both])
        assert (ratio < 1.25).mean() > 0.95, fingerprint


def test_cost_of_a_frame(rng):
    """640x480 from the default grid, with edges everywhere: the worst case."""
    grid = Grid.of(640, 480, 432)
    z, image = rng.uniform(0.5, 9.0, len(grid.pixels)), rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        dense(grid, z, image)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.0
