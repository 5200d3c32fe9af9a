"""Which way is up, from the depth answers of one image.

A floor alone does not say it where answers are noisy: a slanted plane through floor and wall fits as well. So the
whole image is explained at once, as things in an upright room: a floor, a wall ahead and one on either side (which
may be as far away as outdoors), seen by a camera that is held about level. Nothing is seen behind floor and walls.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.special import ndtr
from scipy.stats import qmc

from vlm3_ros.geometry.planes import CAMERA_UP, largest_plane
from vlm3_ros.geometry.population import close_in, weights

PITCH_DEG, ROLL_DEG = 20.0, 4.0  # standard deviations of how cameras are held
MAX_PITCH_DEG = 65.0
FIRST, NEXT = 2048, 320
LOOSE, TIGHT = 0.3, 0.005  # allowed relative errors of depth, in the first round and the last
ON_ROOM, BEFORE, BEHIND = 0.5, 0.45, 0.05  # where answers lie
SURFACES = 4  # planes looked for
SPAN = 2.0  # in ln(depth): how far before floor and walls things are seen
POWER = 0.25  # of the likelihood: rooms are not empty boxes, so answers are not independent evidence
STEPS = (0.4, 0.4, 0.8, 0.5, 0.5, 0.5, 0.5)  # of draws, in allowed errors
MIN_POINTS = 12  # fewer say nothing about a room
MOST_POINTS = 300  # more say nothing new


def up(points: np.ndarray, noise: float) -> np.ndarray:
    """The likeliest direction against gravity, a unit vector [3] in camera axes, from points [N, 3] all over a frame.

    ``noise`` is the standard deviation of the relative error in range. With hardly any points it is the camera's own
    up.
    """
    if len(points) < MIN_POINTS:
        return CAMERA_UP
    guesses = _guesses(points, noise)
    points = points[:: -(-len(points) // MOST_POINTS)]
    rays, logs = points / points[:, 2:], np.log(points[:, 2])
    x, log_weight = close_in(
        _first(points, guesses),
        np.zeros(FIRST),
        lambda x, allowed: _log_posterior(x, rays, logs, allowed),
        lambda allowed: np.minimum(allowed, 0.2) * np.array([STEPS]),
        max(LOOSE, noise),
        max(TIGHT, noise),
        NEXT,
    )
    mean = weights(log_weight) @ _axes(x)[:, 2]
    return mean / np.linalg.norm(mean)


# Draws are rows (pitch, roll, heading of the room against the camera's; ln of the distances to the floor and the
# walls ahead, left and right), angles in radians.


def _axes(x: np.ndarray) -> np.ndarray:
    """The room's axes as rows [H, 3, 3] in camera axes: right, ahead, up."""
    (cp, cr, ch), (sp, sr, sh) = np.cos(x[:, :3].T), np.sin(x[:, :3].T)
    up = np.stack([sr, -cr * cp, -cr * sp], axis=1)
    ahead = np.stack([0.0 * cp, -sp, cp], axis=1)
    right = np.cross(ahead, up)
    turned = ch[:, None] * ahead + sh[:, None] * right
    return np.stack([ch[:, None] * right - sh[:, None] * ahead, turned, up], axis=1)


def _guesses(points: np.ndarray, noise: float) -> np.ndarray:
    """Pitch, roll and heading [G, 3] by the largest planes of a scene: one may be the floor, two may be walls."""
    normals, left = [], points
    for _ in range(SURFACES):
        plane = largest_plane(left, noise)
        if plane is None:
            break
        normals.append(plane.normal)
        left = left[~plane.holds(left, noise)]
    ups = list(normals) + [np.cross(a, b) for a, b in combinations(normals, 2)]
    found = []
    for direction in ups:
        if (length := np.linalg.norm(direction)) < 0.3:
            continue
        direction = direction / length * (1.0 if direction[1] < 0.0 else -1.0)
        held = np.array([np.arctan2(-direction[2], -direction[1]), np.arcsin(direction[0])])
        _, ahead, right = _axes(np.array([[*held, 0.0]]))[0][[2, 1, 0]]
        headings = [np.arctan2(normal @ right, normal @ ahead) for normal in normals if abs(normal @ direction) < 0.3]
        found += [[*held, (angle + np.pi / 4) % (np.pi / 2) - np.pi / 4] for angle in headings or [0.0]]
    limits = np.radians([MAX_PITCH_DEG, 4.0 * ROLL_DEG, 90.0])
    return np.array([guess for guess in found if (np.abs(guess) < limits).all()]).reshape(-1, 3)


def _first(points: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Draws [H, 7] from all over how cameras are held, a part of them by ``guesses`` [G, 3], and from where the
    farthest points are."""
    u = qmc.Sobol(7, rng=0).random(FIRST)
    x = np.zeros((FIRST, 7))
    x[:, :3] = (2.0 * u[:, :3] - 1.0) * np.radians([3.0 * PITCH_DEG, 3.0 * ROLL_DEG, 45.0])
    if len(guesses):
        x[: FIRST // 4, :3] = guesses[np.arange(FIRST // 4) % len(guesses)]
    axes = _axes(x)
    for column, direction in enumerate((-axes[:, 2], axes[:, 1], -axes[:, 0], axes[:, 0])):
        depths = np.sort(direction @ points.T, axis=1)
        at = ((0.5 + 0.5 * u[:, 3 + column]) * (len(points) - 1)).astype(int)
        x[:, 3 + column] = np.log(np.maximum(depths[np.arange(FIRST), at], 0.1))
    return x


def _log_posterior(x: np.ndarray, rays: np.ndarray, logs: np.ndarray, allowed: float) -> np.ndarray:
    """Log posterior [H], but for a constant, of answers at ``rays`` [N, 3] with ln(depth) ``logs`` [N]."""
    axes = _axes(x)
    toward = axes @ rays.T  # [H, right ahead up, N]
    near = np.exp(-x[:, 3:])[..., None]
    inverse = np.maximum(
        toward[:, 1] * near[:, 1], np.abs(toward[:, 0]) * np.where(toward[:, 0] < 0.0, near[:, 2], near[:, 3])
    )
    inverse = np.maximum(inverse, -toward[:, 2] * near[:, 0])
    short = (-np.log(np.maximum(inverse, 1e-3)) - logs) / allowed
    density = ON_ROOM * np.exp(-0.5 * short**2) / (np.sqrt(2.0 * np.pi) * allowed)
    density += BEFORE * (ndtr(short) - ndtr(short - SPAN / allowed)) / SPAN + BEHIND / SPAN
    prior = -0.5 * ((x[:, :2] / np.radians([PITCH_DEG, ROLL_DEG])) ** 2).sum(axis=1)
    prior[np.abs(x[:, 0]) > np.radians(MAX_PITCH_DEG)] = -np.inf
    return prior + POWER * np.log(density).sum(axis=1)
