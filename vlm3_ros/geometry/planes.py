"""Planes in sparse depth answers: floors, table tops and walls, found by RANSAC in inverse depth.

On a plane the inverse depth is linear in the viewing ray: 1/z = m · (x/z, y/z, 1), that is m · p = 1 for its points.
An answer that is wrong by a factor moves a point along its ray and m · p by that same factor, so m · p - 1 is the
relative error of a point against the plane at any distance and angle, which is how depth models err.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

CAMERA_UP = np.array([0.0, -1.0, 0.0])
HYPOTHESES = 200  # planes tried: finds one that holds 30 % of the points with a probability of 99 %
ROUGHNESS = 0.01  # metres: how uneven floors and walls are, and the last digit of a depth answer
SIGMAS = 2.0  # of the noise: how far off a plane its points may be
REFINEMENTS = 3  # least-squares steps from the three points of a hypothesis to all that it holds
MIN_POINTS = 6  # a plane of fewer is a coincidence


@dataclass(frozen=True, eq=False)
class Plane:
    """The points p with normal · p = -distance: ``normal`` [3] is a unit vector towards the camera, at the origin."""

    normal: np.ndarray
    distance: float

    def height(self, points: np.ndarray) -> np.ndarray:
        """Signed distance [...] of points [..., 3] to the plane in metres, positive on the camera's side."""
        return points @ self.normal + self.distance

    def tolerance(self, noise: float) -> float:
        """Distance in metres within which a point with this relative noise may belong to the plane."""
        return SIGMAS * noise * self.distance + ROUGHNESS

    def holds(self, points: np.ndarray, noise: float) -> np.ndarray:
        """Mask [N] of the points [N, 3] that may belong to the plane."""
        return np.abs(self.height(points)) < self.tolerance(noise)


def scattered_noise(points: np.ndarray) -> float:
    """Standard deviation of the depth answers' relative error, from what neighbouring answers disagree by.

    Three equally spaced pixels on a plane have inverse depths in arithmetic progression. The departures from it are
    measured over all such triples [left, middle, right] of points [N, 3]; a low quantile of them stands for the
    noise, because the triples that cross an edge of the scene depart more. Zero where there are no such triples.
    """
    rays, inverse = points[:, :2] / points[:, 2:], 1.0 / points[:, 2]
    count = len(points)
    if count < 9:
        return 0.0
    tree = cKDTree(rays)
    gaps, neighbours = tree.query(rays, k=5)
    spacing = np.median(gaps[:, 1])
    middle = np.repeat(np.arange(count), 4)
    left = neighbours[:, 1:].ravel()
    miss, right = tree.query(2.0 * rays[middle] - rays[left])
    straight = (miss < 0.25 * spacing) & (left < right)
    if not straight.any():
        return 0.0
    bend = (inverse[left] + inverse[right] - 2.0 * inverse[middle])[straight] / inverse[middle[straight]]
    return float(np.quantile(np.abs(bend), 0.3) / 0.385 / np.sqrt(6.0))  # 30 % of normal errors are below 0.385 σ


def largest_plane(points: np.ndarray, noise: float) -> Plane | None:
    """The plane, in any direction, that holds most points [N, 3]; or None.

    ``noise`` is the standard deviation of the relative error in range.
    """
    if len(points) < MIN_POINTS:
        return None
    triples = points[np.random.default_rng(0).integers(0, len(points), (HYPOTHESES, 3))]
    regular = np.abs(np.linalg.det(triples)) > 1e-9 * np.prod(triples[:, :, 2], axis=1)
    candidates = np.linalg.solve(triples[regular], np.ones((regular.sum(), 3, 1)))[..., 0]
    for _ in range(REFINEMENTS):
        held = np.abs(candidates @ points.T - 1.0) < _tolerance(candidates, noise)[:, None]
        normal_matrix = np.einsum("kn,ni,nj->kij", held, points, points, optimize=True)
        candidates = np.linalg.solve(normal_matrix + 1e-9 * np.eye(3), (held @ points)[..., None])[..., 0]
    best = _best(candidates, points, noise, opaque=True)
    return None if best is None else _plane(best)


def level_plane(points: np.ndarray, noise: float, up: np.ndarray) -> Plane | None:
    """The plane across the unit vector ``up`` [3] and below the camera that holds most points [N, 3], or None."""
    depths = -points @ up
    candidates = depths[depths > ROUGHNESS]
    best = _best(-up / candidates[:, None], points, noise, opaque=False)
    if best is None:
        return None
    held = np.abs(points @ best - 1.0) < _tolerance(best, noise)
    return Plane(up, float(np.median(depths[held])))


def upright_plane(points: np.ndarray, noise: float, up: np.ndarray) -> Plane | None:
    """The plane along the unit vector ``up`` [3] that holds most points [N, 3] (a wall), or None."""
    if len(points) < MIN_POINTS:
        return None
    flat = points - (points @ up)[:, None] * up
    pairs = flat[np.random.default_rng(0).integers(0, len(points), (HYPOTHESES, 2))]
    along = pairs[:, 1] - pairs[:, 0]
    normal = np.cross(along, up)
    distance = (normal * pairs[:, 0]).sum(axis=1)
    regular = np.abs(distance) > 1e-3 * np.linalg.norm(along, axis=1)
    best = _best(normal[regular] / distance[regular, None], points, noise, opaque=True)
    return None if best is None else _plane(best)


def _best(candidates: np.ndarray, points: np.ndarray, noise: float, opaque: bool) -> np.ndarray | None:
    """The candidate m of [M, 3] with m · p = 1 for most points, or None where that is fewer than MIN_POINTS.

    Points near the plane count more (MSAC). A point behind an ``opaque`` plane counts against it: it could not be
    seen. That is what tells a floor or a wall from a slanted plane through both.
    """
    if len(candidates) == 0:
        return None
    error = (candidates @ points.T - 1.0) / _tolerance(candidates, noise)[:, None]
    score = (1.0 - error**2).clip(min=0.0).sum(axis=1)
    if opaque:
        score -= (error > 1.0).sum(axis=1)
    best = int(score.argmax())
    return candidates[best] if (np.abs(error[best]) < 1.0).sum() >= MIN_POINTS else None


def _tolerance(m: np.ndarray, noise: float) -> np.ndarray:
    """Relative error in range that a point of the plane m [..., 3] may have."""
    return SIGMAS * noise + ROUGHNESS * np.linalg.norm(m, axis=-1)


def _plane(m: np.ndarray) -> Plane:
    distance = 1.0 / np.linalg.norm(m)
    return Plane(-m * distance, float(distance))
