"""What a simulated room is made of: a box-shaped shell, things with names, and decoration.

World frame: metres, z up, floor at z = 0, origin in the middle of the floor (REP 103). A thing's own axes: x forward
(its front), y left, z up; it stands upright, so ``yaw`` about z is its whole rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Colour = tuple[float, float, float]  # R, G, B in [0, 1], as in an image file (gamma-encoded)
Vector = tuple[float, float, float]
Shape = Literal["box", "ellipsoid", "cylinder"]  # each fills its bounding box; a cylinder's axis is z


@dataclass(frozen=True)
class Material:
    """How a surface looks: a pattern that blends two colours, repeated every ``period`` metres."""

    pattern: str  # one of textures.PATTERNS
    dark: Colour
    light: Colour
    period: float = 1.0
    turned: bool = False  # by a quarter turn: planks along the other side
    glow: float = 0.0  # light that it gives off itself, in units of white paper under the room's ambient light


@dataclass(frozen=True)
class Part:
    """A primitive in its thing's axes."""

    shape: Shape
    center: Vector
    size: Vector
    material: Material


@dataclass(frozen=True)
class Thing:
    """Something with a name: the tightest upright box around its parts, and the parts."""

    label: str
    center: Vector  # of the box, in the world
    size: Vector  # along the thing's axes
    yaw: float  # of the thing's x axis in the world, radians
    parts: tuple[Part, ...]  # in the thing's axes, origin at ``center``

    @classmethod
    def standing(cls, label: str, parts: Sequence[Part], at: Vector, yaw: float = 0.0) -> Thing:
        """A thing whose ``parts`` are given with z = 0 at its foot, its vertical axis through ``at`` in the world.

        The origin of its axes moves to the middle of the parts' bounding box.
        """
        centers, sizes = np.array([p.center for p in parts]), np.array([p.size for p in parts])
        low, high = (centers - sizes / 2).min(0), (centers + sizes / 2).max(0)
        middle = (low + high) / 2
        moved = tuple(Part(p.shape, _vector(p.center - middle), p.size, p.material) for p in parts)
        return cls(label, _vector(np.array(at) + _yawed(yaw) @ middle), _vector(high - low), yaw, moved)

    @property
    def R(self) -> np.ndarray:
        """Rotation [3, 3] from the thing's axes to the world's."""
        return _yawed(self.yaw)

    @property
    def top(self) -> float:
        """Height of its highest point above the floor."""
        return self.center[2] + self.size[2] / 2

    @property
    def bottom(self) -> float:
        return self.center[2] - self.size[2] / 2

    @property
    def corners(self) -> np.ndarray:
        """The eight corners of its box in the world [8, 3]."""
        return np.array(self.center) + (UNIT_CORNERS * np.array(self.size) / 2) @ self.R.T

    @property
    def footprint(self) -> np.ndarray:
        """The box seen from above: four corners in order [4, 2]."""
        return self.corners[[0, 2, 6, 4], :2]


UNIT_CORNERS = np.array([(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


@dataclass(frozen=True, eq=False)
class Room:
    """A closed, furnished room and its light; compared by identity, so that what is computed of it can be kept."""

    size: Vector
    floor: Material
    ceiling: Material
    walls: tuple[Material, Material, Material, Material]  # at −x, +x, −y, +y
    things: tuple[Thing, ...] = ()
    decor: tuple[Thing, ...] = ()  # seen, but not among the things that have truth boxes (door, window, rug)
    ambient: float = 0.8  # light from everywhere, cool white
    lamp: float = 3.5  # warm lamp beside the camera: its light on white paper one metre in front of it

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which of the points [..., 3] are strictly inside the shell [...]."""
        x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
        return (abs(x) < self.size[0] / 2) & (abs(y) < self.size[1] / 2) & (z > 0.0) & (z < self.size[2])


def _yawed(yaw: float) -> np.ndarray:
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _vector(values: np.ndarray) -> Vector:
    x, y, z = map(float, values)
    return x, y, z
