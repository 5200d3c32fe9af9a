"""Geometry of views with depth and pose: where the pixels of one are in another, and whether the two agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from vlm3_ros.camera import Camera

HIDDEN = 0.02  # relative; a point this much behind what the second image shows is hidden there
EDGE = 0.1  # relative; neighbouring pixels whose depths differ by more have no depth of their own between them
COMPARED = 0.25  # of the pixels of one view must fall on such of the other, or a share of them means nothing
CONFLICT = 0.05  # relative; a point this much in front of what the second image shows there cannot be


class View(Protocol):
    """A camera's depth and where it was; each may be unknown where a function does not need it."""

    @property
    def camera(self) -> Camera: ...

    @property
    def depth(self) -> np.ndarray | None:
        """[height, width] metres along Z, NaN unknown."""

    @property
    def T_world_camera(self) -> np.ndarray | None:
        """[4, 4]."""


def depth_at(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Depth along Z [N] at pixels [N, 2], whole or not: bilinear in inverse depth, NaN beside an edge or a hole."""
    height, width = depth.shape
    u, v = np.clip(np.asarray(pixels, float), 0, [width - 1, height - 1]).T
    column, row = (np.minimum(np.floor(x).astype(int), n - 2) for x, n in ((u, width), (v, height)))
    corners = np.stack([depth[row + j, column + i] for j in (0, 1) for i in (0, 1)]).astype(float)  # [4, N]
    a, b = u - column, v - row
    weights = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
    with np.errstate(invalid="ignore", divide="ignore"):
        z = 1.0 / (weights / corners).sum(axis=0)
        steep = corners.max(axis=0) > (1.0 + EDGE) * corners.min(axis=0)
    return np.where(steep, np.nan, z)


def relative_pose(a: View, b: View) -> np.ndarray:
    """Pose of camera b in the axes of camera a [4, 4]."""
    assert a.T_world_camera is not None
    assert b.T_world_camera is not None
    return np.linalg.inv(a.T_world_camera) @ b.T_world_camera


def correspondences(a: View, b: View, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels [N, 2] of ``a`` are in ``b``: pixels [N, 2], and whether they are seen there [N].

    Seen means inside the image, at the depth that ``b`` has there: nothing in front of it, and no hole. Where ``b``
    has no depth, that of ``a`` tells what is hidden; see `carried_depth`.
    """
    there, z, z_there = _arrived(a, b, pixels)
    with np.errstate(invalid="ignore"):
        return there, np.abs(z / z_there - 1.0) < HIDDEN


def carried_depth(a: View, b: View) -> np.ndarray:
    """The depth of ``a`` as seen from ``b``: float32 [height, width] of ``b``, NaN where nothing of it arrives.

    A depth buffer: of all that arrives in the 3 × 3 pixels around one the nearest counts, so surfaces stay closed
    where ``b`` is up to three times nearer to them. What ``a`` does not see hides nothing.
    """
    width, height = a.camera.size
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    there, z = _moved(a, b, pixels)
    column, row = np.rint(np.nan_to_num(there, nan=-1.0)).clip(-1, max(b.camera.size)).astype(int).T
    inside = (column >= 0) & (column < b.camera.width) & (row >= 0) & (row < b.camera.height)
    nothing = np.finfo(np.float32).max
    buffer: np.ndarray = np.full((b.camera.height, b.camera.width), nothing)
    np.minimum.at(buffer, (row[inside], column[inside]), z[inside].astype(np.float32))
    buffer = cv2.erode(buffer, np.ones((3, 3), np.uint8))
    return np.where(buffer < nothing, buffer, np.float32(np.nan))


# -------------------------------------------------------------------------------------------- how two views agree


@dataclass(frozen=True)
class Agreement:
    """How much two views share, and how much of that cannot be."""

    covisible: float  # share of the pixels with depth of one that the other sees too; of both directions the smaller
    conflicting: float  # share of the points not hidden from the other that it looks through; of both the larger


def agreement(a: View, b: View, step: int = 16) -> Agreement:
    """How two views with poses agree, of which at least one has depth, measured on every ``step``-th pixel and row.

    A point behind what the other view shows is hidden there, which is no conflict. One in front of it would have been
    seen: something has moved, or a pose is wrong. ``conflicting`` is NaN where too little can be compared, and where
    one of the two has no depth.
    """
    both = [_of_one(first, second, step) for first, second in ((a, b), (b, a)) if first.depth is not None]
    conflicting = [each.conflicting for each in both if not np.isnan(each.conflicting)]
    return Agreement(min(each.covisible for each in both), max(conflicting, default=np.nan))


def covisibility(a: View, b: View, step: int = 16) -> float:
    """Share of the pixels with depth of one image that the other sees too, in [0, 1]; see `agreement`."""
    return agreement(a, b, step).covisible


def _of_one(a: View, b: View, step: int) -> Agreement:
    width, height = a.camera.size
    grid = np.stack(np.meshgrid(np.arange(step // 2, width, step), np.arange(step // 2, height, step)), axis=-1)
    pixels = grid.reshape(-1, 2)
    assert a.depth is not None
    pixels = pixels[np.isfinite(depth_at(a.depth, pixels))]
    _, z, z_there = _arrived(a, b, pixels)
    with np.errstate(invalid="ignore"):
        ratio = z / z_there - 1.0
        seen, before = np.abs(ratio) < HIDDEN, ratio < -CONFLICT
        alike = np.abs(ratio) <= CONFLICT
    compared = int(before.sum() + alike.sum())
    enough = b.depth is not None and compared > COMPARED * len(pixels)
    return Agreement(float(seen.sum() / max(1, len(pixels))), float(before.sum() / compared) if enough else np.nan)


def _moved(a: View, b: View, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels [N, 2] of ``a`` are in ``b`` [N, 2], inside or not, and at which depth [N]; NaN unknown."""
    assert a.depth is not None
    points = a.camera.rays(pixels) * depth_at(a.depth, pixels)[:, None]
    T_b_a = np.linalg.inv(relative_pose(a, b))
    points = points @ T_b_a[:3, :3].T + T_b_a[:3, 3]
    return b.camera.project(points), points[:, 2]


def _arrived(a: View, b: View, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_moved`, and the depth [N] that ``b`` shows there, NaN where it is unknown or outside the image."""
    there, z = _moved(a, b, pixels)
    inside = np.all((there >= -0.5) & (there <= np.subtract(b.camera.size, 0.5)), axis=1)
    depth = carried_depth(a, b) if b.depth is None else b.depth
    return there, z, np.where(inside, depth_at(depth, np.where(inside[:, None], there, 0.0)), np.nan)
