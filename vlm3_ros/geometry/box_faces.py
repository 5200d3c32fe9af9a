"""A box from answers that are nearly exact: each face is measured where points show it.

Other than the draws of `box_posterior`, which know solids only, this follows the outline of what is there: chairs,
tables and shelves are mostly empty. It needs points that are far less noisy than the object is large.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.csgraph import connected_components

from vlm3_ros.geometry.box_posterior import Evidence
from vlm3_ros.geometry.planes import ROUGHNESS, Plane

MIN_POINTS = 6  # on the object; fewer say nothing about its shape
TRIM = 0.04  # part of the points that may lie beyond each face: what is left of the outliers
YAW_STEP_DEG = 1.5
EDGE_ERROR = 0.02  # standard deviation of a 2D box's edges, as a part of the box's size
OVERLAP_ERROR = 0.08  # the same where the 3D box looks larger: round things have a larger box than outline
MEAN_ERROR = 0.1  # a face found from some hundred answers errs by this part of one answer's error


def measured(evidence: Evidence, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Centre [3], size [3] and rotation [3, 3] of the box; None where too few of the answers lie on one object.

    ``noise`` is the standard deviation of the answers' relative error. What cannot be seen is filled in: the bottom
    down to the surface the object stands on, and the far side as deep as the shorter of the visible sides, as far as
    the 2D box and the wall behind leave room for that.
    """
    points = evidence.rays * np.exp(evidence.logs)[:, None]
    support, wall, up = evidence.support, evidence.wall, evidence.upright[:, 2]
    sight = evidence.outline.normals[~evidence.outline.is_cut]
    body = _largest_part(_before(points, (support, wall), noise), points, noise)
    if len(body) < MIN_POINTS:
        return None
    rotation = _orientation(body, up, noise)
    faces, error = _seen_faces(body, rotation, noise)
    _fill_far_side(faces, error, rotation, wall, noise)
    if support is not None and _stands(faces, support, rotation, sight):
        faces[2, 0], error[2, 0] = -support.distance, ROUGHNESS + MEAN_ERROR * noise * support.distance
    faces = _reach_edges(faces, error, rotation, sight)
    size = np.maximum(faces[:, 1] - faces[:, 0], ROUGHNESS)
    return rotation @ faces.mean(axis=1), size, rotation


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
