"""Random furnished rooms as training scenes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data.groups import MIN_COVISIBLE, NO_OVERLAP, Group
from vlm3_ros.learn.data.sample import Known, Region
from vlm3_ros.learn.data.views import covisibility
from vlm3_ros.perception import Frame
from vlm3_ros.sim import Rendering, Room, random_room, render, viewpoint, visible_boxes
from vlm3_ros.sim.path import pose

VIEWS = 3  # places to stand in a room; from each a second picture is taken after a short move
HFOV_DEG = (50.0, 90.0)  # of the cameras, one a room
SIZE = (320, 240)
MIN_PIXELS = 80  # a thing that shows less is not asked about, and neither is its name
MIN_VISIBLE = 0.25  # of its outline
MOVE_M = (0.03, 0.9)  # between the two pictures of a pair, log-uniform
TURN_DEG = 12.0  # standard deviation of yaw between them
_TRIES = 10
_FRAME_NS = 1_000_000_000


class SimulatedRooms:
    """``count`` rooms from number ``first`` on; a room is a scene and a group."""

    name = "sim"

    def __init__(self, first: int, count: int):
        self._first, self._count = first, count
        self.left_out: Counter[str] = Counter()

    @property
    def description(self) -> dict[str, Any]:
        return {"rooms": [self._first, self._count]}

    def __len__(self) -> int:
        return self._count

    def group(self, index: int) -> Group:
        """The pictures of one room, the same every time."""
        number = self._first + index
        rng = np.random.default_rng([number, 1])
        room, camera = random_room(number), _camera(rng)
        group = Group(f"room{number:06d}")
        for _ in range(VIEWS):
            first = picture(room, camera, viewpoint(room, rng), rng, len(group.frames))
            second = moved(room, first, rng, len(group.frames) + 1)
            if second is None:
                group.left_out[NO_OVERLAP] += 1
                group.frames.append(first)
            else:
                group.pairs.append((len(group.frames), len(group.frames) + 1))
                group.frames += [first, second]
        return group


def _camera(rng: np.random.Generator) -> Camera:
    width, height = SIZE
    focal = width / 2 / math.tan(math.radians(rng.uniform(*HFOV_DEG)) / 2)
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def picture(room: Room, camera: Camera, T: np.ndarray, rng: np.random.Generator, number: int) -> Known:
    """What a camera at ``T`` [4, 4] sees, with the sensor's noise."""
    return known(render(room, camera, T, rng), number)


def known(view: Rendering, number: int) -> Known:
    """What is true of a rendered picture."""
    clear = [b for b in visible_boxes(view, MIN_PIXELS) if b.visible >= MIN_VISIBLE]
    regions = tuple(
        Region(b.label, tuple(map(float, b.box)), b.visible, Box3D(b.label, 1.0, b.center, b.size, b.R))  # type: ignore[arg-type]
        for b in clear
    )
    shown = Counter(b.label for b in visible_boxes(view))
    unclear = frozenset(shown - Counter(b.label for b in clear))
    frame = Frame("", number * _FRAME_NS, "camera_optical_frame", view.image, view.camera)
    return Known(frame, view.depth, view.T_world_cam, regions, unclear)


def moved(room: Room, first: Known, rng: np.random.Generator, number: int) -> Known | None:
    """A second picture after a short move, with enough in common with the first one."""
    T = first.T_world_camera
    assert T is not None
    yaw, pitch = math.atan2(T[1, 2], T[0, 2]), math.asin(T[2, 2])
    for _ in range(_TRIES):
        way, length = rng.uniform(-math.pi, math.pi), math.exp(rng.uniform(*np.log(MOVE_M)))
        center = T[:3, 3] + length * np.array([math.cos(way), math.sin(way), rng.normal(0.0, 0.1)])
        turn = np.radians(rng.normal(0.0, [TURN_DEG, 3.0, 2.0]))
        if not _is_free(room, center):
            continue
        second = picture(room, first.camera, pose(center, yaw + turn[0], pitch + turn[1], turn[2]), rng, number)
        if covisibility(first, second) > MIN_COVISIBLE:
            return second
    return None


def _is_free(room: Room, center: np.ndarray) -> bool:
    """Whether a camera can be there: in the room, 10 cm from the walls, in no thing."""
    walls = np.array([*np.array(room.size[:2]) / 2, room.size[2]]) - 0.1
    inside = (np.abs(center[:2]) < walls[:2]).all() and 0.1 < center[2] < walls[2]
    return bool(inside) and not any(
        (np.abs(thing.R.T @ (center - thing.center)) < np.array(thing.size) / 2 + 0.1).all() for thing in room.things
    )
