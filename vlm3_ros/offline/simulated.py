"""The walk through the simulated room as a recording: no files, and exact truth of everything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from vlm3_ros.offline.sources import FRAME_ID, DataSet, SourceError, Truth
from vlm3_ros.perception import Frame
from vlm3_ros.sim.rendering import Rendering
from vlm3_ros.sim.tour import Tour, true_boxes

NAME = "simulated"
DEFAULT = "320,240,70,2,30"
START_NS = 10**9  # a stamp of zero means that there is none


class SimulatedSource(DataSet):
    """Frames of the demo's tour; each is rendered when it is asked for."""

    def __init__(self, name: str):
        """``name``: "simulated", or "simulated:WIDTH,HEIGHT,HFOV_DEG,RATE_HZ,SECONDS". Raises SourceError."""
        numbers = (name.partition(":")[2] or DEFAULT).split(",")
        try:
            width, height, hfov_deg, rate_hz, seconds = map(float, numbers)
            if min(width, height, hfov_deg, rate_hz, seconds) <= 0.0 or hfov_deg >= 180.0:
                raise ValueError("all must be above 0, and the field of view below 180°")
            self._tour = Tour.demo(int(width), int(height), hfov_deg, rate_hz, seconds)
        except ValueError as error:
            raise SourceError(
                f"{name!r} is no simulated recording ({error}): it takes five numbers, "
                f"{NAME}:WIDTH,HEIGHT,HFOV_DEG,RATE_HZ,SECONDS, such as {NAME}:{DEFAULT}"
            ) from error
        self._stamps = [START_NS + round(i * 1e9 / rate_hz) for i in range(len(self._tour))]
        self._view = lru_cache(maxsize=2)(self._tour.__getitem__)  # the truth of a frame is asked after its image

    @property
    def stamps(self) -> Sequence[int]:
        return self._stamps

    def _frame(self, index: int) -> Frame:
        view: Rendering = self._view(index)
        return Frame("", self._stamps[index], FRAME_ID, view.image, view.camera)

    def truth(self, index: int) -> Truth:
        view: Rendering = self._view(index)
        return Truth(view.depth, view.T_world_cam, true_boxes(view))
