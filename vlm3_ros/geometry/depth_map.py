"""A dense depth map from the depth of a grid of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from vlm3_ros.geometry.plate import LOOK_LAB, grid_noise, weak_plate

BORDER = 0.2  # distance of the outermost grid points from the image border, in grid steps
LOOK_PX = 1.0  # standard deviation of the blur before colours are compared, in pixels
FARTHER = 8.0  # times as far as the farthest point of its cell at most is what lies beyond the outermost points


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
    grid: Grid,
    depth: np.ndarray,
    confidence: np.ndarray,
    image: np.ndarray,
    edge_ratio: float = 1.4,
    spread: np.ndarray | None = None,
) -> DepthMap:
    """Depth between grid points.

    What is noise in the answers is smoothed within surfaces first (`plate`); exact answers stay as they are. Inside
    surfaces depth is bilinear in inverse depth, in which planes stay planes whatever their slope. A depth edge is
    where the step between neighbours departs from the planes on either side of it by as much as a step by the factor
    ``edge_ratio`` does between frontal surfaces: the pixel takes the plane of one of the four points around it, the
    one it is near to and looks most like, never a value in between (no flying pixels). Points without an answer
    continue the plane of the nearest one as far as about one and a half times the spacing of the answers; beyond,
    depth is unknown.

    Confidence is that of the nearest answers, falling with the distance to them: half at one grid step, and halved
    again on the two sides of a depth edge that differ by a factor of two.

    ``depth`` [R · C] in metres along Z, NaN where unanswered; ``confidence`` [R · C] in [0, 1]; ``image`` uint8
    [height, width, 3] at the grid's size; ``spread`` [R · C] of the answers in metres, NaN where not measured: only
    which answers have more than others counts, how noisy they are altogether is measured on the grid.
    """
    shape = grid.rows, grid.columns
    answers = 1.0 / depth.reshape(shape).astype(float)
    answered = np.isfinite(answers)
    if not answered.any():
        nothing = np.full((grid.height, grid.width), np.nan, np.float32)
        return DepthMap(nothing, np.zeros_like(nothing))
    relative = np.full(shape, np.nan) if spread is None else spread.reshape(shape) * answers
    gap, nearest = distance_transform_edt(~answered, return_indices=True)
    reach = 1.5 * math.sqrt(answered.size / answered.sum())

    x, y = _axes(grid)
    blurred = cv2.GaussianBlur(image, (0, 0), LOOK_PX)
    look = _lab(blurred[np.ix_(y.node, x.node)].reshape(-1, 3)).reshape(*shape, 3)
    surfaces = _Surfaces.of(weak_plate(answers, grid_noise(answers, relative), look), nearest, edge_ratio)
    near, far = _extremes(surfaces.inverse)
    dense = _between(surfaces.inverse, x.matrix, y.matrix)
    np.maximum(dense, _of_cells(far / FARTHER, x, y), out=dense)  # the border of a slope is not at infinity
    edge = _edges(surfaces.inverse, edge_ratio)
    _take_sides(dense, _of_cells(edge, x, y), surfaces, look, blurred, x, y)

    trust = np.where(answered, confidence.reshape(shape), 0.0).astype(np.float32)[tuple(nearest)]
    sure = _between(trust, x.inside, y.inside)
    sure /= 1.0 + (_steps(grid) + _between(gap, x.inside, y.inside)) ** 2
    sure *= _of_cells(np.where(edge, far / near, np.float32(1.0)), x, y)
    unknown = _between(gap > reach, x.inside, y.inside) > 0.5
    return DepthMap(
        np.where(unknown, np.float32(np.nan), 1.0 / dense), np.where(unknown, np.float32(0.0), np.minimum(sure, 1.0))
    )


@dataclass(frozen=True, eq=False)
class _Surfaces:
    """The plane through each grid point, in inverse depth."""

    inverse: np.ndarray  # float32 [R, C]
    right: np.ndarray  # float32 [R, C] its change over one grid step to the right
    down: np.ndarray  # float32 [R, C]
    reach: float  # a plane is followed as far as this factor of its own inverse depth

    @classmethod
    def of(cls, inverse: np.ndarray, nearest: np.ndarray, edge_ratio: float) -> _Surfaces:
        """From inverse depth [R, C]; points that are not the ``nearest`` answer [2, R, C] take the plane of that.

        Planes are followed by half of what makes an edge, so that the two sides of one cannot meet.
        """
        inverse = inverse.astype(np.float32)
        found = cls(inverse, _slopes(inverse), _slopes(inverse.T).T, math.sqrt(edge_ratio))
        node = np.ravel_multi_index(tuple(nearest), inverse.shape)
        down, right = (np.indices(inverse.shape) - nearest).astype(np.float32)
        inverse = found.at(node, right, down)
        return cls(inverse, _slopes(inverse), _slopes(inverse.T).T, found.reach)

    def at(self, node: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
        """Inverse depth so many grid steps away from the points with the indices ``node``, on their planes."""
        here = self.inverse.ravel()[node]
        there = here + self.right.ravel()[node] * right + self.down.ravel()[node] * down
        return np.clip(there, here / self.reach, here * self.reach)


def _slopes(inverse: np.ndarray) -> np.ndarray:
    """Change per grid step along the rows of [R, C]: the smaller of those to both sides, 0 where they disagree.

    The minmod limiter (Roe, 1986): exact on planes, and blind to an edge beside the point. The outermost points have
    the slopes of their neighbours.
    """
    if inverse.shape[1] < 3:  # nothing that could agree
        return np.zeros_like(inverse)
    steps = np.diff(inverse, axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    smaller = np.where(np.abs(before) < np.abs(after), before, after)
    return np.pad(np.where(before * after > 0.0, smaller, np.float32(0.0)), ((0, 0), (1, 1)), mode="edge")


def _edges(inverse: np.ndarray, edge_ratio: float) -> np.ndarray:
    """Which cells [R, C] have a depth edge between two of their corners."""
    along, across = _breaks(inverse, edge_ratio), _breaks(inverse.T, edge_ratio).T
    edge = np.zeros(inverse.shape, bool)
    edge[:, :-1] |= along
    edge[:-1, :-1] |= along[1:]
    edge[:-1] |= across
    edge[:-1, :-1] |= across[:, 1:]
    return edge


def _breaks(inverse: np.ndarray, edge_ratio: float) -> np.ndarray:
    """Between which neighbours in a row of [R, C] a depth edge lies [R, C − 1]: not both sides predict the step."""
    steps, slopes = np.diff(inverse, axis=1), _slopes(inverse)
    missed = np.maximum(np.abs(steps - slopes[:, :-1]), np.abs(steps - slopes[:, 1:]))
    return missed > (1.0 - 1.0 / edge_ratio) * np.maximum(inverse[:, :-1], inverse[:, 1:])


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
    dense: np.ndarray,
    edge: np.ndarray,
    surfaces: _Surfaces,
    look: np.ndarray,
    blurred: np.ndarray,
    x: _Axis,
    y: _Axis,
) -> None:
    """Give each pixel of ``edge`` the plane of the grid point around it that it is near to and looks like."""
    rows, columns = np.divmod(np.flatnonzero(edge), edge.shape[1])
    if not len(rows):
        return
    look_of_pixels, look_of_nodes = _lab(blurred[rows, columns]), look.reshape(-1, 3)
    nodes, costs = [], []
    for j, dy in ((y.before, y.fraction), (y.after, 1.0 - y.fraction)):
        for i, dx in ((x.before, x.fraction), (x.after, 1.0 - x.fraction)):
            node = (j * len(x.node))[rows] + i[columns]
            difference = look_of_pixels - look_of_nodes.take(node, axis=0)
            unlike = np.einsum("ij,ij->i", difference, difference) / LOOK_LAB**2
            nodes.append(node)
            costs.append(unlike + 4.0 * ((dy**2)[rows] + (dx**2)[columns]))
    best = np.argmin(costs, axis=0)
    right, down = x.fraction[columns] - best % 2, y.fraction[rows] - best // 2
    dense[rows, columns] = surfaces.at(np.choose(best, nodes), right, down)


def _lab(colours: np.ndarray) -> np.ndarray:
    """Colours [N, 3], uint8 RGB, as CIE Lab float32 [N, 3] in OpenCV's units of a byte."""
    return cv2.cvtColor(colours[None], cv2.COLOR_RGB2LAB)[0].astype(np.float32)
