"""Furnished rooms: one random room per seed, and the demo's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vlm3_ros.sim import furniture
from vlm3_ros.sim.floorplan import CELL, disjoint, free_floor
from vlm3_ros.sim.furniture import Maker
from vlm3_ros.sim.materials import any_hue, hsv, paint, two_tone
from vlm3_ros.sim.room import Material, Room, Thing

WALKING_MARGIN = 0.5  # metres to everything that the free floor of a room has; path.walk relies on it
_FREE_SHARE = 0.18  # of the floor that stays free to walk, with that margin
_TRIES = 25


def random_room(seed: int) -> Room:
    """A furnished room drawn from ``seed``: its size, materials, things and where they stand."""
    rng = np.random.default_rng(seed)
    size = (rng.uniform(3.6, 7.5), rng.uniform(3.6, 7.5), rng.uniform(2.35, 3.1))
    furnisher = _Furnisher(rng, _bare(rng, size))
    furnisher.hang("door", furniture.door, z=0.0)
    for label in map(str, rng.permutation(list(furniture.LARGE))[: rng.integers(2, 5)]):
        furnisher.against_wall(label, furniture.LARGE[label])
    if rng.random() < 0.75:
        furnisher.dining(chairs=int(rng.integers(0, 5)))
    for _ in range(rng.integers(1, 4)):
        furnisher.hang("window", furniture.window, z=rng.uniform(0.85, 1.1))
    for _ in range(rng.integers(1, 5)):
        furnisher.hang("picture", furniture.picture, z=rng.uniform(1.3, 1.6))
    for label in map(str, rng.choice(list(furniture.FLOOR), rng.integers(3, 8))):
        furnisher.anywhere(label, furniture.FLOOR[label])
    for label in map(str, rng.choice(list(furniture.SMALL), rng.integers(1, 5))):
        furnisher.on_top(label, furniture.SMALL[label])
    return furnisher.room


def _bare(rng: np.random.Generator, size: tuple[float, float, float]) -> Room:
    """The shell with its materials, a rug and a light, nothing else."""
    paper = _wall(rng)
    feature = _wall(rng) if rng.random() < 0.5 else paper
    which = rng.integers(4)
    w0, w1, w2, w3 = (feature if k == which else paper for k in range(4))
    ceiling = two_tone("plaster", 0.1, 0.04, rng.uniform(0.85, 0.97), 0.07, period=1.5)
    lamp = replace(two_tone("plaster", 0.12, 0.1, 1.0, 0.04), glow=1.5)
    light = furniture.round_part("cylinder", (-0.06, 0.0), rng.uniform(0.3, 0.6), lamp)
    decor = [Thing.standing("ceiling light", [light], (0.0, 0.0, size[2]))]
    if rng.random() < 0.7:
        x, y = rng.uniform(-0.6, 0.6, 2)
        decor.append(Thing.standing("rug", furniture.rug(rng), (x, y, 0.0), rng.uniform(-0.2, 0.2)))
    decor += skirting(size, paint(rng))
    return Room(size, _flooring(rng), ceiling, (w0, w1, w2, w3), decor=tuple(decor))


def _flooring(rng: np.random.Generator) -> Material:
    kind = rng.choice(["planks", "planks", "tiles", "checker", "carpet", "marble"])
    if kind == "planks":
        saturation, value, period = rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.85), rng.uniform(1.0, 1.5)
        boards = two_tone("planks", rng.uniform(0.06, 0.1), saturation, value, 0.5, period)
        return replace(boards, turned=bool(rng.random() < 0.5))
    if kind == "carpet":
        return two_tone(
            "carpet", any_hue(rng), rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.8), 0.4, rng.uniform(0.5, 0.9)
        )
    saturation, value, contrast = rng.uniform(0.03, 0.3), rng.uniform(0.65, 0.95), rng.uniform(0.3, 0.65)
    return two_tone(str(kind), any_hue(rng), saturation, value, contrast, rng.uniform(1.2, 2.4))


def _wall(rng: np.random.Generator) -> Material:
    kind = str(rng.choice(["plaster", "plaster", "stripes", "diamonds", "bricks", "planks"]))
    if kind == "bricks":
        brick = hsv(rng.uniform(0.0, 0.06), rng.uniform(0.3, 0.65), rng.uniform(0.4, 0.7))
        return Material("bricks", brick, hsv(0.1, 0.1, rng.uniform(0.7, 0.9)))
    contrast = {"plaster": 0.16, "stripes": 0.14, "diamonds": 0.16, "planks": 0.25}[kind]
    saturation, value = rng.uniform(0.03, 0.3), rng.uniform(0.65, 0.95)
    material = two_tone(kind, any_hue(rng), saturation, value, contrast, rng.uniform(1.0, 1.8))
    return replace(material, turned=kind == "planks")


def skirting(size: tuple[float, float, float], material: Material) -> list[Thing]:
    x, y, thick, high = size[0], size[1], 0.014, 0.09
    boards = [((s * (x - thick) / 2, 0.0, 0.0), (thick, y, high)) for s in (-1, 1)]
    boards += [((0.0, s * (y - thick) / 2, 0.0), (x, thick, high)) for s in (-1, 1)]
    return [Thing.standing("skirting", [furniture.box((0, 0, high / 2), size, material)], at) for at, size in boards]


class _Furnisher:
    """Puts things into a room one by one, and only where they collide with nothing and leave room to walk."""

    def __init__(self, rng: np.random.Generator, room: Room):
        self.rng = rng
        self.room = room
        self._kept_free: list[Thing] = []  # in front of doors

    def against_wall(self, label: str, make: Maker) -> None:
        """Back to a wall, at a random place along it."""
        parts = make(self.rng)
        for _ in range(_TRIES):
            yaw, at = self._at_wall(parts, gap=self.rng.uniform(0.03, 0.08))
            if self._put(Thing.standing(label, parts, (*at, 0.0), yaw)):
                return

    def anywhere(self, label: str, make: Maker) -> None:
        """On the floor at a random place and heading."""
        parts = make(self.rng)
        for _ in range(_TRIES):
            at = self.rng.uniform(-0.5, 0.5, 2) * self.room.size[:2]
            if self._put(Thing.standing(label, parts, (*at, 0.0), self.rng.uniform(-math.pi, math.pi))):
                return

    def dining(self, chairs: int) -> None:
        """A table somewhere in the middle with chairs that face it."""
        parts = furniture.table(self.rng)
        for _ in range(_TRIES):
            at = self.rng.uniform(-0.3, 0.3, 2) * self.room.size[:2]
            yaw = self.rng.integers(4) * math.pi / 2 + self.rng.normal(0.0, 0.1)
            table = Thing.standing("table", parts, (*at, 0.0), yaw)
            if self._put(table):
                break
        else:
            return
        chair = furniture.chair(self.rng)
        for heading in self.rng.permutation([0.0, 0.5, 1.0, 1.5])[:chairs] * math.pi:
            side = table.size[0] if heading in (0.0, math.pi) else table.size[1]
            away = side / 2 + 0.29 + self.rng.uniform(0.0, 0.12)
            turn = table.yaw + heading
            at = table.center[:2] - away * np.array([math.cos(turn), math.sin(turn)])
            self._put(Thing.standing("chair", chair, (*at, 0.0), turn + self.rng.normal(0.0, 0.08)))

    def on_top(self, label: str, make: Maker) -> None:
        """On a table or a low cabinet."""
        parts = make(self.rng)
        carriers = [t for t in self.room.things if t.label in ("table", "cabinet") and t.top < 1.1]
        for carrier in self.rng.permutation(np.array(carriers, object)):
            spread = np.maximum(np.array(carrier.size[:2]) - 0.3, 0.0) / 2
            for _ in range(_TRIES):
                at = carrier.center + carrier.R @ [*self.rng.uniform(-spread, spread), carrier.size[2] / 2]
                thing = Thing.standing(label, parts, tuple(at), carrier.yaw + self.rng.normal(0.0, 0.15))
                if _rests_on(thing, carrier) and self._put(thing):
                    return

    def hang(self, label: str, make: Maker, z: float) -> None:
        """Decoration on a wall, its lower edge at height ``z``; nothing will be put in front of a door."""
        parts = make(self.rng)
        for _ in range(_TRIES):
            yaw, at = self._at_wall(parts, gap=0.0)
            thing = Thing.standing(label, parts, (*at, z), yaw)
            others = (*self.room.things, *(d for d in self.room.decor if d.label != "skirting"))
            if thing.top < self.room.size[2] and all(disjoint(thing, other, 0.1) for other in others):
                self.room = replace(self.room, decor=(*self.room.decor, thing))
                if label == "door":
                    swing = furniture.box((0.45, 0, 1.0), (0.9, 1.1, 2.0), self.room.ceiling)
                    self._kept_free.append(Thing.standing("swing", [swing], thing.center, yaw))
                return

    def _at_wall(self, parts: list, gap: float) -> tuple[float, np.ndarray]:
        """A yaw that faces away from a random wall, and where on the floor its back is ``gap`` from that wall."""
        at_origin = Thing.standing("", parts, (0.0, 0.0, 0.0))
        back = at_origin.center[0] - at_origin.size[0] / 2
        quarter = int(self.rng.integers(4))
        yaw = quarter * math.pi / 2
        along_x = quarter % 2 == 0
        away, length = self.room.size[:2] if along_x else self.room.size[1::-1]
        half = length / 2 - at_origin.size[1] / 2 - 0.05
        forward = np.array([math.cos(yaw), math.sin(yaw)])
        left = np.array([-forward[1], forward[0]])
        return yaw, forward * (gap - back - away / 2) + left * self.rng.uniform(-half, half)

    def _put(self, thing: Thing) -> bool:
        """Add a thing if it fits; says whether it did."""
        fits = (abs(thing.footprint) + 0.03 <= np.array(self.room.size[:2]) / 2).all() and thing.top < self.room.size[
            2
        ]
        hung = [d for d in self.room.decor if d.label not in ("rug", "skirting", "ceiling light")]
        others = (*self.room.things, *hung, *self._kept_free)
        if not fits or not all(disjoint(thing, other, 0.02) for other in others):
            return False
        furnished = replace(self.room, things=(*self.room.things, thing))
        _, free = free_floor(furnished, WALKING_MARGIN)
        if free.sum() * CELL**2 < _FREE_SHARE * furnished.size[0] * furnished.size[1]:
            return False
        self.room = furnished
        return True


def _rests_on(thing: Thing, carrier: Thing) -> bool:
    """Whether a thing's whole footprint is over the carrier's."""
    local = (thing.footprint - carrier.center[:2]) @ carrier.R[:2, :2]
    return bool((abs(local) <= np.array(carrier.size[:2]) / 2).all())
