"""How much of the room's ambient light reaches each spot of the shell: corners are dim, and so is what things stand
on or near. Baked once per room into one small picture per face.

An approximation for the eye (things dim a face by their outline, the more blurred the farther they are from it); no
truth depends on it.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from vlm3_ros.sim.room import Room
from vlm3_ros.sim.textures import bilinear
from vlm3_ros.sim.trace import SHELL, solids

PIXELS_PER_METRE = 25
_CORNER = 0.3  # metres, reach of the dimming in corners
_LAYERS = ((0.0, 0.12, 0.07, 0.7), (0.12, 0.45, 0.13, 0.5), (0.45, 0.9, 0.25, 0.4))  # from, to, blur (m), strength


@lru_cache(maxsize=4)
def baked(room: Room) -> tuple[np.ndarray, ...]:
    """Share of the ambient light on each face of the shell: float32 [rows, columns] over its two world axes."""
    return tuple(_face(room, face) for face in range(SHELL))


def lookup(room: Room, face: int, points: np.ndarray) -> np.ndarray:
    """Share of the ambient light [N] at world points [3, N] on a face."""
    a, b = face_axes(face)
    x = (points[a] - _low(room, a)) * PIXELS_PER_METRE - 0.5
    y = (points[b] - _low(room, b)) * PIXELS_PER_METRE - 0.5
    return bilinear(baked(room)[face], x, y)


def face_axes(face: int) -> tuple[int, int]:
    """The two world axes that span a face of the shell."""
    return ((1, 2), (0, 2), (0, 1))[face // 2]


def _low(room: Room, axis: int) -> float:
    return 0.0 if axis == 2 else -room.size[axis] / 2


def _face(room: Room, face: int) -> np.ndarray:
    a, b = face_axes(face)
    rows, columns = (int(np.ceil(room.size[axis] * PIXELS_PER_METRE)) for axis in (b, a))
    light = np.outer(_corners(rows), _corners(columns)).astype(np.float32)
    corners = solids(room).corners
    axis, sign = face // 2, 2 * (face % 2) - 1
    wall = _low(room, axis) + (room.size[axis] if sign > 0 else 0.0)
    gaps = (sign * (wall - corners[..., axis])).min(1)
    outlines = (corners[..., [a, b]] - [_low(room, a), _low(room, b)]) * PIXELS_PER_METRE - 0.5
    casts = np.ptp(corners[..., axis], axis=1) > 0.02  # rugs, tape and skirting boards do not
    casts &= np.array([material.glow == 0.0 for material in solids(room).material], bool)
    for near, far, blur, strength in _LAYERS:
        shade = np.zeros((rows, columns), np.uint8)
        for outline in outlines[(gaps >= near - 0.02) & (gaps < far) & casts]:
            cv2.fillConvexPoly(shade, cv2.convexHull(np.rint(outline * 16).astype(np.int32)), 255, shift=4)
        sigma = blur * PIXELS_PER_METRE
        light *= 1.0 - strength / 255 * cv2.GaussianBlur(shade.astype(np.float32), (0, 0), sigma)
    return light


def _corners(pixels: int) -> np.ndarray:
    """Dimming towards both ends of a row of pixels."""
    position = (np.arange(pixels) + 0.5) / PIXELS_PER_METRE
    return (1 - 0.28 * np.exp(-position / _CORNER)) * (1 - 0.28 * np.exp(-position[::-1] / _CORNER))
