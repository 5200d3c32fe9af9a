"""From a named 2D box and a few dozen depth answers to an oriented 3D box.

Everything is in camera axes (optical frame: X right, Y down, Z forward) and metres. 2D boxes are (x1, y1, x2, y2) in
pixels from the image's border, 0 to width and 0 to height; pixels have the centre of the top-left one at (0, 0).
"""

from __future__ import annotations

import math

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry import box_faces, box_posterior, gravity, planes
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.box_posterior import Draws, Evidence, Outline
from vlm3_ros.geometry.planes import ROUGHNESS, Plane
from vlm3_ros.tasks import Reason, Refusal

RING_SHARE = 1 / 4  # of the pixels are asked around the 2D box: what lies there is background
RING_MARGINS = (0.1, 0.25)  # how far out the two rings lie, as parts of the 2D box's sides
MIN_POINTS = 6  # answers on the object; fewer say nothing about its shape
REFERENCE_ERROR = 0.004  # standard deviation of a 2D box's numbers, in parts of the image's sides
COMMON_ERROR = 0.4  # of one answer's relative error is an error of the whole image, which no number of answers shows
SHARP = 0.1  # noise, in parts of an object's angular size, up to which its faces can be measured one by one
BLUNT = 0.5  # the same, from which on answers say no more than how far away it is
KEPT = 200  # of the draws, the likeliest, are compared with each other
MODEL_ERROR = 0.05  # of a box's sides: things are not quite boxes
CELLS = 24  # a side, of the ground on which boxes are compared from above
ALIKE = 0.5  # overlap from which on draws are averaged


def sample_pixels(
    box: tuple[float, float, float, float], size: tuple[int, int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` pixels [N, 2] to ask for one 2D box, and which of them [N] lie inside the box.

    A grid inside, and two rings around it: a surface that goes on beyond the box is what the object stands on or
    before. ``size`` is the image's (width, height); rings are cut at its border, so N may be smaller than ``count``.
    """
    x1, y1, x2, y2 = box
    sides = np.array([x2 - x1, y2 - y1])
    columns = max(2, round(math.sqrt(count * (1 - RING_SHARE) * sides[0] / sides[1])))
    columns = min(columns, max(2, int(count * (1 - RING_SHARE) / 2)))
    rows = max(2, round(count * (1 - RING_SHARE) / columns))
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    grid = np.stack([u.ravel(), v.ravel()], axis=1)
    around = (np.arange(count // 8) + 0.5) / (count // 8) * 4.0
    walk = np.interp(around[:, None] + [0.0, 3.0], np.arange(8), [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    rings = [walk * (1.0 + 2.0 * margin) - margin for margin in RING_MARGINS]
    pixels = np.rint(np.concatenate([grid, *rings]) * sides + [x1, y1] - 0.5).astype(int)
    inside = np.arange(len(pixels)) < len(grid)
    pixels, first = np.unique(pixels, axis=0, return_index=True)
    seen = ((pixels >= 0) & (pixels < size)).all(axis=1)
    return pixels[seen], inside[first][seen]


def near(pixels: np.ndarray, box: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels [N, 2] lie in or around a 2D box, as far out as its outer ring, and which inside: bool [N]."""
    low, high = np.reshape(box, (2, 2)) - 0.5
    margin = RING_MARGINS[-1] * (high - low)
    around = ((pixels >= low - margin) & (pixels <= high + margin)).all(axis=1)
    return around, ((pixels >= low) & (pixels <= high)).all(axis=1)


def outline(box: tuple[float, float, float, float], camera: Camera, border_px: float = 2.0) -> Outline:
    """A 2D box as planes of sight; an edge within ``border_px`` of the image's border is cut."""
    x1, y1, x2, y2 = box
    (left, top), (right, bottom) = camera.rays(np.reshape(box, (2, 2)) - 0.5)[:, :2]
    normals = np.array([[-1.0, 0.0, left], [0.0, -1.0, top], [1.0, 0.0, -right], [0.0, 1.0, -bottom]])
    room = np.array([x1, y1, camera.width - x2, camera.height - y2])
    error = REFERENCE_ERROR * np.array([*camera.size, *camera.size]) / math.sqrt((x2 - x1) * (y2 - y1))
    return Outline(normals / np.linalg.norm(normals, axis=1, keepdims=True), room <= border_px, error)


def fit_box(
    label: str,
    score: float,
    points: np.ndarray,
    inside: np.ndarray,
    edges: Outline,
    up: np.ndarray | None = None,
    noise: float | None = None,
    spread: np.ndarray | None = None,
) -> Box3D | Refusal:
    """The oriented box of the object seen in a 2D box, with its full size; or why there is none.

    ``points`` [N, 3] are the answers for the pixels of `sample_pixels` and ``inside`` [N] its mask; ``edges`` comes
    from `outline`. ``up`` [3] is the unit vector against gravity; without it the normal of the floor or table seen
    around the object is taken, and failing that the camera's own up. The box stands upright along it. ``noise`` is
    the standard deviation of the answers' relative error, found from them where it is not given; ``spread`` [N] in
    metres says which of them are less sure than others (NaN: not known).

    Of all boxes that may be there (`box_posterior`), the one that overlaps most with what may be there is taken. Its
    covariances are those of what may be there, an error of the whole image included.
    """
    if inside.sum() < MIN_POINTS:
        return Refusal(Reason.INCONSISTENT, f"{label}: only {inside.sum()} depths are known inside its 2D box")
    noise = planes.scattered_noise(points) if noise is None else noise
    up = gravity.up(points, noise) if up is None else up
    support, wall = _surroundings(points[~inside], noise, up)
    within = points[inside]
    evidence = Evidence(
        edges,
        within / within[:, 2:],
        np.log(within[:, 2]),
        np.hypot(noise * _relative_spread(points, spread)[inside], ROUGHNESS / within[:, 2]),
        _level_axes(edges, up),
        support,
        wall,
    )
    draws = box_posterior.draw(evidence)
    if draws is None:
        return Refusal(Reason.INCONSISTENT, f"{label}: no upright box fits its 2D box")
    middle = _middle(draws, evidence.upright, COMMON_ERROR * noise)
    if noise < SHARP * evidence.angle and draws.weight[draws.is_round].sum() < 0.5:
        middle = box_faces.measured(evidence, noise) or middle
    elif noise > BLUNT * evidence.angle:
        middle = box_posterior.facing(evidence)
    return _box(label, score, middle, draws, COMMON_ERROR * noise)


def _relative_spread(points: np.ndarray, spread: np.ndarray | None) -> np.ndarray:
    """How much less sure each answer [N] is than the middle one; 1 where that is not known."""
    if spread is None:
        return np.ones(len(points))
    relative = spread / points[:, 2]
    middle = np.median(relative[np.isfinite(relative)]) if np.isfinite(relative).any() else 0.0
    return np.nan_to_num(relative / middle, nan=1.0).clip(0.5, 10.0) if middle > 0.0 else np.ones(len(points))


def _level_axes(edges: Outline, up: np.ndarray) -> np.ndarray:
    """Level axes [3, 3] as columns: across the line of sight, along it, and up."""
    left, top, right, bottom = edges.normals
    sight = np.cross(left - right, top - bottom)
    sight *= np.sign(sight[2])
    across = np.cross(sight, up)
    if np.linalg.norm(across) < 1e-3 * np.linalg.norm(sight):  # the camera looks straight down or up
        across = np.cross(np.eye(3)[np.abs(up).argmin()], up)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(up, across), up], axis=1)


def _surroundings(ring: np.ndarray, noise: float, up: np.ndarray) -> tuple[Plane | None, Plane | None]:
    """The level surface under the object and the wall behind it, as far as the points around it [R, 3] show them.

    The wall is looked for first, because a row of points on a wall is as level as a floor, and again without the
    floor.
    """
    wall = planes.upright_plane(ring, noise, up)
    level = ring if wall is None else ring[~wall.holds(ring, noise)]
    support = planes.level_plane(level, noise, up)
    rest = ring if support is None else ring[~support.holds(ring, noise)]
    return support, planes.upright_plane(rest, noise, up)


# ------------------------------------------------------------------------------------------- one box of many draws


def _middle(draws: Draws, upright: np.ndarray, common: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [3], size [3] and rotation [3, 3] of the box that overlaps most, on average, with what may be there: the
    mean of the draws that are like it.

    All draws may be nearer or farther together, by the relative error ``common``.
    """
    kept = np.argsort(-draws.weight)[:KEPT]
    weight = draws.weight[kept] / draws.weight[kept].sum()
    center, size, yaw = (draws.center[kept] @ upright, draws.size[kept], draws.yaw[kept])
    scale = np.exp(common * np.random.default_rng(0).normal(size=(len(kept), 1)))
    overlap = _overlaps((center, size, yaw), (center * scale, size * scale, yaw))
    best = int((overlap @ weight).argmax())
    yaw, size = _like(yaw, size, yaw[best])
    near = weight * (_overlaps((center, size, yaw), (center, size, yaw))[best] >= ALIKE)
    near /= near.sum()
    turn = near @ yaw
    c, s = np.cos(turn), np.sin(turn)
    rotation = upright @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return upright @ (near @ center), np.maximum(np.exp(near @ np.log(size)), ROUGHNESS), rotation


def _box(
    label: str,
    score: float,
    middle: tuple[np.ndarray, np.ndarray, np.ndarray],
    draws: Draws,
    common: float,
) -> Box3D:
    """The box in the middle with the covariances of what may be there."""
    center, size, rotation = middle
    along = draws.axes @ rotation  # [H, 3, 3]
    same = np.abs(along[:, 0, 0]) >= np.abs(along[:, 0, 1])
    sizes = np.where(same[:, None], draws.size, draws.size[:, [1, 0, 2]])
    shape = (MODEL_ERROR * size) ** 2
    return Box3D(
        label, score, center, size, rotation,
        _spread(draws.center, center, draws.doubt)
        + rotation @ np.diag(shape) @ rotation.T + common**2 * np.outer(center, center),
        _spread(sizes, size, draws.doubt) + np.diag(shape) + common**2 * np.outer(size, size),
    )  # fmt: skip


def _spread(values: np.ndarray, middle: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Covariance [3, 3] of weighted values [H, 3] about ``middle``."""
    return (weight[:, None] * (values - middle)).T @ (values - middle)


def _like(yaw: np.ndarray, size: np.ndarray, reference: float) -> tuple[np.ndarray, np.ndarray]:
    """The same boxes with that of their sides as length whose yaw is within 45° of ``reference``."""
    quarters = np.rint((reference - yaw) / (np.pi / 2)).astype(int)
    swapped = np.where(quarters[:, None] % 2 == 1, size[:, [1, 0, 2]], size)
    return yaw + quarters * np.pi / 2, swapped


Upright = tuple[np.ndarray, np.ndarray, np.ndarray]  # centres [H, 3] and sizes [H, 3] on level axes, yaws [H]


def _overlaps(first: Upright, second: Upright) -> np.ndarray:
    """Intersection over union [H, K] of boxes on level axes, their bases compared on a grid of `CELLS`."""
    reach = [np.hypot(size[:, 0], size[:, 1])[:, None] / 2 for _, size, _ in (first, second)]
    low = np.min([(a[0][:, :2] - r).min(axis=0) for a, r in zip((first, second), reach, strict=True)], axis=0)
    high = np.max([(a[0][:, :2] + r).max(axis=0) for a, r in zip((first, second), reach, strict=True)], axis=0)
    steps = (np.arange(CELLS) + 0.5) / CELLS
    ground = np.stack(np.meshgrid(*(low + (high - low) * steps[:, None]).T), axis=-1).reshape(-1, 2)
    cell = float(np.prod(high - low)) / CELLS**2
    base_a, base_b = _bases(first, ground), _bases(second, ground)
    (center_a, size_a, _), (center_b, size_b, _) = first, second
    top = np.minimum((center_a + size_a / 2)[:, None, 2], (center_b + size_b / 2)[:, 2])
    bottom = np.maximum((center_a - size_a / 2)[:, None, 2], (center_b - size_b / 2)[:, 2])
    common = (base_a @ base_b.T).astype(float) * cell * (top - bottom).clip(min=0.0)
    volume_a, volume_b = base_a.sum(axis=1) * cell * size_a[:, 2], base_b.sum(axis=1) * cell * size_b[:, 2]
    return common / np.maximum(volume_a[:, None] + volume_b - common, 1e-12)


def _bases(boxes: Upright, ground: np.ndarray) -> np.ndarray:
    """Which points [G, 2] of the ground lie in each box [H, G], as float32."""
    center, size, yaw = boxes
    away = ground - center[:, None, :2]
    c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    along, across = away[..., 0] * c + away[..., 1] * s, away[..., 1] * c - away[..., 0] * s
    inside = (np.abs(along) <= size[:, 0, None] / 2) & (np.abs(across) <= size[:, 1, None] / 2)
    return inside.astype(np.float32)
