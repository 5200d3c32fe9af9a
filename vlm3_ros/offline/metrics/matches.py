"""Matched pixels against where they really are."""

from __future__ import annotations

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.offline.sources import Truth

PCK_PERCENT = (1, 3, 5)
OCCLUSION = 1.05  # a point is hidden where the second image sees something nearer than it by this factor


def true_pixels(pixels: np.ndarray, first: Truth, second: Truth, camera: Camera) -> np.ndarray:
    """Where points seen at pixels [N, 2] of the first image are in the second [N, 2]; NaN where that is not known.

    Both images are those of ``camera``. A point needs a depth in the first image, and must neither leave the second
    nor be hidden in it.
    """
    if first.depth is None or first.T_world_camera is None or second.T_world_camera is None:
        return np.full((len(pixels), 2), np.nan)
    T = np.linalg.inv(second.T_world_camera) @ first.T_world_camera
    points = camera.rays(pixels) * _nearest(first.depth, pixels)[:, None]
    points = points @ T[:3, :3].T + T[:3, 3]
    there = camera.project(points)
    in_image = (there >= -0.5) & (there < np.array(camera.size) - 0.5)  # False for NaN
    seen = np.asarray(in_image.all(axis=1))
    if second.depth is not None:
        surface = _nearest(second.depth, np.where(seen[:, None], there, 0.0))
        seen &= ~(points[:, 2] > surface * OCCLUSION)
    return np.where(seen[:, None], there, np.nan)


def match_errors(pixels: np.ndarray, true: np.ndarray, size: tuple[int, int]) -> dict[str, float]:
    """Over N matches [N, 2], N > 0: the end-point error in pixels, and the shares within parts of the longer side."""
    distance = np.linalg.norm(pixels - true, axis=1)
    shares = {f"pck{p}": float(np.mean(distance <= p / 100 * max(size))) for p in PCK_PERCENT}
    return {
        "matches": len(distance),
        "epe": float(distance.mean()),
        "epe_median": float(np.median(distance)),
        **shares,
    }


def _nearest(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The values [N] of an image at the pixels nearest to [N, 2]."""
    column, row = np.rint(pixels).astype(int).T
    height, width = values.shape
    return values[row.clip(0, height - 1), column.clip(0, width - 1)]
