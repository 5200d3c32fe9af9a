"""From a named 2D box and a few dozen depth answers to an oriented 3D box.

Everything is in camera axes (optical frame: X right, Y down, Z forward) and metres. 2D boxes are (x1, y1, x2, y2) in
pixels from the image's border, 0 to width and 0 to height; pixels have the centre of the top-left one at (0, 0).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.csgraph import connected_components

from vlm3_ros.camera import Camera
from vlm3_ros.geometry import planes
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.planes import ROUGHNESS, Plane
from vlm3_ros.tasks import Reason, Refusal

RING_SHARE = 1 / 3  # of the pixels are asked around the 2D box: what lies there is background
RING_MARGINS = (0.1, 0.25)  # how far out the two rings lie, as parts of the 2D box's sides
MIN_POINTS = 6  # answers on the object; fewer say nothing about its shape
TRIM = 0.04  # part of the points that may lie beyond each face: what is left of the outliers
YAW_STEP_DEG = 1.5
EDGE_ERROR = 0.02  # standard deviation of a 2D box's edges, as a part of the box's size
OVERLAP_ERROR = 0.08  # the same where the 3D box looks larger: round things have a larger box than outline
MEAN_ERROR = 0.1  # a face found from some hundred answers errs by this part of one answer's error


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
    around = (np.arange(count // 6) + 0.5) / (count // 6) * 4.0
    walk = np.interp(around[:, None] + [0.0, 3.0], np.arange(8), [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    rings = [walk * (1.0 + 2.0 * margin) - margin for margin in RING_MARGINS]
    pixels = np.rint(np.concatenate([grid, *rings]) * sides + [x1, y1] - 0.5).astype(int)
    inside = np.arange(len(pixels)) < len(grid)
    pixels, first = np.unique(pixels, axis=0, return_index=True)
    seen = ((pixels >= 0) & (pixels < size)).all(axis=1)
    return pixels[seen], inside[first][seen]


def sight_planes(box: tuple[float, float, float, float], camera: Camera, border_px: float = 2.0) -> np.ndarray:
    """The planes through the camera and the edges of a 2D box, as unit normals [K, 3] that point out of the box.

    The object touches each from inside. Edges within ``border_px`` of the image's border are left out, since the
    object may go on beyond.
    """
    (x1, y1), (x2, y2) = camera.rays(np.reshape(box, (2, 2)) - 0.5)[:, :2]
    normals = np.array([[-1.0, 0.0, x1], [0.0, -1.0, y1], [1.0, 0.0, -x2], [0.0, 1.0, -y2]])
    room = (box[0], box[1], camera.width - box[2], camera.height - box[3])
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True))[np.array(room) > border_px]


def fit_box(
    label: str,
    score: float,
    points: np.ndarray,
    inside: np.ndarray,
    sight: np.ndarray,
    up: np.ndarray | None = None,
) -> Box3D | Refusal:
    """The oriented box of the object seen in a 2D box, with its full size; or why there is none.

    ``points`` [N, 3] are the answers for the pixels of `sample_pixels` and ``inside`` [N] its mask; ``sight`` [K, 3]
    comes from `sight_planes`. ``up`` [3] is the unit vector against gravity; without it the normal of the floor or
    table seen around the object is taken, and failing that the camera's own up. The box stands upright along it.

    What cannot be seen is filled in: the bottom down to the surface the object stands on, and the far side as deep as
    the shorter of the visible sides, as far as the 2D box and the wall behind leave room for that.
    """
    if inside.sum() < MIN_POINTS:
        return Refusal(Reason.INCONSISTENT, f"{label}: only {inside.sum()} depths are known inside its 2D box")
    noise = planes.relative_noise(points)
    if up is None:
        floor = planes.floor_plane(points, noise)
        up = planes.CAMERA_UP if floor is None else floor.normal
    support, wall = _surroundings(points[~inside], noise, up)
    body = _largest_part(_before(points[inside], (support, wall), noise), points[inside], noise)
    if len(body) < MIN_POINTS:
        return Refusal(Reason.INCONSISTENT, f"{label}: {len(body)} of {inside.sum()} depth answers lie on one object")
    rotation = _orientation(body, up, noise)
    faces, error = _seen_faces(body, rotation, noise)
    _fill_far_side(faces, error, rotation, wall, noise)
    if support is not None and _stands(faces, support, rotation, sight):
        faces[2, 0], error[2, 0] = -support.distance, ROUGHNESS + MEAN_ERROR * noise * support.distance
    faces = _reach_edges(faces, error, rotation, sight)
    size = np.maximum(faces[:, 1] - faces[:, 0], ROUGHNESS)
    return Box3D(label, score, rotation @ faces.mean(axis=1), size, rotation)


# ----------------------------------------------------------------------------------------- object and background


def _surroundings(ring: np.ndarray, noise: float, up: np.ndarray) -> tuple[Plane | None, ...]:
    """The level surface under the object and the wall behind it, as far as the points around it [R, 3] show them.

    The wall is looked for first, because a row of points on a wall is as level as a floor, and again without the
    floor.
    """
    wall = planes.upright_plane(ring, noise, up)
    level = ring if wall is None else ring[~wall.holds(ring, noise)]
    support = planes.level_plane(level, noise, up)
    rest = ring if support is None else ring[~support.holds(ring, noise)]
    return support, planes.upright_plane(rest, noise, up)


def _before(inner: np.ndarray, background: tuple[Plane | None, ...], noise: float) -> np.ndarray:
    """The points [M, 3] of those in the 2D box [N, 3] that lie clearly on the camera's side of the background.

    Where hardly any do, the object itself is flat and lies or hangs on the surface that most points are on.
    """
    surfaces = [plane for plane in background if plane is not None]
    before = np.ones(len(inner), bool)
    for plane in surfaces:
        before &= plane.height(inner) > plane.tolerance(noise)
    if surfaces and before.sum() < max(MIN_POINTS, 0.1 * len(inner)):
        before = max((plane.holds(inner, noise) for plane in surfaces), key=np.count_nonzero)
    return inner[before]


def _largest_part(points: np.ndarray, inner: np.ndarray, noise: float) -> np.ndarray:
    """The largest set of points [M, 3] in which neighbouring pixels differ in range by less than half the 2D box.

    Points with fewer than two neighbours belong to nothing: answers between object and background are such.
    ``inner`` are all points in the 2D box, whose pixels say how densely it was asked.
    """
    if len(points) < MIN_POINTS:
        return points
    rays, logs = points[:, :2] / points[:, 2:], np.log(points[:, 2])
    width = math.sqrt(np.prod(np.ptp(inner[:, :2] / inner[:, 2:], axis=0)))
    spacing = width / math.sqrt(len(inner))
    near = np.linalg.norm(rays[:, None] - rays, axis=2) < 2.3 * spacing
    linked = near & (np.abs(logs[:, None] - logs) < 0.5 * width + 3.0 * noise)
    linked[linked.sum(axis=1) < 3] = False
    _, part = connected_components(linked, directed=True, connection="strong")
    return points[part == np.bincount(part).argmax()]


# ---------------------------------------------------------------------------------------------- box from points


def _orientation(body: np.ndarray, up: np.ndarray, noise: float) -> np.ndarray:
    """The box's axes [3, 3] as columns, upright.

    The yaw is the one at which most points lie close to a side of their rectangle seen from above (Zhang et al.,
    Efficient L-Shape Fitting for Vehicle Detection Using Laser Scanners, IV 2017).
    """
    right = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    right /= np.linalg.norm(right)
    upright = np.stack([right, np.cross(up, right), up], axis=1)
    flat = (body @ upright)[:, :2]
    yaws = np.radians(np.arange(0.0, 90.0, YAW_STEP_DEG))
    axes = np.array([[np.cos(yaws), np.sin(yaws)], [-np.sin(yaws), np.cos(yaws)]])  # [axis, coordinate, yaw]
    along = np.einsum("nc,acy->any", flat, axes)
    low, high = np.quantile(along, [TRIM, 1.0 - TRIM], axis=1)
    to_side = np.minimum(along - low[:, None], high[:, None] - along).clip(min=0.0).min(axis=0)  # [point, yaw]
    blur = ROUGHNESS + noise * np.median(body[:, 2])
    yaw = yaws[(1.0 / np.maximum(to_side, blur)).sum(axis=0).argmax()]
    c, s = np.cos(yaw), np.sin(yaw)
    return upright @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _seen_faces(body: np.ndarray, rotation: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Where along the box's axes the points begin and end [3, 2], and the standard error of that [3, 2].

    Noise moves points along their rays and so makes the object look longer that way; its share of the variance is
    known and taken out.
    """
    along = body @ rotation
    middle = np.median(along, axis=0)
    share = (noise * middle) ** 2 / np.maximum(along.var(axis=0), 1e-12)
    along = middle + (along - middle) * np.sqrt((1.0 - share).clip(min=0.0))
    faces = np.quantile(along, [TRIM, 1.0 - TRIM], axis=0).T
    toward_camera = faces * [1.0, -1.0] > 0.0
    distance = np.median(body[:, 2])
    spacing = math.sqrt(np.prod(np.ptp(body[:, :2] / body[:, 2:], axis=0)) / len(body)) * distance
    seen, outline = ROUGHNESS + MEAN_ERROR * noise * distance, ROUGHNESS + spacing + noise * distance
    return faces, np.where(toward_camera, seen, outline)


def _fill_far_side(
    faces: np.ndarray, error: np.ndarray, rotation: np.ndarray, wall: Plane | None, noise: float
) -> None:
    """Give the box a depth where too little of it is seen: that of the shorter visible side, or up to the wall."""
    extent = faces[:, 1] - faces[:, 0]
    for axis in (0, 1):
        far = int(faces[axis].sum() > 0.0)
        away = rotation[:, axis] * (1.0 if far else -1.0)
        missing = min(extent[1 - axis], extent[2]) - extent[axis]
        if missing <= 0.0:
            continue
        doubt = error[axis, far] + missing
        if wall is not None and away @ wall.normal < -0.5:
            seen_end = rotation @ faces.mean(axis=1) + away * extent[axis] / 2
            room = max(0.0, wall.height(seen_end) / -(away @ wall.normal))
            if room < missing:
                missing, doubt = room, ROUGHNESS + MEAN_ERROR * noise * wall.distance
        faces[axis, far] += missing if far else -missing
        error[axis, far] = doubt


def _stands(faces: np.ndarray, support: Plane, rotation: np.ndarray, sight: np.ndarray) -> bool:
    """Whether the object reaches down to the surface below it, or hangs above.

    It stands if the gap below the lowest points is small against their height, or if a box down to the surface hardly
    leaves the 2D box.
    """
    gap, height = faces[2, 0] + support.distance, faces[2, 1] - faces[2, 0]
    if gap < 0.5 * height:
        return True
    down = faces.copy()
    down[2, 0] = -support.distance
    before, after = (_overlap(f, rotation, sight)[0] for f in (faces, down))
    return bool((after - before.clip(min=0.0) < 0.3 * gap).all())


def _reach_edges(faces: np.ndarray, error: np.ndarray, rotation: np.ndarray, sight: np.ndarray) -> np.ndarray:
    """Move the faces [3, 2], each by as much as its standard error lets it, until the box fills the 2D box.

    Least squares over the six faces: the outermost samples stop short of the object's outline, and an edge of the 2D
    box says how far the object really goes; it also corrects a guessed far side and noisy ranges.
    """
    size = math.sqrt(np.prod(np.sort(faces[:, 1] - faces[:, 0])[1:])) + ROUGHNESS
    beyond, slope = _overlap(faces, rotation, sight)
    edge_error = size * np.where(beyond > 0.0, OVERLAP_ERROR, EDGE_ERROR)
    rows = np.concatenate([slope / edge_error[:, None], np.diag(1.0 / error.ravel())])
    move = np.linalg.lstsq(rows, np.concatenate([-beyond / edge_error, np.zeros(6)]), rcond=None)[0]
    return faces + move.reshape(3, 2)


def _overlap(faces: np.ndarray, rotation: np.ndarray, sight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the box reaches beyond each sight plane in metres [K], and the slope of that by the faces [K, 6].

    It is linear in the faces: the plane's distance to the centre and, along its normal, half of the box's sizes.
    """
    normals = sight @ rotation
    slope = np.stack([normals - np.abs(normals), normals + np.abs(normals)], axis=2).reshape(len(sight), 6) / 2
    return slope @ faces.ravel(), slope
