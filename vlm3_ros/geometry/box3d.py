"""Oriented 3D boxes and how much two of them overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError

UNIT_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_EDGES = np.array([[a, b] for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)])  # corner indices


@dataclass(frozen=True, eq=False)
class Box3D:
    """A named object's oriented box in camera axes (optical frame: X right, Y down, Z forward), in metres.

    The columns of ``rotation`` [3, 3] are the box's own axes seen in the camera frame, a right-handed frame: x along
    the length, y along the width, z up. ``size`` [3] is the full extent along them, ``score`` lies in [0, 1].
    ``center_covariance`` [3, 3] is in camera axes, ``size_covariance`` [3, 3] along the box's own; None: not known.
    """

    label: str
    score: float
    center: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    center_covariance: np.ndarray | None = None
    size_covariance: np.ndarray | None = None

    def corners(self) -> np.ndarray:
        """The eight corners [8, 3]."""
        return self.center + (UNIT_CORNERS * self.size) @ self.rotation.T

    def volume(self) -> float:
        """Volume in cubic metres."""
        return float(np.prod(self.size))

    def to_unit(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] in axes where this box is the cube from -½ to ½."""
        return (points - self.center) @ self.rotation / self.size

    def iou(self, other: Box3D) -> float:
        """Intersection over union of the two volumes, exact for any orientation; needs positive sizes."""
        common = self._common_volume(other)
        return common / (self.volume() + other.volume() - common)

    def _common_volume(self, other: Box3D) -> float:
        """Volume of the convex hull of all that each box keeps of the other's edges.

        Every corner of the intersection lies on an edge of one of the boxes, and is an end of what the other box
        leaves of that edge. The hull is taken in axes where this box is a unit cube, so that Qhull's tolerances
        mean the same for a sheet of paper and for a house.
        """
        mine = _edges_inside(self, other)
        theirs = _edges_inside(other, self)
        vertices = self.to_unit(np.concatenate([mine, theirs]))
        if len(vertices) < 4:
            return 0.0
        try:
            volume = ConvexHull(vertices).volume
        except QhullError:  # flat: the boxes touch
            return 0.0
        return min(float(volume) * self.volume(), self.volume(), other.volume())


def _edges_inside(box: Box3D, container: Box3D) -> np.ndarray:
    """Ends [2 K, 3] of the K pieces of the twelve edges of ``box`` that lie inside ``container`` (slab method)."""
    corners = box.corners()
    local = container.to_unit(corners)
    start, step = local[_EDGES[:, 0]], np.diff(local[_EDGES], axis=1)[:, 0]
    parallel = np.abs(step) < 1e-12
    safe = np.where(parallel, 1.0, step)
    low, high = (-0.5 - start) / safe, (0.5 - start) / safe
    within = np.abs(start) <= 0.5 + 1e-12
    enter = np.where(parallel, np.where(within, -np.inf, np.inf), np.minimum(low, high)).max(axis=1).clip(min=0.0)
    leave = np.where(parallel, np.inf, np.maximum(low, high)).min(axis=1).clip(max=1.0)
    kept = enter <= leave
    a, b = corners[_EDGES[kept, 0]], corners[_EDGES[kept, 1]]
    return np.concatenate([a + (b - a) * enter[kept, None], a + (b - a) * leave[kept, None]])
