"""Rays into a room: how deep they go and what they meet. Exact to float32; primitives are tried on their screen
rectangles only.

Surfaces are numbered: 0 to 5 are the shell's faces (−x, +x, −y, +y, floor, ceiling), 6 + k is primitive k of
`solids`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.sim.room import UNIT_CORNERS, Material, Room, Shape

SHELL = 6  # number of the shell's faces
FLOOR = 4
SHAPES: tuple[Shape, ...] = ("box", "ellipsoid", "cylinder")
NEAR = 0.02  # metres; what is nearer to the camera's plane is not seen


# Pairs of corners that an edge of a box joins: those of UNIT_CORNERS that differ in one coordinate.
_EDGES = np.array([(a, a + step) for step in (1, 2, 4) for a in range(8) if not a & step])


@dataclass(frozen=True, eq=False)
class Solids:
    """All primitives of a room in the world, as arrays over primitives [P, ...]."""

    shape_number: np.ndarray  # [P] index into SHAPES
    center: np.ndarray  # [P, 3]
    half: np.ndarray  # [P, 3] half sizes along their own axes
    cos: np.ndarray  # [P] of the yaw
    sin: np.ndarray  # [P]
    thing: np.ndarray  # [P] index into room.things, −1 for decor
    material: tuple[Material, ...]

    @cached_property
    def to_unit(self) -> np.ndarray:
        """From world axes to each primitive's own, divided by its half sizes: it spans −1 to 1 there [P, 3, 3]."""
        c, s, zero, one = self.cos, self.sin, 0 * self.cos, 0 * self.cos + 1
        rotation = np.stack([c, s, zero, -s, c, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
        return rotation / self.half[:, :, None]

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners of the primitives' boxes in the world [P, 8, 3]."""
        local = UNIT_CORNERS * self.half[:, None]
        c, s = self.cos[:, None], self.sin[:, None]
        x, y, z = np.moveaxis(local, -1, 0)
        return np.stack([c * x - s * y, s * x + c * y, z], axis=-1) + self.center[:, None]


@lru_cache(maxsize=4)
def solids(room: Room) -> Solids:
    """The primitives of a room's things, then those of its decor."""
    owners = [*enumerate(room.things), *((-1, thing) for thing in room.decor)]
    rows = [(index, thing, part) for index, thing in owners for part in thing.parts]
    return Solids(
        shape_number=np.array([SHAPES.index(part.shape) for _, _, part in rows], np.int16),
        center=np.reshape([thing.R @ part.center + thing.center for _, thing, part in rows], (-1, 3)).astype(
            np.float32
        ),
        half=np.reshape([part.size for _, _, part in rows], (-1, 3)).astype(np.float32) / 2,
        cos=np.array([thing.R[0, 0] for _, thing, _ in rows], np.float32),
        sin=np.array([thing.R[1, 0] for _, thing, _ in rows], np.float32),
        thing=np.array([index for index, _, _ in rows], np.int32),
        material=tuple(part.material for _, _, part in rows),
    )


@dataclass(frozen=True, eq=False)
class Rays:
    """Viewing rays of a camera in a room; their length is measured along the camera's Z, so that it is depth."""

    camera: Camera
    T_world_cam: np.ndarray  # [4, 4]
    pixels: np.ndarray  # [2, N] float32, (u, v), v rising

    @cached_property
    def origin(self) -> np.ndarray:
        return self.T_world_cam[:3, 3].astype(np.float32)

    @cached_property
    def directions(self) -> np.ndarray:
        """In world axes with camera Z component 1 [3, N] float32."""
        x = (self.pixels[0] - np.float32(self.camera.cx)) / np.float32(self.camera.fx)
        y = (self.pixels[1] - np.float32(self.camera.cy)) / np.float32(self.camera.fy)
        R = self.T_world_cam[:3, :3].astype(np.float32)
        return R[:, :1] * x + R[:, 1:2] * y + R[:, 2:]

    def within(self, rectangle: np.ndarray) -> np.ndarray:
        """Indices of the rays whose pixel is in (u0, v0, u1, v1)."""
        u0, v0, u1, v1 = rectangle  # float32 as the pixels: another type would make searchsorted copy them all
        u, v = self.pixels
        first, last = np.searchsorted(v, v0, "left"), np.searchsorted(v, v1, "right")
        band = u[first:last]
        return first + np.flatnonzero((band >= u0) & (band <= u1))


def cast(room: Room, rays: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Depth along the camera's Z [N] float32 and surface number [N] int16 of what each ray meets first.

    The camera must be inside the room, so every ray meets something.
    """
    depth, surface = _shell(room, rays)
    all_solids = solids(room)
    for k, around in zip(*_on_screen(all_solids, rays), strict=True):
        index = rays.within(around)
        t = _enter(all_solids, k, rays.origin, rays.directions.take(index, axis=1))
        nearer = np.flatnonzero((t > NEAR) & (t < depth.take(index)))
        hit = index.take(nearer)
        depth[hit] = t.take(nearer)
        surface[hit] = SHELL + k
    return depth, surface


def alone(room: Room, thing: int, rays: Rays) -> np.ndarray:
    """Which rays [N] would meet a thing if nothing else were in the room."""
    met = np.zeros(rays.pixels.shape[1], bool)
    all_solids = solids(room)
    for k in np.flatnonzero(all_solids.thing == thing):
        t = _enter(all_solids, int(k), rays.origin, rays.directions)
        met |= (t > NEAR) & (t < np.inf)
    return met


def rectangle(camera: Camera, T_world_cam: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Smallest pixel rectangles (u0, v0, u1, v1) [..., 4] around boxes given by world corners [..., 8, 3].

    What reaches behind the camera is cut off at `NEAR`; a box all behind it has u0 > u1.
    """
    local = (corners - T_world_cam[:3, 3]) @ T_world_cam[:3, :3]
    a, b = local[..., _EDGES[:, 0], :], local[..., _EDGES[:, 1], :]
    ahead = local[..., 2] >= NEAR
    crossing = ahead[..., _EDGES[:, 0]] != ahead[..., _EDGES[:, 1]]
    share = np.where(crossing, (NEAR - a[..., 2]) / np.where(crossing, b[..., 2] - a[..., 2], 1.0), 0.0)
    outline = np.concatenate([local, a + share[..., None] * (b - a)], axis=-2)
    valid = np.concatenate([ahead, crossing], axis=-1)[..., None]
    outline[..., 2] = np.maximum(outline[..., 2], NEAR)
    pixels = camera.project(outline)
    low, high = np.where(valid, pixels, np.inf).min(-2), np.where(valid, pixels, -np.inf).max(-2)
    return np.concatenate([low, high], axis=-1)


def _on_screen(all_solids: Solids, rays: Rays) -> tuple[list[int], np.ndarray]:
    """Primitives [K] that may be seen, and their pixel rectangles [K, 4], a little wider than needed."""
    around = rectangle(rays.camera, rays.T_world_cam, all_solids.corners) + np.array([-0.01, -0.01, 0.01, 0.01])
    (u_min, v_min), (u_max, v_max) = rays.pixels.min(1), rays.pixels.max(1)
    u0, v0, u1, v1 = around.T
    seen = np.flatnonzero((u1 >= u_min) & (u0 <= u_max) & (v1 >= v_min) & (v0 <= v_max))
    return seen.tolist(), around[seen].astype(np.float32)


def _shell(room: Room, rays: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Depth and face number of the shell along each ray: the first of the six planes on the way out."""
    low = np.array([-room.size[0] / 2, -room.size[1] / 2, 0.0], np.float32)
    high = np.array([room.size[0] / 2, room.size[1] / 2, room.size[2]], np.float32)
    depth = np.full(rays.pixels.shape[1], np.inf, np.float32)
    surface = np.zeros(rays.pixels.shape[1], np.int16)
    for axis, d in enumerate(rays.directions):
        wall = np.where(d > 0.0, high[axis] - rays.origin[axis], low[axis] - rays.origin[axis])
        with np.errstate(divide="ignore"):
            t = wall / d
        t[d == 0.0] = np.inf
        nearer = t < depth
        depth[nearer] = t[nearer]
        surface[nearer] = 2 * axis + (d[nearer] > 0.0)
    return depth, surface


def _enter(all_solids: Solids, k: int, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Where rays [3, M] enter primitive ``k`` [M]; infinite where they miss it."""
    o = all_solids.to_unit[k] @ (origin - all_solids.center[k])
    d = all_solids.to_unit[k] @ directions
    with np.errstate(divide="ignore", invalid="ignore"):
        return _ENTER[all_solids.shape_number[k]](o, d)


def _enter_box(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The slab method (Kay and Kajiya 1986) on the cube from −1 to 1."""
    inverse = 1.0 / d
    middle, reach = -o[:, None] * inverse, abs(inverse)
    enter, leave = (middle - reach).max(0), (middle + reach).min(0)
    return np.where(enter < leave, enter, np.inf)


def _enter_ellipsoid(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The unit sphere, from the ray's closest point on: the textbook discriminant loses its digits far away."""
    square = (d * d).sum(0)
    closest = -(o @ d) / square
    p = o[:, None] + closest * d
    rest = 1.0 - (p * p).sum(0)
    return np.where(rest > 0.0, closest - np.sqrt(rest / square), np.inf)


def _enter_cylinder(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The unit circle as a ray's stay in the endless cylinder, cut with its stay between the two caps."""
    square = d[0] * d[0] + d[1] * d[1]
    closest = -(o[0] * d[0] + o[1] * d[1]) / square
    x, y = o[0] + closest * d[0], o[1] + closest * d[1]
    reach = np.sqrt((1.0 - (x * x + y * y)) / square)  # NaN where it misses
    inverse = 1.0 / d[2]
    middle, span = -o[2] * inverse, abs(inverse)
    enter = np.maximum(closest - reach, middle - span)
    leave = np.minimum(closest + reach, middle + span)
    return np.where(enter < leave, enter, np.inf)


_ENTER = (_enter_box, _enter_ellipsoid, _enter_cylinder)  # in the order of SHAPES
