"""The published protocol: fixed labels, one question each, through the same perception as everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.config import Config
from vlm3_ros.geometry import motion
from vlm3_ros.metrics import answers
from vlm3_ros.metrics.depth import complete_errors
from vlm3_ros.metrics.group import median
from vlm3_ros.metrics.matches import match_errors
from vlm3_ros.metrics.poses import pair_errors
from vlm3_ros.offline.labelled import labelled_frame
from vlm3_ros.offline.labels import DepthLabels, LabelFile, MatchLabels, PoseLabels, QuestionLabels
from vlm3_ros.offline.progress import Progress
from vlm3_ros.offline.sources import FrameError
from vlm3_ros.perception.depth import ask_depth
from vlm3_ros.perception.matches import ask_matches
from vlm3_ros.perception.objects import ask_about
from vlm3_ros.perception.pose import ask_motion
from vlm3_ros.perception.scene import Frame, Tally
from vlm3_ros.perception.sight import Sight
from vlm3_ros.tasks import Refusal, matching, pose
from vlm3_ros.tasks.answers import FARTHEST_M
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm.models import Models

# The node's settings where those of the published evaluation are others.
AS_PUBLISHED = {
    "vlm.precision": "bf16",
    "camera.max_tokens": 16384,  # no bound
    "depth.max_m": FARTHEST_M,
    "matches.think": True,
    "pose.max_disagreement_deg": 180.0,
}
TASKS = {"depth": "depth", "matching": "matches", "pose": "pose", "objects": "objects"}  # of node.tasks, by label


class Score(Protocol):
    """Collects the labels of one kind."""

    def ask(self, labels: Any, bench: Benchmark) -> int:
        """Ask about one image or pair, and keep how the answers compare; returns how many of the labels got a value.

        Raises FrameError.
        """

    def result(self) -> dict[str, Any]:
        """All numbers."""


class Benchmark:
    """One pass over a label file."""

    def __init__(self, labels: LabelFile, config: Config, models: Models):
        self._labels, self._models = labels, models
        self.config = config.updated({"depth.answer": "z", "depth.scale": 1.0})  # lengths stay as they were answered
        self.tally = Tally()
        self.left_out: list[str] = []  # why labels were not used
        self.values = 0  # labels whose answer had one

    def __call__(self) -> dict[str, Any]:
        """Ask about everything; returns the numbers of the table. Raises ModelError."""
        score = SCORES[self._labels.kind]()
        with Progress(0, len(self._labels)) as progress:
            for index in range(len(self._labels)):
                try:
                    self.values += score.ask(self._labels[index], self)
                except FrameError as error:
                    self.left_out.append(str(error))
                progress(index + 1)
        used = len(self._labels) - len(self.left_out)
        refused = {reason.value: count for reason, count in self.tally.refused.items()}
        result = score.result() if used else {}
        return {"labels": len(self._labels), **result, "left_out": len(self.left_out), "refused": refused}

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

    def ask(self, labels: DepthLabels, bench: Benchmark) -> int:
        frame = bench.frame(labels.image, labels.camera)
        samples = bench.look(frame, lambda sight: ask_depth(sight, bench.config, labels.pixels))
        self._ratios.append(samples.z / labels.metres)
        return int(np.isfinite(samples.z).sum())

    def result(self) -> dict[str, Any]:
        ratios = np.concatenate(self._ratios)
        known, errors = ratios[np.isfinite(ratios)], complete_errors(ratios, np.ones_like(ratios))
        return {
            "pixels": len(ratios),
            "without_answer": len(ratios) - len(known),
            **{name: errors[name] for name in ("coverage", "delta1", "abs_rel")},
            "abs_rel_answered": float(np.abs(known - 1.0).mean()) if len(known) else np.nan,
            "ratio_median_answered": median(known),
        }


class MatchTable:
    """End-point error in thousandths of the image's sides; a match without an answer is off by their diagonal."""

    def __init__(self) -> None:
        self._offsets: list[np.ndarray] = []  # from the labels, NaN without an answer

    def ask(self, labels: MatchLabels, bench: Benchmark) -> int:
        # No focal length enters: this task bounds the longest edge.
        first, second = (
            bench.frame(image, Camera(*size, max(size), max(size), size[0] / 2, size[1] / 2))
            for image, size in zip(labels.images, labels.sizes, strict=True)
        )
        found = bench.look(second, lambda sight: ask_matches(sight, first, bench.config, labels.pixels_first))
        self._offsets.append((found.pixels - labels.pixels) / second.camera.size * matching.BINS)
        return int(np.isfinite(self._offsets[-1]).all(axis=1).sum())

    def result(self) -> dict[str, Any]:
        offsets = np.concatenate(self._offsets)
        errors = match_errors(offsets, np.zeros_like(offsets), (matching.BINS, matching.BINS))
        return {
            "pixels": len(offsets),
            "without_answer": len(offsets) - int(np.isfinite(offsets).all(axis=1).sum()),
            **{name: value for name, value in errors.items() if name == "coverage" or name.startswith("epe")},
        }


class PoseTable:
    """Relative poses; a pair without an answer is a failure. Rotation and direction are enough for the angles."""

    def __init__(self) -> None:
        self._found: list[PoseAnswer | None] = []
        self._true: list[PoseAnswer] = []

    def ask(self, labels: PoseLabels, bench: Benchmark) -> int:
        first, second = (bench.frame(*of) for of in zip(labels.images, labels.cameras, strict=True))
        found = bench.look(second, lambda sight: ask_motion(sight, first, bench.config, pose.MOTION))
        if isinstance(found, Refusal):
            bench.tally.refuse(found)
        self._found.append(None if isinstance(found, Refusal) else found)
        self._true.append(labels.pose)
        return int(not isinstance(found, Refusal))

    def result(self) -> dict[str, Any]:
        found = [None if answer is None else _pose(answer) for answer in self._found]
        true = [_pose(answer) for answer in self._true]
        lengths = {"length_rel_median": math.nan, "length_rel_median_answered": math.nan}
        if known := [i for i, answer in enumerate(self._true) if math.isfinite(answer.distance_m)]:
            said = [
                T if answer is not None and math.isfinite(answer.distance_m) else None
                for T, answer in zip(found, self._found, strict=True)
            ]
            of_known = pair_errors([said[i] for i in known], [true[i] for i in known])
            lengths = {name: of_known[name] for name in lengths}
        return {**pair_errors(found, true), **lengths}


def _pose(answer: PoseAnswer) -> np.ndarray:
    """[4, 4]; one metre long where the distance is not known, for its direction is."""
    return motion.relative_pose(answer if math.isfinite(answer.distance_m) else replace(answer, distance_m=1.0))


class ObjectTable:
    """Questions in words, asked exactly as they are written."""

    def __init__(self) -> None:
        self._score = answers.AnswerScore()

    def ask(self, labels: QuestionLabels, bench: Benchmark) -> int:
        frame = bench.frame(labels.image, labels.camera)
        answer = bench.look(frame, lambda sight: ask_about(sight, bench.config, labels.question, ()))
        self._score.add(labels.category, answer.text, labels.answer)
        kind = answers.kind(labels.answer)
        read = answer.read(answers.READERS[kind]) if kind else None
        if isinstance(read, Refusal):
            bench.tally.refuse(read)
        return int(not isinstance(read, Refusal))

    def result(self) -> dict[str, Any]:
        return {**self._score.result(), "unknown_kind": self._score.unknown}


SCORES: dict[str, type[Score]] = {
    "depth": DepthTable,
    "matching": MatchTable,
    "pose": PoseTable,
    "objects": ObjectTable,
}
