"""A dense depth map from the depth of a grid of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

BORDER = 0.2  # distance of the outermost grid points from the image border, in grid steps
LOOK_PX = 1.0  # standard deviation of the blur before colours are compared, in pixels
LOOK_LAB = 15.0  # colour difference (CIE Lab) that counts as much as one grid step of distance


@dataclass(frozen=True)
class Grid:
    """Pixels to ask in an image of ``width`` × ``height``: ``columns`` × ``rows`` of them, evenly spread."""

    width: int
    height: int
    columns: int
    rows: int

    @classmethod
    def of(cls, width: int, height: int, points: int) -> Grid:
        """About ``points`` grid points (at least 2 × 2, at most one a pixel) with cells as square as they can be."""
        columns = min(width, max(2, round(min(math.sqrt(points * width / height), points / 2))))
        rows = min(height, max(2, round(points / columns)))
        return cls(width, height, columns, rows)

    @cached_property
    def u(self) -> np.ndarray:
        """Pixel columns [C] of the grid points."""
        return _nodes(self.columns, self.width)

    @cached_property
    def v(self) -> np.ndarray:
        """Pixel rows [R] of the grid points."""
        return _nodes(self.rows, self.height)

    @cached_property
    def pixels(self) -> np.ndarray:
        """Grid points [R · C, 2] as (u, v), row by row."""
        return np.stack(np.meshgrid(self.u, self.v), axis=-1).reshape(-1, 2)

    @cached_property
    def coarse_first(self) -> np.ndarray:
        """Order [R · C] in which to ask, so that wherever it is cut the points asked so far are evenly spread.

        That of the dots in ordered dithering (Bayer, ICC 1973): every second point on both axes before the others,
        every fourth before those, and so on, and likewise among those of one stride.
        """
        j, i = np.indices((self.rows, self.columns))
        rank = np.zeros_like(i)
        for bit in range(max(self.rows, self.columns).bit_length()):
            rank = rank << 2 | ((i ^ j) >> bit & 1) << 1 | (j >> bit & 1)
        return np.argsort(rank, axis=None)


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Depth along Z in metres, NaN unknown; confidence in [0, 1], 0 where unknown; both float32 [height, width]."""

    depth: np.ndarray
    confidence: np.ndarray


def densify(
    grid: Grid, depth: np.ndarray, confidence: np.ndarray, image: np.ndarray, edge_ratio: float = 1.4
) -> DepthMap:
    """Depth between grid points.

    Inside surfaces, bilinear in inverse depth, in which planes stay planes. Where the four points around a pixel
    differ by more than ``edge_ratio`` there is a depth edge: the pixel takes one of the four, the one it is near to
    and looks most like, never a value in between (no flying pixels). Points without an answer are bridged from their
    neighbours as far as about one and a half times the spacing of the answers; beyond, depth is unknown.

    Confidence is that of the nearest answers, falling with the distance to them: half at one grid step, and halved
    again on the two sides of a depth edge that differ by a factor of two.

    ``depth`` [R · C] in metres along Z, NaN where unanswered; ``confidence`` [R · C] in [0, 1]; ``image`` uint8
    [height, width, 3] at the grid's size.
    """
    shape = grid.rows, grid.columns
    inverse = 1.0 / depth.reshape(shape).astype(np.float32)
    answered = np.isfinite(inverse)
    if not answered.any():
        nothing = np.full((grid.height, grid.width), np.nan, np.float32)
        return DepthMap(nothing, np.zeros_like(nothing))
    gap, nearest = distance_transform_edt(~answered, return_indices=True)
    inverse = inverse[tuple(nearest)]
    reach = 1.5 * math.sqrt(answered.size / answered.sum())

    x, y = _axes(grid)
    near, far = _extremes(inverse)
    dense = _between(inverse, x.matrix, y.matrix)
    np.maximum(dense, _of_cells(far / 2, x, y), out=dense)  # the border of a slope is not at infinity
    edge = near > far * edge_ratio
    _take_sides(dense, _of_cells(edge, x, y), inverse, image, x, y)

    trust = np.where(answered, confidence.reshape(shape), 0.0).astype(np.float32)[tuple(nearest)]
    sure = _between(trust, x.inside, y.inside)
    sure /= 1.0 + (_steps(grid) + _between(gap, x.inside, y.inside)) ** 2
    sure *= _of_cells(np.where(edge, far / near, np.float32(1.0)), x, y)
    unknown = _between(gap > reach, x.inside, y.inside) > 0.5
    return DepthMap(
        np.where(unknown, np.float32(np.nan), 1.0 / dense), np.where(unknown, np.float32(0.0), np.minimum(sure, 1.0))
    )


@dataclass(frozen=True, eq=False)
class _Axis:
    """Where the pixels of one image axis lie between the grid points of that axis."""

    matrix: np.ndarray  # [pixels, points]: linear interpolation, a little extrapolation at both borders
    inside: np.ndarray  # the same without extrapolation
    node: np.ndarray  # [points] the pixel at which each grid point lies
    before: np.ndarray  # [pixels] index of the grid point before
    after: np.ndarray  # [pixels] index of the grid point after
    fraction: np.ndarray  # [pixels] of the way from before to after, slightly outside [0, 1] at the borders

    @classmethod
    def of(cls, nodes: np.ndarray, size: int) -> _Axis:
        node = np.rint(nodes).astype(int).clip(0, size - 1)
        if len(nodes) == 1:
            zero, one = np.zeros(size, int), np.ones((size, 1), np.float32)
            return cls(one, one, node, zero, zero, np.zeros(size, np.float32))
        pixel = np.arange(size)
        before = np.clip(np.searchsorted(nodes, pixel, side="right") - 1, 0, len(nodes) - 2)
        fraction = ((pixel - nodes[before]) / (nodes[before + 1] - nodes[before])).astype(np.float32)
        matrix, inside = np.zeros((2, size, len(nodes)), np.float32)
        for weights, share in ((matrix, fraction), (inside, fraction.clip(0.0, 1.0))):
            weights[pixel, before] = 1.0 - share
            weights[pixel, before + 1] = share
        return cls(matrix, inside, node, before, before + 1, fraction)

    @property
    def offset(self) -> np.ndarray:
        """Distance [pixels] to the nearest grid point, in grid steps."""
        return np.minimum(np.abs(self.fraction), np.abs(1.0 - self.fraction))


def _nodes(count: int, size: int) -> np.ndarray:
    if count == 1:
        return np.array([(size - 1) / 2])
    return (np.arange(count) + BORDER) / (count - 1 + 2 * BORDER) * size - 0.5


@lru_cache(maxsize=8)
def _axes(grid: Grid) -> tuple[_Axis, _Axis]:
    return _Axis.of(grid.u, grid.width), _Axis.of(grid.v, grid.height)


@lru_cache(maxsize=8)
def _steps(grid: Grid) -> np.ndarray:
    """Distance [height, width] of each pixel to the nearest grid point, in grid steps."""
    x, y = _axes(grid)
    return np.hypot(y.offset[:, None], x.offset)


def _between(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values [R, C] of the grid points at all pixels [height, width], by the interpolation matrices of both axes."""
    return y @ (values.astype(np.float32) @ x.T)


def _of_cells(values: np.ndarray, x: _Axis, y: _Axis) -> np.ndarray:
    """At all pixels [height, width] the value of the cell they are in; a cell [R, C] is named by its first corner."""
    return values[:, x.before][y.before]


def _extremes(inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest inverse depth of the four corners of each cell [R, C]."""
    padded = np.pad(inverse, (0, 1), mode="edge")
    corners = [padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]]
    return np.maximum.reduce(corners), np.minimum.reduce(corners)


def _take_sides(
    dense: np.ndarray, edge: np.ndarray, inverse: np.ndarray, image: np.ndarray, x: _Axis, y: _Axis
) -> None:
    """Give each pixel of ``edge`` the inverse depth of the grid point around it that it is near to and looks like."""
    rows, columns = np.divmod(np.flatnonzero(edge), edge.shape[1])
    if not len(rows):
        return
    blurred = cv2.GaussianBlur(image, (0, 0), LOOK_PX)
    look, looks_of_nodes = _lab(blurred[rows, columns]), _lab(blurred[np.ix_(y.node, x.node)].reshape(-1, 3))
    nodes, costs = [], []
    for j, dy in ((y.before, y.fraction), (y.after, 1.0 - y.fraction)):
        for i, dx in ((x.before, x.fraction), (x.after, 1.0 - x.fraction)):
            node = (j * len(x.node))[rows] + i[columns]
            difference = look - looks_of_nodes.take(node, axis=0)
            unlike = np.einsum("ij,ij->i", difference, difference) / LOOK_LAB**2
            nodes.append(node)
            costs.append(unlike + 4.0 * ((dy**2)[rows] + (dx**2)[columns]))
    best = np.argmin(costs, axis=0)
    dense[rows, columns] = inverse.ravel()[np.choose(best, nodes)]


def _lab(colours: np.ndarray) -> np.ndarray:
    """Colours [N, 3], uint8 RGB, as CIE Lab float32 [N, 3] in OpenCV's units of a byte."""
    return cv2.cvtColor(colours[None], cv2.COLOR_RGB2LAB)[0].astype(np.float32)
