"""The published protocol: fixed labels, one question each, through the same perception as everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.config import Config
from vlm3_ros.offline.labelled import labelled_frame
from vlm3_ros.offline.labels import DepthLabels, LabelFile, MatchLabels, PoseLabels, QuestionLabels
from vlm3_ros.offline.metrics.answers import AnswerScore
from vlm3_ros.offline.metrics.poses import pair_errors
from vlm3_ros.offline.progress import Progress
from vlm3_ros.offline.sources import FrameError
from vlm3_ros.perception.depth import ask_depth
from vlm3_ros.perception.matches import ask_matches
from vlm3_ros.perception.objects import ask_about
from vlm3_ros.perception.pose import ask_pose
from vlm3_ros.perception.scene import Frame, Tally
from vlm3_ros.perception.sight import Sight
from vlm3_ros.tasks import Refusal, matching
from vlm3_ros.vlm.models import Models

# The node's settings where those of the published evaluation are others.
AS_PUBLISHED = {
    "vlm.precision": "bf16",
    "camera.max_tokens": 16384,  # no bound
    "depth.max_m": 999.0,
    "matches.think": True,
    "pose.max_disagreement_deg": 180.0,
}
TASKS = {"depth": "depth", "matching": "matches", "pose": "pose", "objects": "objects"}  # of node.tasks, by label


class Score(Protocol):
    """Collects the labels of one kind."""

    def ask(self, labels: Any, bench: Benchmark) -> None:
        """Ask about one image or pair, and keep how the answers compare. Raises FrameError."""

    def result(self) -> dict[str, Any]:
        """All numbers."""


class Benchmark:
    """One pass over a label file."""

    def __init__(self, labels: LabelFile, config: Config, models: Models):
        self._labels, self._models = labels, models
        self.config = config.updated({"depth.answer": "z", "depth.scale": 1.0})  # lengths stay as they were answered
        self.tally = Tally()
        self.left_out: list[str] = []  # why labels were not used

    def __call__(self) -> dict[str, Any]:
        """Ask about everything; returns the numbers of the table. Raises ModelError."""
        score = SCORES[self._labels.kind]()
        with Progress(0, len(self._labels)) as progress:
            for index in range(len(self._labels)):
                try:
                    score.ask(self._labels[index], self)
                except FrameError as error:
                    self.left_out.append(str(error))
                progress(index + 1)
        used = len(self._labels) - len(self.left_out)
        return {"labels": len(self._labels), **(score.result() if used else {}), "left_out": len(self.left_out)}

    def frame(self, image: Path, camera: Camera) -> Frame:
        """Raises FrameError."""
        return labelled_frame(image, camera, 0, self.config.camera)

    def look(self, frame: Frame, ask: Callable[[Sight], Any]) -> Any:
        """What ``ask`` finds out about a frame."""
        with self._models.frame() as looks:
            return ask(Sight(frame, looks, self.tally))


class DepthTable:
    """δ1 over all labelled pixels; one without an answer is wrong, as in DepthLM's evaluation."""

    def __init__(self) -> None:
        self._ratios: list[np.ndarray] = []  # answer / label, NaN without an answer

    def ask(self, labels: DepthLabels, bench: Benchmark) -> None:
        frame = bench.frame(labels.image, labels.camera)
        samples = bench.look(frame, lambda sight: ask_depth(sight, bench.config, labels.pixels))
        self._ratios.append(samples.z / labels.metres)

    def result(self) -> dict[str, Any]:
        ratios = np.concatenate(self._ratios)
        known = ratios[np.isfinite(ratios)]
        return {
            "pixels": len(ratios),
            "without_answer": len(ratios) - len(known),
            "delta1": float((np.maximum(known, 1.0 / known) < 1.25).sum() / len(ratios)),
            "abs_rel": float(np.abs(known - 1.0).mean()) if len(known) else np.nan,
            "ratio_median": float(np.median(known)) if len(known) else np.nan,
        }


class MatchTable:
    """End-point error in thousandths of the image's sides, over the answers that have a value."""

    def __init__(self) -> None:
        self._distances: list[np.ndarray] = []

    def ask(self, labels: MatchLabels, bench: Benchmark) -> None:
        # No focal length enters: this task bounds the longest edge.
        first, second = (
            bench.frame(image, Camera(*size, max(size), max(size), size[0] / 2, size[1] / 2))
            for image, size in zip(labels.images, labels.sizes, strict=True)
        )
        found = bench.look(second, lambda sight: ask_matches(sight, first, bench.config, labels.pixels_first))
        offset = (found.pixels - labels.pixels) / second.camera.size * matching.BINS
        self._distances.append(np.linalg.norm(offset, axis=1))

    def result(self) -> dict[str, Any]:
        distances = np.concatenate(self._distances)
        known = distances[np.isfinite(distances)]
        return {
            "pixels": len(distances),
            "without_answer": len(distances) - len(known),
            "epe": float(known.mean()) if len(known) else np.nan,
            "epe_median": float(np.median(known)) if len(known) else np.nan,
        }


class PoseTable:
    """Relative poses; a pair without an answer is a failure."""

    def __init__(self) -> None:
        self._found: list[np.ndarray | None] = []
        self._true: list[np.ndarray] = []

    def ask(self, labels: PoseLabels, bench: Benchmark) -> None:
        first, second = (bench.frame(*of) for of in zip(labels.images, labels.cameras, strict=True))
        found = bench.look(second, lambda sight: ask_pose(sight, first, bench.config))
        self._found.append(None if isinstance(found, Refusal) else found)
        self._true.append(labels.T_1_2)

    def result(self) -> dict[str, Any]:
        return pair_errors(self._found, self._true)


class ObjectTable:
    """Questions in words, asked exactly as they are written."""

    def __init__(self) -> None:
        self._score = AnswerScore()

    def ask(self, labels: QuestionLabels, bench: Benchmark) -> None:
        frame = bench.frame(labels.image, labels.camera)
        answer = bench.look(frame, lambda sight: ask_about(sight, bench.config, labels.question, ()))
        self._score.add(labels.category, answer.text, labels.answer)

    def result(self) -> dict[str, Any]:
        return {**self._score.result(), "unknown_kind": self._score.unknown}


SCORES: dict[str, type[Score]] = {
    "depth": DepthTable,
    "matching": MatchTable,
    "pose": PoseTable,
    "objects": ObjectTable,
}
