"""Matched pixels against where they really are."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from vlm3_ros import messages
from vlm3_ros.camera import Camera
from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment
from vlm3_ros.offline.sources import Truth

PCK_PERCENT = (1, 3, 5)
OCCLUSION = 1.05  # a point is hidden where the second image sees something nearer than it by this factor


class Matches:
    """The group `matches`."""

    METRICS: ClassVar[Metrics] = {
        "matches": Metric("matches whose true pixel is known"),
        "epe": Metric("mean distance to the true pixel", "px", better="less"),
        "epe_median": Metric("median distance to the true pixel", "px", better="less"),
        **{
            f"pck{p}": Metric(f"share of matches within {p} % of the longer side of the image", better="more")
            for p in PCK_PERCENT
        },
    }

    def __init__(self) -> None:
        self._earlier: tuple[int, Truth] | None = None  # the last perceived frame's stamp and truth
        self._found: list[np.ndarray] = []
        self._true: list[np.ndarray] = []
        self._size = (0, 0)

    def add(self, moment: Moment) -> dict[str, float]:
        if moment.error:
            return {}
        earlier, self._earlier = self._earlier, (moment.stamp, moment.truth)
        message = moment.output("matches")
        if message is None or earlier is None or messages.nanoseconds(message.header1) != earlier[0]:
            return {}
        if (camera := moment.camera) is None:
            return {}
        first = np.stack([message.u1, message.v1], axis=1).astype(float)
        found = np.stack([message.u2, message.v2], axis=1).astype(float)
        true = true_pixels(first, earlier[1], moment.truth, camera)
        known = np.isfinite(true).all(axis=1)
        if not known.any():
            return {}
        self._found.append(found[known])
        self._true.append(true[known])
        self._size = camera.size
        return match_errors(found[known], true[known], self._size)

    def result(self) -> dict[str, Any]:
        if not self._found:
            return {}
        return match_errors(np.concatenate(self._found), np.concatenate(self._true), self._size)


def true_pixels(pixels: np.ndarray, first: Truth, second: Truth, camera: Camera) -> np.ndarray:
    """Where points seen at pixels [N, 2] of the first image are in the second [N, 2]; NaN where that is not known.

    Both images are those of ``camera``; of one with another size nothing is known. A point needs a depth in the first
    image, and must neither leave the second nor be hidden in it.
    """
    size = (camera.height, camera.width)
    if first.depth is None or first.T_world_camera is None or second.T_world_camera is None:
        return np.full((len(pixels), 2), np.nan)
    if first.depth.shape != size:
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
