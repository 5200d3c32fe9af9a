"""What a grid of noisy inverse depths most probably was: surfaces that are planes but for their edges.

A plane is linear in inverse depth over the image, so its second differences over the grid are zero, whatever its
slope. The grid is fitted as a weak plate (Blake & Zisserman, Visual Reconstruction, 1987): near to the answers in
terms of their noise, with small second differences but for those that the answers insist on. How noisy answers are is
measured on the grid itself, so that exact ones stay as they are, and noisy ones are smoothed within surfaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.linalg import solveh_banded
from scipy.ndimage import distance_transform_edt

BEND = 0.1  # second difference of a surface, as a share of its inverse depth; much larger ones are edges
LOOK_LAB = 15.0  # colour difference (CIE Lab) that counts as much as one grid step of distance
EXACT = 0.003  # relative; answers are not taken for more exact: the protocol rounds them
UNEVEN = 3.0  # the spread of an answer counts as this factor more or less than that of the others at most
MEDIAN = 0.6745  # median of |x| for a standard normal x
ENOUGH = 8  # second differences for a measure of noise
CONTROLS = (math.inf, 4.0, 2.0, 1.0, 1.0)  # squared factors on BEND in the rounds of the fit


def grid_noise(inverse: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Standard deviation [R, C] of inverse depths [R, C] (NaN unknown), as shares of them.

    ``spread`` [R, C] says which answers are less sure than others, as shares of the depth, NaN or 0 where that is not
    known. How large it is altogether is measured: by the median of the second differences, few of which lie across
    edges, as a multiple of what the spread lets expect. Those of neighbours two steps away are four times as large
    where surfaces are curved and the same where answers are noisy; so curvature is told from noise, the nugget of a
    variogram (Cressie, Statistics for Spatial Data, 1993).
    """
    told = np.isfinite(inverse) & (spread > 0.0)
    usual = float(np.median(spread[told])) if told.any() else 1.0
    share = np.where(told, spread, usual).clip(usual / UNEVEN, usual * UNEVEN)
    near, wide = (_variance(inverse, share, step) for step in (1, 2))
    noise = min(near, (16.0 * near - wide) / 15.0)
    return np.maximum(math.sqrt(max(noise, 0.0)) * share, EXACT)


def weak_plate(inverse: np.ndarray, noise: np.ndarray, look: np.ndarray) -> np.ndarray:
    """The estimate [R, C] of inverse depth from answers [R, C], NaN unknown, at least one of them known.

    ``noise`` [R, C] is their relative standard deviation. ``look`` [R, C, 3] in Lab: where colours differ, surfaces
    more readily end. Second differences d cost d² / (d² + s²), s = BEND of the inverse depth (Geman & McClure,
    1987). That has many minima; one is found by least squares with weights from the estimate before, from a cost
    without edges towards this one (graduated non-convexity, Black & Rangarajan, IJCV 1996).
    """
    if inverse.shape[1] > inverse.shape[0]:  # the band of the matrix is twice as wide as the last axis is long
        return weak_plate(inverse.T, noise.T, look.swapaxes(0, 1)).T
    known = np.isfinite(inverse).ravel()
    nearest = inverse[tuple(distance_transform_edt(~np.isfinite(inverse), return_indices=True)[1])].ravel()
    differences = _differences(inverse.shape)
    contrast = np.ptp(look.reshape(-1, 3)[differences.points], axis=1).astype(float)
    rough = BEND * np.sqrt(1.0 + (contrast**2).sum(axis=-1) / LOOK_LAB**2)
    sigma = np.where(known, noise.ravel(), 1e4)  # unknown ones are all but free
    x = nearest
    for control in CONTROLS:
        s = rough * x[differences.points].max(axis=1)
        weight = (s + differences.of(x) ** 2 / (s * control)) ** -2
        data = (sigma * x) ** -2
        matrix = differences.squared(weight)
        matrix[0] += data
        x = np.maximum(solveh_banded(matrix, data * nearest, lower=True, check_finite=False), nearest / 4.0)
    return x.reshape(inverse.shape)


def _variance(inverse: np.ndarray, share: np.ndarray, step: int) -> float:
    """Of the second differences over ``step``, in units of what noise of the size ``share`` would make it."""
    differences = _differences(inverse.shape, step)
    found = np.abs(differences.of(inverse.ravel()))
    expected = np.sqrt(((differences.factors * (inverse * share).ravel()[differences.points]) ** 2).sum(axis=1))
    ratios = (found / expected)[np.isfinite(found)]
    return float(np.median(ratios) / MEDIAN) ** 2 if len(ratios) >= ENOUGH else 0.0


@dataclass(frozen=True, eq=False)
class _Differences:
    """All second differences of a grid: along rows and columns, and across its cells."""

    points: np.ndarray  # [T, 4] indices of grid points
    factors: np.ndarray  # [T, 4] of their values
    size: int  # number of grid points
    band: int  # largest distance of two indices
    products: np.ndarray  # [T, 16] of two factors each, 0 above the diagonal of a matrix [size, size]
    places: np.ndarray  # [T, 16] where these are in its lower band [band + 1, size]

    def of(self, values: np.ndarray) -> np.ndarray:
        """[T] of values [size]."""
        return (values[self.points] * self.factors).sum(axis=1)

    def squared(self, weights: np.ndarray) -> np.ndarray:
        """The matrix of the quadratic form Σ weights · differences², lower band [band + 1, size] as SciPy has it."""
        values = self.products * weights[:, None]
        matrix = np.bincount(self.places.ravel(), values.ravel(), (self.band + 1) * self.size)
        return matrix.astype(float, copy=False).reshape(-1, self.size)  # without any differences, these are integers


@lru_cache(maxsize=8)
def _differences(shape: tuple[int, int], step: int = 1) -> _Differences:
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    a, b = slice(None, -step), slice(step, None)
    lines = [(line[: -2 * step], line[step:-step], line[2 * step :], line[step:-step]) for line in (index, index.T)]
    cells = index[a, a], index[a, b], index[b, b], index[b, a]
    kinds = [np.stack(four, axis=-1).reshape(-1, 4) for four in (*lines, cells)]
    signs = (1.0, -2.0, 1.0, 0.0), (1.0, -2.0, 1.0, 0.0), (1.0, -1.0, 1.0, -1.0)  # a line has three points
    points = np.concatenate(kinds)
    factors = np.repeat(signs, [len(kind) for kind in kinds], axis=0)
    band = 2 * step * shape[1]
    later, earlier = points[:, :, None], points[:, None, :]
    products = np.where(later >= earlier, factors[:, :, None] * factors[:, None, :], 0.0).reshape(-1, 16)
    places = np.where(later >= earlier, (later - earlier) * index.size + earlier, 0).reshape(-1, 16)
    return _Differences(points, factors, index.size, band, products, places)
