"""Pinhole cameras, the size at which a VLM sees their images, and how it is told of pixels.

Pixel coordinates are (u, v) = (column, row) with the centre of the top-left pixel at (0, 0), as in ROS and OpenCV.
Camera axes are X right, Y down, Z forward (REP 103, optical frame). Lengths are metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TOKEN_PX = 32  # side of the image square behind one token of Qwen3-VL: patch 16 px, 2 × 2 patches merged
MIN_TOKENS = 64  # the processor never shows the model less than 65,536 square pixels (at the protocol's own sizes)


class CalibrationError(ValueError):
    """The calibration cannot be used; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion.

    ``fx`` and ``fy`` may differ: an image that needs no rectification keeps its own geometry, so that what is
    published lies on what came in, pixel on pixel unless it is made narrower. The VLM's view has square pixels, see
    `unified`.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def K(self) -> np.ndarray:
        """Intrinsic matrix [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def focal(self) -> float:
        """Geometric mean of the two focal lengths, in pixels: what decides how large things appear."""
        return math.sqrt(self.fx * self.fy)

    def resized(self, width: int, height: int) -> Camera:
        """The same view sampled at another size, its edges kept in place."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            width, height, self.fx * sx, self.fy * sy, (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        )

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] to viewing rays [..., 3] with z = 1: multiply by depth along Z to get points."""
        pixels = np.asarray(pixels, float)
        rays = np.ones((*pixels.shape[:-1], 3))
        rays[..., 0] = (pixels[..., 0] - self.cx) / self.fx
        rays[..., 1] = (pixels[..., 1] - self.cy) / self.fy
        return rays

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] in camera axes to pixels [..., 2]; NaN for points that are not in front."""
        points = np.asarray(points, float)
        z = np.where(points[..., 2] > 0.0, points[..., 2], np.nan)
        return np.stack([points[..., 0] / z * self.fx + self.cx, points[..., 1] / z * self.fy + self.cy], axis=-1)

    def pixels_in(self, other: Camera, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of this camera in ``other``, which shows the same view at another size."""
        return (np.asarray(pixels, float) + 0.5) * np.divide(other.size, self.size) - 0.5


# ------------------------------------------------------------------------------------------- what the VLM sees


def unified(camera: Camera, focal: float, max_tokens: int, scale: float = 1.0) -> Camera:
    """The view of ``camera`` at the unified focal length, at a size the VLM's processor leaves alone.

    VLM³ resizes every image so that its focal length is ``focal`` pixels (both axes, so fx = fy), and Qwen3-VL's
    processor then rounds each side to a multiple of 32. Both happen here in one step. Where the result would need
    more than ``max_tokens`` image tokens (wide cameras), it is made smaller. The focal length that results is in the
    returned camera, up to 2 % off by rounding and smaller by the bound; `metric_scale` takes it out of the answers.

    A small checkpoint may have been trained on images at a fraction ``scale`` of all the protocol's sizes.
    """
    focal *= scale
    width, height = int(camera.width * focal / camera.fx), int(camera.height * focal / camera.fy)
    return camera.resized(*_token_size(width, height, max_tokens, scale))


def bounded(camera: Camera, longest_edge: int, max_tokens: int, scale: float = 1.0) -> Camera:
    """The view of ``camera`` with its longest edge near ``longest_edge`` pixels (VLM³'s correspondence task).

    ``scale`` as for `unified`.
    """
    factor = scale * longest_edge / max(camera.size)
    return camera.resized(*_token_size(int(camera.width * factor), int(camera.height * factor), max_tokens, scale))


def taken_for(seen: Camera, focal: float) -> Camera:
    """The camera a model trained at one focal length takes ``seen`` for."""
    return Camera(*seen.size, focal, focal, seen.cx, seen.cy)


def metric_scale(seen: Camera, focal: float) -> float:
    """Factor from a length a model answers, taking its view for one of ``focal`` pixels, to the true length.

    The same object twice as large in the image is either twice as near or seen with twice the focal length: a model
    that believes in ``focal`` answers ``focal / seen.focal`` times the true depth along Z (the canonical camera of
    Metric3D, arXiv 2307.10984). Where it answers ray lengths, these are rays of the camera it believes in: see
    `taken_for`.
    """
    return seen.focal / focal


def _token_size(width: int, height: int, max_tokens: int, scale: float) -> tuple[int, int]:
    """Both sides as multiples of 32, as Qwen's smart_resize has them: at least MIN_TOKENS, at most max_tokens.

    Where the two leave no room, with a bound near MIN_TOKENS or a strip of an image, the upper bound holds.
    """
    width, height = max(1, width), max(1, height)
    if max(width, height) > 200 * min(width, height):
        raise CalibrationError(
            f"the camera's image, seen as {width}x{height}, has one side more than 200 times longer than the other, "
            "which Qwen3-VL cannot take: crop it, or check fx and fy"
        )
    columns, rows = max(1, round(width / TOKEN_PX)), max(1, round(height / TOKEN_PX))
    area, least = width * height / TOKEN_PX**2, MIN_TOKENS * scale**2
    if columns * rows > max_tokens:
        shrink = math.sqrt(area / max_tokens) * TOKEN_PX
        columns, rows = max(1, math.floor(width / shrink)), max(1, math.floor(height / shrink))
    elif columns * rows < least:
        grow = math.sqrt(least / area) / TOKEN_PX
        columns, rows = math.ceil(width * grow), math.ceil(height * grow)
    # A strip of one row or column cannot shrink on both sides.
    columns = min(columns, max(1, max_tokens // rows))
    return columns * TOKEN_PX, min(rows, max_tokens // columns) * TOKEN_PX


# ----------------------------------------------------------------------------------- pixels as text for the VLM


def to_references(pixels: np.ndarray, size: tuple[int, int], bins: int) -> np.ndarray:
    """Pixels [N, 2] of an image of ``size`` (width, height) to reference integers [N, 2] in [0, bins)."""
    return np.clip(np.rint(np.asarray(pixels, float) / size * bins), 0, bins - 1).astype(int)


def from_references(references: np.ndarray, size: tuple[int, int], bins: int) -> np.ndarray:
    """Reference numbers [N, 2] in [0, bins] back to pixels [N, 2] of an image of ``size`` (width, height)."""
    return np.asarray(references, float) / bins * size
