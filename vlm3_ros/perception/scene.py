"""What goes into perception and what comes out: a frame, and the scene perceived in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.depth_map import DepthMap
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.tasks import Reason, Refusal


@dataclass(frozen=True, eq=False)
class Frame:
    """One rectified image and where it comes from."""

    source: str  # name of the camera
    stamp: int  # nanoseconds
    frame_id: str  # optical frame of the camera
    image: np.ndarray  # uint8 [height, width, 3] RGB
    camera: Camera
    valid: np.ndarray | None = None  # bool [height, width]: what the raw image shows; None: everything


@dataclass(frozen=True, eq=False)
class Samples:
    """Pixels whose depth was asked."""

    pixels: np.ndarray  # [N, 2] of the frame's image, as asked after rounding to reference numbers
    z: np.ndarray  # [N] metres along Z, NaN where the answer was refused
    confidence: np.ndarray  # [N] the model's own probability that z is right, 0 where refused
    spread: np.ndarray  # [N] metres, half the width of the answer's central 68 %; NaN where not measured

    def points(self, camera: Camera) -> np.ndarray:
        """[N, 3] in camera axes, NaN where the answer was refused."""
        return camera.rays(self.pixels) * self.z[:, None]


@dataclass(frozen=True, eq=False)
class DepthView:
    """A depth map with the samples it was made from, and the frame's image and camera at its size."""

    map: DepthMap
    samples: Samples
    image: np.ndarray  # uint8 [h, w, 3] RGB
    camera: Camera


@dataclass(frozen=True, eq=False)
class Matches:
    """Pixels of an earlier frame and where they are in this one."""

    first: Frame
    pixels_first: np.ndarray  # [N, 2]
    pixels: np.ndarray  # [N, 2]
    confidence: np.ndarray  # [N]


@dataclass
class Tally:
    """How many questions were asked, how many answers gave no value and why, and the time each stage took."""

    asked: int = 0
    left_out: int = 0  # questions for which the time budget was too short
    refused: Counter[Reason] = field(default_factory=Counter)
    examples: list[Refusal] = field(default_factory=list)  # the first few refusals, for the log
    seconds: dict[str, float] = field(default_factory=dict)

    def refuse(self, refusal: Refusal) -> None:
        """Count an answer that gave no value."""
        self.refused[refusal.reason] += 1
        if len(self.examples) < 3:
            self.examples.append(refusal)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to ``stage``."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start


@dataclass(eq=False)
class Scene:
    """What was perceived of a frame; None is what was not wanted, or not to be had."""

    frame: Frame
    depth: DepthView | None = None
    objects: list[Box3D] | None = None
    matches: Matches | None = None
    pose: Pose | None = None  # of the camera in the odometry frame
    tally: Tally = field(default_factory=Tally)
