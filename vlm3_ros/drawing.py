"""Pictures of scenes for people: depth in colour, boxes over images, a map from above (numpy and OpenCV only)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D

Colour = tuple[int, int, int]  # RGB

INK: Colour = (235, 238, 240)
PAPER: Colour = (24, 27, 31)
GRID: Colour = (40, 44, 50)
TRUE: Colour = (90, 220, 120)
PERCEIVED: Colour = (255, 170, 40)
_EDGES = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]  # of a box with corners in binary order


def depth_in_colour(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth [h, w] in metres as an RGB picture: red near, blue far in equal steps of inverse depth, black unknown."""
    known = np.isfinite(depth) & (depth > 0)
    inverse = 1.0 / np.where(known, depth, far)
    shade = np.clip((inverse - 1.0 / far) / (1.0 / near - 1.0 / far), 0.0, 1.0)
    picture = cv2.cvtColor(cv2.applyColorMap((shade * 255).astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    picture[~known] = 0
    return picture


def draw_boxes(
    picture: np.ndarray, boxes: Sequence[Box3D], camera: Camera, colour: Colour, names: bool = True
) -> None:
    """The edges of 3D boxes in camera axes over an RGB picture of that camera, but for boxes that reach behind it."""
    for box in boxes:
        corners = camera.project(box.corners())
        if not np.isfinite(corners).all():
            continue
        points = [(int(u), int(v)) for u, v in np.clip(corners, -4 * camera.width, 5 * camera.width).round()]
        for i, j in _EDGES:
            cv2.line(picture, points[i], points[j], colour, 1, cv2.LINE_AA)
        if names:
            top = min(points, key=lambda p: p[1])
            write(picture, box.label, (max(2, top[0] - 12), max(12, top[1] - 4)), colour, 0.4)


def write(picture: np.ndarray, text: str, at: tuple[int, int], colour: Colour = INK, size: float = 0.5) -> None:
    """Text with a dark outline, so that it can be read on anything; ``at`` is its lower left corner in pixels."""
    u, v = at
    for du, dv in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
        cv2.putText(picture, text, (u + du, v + dv), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def caption(picture: np.ndarray, *parts: tuple[str, Colour]) -> None:
    """Words of several colours in the upper left corner."""
    u = 10
    for text, colour in parts:
        write(picture, text, (u, 22), colour)
        u += cv2.getTextSize(text + " ", cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]


def depth_scale(picture: np.ndarray, near: float, far: float) -> None:
    """What the colours of `depth_in_colour` mean, in metres, along the lower edge."""
    height, width, _ = picture.shape
    bar = 1.0 / np.linspace(1.0 / near, 1.0 / far, width)
    picture[height - 26 :] = depth_in_colour(np.tile(bar, (26, 1)), near, far)
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        u = int(at * (width - 1))
        write(picture, f"{bar[u]:.1f} m", (min(max(6, u - 18), width - 48), height - 9), size=0.4)


class Map:
    """A picture of the world from above: x to the right, y up, one metre a grid square."""

    def __init__(self, low: np.ndarray, high: np.ndarray, width: int, height: int):
        """``low`` and ``high`` [2]: the x, y that must be in the picture, in metres."""
        self._scale = float(min((width - 40) / (high[0] - low[0]), (height - 40) / (high[1] - low[1])))
        self._middle = (np.asarray(low) + high) / 2
        self.picture = np.full((height, width, 3), PAPER, np.uint8)
        for metre in range(-50, 51):
            for ends in ([(metre, -50), (metre, 50)], [(-50, metre), (50, metre)]):
                start, end = self._pixels(np.array(ends, float)).tolist()
                cv2.line(self.picture, start, end, GRID, 1)

    def points(self, xyz: np.ndarray, rgb: np.ndarray, size: int = 1) -> None:
        """Coloured points [N, 3] of some pixels' size, the higher ones on top; ``rgb`` uint8 [N, 3]."""
        order = np.argsort(xyz[:, 2])
        pixels = self._pixels(xyz[order, :2])
        height, width, _ = self.picture.shape
        for aside in np.ndindex(size, size):
            at = pixels + aside
            inside = ((at >= 0) & (at < (width, height))).all(axis=1)
            self.picture[at[inside, 1], at[inside, 0]] = rgb[order][inside]

    def path(self, xy: np.ndarray, colour: Colour, thickness: int = 2) -> None:
        """A line through [N, 2], its end marked."""
        pixels = self._pixels(xy)
        cv2.polylines(self.picture, [pixels.reshape(-1, 1, 2)], False, colour, thickness, cv2.LINE_AA)
        cv2.circle(self.picture, pixels[-1].tolist(), 4, colour, -1, cv2.LINE_AA)

    def footprint(self, corners: np.ndarray, label: str, colour: Colour) -> None:
        """The outline of a box from its corners [8, 3]."""
        hull = cv2.convexHull(self._pixels(corners[:, :2]).astype(np.int32))
        cv2.polylines(self.picture, [hull], True, colour, 1, cv2.LINE_AA)
        if label:
            u, v = hull.reshape(-1, 2).mean(axis=0).astype(int).tolist()
            write(self.picture, label, (u - 14, v + 4), colour, 0.38)

    def _pixels(self, xy: np.ndarray) -> np.ndarray:
        height, width, _ = self.picture.shape
        offset = (np.asarray(xy) - self._middle) * self._scale * (1.0, -1.0)
        return np.rint(offset + np.array([width / 2, height / 2])).astype(np.int32)
