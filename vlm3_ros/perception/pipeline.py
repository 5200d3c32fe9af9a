"""The pipeline: a frame in, a scene out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from vlm3_ros.config import Config
from vlm3_ros.perception.depth import perceive_depth
from vlm3_ros.perception.matches import perceive_matches
from vlm3_ros.perception.objects import ask_about, perceive_objects
from vlm3_ros.perception.pose import Track, perceive_pose
from vlm3_ros.perception.scene import Frame, Scene, Tally
from vlm3_ros.perception.sight import Sight
from vlm3_ros.vlm import Answer
from vlm3_ros.vlm.models import Models

Failed = Callable[[str, Exception], None]  # told of a task that failed, and why


@dataclass(frozen=True, eq=False)
class Memory:
    """What outlives a frame of one camera."""

    previous: Frame | None
    track: Track | None


class Perception:
    """Perceives frame after frame, of one or several cameras.

    Holds what must outlive a frame: the previous frame of every camera, and its keyframe and odometry. ``config`` may
    be replaced at any time: a frame keeps the one it began with. Not thread-safe otherwise: one thread perceives.
    """

    def __init__(self, config: Config, models: Models):
        self.config = config
        self._models = models
        self._previous: dict[str, Frame] = {}
        self._tracks: dict[str, Track] = {}

    def perceive(self, frame: Frame, wanted: Collection[str], failed: Failed | None = None) -> Scene:
        """Perceive what is ``wanted`` (of config.TASKS) in a frame.

        Raises ModelError if a model cannot answer, and Cancelled where the models were told to stop. With ``failed``
        a task that fails for whatever reason is told, and the others go on.
        """
        scene, config = Scene(frame), self.config

        @contextmanager
        def stage(task: str) -> Iterator[None]:
            try:
                with scene.tally.timed(task):
                    yield
            except Exception as error:
                if failed is None:
                    raise
                failed(task, error)

        with self._models.frame() as looks:
            sight = Sight(frame, looks, scene.tally)
            if "depth" in wanted:
                with stage("depth"):
                    scene.depth = perceive_depth(sight, config)
            if "objects" in wanted:
                with stage("objects"):
                    samples = scene.depth.samples if scene.depth else None
                    scene.objects = perceive_objects(sight, config, samples)
            if "matches" in wanted and frame.source in self._previous:
                with stage("matches"):
                    scene.matches = perceive_matches(sight, self._previous[frame.source], config)
            if "pose" in wanted:
                with stage("pose"):
                    track = self._tracks.get(frame.source)
                    scene.pose, self._tracks[frame.source] = perceive_pose(sight, track, config)
            else:
                self._tracks.pop(frame.source, None)  # a chain with a gap is no odometry
        self._previous[frame.source] = frame
        return scene

    def ask(self, frame: Frame, text: str, regions: Sequence[Sequence[float]] | np.ndarray = ()) -> Answer:
        """Ask a spatial question; ``<region N>`` is the Nth of ``regions``, x1 y1 x2 y2 in pixels of the image."""
        with self._models.frame() as looks:
            return ask_about(Sight(frame, looks, Tally()), self.config, text, regions)

    def memory(self, source: str) -> Memory:
        """What is remembered of a camera after its last frame."""
        return Memory(self._previous.get(source), self._tracks.get(source))

    def resume(self, source: str, memory: Memory) -> None:
        """Go on with a camera as after the frame at whose end ``memory`` was taken."""
        self.forget(source)
        if memory.previous is not None:
            self._previous[source] = memory.previous
        if memory.track is not None:
            self._tracks[source] = memory.track

    def forget(self, source: str) -> None:
        """Start anew with a camera: its time jumped back, or frames were left out."""
        self._previous.pop(source, None)
        self._tracks.pop(source, None)
