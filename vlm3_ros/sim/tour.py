"""A walk through the demo's room, frame by frame and the same every time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm3_ros.calibration import Calibration
from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.sim.demo import WALK_SEED, demo_room
from vlm3_ros.sim.path import walk
from vlm3_ros.sim.rendering import Rendering, render
from vlm3_ros.sim.room import Room
from vlm3_ros.sim.truth import visible_boxes

MIN_PIXELS = 50  # a thing that shows less is not counted as visible


@dataclass(frozen=True, eq=False)
class Tour:
    """Frame i is what the camera sees at poses[i], its sensor noise included."""

    room: Room
    camera: Camera
    poses: np.ndarray  # [N, 4, 4] T_world_cam

    @classmethod
    def demo(cls, width: int, height: int, hfov_deg: float, rate_hz: float, seconds: float) -> Tour:
        """The demo's tour with a pinhole camera of this size and horizontal field of view."""
        k = Calibration.from_fov(width, height, hfov_deg).k
        camera = Camera(width, height, k[0], k[4], k[2], k[5])
        room = demo_room()
        return cls(room, camera, walk(room, round(seconds * rate_hz), rate_hz, WALK_SEED))

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, i: int) -> Rendering:
        return render(self.room, self.camera, self.poses[i], np.random.default_rng(i))


def true_boxes(view: Rendering) -> list[Box3D]:
    """What an ideal detector would find in a simulated picture, in camera axes."""
    return [Box3D(b.label, 1.0, b.center, b.size, b.R) for b in visible_boxes(view, MIN_PIXELS)]
