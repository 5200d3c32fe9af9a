"""Rooms to measure boxes in: other things, sizes, cameras and places than the rooms that the package simulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.sim.floorplan import disjoint
from vlm3_ros.sim.materials import two_tone
from vlm3_ros.sim.path import pose
from vlm3_ros.sim.rendering import Rendering
from vlm3_ros.sim.room import Part, Room, Shape, Thing
from vlm3_ros.sim.trace import SHELL, Rays, cast, solids
from vlm3_ros.sim.truth import visible_boxes

ROOMS = 8
VIEWS = 12  # a room
HFOV_DEG = (45.0, 60.0, 75.0, 95.0)
SIZES = ((640, 480), (640, 360))
MIN_SIDE_PX = 24  # of a 2D box
PLAIN = two_tone("plaster", 0.1, 0.0, 0.8, 0.1)

Rng = np.random.Generator


def _part(shape: Shape, center: tuple[float, float, float], size: tuple[float, float, float]) -> Part:
    return Part(shape, center, size, PLAIN)


def _standing(shape: Shape, length: float, width: float, height: float) -> list[Part]:
    return [_part(shape, (0.0, 0.0, height / 2), (length, width, height))]


def block(rng: Rng) -> list[Part]:
    return _standing("box", *rng.uniform(0.25, 1.1, 3))


def long_block(rng: Rng) -> list[Part]:
    return _standing("box", rng.uniform(1.2, 2.2), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9))


def barrel(rng: Rng) -> list[Part]:
    width = rng.uniform(0.25, 0.6)
    return _standing("cylinder", width, width, rng.uniform(0.3, 1.0))


def chair(rng: Rng) -> list[Part]:
    """An L from the side, open below."""
    side, seat, back, post = rng.uniform(0.4, 0.55), rng.uniform(0.4, 0.5), rng.uniform(0.8, 1.1), 0.05
    corner = (side - post) / 2
    legs = [_part("box", (x, y, seat / 2), (post, post, seat)) for x in (-corner, corner) for y in (-corner, corner)]
    return [
        *legs,
        _part("box", (0.0, 0.0, seat - 0.03), (side, side, 0.06)),
        _part("box", (-corner, 0.0, (seat + back) / 2), (post, side, back - seat)),
    ]


def sofa(rng: Rng) -> list[Part]:
    """A solid L."""
    depth, width = rng.uniform(0.8, 1.0), rng.uniform(1.2, 2.0)
    return [
        _part("box", (0.0, 0.0, 0.22), (depth, width, 0.44)),
        _part("box", (-depth / 2 + 0.12, 0.0, 0.42), (0.24, width, 0.84)),
    ]


def door_leaf(rng: Rng) -> list[Part]:
    """Ajar, away from any wall."""
    return _standing("box", 0.05, rng.uniform(0.7, 0.95), rng.uniform(1.7, 2.05))


def table(rng: Rng) -> list[Part]:
    length, width, height = rng.uniform(0.9, 1.5), rng.uniform(0.6, 0.9), rng.uniform(0.45, 0.78)
    x, y = length / 2 - 0.06, width / 2 - 0.06
    legs = [_part("box", (a, b, height / 2), (0.06, 0.06, height)) for a in (-x, x) for b in (-y, y)]
    return [*legs, _part("box", (0.0, 0.0, height - 0.02), (length, width, 0.04))]


def wall_cabinet(rng: Rng) -> list[Part]:
    return _standing("box", rng.uniform(0.25, 0.4), rng.uniform(0.5, 1.2), rng.uniform(0.4, 0.8))


def small_block(rng: Rng) -> list[Part]:
    return _standing("box", *rng.uniform(0.15, 0.4, 3))


FLOOR = {
    "block": block, "long block": long_block, "barrel": barrel, "chair": chair, "sofa": sofa,
    "door leaf": door_leaf, "table": table,
}  # fmt: skip
LABELS = [*FLOOR, "wall cabinet", "small block"]


@dataclass(frozen=True, eq=False)
class Seen:
    """A thing in an image."""

    kind: str
    box: Box3D  # in camera axes; its label is no other thing's
    edges: tuple[float, float, float, float]  # 2D box of its visible pixels, pixels from the image's border
    visible: float  # share of its outline that is in the image and not hidden


@dataclass(frozen=True, eq=False)
class View:
    """One image: what is known about it."""

    camera: Camera
    depth: np.ndarray  # [height, width] metres along Z
    up: np.ndarray  # [3] unit vector against gravity, camera axes
    seen: list[Seen]


def room(seed: int) -> Room:
    """A room with half a dozen things on the floor, some on tables and some on walls."""
    rng = np.random.default_rng([seed, 77])
    size = (rng.uniform(4.0, 9.0), rng.uniform(4.0, 9.0), rng.uniform(2.4, 3.2))
    made = Room(size, PLAIN, PLAIN, (PLAIN,) * 4)
    for label in map(str, rng.choice([*FLOOR, "block", "block"], 9)):
        made = _placed(made, label, FLOOR[label], rng)
    for _ in range(2):
        made = _on_wall(made, rng)
    for carrier in [thing for thing in made.things if thing.label in ("table", "long block")]:
        at = carrier.center + carrier.R @ [*(rng.uniform(-0.3, 0.3, 2) * carrier.size[:2]), carrier.size[2] / 2]
        thing = Thing.standing("small block", small_block(rng), tuple(at), rng.uniform(-math.pi, math.pi))
        made = replace(made, things=(*made.things, thing))
    return made


def _placed(made: Room, label: str, make: Callable[[Rng], list[Part]], rng: Rng) -> Room:
    """The room with one more thing on its floor; one in three stands with its back to a wall."""
    parts = make(rng)
    for _ in range(30):
        thing = Thing.standing(label, parts, (0.0, 0.0, 0.0), 0.0)
        if rng.random() < 1 / 3:
            thing = _at_wall(made, parts, label, 0.0, rng)
        else:
            x, y = rng.uniform(-0.42, 0.42, 2) * made.size[:2]
            thing = Thing.standing(label, parts, (x, y, 0.0), rng.uniform(-math.pi, math.pi))
        inside = (abs(thing.footprint) <= np.array(made.size[:2]) / 2 + 1e-6).all()
        if inside and all(disjoint(thing, other, 0.15) for other in made.things):
            return replace(made, things=(*made.things, thing))
    return made


def _on_wall(made: Room, rng: Rng) -> Room:
    parts = wall_cabinet(rng)
    for _ in range(30):
        thing = _at_wall(made, parts, "wall cabinet", rng.uniform(0.9, 1.6), rng)
        if thing.top < made.size[2] and all(disjoint(thing, other, 0.1) for other in made.things):
            return replace(made, things=(*made.things, thing))
    return made


def _at_wall(made: Room, parts: list[Part], label: str, z: float, rng: Rng) -> Thing:
    """A thing whose back touches one of the walls, its foot at height ``z``."""
    yaw = int(rng.integers(4)) * math.pi / 2
    at_origin = Thing.standing(label, parts, (0.0, 0.0, z))
    forward = np.array([math.cos(yaw), math.sin(yaw)])
    left = np.array([-forward[1], forward[0]])
    away, along = np.abs(forward) @ made.size[:2], np.abs(left) @ made.size[:2]
    back = at_origin.size[0] / 2 - at_origin.center[0] - away / 2
    half = along / 2 - at_origin.size[1] / 2 - 0.05
    x, y = forward * back + left * rng.uniform(-half, half)
    return Thing.standing(label, parts, (x, y, z), yaw)


def views(rooms: int = ROOMS, count: int = VIEWS) -> Iterator[View]:
    """``count`` images of each room, by other cameras at other heights and pitches."""
    for seed in range(rooms):
        made = room(seed)
        rng = np.random.default_rng([seed, 78])
        for _ in range(count):
            yield _view(made, rng)


def _view(made: Room, rng: Rng) -> View:
    (width, height), hfov = SIZES[rng.integers(len(SIZES))], math.radians(rng.choice(HFOV_DEG))
    focal = width / 2 / math.tan(hfov / 2)
    camera = Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    T = _viewpoint(made, rng)
    grid = np.mgrid[:height, :width][::-1].reshape(2, -1).astype(np.float32)
    depth, surface = cast(made, Rays(camera, T, grid))
    thing = np.append(np.full(SHELL, -1, np.int32), solids(made).thing)[surface].reshape(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    rendered = Rendering(made, camera, T, image, depth.reshape(height, width), thing)
    seen = [
        Seen(b.label, Box3D(f"{b.label} {b.thing}", 1.0, b.center, b.size, b.R), tuple(map(float, b.box)), b.visible)  # type: ignore[arg-type]
        for b in visible_boxes(rendered)
        if min(b.box[2] - b.box[0], b.box[3] - b.box[1]) >= MIN_SIDE_PX
    ]
    return View(camera, rendered.depth, T[2, :3].copy(), seen)


def _viewpoint(made: Room, rng: Rng) -> np.ndarray:
    """T_world_cam [4, 4] of a camera at least 0.4 m from everything that looks towards one of the things."""
    while True:
        target = np.array(made.things[rng.integers(len(made.things))].center)
        center = np.array([*(rng.uniform(-0.45, 0.45, 2) * made.size[:2]), rng.uniform(0.3, 1.8)])
        stand = Thing.standing("", _standing("box", 0.4, 0.4, 2.2), (*center[:2], 0.0))
        away = target - center
        distance = float(np.hypot(*away[:2]))
        if 1.0 < distance < 4.5 and all(disjoint(stand, thing, 0.2) for thing in made.things):
            pitch = math.atan2(away[2], distance) + rng.normal(0.0, math.radians(6.0))
            yaw = math.atan2(away[1], away[0]) + rng.normal(0.0, math.radians(8.0))
            return pose(center, yaw, pitch, rng.normal(0.0, math.radians(1.5)))
