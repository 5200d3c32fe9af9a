"""Matched pixels against where they really are."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from vlm3_ros import messages
from vlm3_ros.camera import Camera
from vlm3_ros.geometry.depth_map import Grid
from vlm3_ros.metrics.group import Metric, Metrics, Moment, Truth, median, wanted

PCK_PERCENT = (1, 3, 5)
OCCLUSION = 1.05  # a point is hidden where the second image sees something nearer than it by this factor


class _Earlier(NamedTuple):
    """What is needed of the frame before."""

    stamp: int
    truth: Truth
    valid: np.ndarray | None


class Matches:
    """The group `matches`: from each frame to the next. One that was lost is missed on both sides."""

    METRICS: ClassVar[Metrics] = {
        "matches": Metric("pixels that were asked for and whose true match is known"),
        "coverage": Metric("share of them that were answered", better="more"),
        "epe": Metric("mean distance to the true pixel; unanswered: the image's diagonal", "px", better="less"),
        "epe_median": Metric("median distance to the true pixel, likewise", "px", better="less"),
        **{
            f"pck{p}": Metric(f"share of matches within {p} % of the longer side of the image", better="more")
            for p in PCK_PERCENT
        },
        "epe_answered": Metric("mean distance to the true pixel, of the answered ones alone", "px"),
        "epe_median_answered": Metric("median distance to the true pixel, of the answered ones alone", "px"),
    }

    def __init__(self) -> None:
        self._earlier: _Earlier | None = None
        self._found: list[np.ndarray] = []
        self._true: list[np.ndarray] = []
        self._camera: Camera | None = None  # the last one that was known

    def add(self, moment: Moment) -> dict[str, float]:
        if not wanted(moment, "matches"):
            return {}
        self._camera = camera = moment.camera or self._camera
        earlier, self._earlier = self._earlier, _Earlier(moment.stamp, moment.truth, moment.valid)
        if earlier is None or camera is None:
            return {}
        asked = asked_pixels(camera, moment.settings["matches.points"], earlier.valid)
        first, found = with_unanswered(asked, *_answered(moment, earlier.stamp))
        true = true_pixels(first, earlier.truth, moment.truth, camera)
        known = np.isfinite(true).all(axis=1)
        if not known.any():
            return {}
        self._found.append(found[known])
        self._true.append(true[known])
        return match_errors(found[known], true[known], camera.size)

    def result(self) -> dict[str, Any]:
        if not self._found or self._camera is None:
            return {}
        return match_errors(np.concatenate(self._found), np.concatenate(self._true), self._camera.size)


def _answered(moment: Moment, earlier: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] of the earlier frame and their matches; none where the frame gave none with it."""
    message = moment.matches
    if message is None or messages.nanoseconds(message.header1) != earlier:
        return np.empty((0, 2)), np.empty((0, 2))
    first, second = ([message.u1, message.v1], [message.u2, message.v2])
    return np.stack(first, axis=1).astype(float), np.stack(second, axis=1).astype(float)


def asked_pixels(camera: Camera, points: int, valid: np.ndarray | None) -> np.ndarray:
    """The pixels [N, 2] that the task `matches` asks for, before they are rounded to reference numbers."""
    pixels = Grid.of(*camera.size, points).pixels
    if valid is None or valid.shape != (camera.height, camera.width):
        return pixels
    return pixels[_nearest(valid, pixels)]


def with_unanswered(asked: np.ndarray, first: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answered pixels [M, 2] and their matches, and behind them the rest of those ``asked`` [N, 2] with NaN.

    An answered pixel is the asked one that it is nearest to: it was rounded to reference numbers.
    """
    if len(first) and len(asked):
        nearest = np.linalg.norm(first[:, None] - asked[None], axis=-1).argmin(axis=1)
        asked = np.delete(asked, np.unique(nearest), axis=0)
    return np.concatenate([first, asked]), np.concatenate([found, np.full(asked.shape, np.nan)])


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
    """Over N > 0 matches [N, 2], NaN unanswered: distances to the true pixels, and shares within parts of the longer
    side. An unanswered match is off by the diagonal of the image of ``size``, and none by more."""
    far = float(np.hypot(*size))
    distance = np.linalg.norm(pixels - true, axis=1)
    answered = distance[np.isfinite(distance)]
    distance = np.where(np.isfinite(distance), distance, far).clip(max=far)
    return {
        "matches": len(distance),
        "coverage": len(answered) / len(distance),
        "epe": float(distance.mean()),
        "epe_median": float(np.median(distance)),
        **{f"pck{p}": float(np.mean(distance <= p / 100 * max(size))) for p in PCK_PERCENT},
        "epe_answered": float(answered.mean()) if len(answered) else np.nan,
        "epe_median_answered": median(answered),
    }


def _nearest(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The values [N] of an image at the pixels nearest to [N, 2]."""
    column, row = np.rint(pixels).astype(int).T
    height, width = values.shape
    return values[row.clip(0, height - 1), column.clip(0, width - 1)]
