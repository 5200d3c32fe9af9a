"""Pictures of a room with exact depth and thing masks, by ray casting on one CPU core.

Light: cool ambient light that is the same everywhere but in corners, and a warm lamp beside the camera whose light
falls off with the square of the distance, as on a robot in a dim room. Near things look bright and warm, far ones dim
and cool: a depth cue that a small model can learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.sim import shadows, textures
from vlm3_ros.sim.room import Room
from vlm3_ros.sim.trace import FLOOR, SHELL, Rays, cast, solids

AMBIENT_COLOUR = np.array([0.74, 0.92, 1.16], np.float32)
LAMP_COLOUR = np.array([1.3, 0.98, 0.6], np.float32)
SKY = np.array([0.07, 0.11, 0.2], np.float32)  # ambient light comes a little more from above and from one side
LAMP_POSITION = np.array([0.06, -0.04, 0.0], np.float32)  # metres, in camera axes
NOISE = 0.008  # standard deviation of the sensor's noise, of full scale
EXPOSURE = np.float32(1.15)
_SUBPIXELS = np.array([[-0.375, -0.125, 0.125, 0.375], [0.125, -0.375, 0.375, -0.125]], np.float32)  # rotated grid


@dataclass(frozen=True, eq=False)
class Rendering:
    """A picture and all that is true of it."""

    room: Room
    camera: Camera
    T_world_cam: np.ndarray  # [4, 4]; camera axes X right, Y down, Z forward
    image: np.ndarray  # uint8 [h, w, 3], RGB
    depth: np.ndarray  # float32 [h, w], metres along Z at pixel centres, finite everywhere
    thing: np.ndarray  # int32 [h, w], index into room.things, −1 where there is none


def render(room: Room, camera: Camera, T_world_cam: np.ndarray, rng: np.random.Generator | None = None) -> Rendering:
    """Take a picture of ``room`` from ``T_world_cam`` [4, 4]; with ``rng``, the sensor adds its noise.

    Edges are anti-aliased in the image; depth and masks are those of the pixel centres. Raises ValueError when the
    camera is not inside the room.
    """
    T_world_cam = np.asarray(T_world_cam, float)
    if not room.contains(T_world_cam[:3, 3]):
        raise ValueError(f"the camera at {T_world_cam[:3, 3].round(2)} is not inside the room of size {room.size}")
    height, width = camera.height, camera.width
    grid = np.mgrid[:height, :width][::-1].reshape(2, -1).astype(np.float32)
    rays = Rays(camera, T_world_cam, grid)
    depth, surface = cast(room, rays)
    light, facet = _radiance(room, rays, depth, surface)
    edges = np.flatnonzero(_borders(facet.reshape(height, width)))
    if edges.size:
        light[:, edges] = _supersampled(room, camera, T_world_cam, grid[:, edges])
    thing = np.append(np.full(SHELL, -1, np.int32), solids(room).thing)[surface]
    image = np.ascontiguousarray(_exposed(light, rng).T).reshape(height, width, 3)
    shape = height, width
    return Rendering(room, camera, T_world_cam, image, depth.reshape(shape), thing.reshape(shape))


def _borders(facet: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour shows another facet, and those neighbours."""
    border = np.zeros(facet.shape, bool)
    across, down = facet[:, 1:] != facet[:, :-1], facet[1:] != facet[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _supersampled(room: Room, camera: Camera, T_world_cam: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean light [3, N] over four points inside each pixel [2, N]."""
    points = (pixels[:, None] + _SUBPIXELS[:, :, None]).reshape(2, -1)
    order = np.argsort(points[1], kind="stable")
    rays = Rays(camera, T_world_cam, points[:, order])
    light = np.empty((3, points.shape[1]), np.float32)
    light[:, order], _ = _radiance(room, rays, *cast(room, rays))
    return light.reshape(3, _SUBPIXELS.shape[1], -1).mean(1)


def _exposed(light: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Light [3, N] as 8-bit colour [3, N]: highlights compressed (Reinhard et al. 2002), hue kept, gamma 2."""
    value = np.sqrt(EXPOSURE * light / (1.0 + 0.8 * EXPOSURE * light.max(0)))
    if rng is not None:
        value += np.float32(NOISE) * rng.standard_normal(value.shape, np.float32)
    return np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------- how light falls


@lru_cache(maxsize=4)
def _paints(room: Room) -> dict[str, np.ndarray]:
    """Materials of all surfaces as arrays over surfaces; colours as linear reflectance [3, S]."""
    materials = (*room.walls, room.floor, room.ceiling, *solids(room).material)
    return {
        "pattern": np.array([textures.PATTERN_INDEX[m.pattern] for m in materials], np.int32),
        "per_metre": np.array([1.0 / m.period for m in materials], np.float32),
        "turned": np.array([m.turned for m in materials]),
        "dark": np.array([m.dark for m in materials], np.float32).T ** 2,
        "light": np.array([m.light for m in materials], np.float32).T ** 2,
        "glow": np.array([m.glow for m in materials], np.float32),
    }


def _radiance(room: Room, rays: Rays, depth: np.ndarray, surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light towards the camera [3, N] and facet number [N] (a surface's flat side) where rays meet surfaces."""
    points = rays.directions * depth
    points += rays.origin[:, None]
    normal, texture, share, facet = _surfaces(room, points, surface)
    paints = _paints(room)
    to_camera = np.sqrt((rays.directions**2).sum(0))  # length of a ray per metre of depth
    facing = abs((normal * rays.directions).sum(0)) / to_camera
    pixel = depth * np.float32(1.0 / rays.camera.focal) / np.sqrt(np.maximum(facing, 0.05))
    grey = textures.sample(paints["pattern"][surface], texture, pixel * paints["per_metre"][surface])
    lamp = rays.origin + rays.T_world_cam[:3, :3].astype(np.float32) @ LAMP_POSITION
    to_lamp = lamp[:, None] - points
    square = (to_lamp**2).sum(0)
    cosine = np.maximum((normal * to_lamp).sum(0), 0.0) / np.sqrt(square)
    # Rough surfaces lit from where they are seen look flatter than Lambert's law says (Oren and Nayar 1994).
    lamplight = np.float32(room.lamp) * (0.35 + 0.65 * cosine) / (square + np.float32(0.15)) * (0.3 + 0.7 * share)
    ambient = np.float32(room.ambient) * share * (0.8 + SKY @ normal) + paints["glow"][surface]
    light = np.empty_like(points)
    for c in range(3):
        dark = paints["dark"][c][surface]
        albedo = dark + grey * (paints["light"][c][surface] - dark)
        light[c] = albedo * (AMBIENT_COLOUR[c] * ambient + LAMP_COLOUR[c] * lamplight)
    return light, facet


def _surfaces(room: Room, points: np.ndarray, surface: np.ndarray) -> tuple[np.ndarray, ...]:
    """Normals [3, N], texture coordinates [2, N] in periods, share of ambient light [N] and facet number [N]."""
    n = len(surface)
    normal, texture = np.zeros((3, n), np.float32), np.empty((2, n), np.float32)
    share, facet = np.ones(n, np.float32), surface.astype(np.int32) * 8
    all_solids, per_metre = solids(room), _paints(room)["per_metre"]
    groups = np.concatenate([np.arange(SHELL), SHELL + all_solids.shape_number])[surface]
    for group in range(SHELL + len(_OUTSIDE)):
        index = np.flatnonzero(groups == group)
        if not index.size:
            continue
        here = points.take(index, axis=1)
        if group < SHELL:
            axis, sign = group // 2, 2 * (group % 2) - 1
            normal[axis, index] = -sign
            texture[:, index] = here[list(shadows.face_axes(group))]
            share[index] = shadows.lookup(room, group, here)
        else:
            k = surface.take(index) - SHELL
            to_unit, half = all_solids.to_unit.take(k, axis=0), all_solids.half.T.take(k, axis=1)
            here -= all_solids.center.T.take(k, axis=1)
            unit = np.einsum("nij,jn->in", to_unit, here)
            n_own, texture[:, index], side = _OUTSIDE[group - SHELL](unit, half, per_metre.take(SHELL + k))
            c, sn = all_solids.cos.take(k), all_solids.sin.take(k)
            normal[:, index] = c * n_own[0] - sn * n_own[1], sn * n_own[0] + c * n_own[1], n_own[2]
            facet[index] += side
            share[index] = _share_above_floor(room, points.take(index, axis=1))
    texture *= per_metre[surface]
    turned = np.flatnonzero(_paints(room)["turned"][surface])
    texture[:, turned] = texture[::-1, turned]
    return normal, texture, share, facet


def _share_above_floor(room: Room, points: np.ndarray) -> np.ndarray:
    """Share of the ambient light [M] on primitives at points [3, M]: less near the floor; a rug has the floor's."""
    share = 0.6 + 0.4 * np.minimum(points[2] * 2.0, 1.0)
    flat = np.flatnonzero(points[2] < 0.01)
    if flat.size:
        share[flat] = shadows.lookup(room, FLOOR, points.take(flat, axis=1))
    return share


# Of points [3, M] on primitives, given in their unit spaces, with half sizes [3, M] and periods per metre [M]:
# normals [3, M] in their own axes, coordinates along the surface in metres [2, M], number of the flat side [M] or 0.
Outside = tuple[np.ndarray, np.ndarray, np.ndarray | int]


def _outside_box(unit: np.ndarray, half: np.ndarray, _: np.ndarray) -> Outside:
    side = abs(unit).argmax(0)
    normal = np.where(side == np.arange(3)[:, None], np.sign(unit), np.float32(0.0))
    x, y, z = (unit + 1.0) * half
    return normal, np.stack([np.where(side == 0, y, x), np.where(side == 2, y, z)]), 2 * side + (normal.sum(0) > 0)


def _outside_ellipsoid(unit: np.ndarray, half: np.ndarray, per_metre: np.ndarray) -> Outside:
    normal = unit / half
    normal /= np.sqrt((normal * normal).sum(0))
    return normal, np.stack([_around(unit, half, per_metre), unit[2] * half[2]]), 0


def _outside_cylinder(unit: np.ndarray, half: np.ndarray, per_metre: np.ndarray) -> Outside:
    x, y, z = unit
    cap = abs(z) > np.hypot(x, y)
    normal = np.where(cap, np.stack([0 * x, 0 * y, np.sign(z)]), np.stack([x, y, 0 * z]))
    around = np.where(cap, x * half[0], _around(unit, half, per_metre))
    return normal, np.stack([around, np.where(cap, y * half[1], z * half[2])]), cap


def _around(unit: np.ndarray, half: np.ndarray, per_metre: np.ndarray) -> np.ndarray:
    """Way around the vertical axis, stretched so that the pattern closes: a whole number of periods, at least one."""
    periods = np.maximum(1.0, np.rint(2 * math.pi * half[0] * per_metre))
    return np.arctan2(unit[1], unit[0]) * periods / (2 * math.pi * per_metre)


_OUTSIDE = (_outside_box, _outside_ellipsoid, _outside_cylinder)  # in the order of trace.SHAPES
