"""One training sample: what a model looks at once, and all that it is asked about it, with right answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.perception import Frame
from vlm3_ros.vlm import Picture


@dataclass(frozen=True)
class Exchange:
    """A question of the protocol and its right answer."""

    task: str  # depth, matching, pose, objects or grounding: the checkpoint that would be asked
    question: str
    answer: str


@dataclass(frozen=True, eq=False)
class Sample:
    """One look and its questions."""

    key: str  # unique in its data set; letters, digits, - and _
    scene: str  # samples of one scene are either all trained on or all held out
    pictures: tuple[Picture, ...]  # one or two, as the camera gave them and at the size at which they are to be seen
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True, eq=False)
class Facts:
    """All that the record of a sample asks about its pictures, in whichever of its samples; lengths and motions only
    where they are asked at the size at which this sample shows them."""

    alone: tuple[tuple[Exchange, ...], ...]  # of each picture
    scales: tuple[float, ...]  # width of each picture as a fraction of that at which its depths are asked, 1 without
    together: tuple[Exchange, ...]  # of both, in this order

    def of_both(self, task: str) -> list[Exchange]:
        """Those of one task about both pictures."""
        return [exchange for exchange in self.together if exchange.task == task]


@dataclass(frozen=True, eq=False)
class Region:
    """A named thing in an image."""

    label: str
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2 of its visible part, borders of pixels
    visible: float  # share of it that the image shows, in (0, 1]
    box: Box3D  # camera axes


@dataclass(frozen=True, eq=False)
class Known:
    """A frame and what is true of it."""

    frame: Frame
    depth: np.ndarray | None  # float32 [height, width], metres along Z, NaN unknown
    T_world_camera: np.ndarray | None  # [4, 4], z up
    regions: tuple[Region, ...] = ()
    unclear: frozenset[str] | None = None  # names of which there may be more than the regions; None: of any

    @property
    def camera(self) -> Camera:
        return self.frame.camera

    def has_all(self, label: str) -> bool:
        """Whether the regions are all things of a name."""
        return self.unclear is not None and label not in self.unclear
