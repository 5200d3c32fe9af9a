"""A simulated room and from where it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.learn.data import simulated
from vlm3_ros.learn.data.sample import Known
from vlm3_ros.sim import Room, random_room, viewpoint

HFOV_DEG = 70.0  # the demo's camera


@dataclass(frozen=True, eq=False)
class Place:
    """One view of a room, and a second one after a short move; all the same for the same number."""

    number: int
    room: Room
    first: Known
    second: Known | None  # None where no move that was tried shows enough of the same

    @classmethod
    def of(cls, number: int) -> Place:
        rng, room = np.random.default_rng([number, 2]), random_room(number)
        first = simulated.picture(room, camera(HFOV_DEG), viewpoint(room, rng), rng, 0)
        return cls(number, room, first, simulated.moved(room, first, rng, 1))

    def through(self, hfov_deg: float) -> Known:
        """The first view with another field of view."""
        assert self.first.T_world_camera is not None
        return simulated.picture(self.room, camera(hfov_deg), self.first.T_world_camera, self.rng(), 0)

    def rng(self) -> np.random.Generator:
        """Random numbers of this place: what is asked about it is the same every time."""
        return np.random.default_rng([self.number, 3])

    def pixels(self, count: int) -> np.ndarray:
        """Whole pixels [count, 2] anywhere in an image, depth edges included."""
        return self.rng().integers(0, self.first.camera.size, (count, 2))


def camera(hfov_deg: float) -> Camera:
    """A camera with square pixels, as large an image as the training rooms have and this field of view."""
    width, height = simulated.SIZE
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
