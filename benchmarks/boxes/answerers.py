"""A model that knows the truth and is as noisy as it is told, and what it takes to put it behind the pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.boxes.scenes import View
from vlm3_ros.camera import Camera, from_references, metric_scale
from vlm3_ros.config import Config
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.perception import Frame, Perception
from vlm3_ros.tasks import Question, depth, grounding
from vlm3_ros.vlm import Answer, Picture
from vlm3_ros.vlm.models import Models

_POINT = re.compile(r"coordinates \((\d+), (\d+)\)")
SMOOTH = 1 / 6  # of the image's width: how far correlated errors reach


@dataclass(frozen=True)
class Noise:
    """How wrong answers are."""

    point: float = 0.0  # standard deviation of ln(depth), of each point for itself
    common: float = 0.0  # the same, of all points of an image together
    jitter: float = 0.0  # standard deviation of the 2D box's corners, in parts of the image's sides
    outliers: float = 0.0  # share of the points that are wrong by a factor between 1/2 and 2
    is_smooth: bool = False  # neighbouring points err alike

    @classmethod
    def of(cls, percent: float, outliers: float = 0.0, is_smooth: bool = False) -> Noise:
        """``percent`` per point, and with it 5 % per image and 5/1000 of the 2D box; 0: exact."""
        if not percent:
            return cls(outliers=outliers)
        return cls(percent / 100, 0.05, 0.005, outliers, is_smooth)


class NoisyTruth:
    """Answers about one view, and a source of models that has nothing else."""

    def __init__(self, view: View, noise: Noise, rng: np.random.Generator):
        self._view, self._noise, self._rng = view, noise, rng
        height, width = view.depth.shape
        self._scale = np.exp(rng.normal(0.0, noise.common))
        self._field = _smooth_field((height, width), rng) * noise.point if noise.is_smooth else None
        jitter = rng.normal(0.0, noise.jitter, (len(view.seen), 4)) * [width, height, width, height]
        corners = np.array([seen.edges for seen in view.seen]).reshape(-1, 4) + jitter
        self.edges = np.clip(corners, 0.0, [width, height, width, height])

    def memory_bytes(self, name: str) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1

    def image_scale(self, name: str) -> float:
        return 1.0

    def open(self, name: str) -> NoisyTruth:
        return self

    def close(self) -> None:
        pass

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[_Asked]:
        yield _Asked(self, self._view.camera.resized(*pictures[0].size))

    def depths(self, pixels: np.ndarray) -> np.ndarray:
        """Answers [N] for pixels [N, 2], metres along Z."""
        noise, rng = self._noise, self._rng
        column, row = np.rint(pixels).astype(int).T
        column, row = column.clip(0, self._view.camera.width - 1), row.clip(0, self._view.camera.height - 1)
        error = self._field[row, column] if self._field is not None else rng.normal(0.0, noise.point, len(pixels))
        wrong = rng.random(len(pixels)) < noise.outliers
        error = np.where(wrong, rng.uniform(-np.log(2.0), np.log(2.0), len(pixels)), error)
        return self._view.depth[row, column] * self._scale * np.exp(error)

    def listed(self, label: str) -> str:
        """The list of the things with a name."""
        width, height = self._view.camera.size
        bins = self.edges / [width, height, width, height] * grounding.BINS
        named = [corners for seen, corners in zip(self._view.seen, bins, strict=True) if seen.box.label == label]
        return grounding.answer([grounding.Box2D(label, *corners) for corners in named])


class _Asked:
    def __init__(self, truth: NoisyTruth, seen: Camera):
        self._truth, self._seen = truth, seen

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        if not (found := [_POINT.search(question.text) for question in questions])[0]:
            return [Answer(self._truth.listed(_label(question.text)), 1.0) for question in questions]
        references = [(int(point[1]), int(point[2])) for point in found if point]
        pixels = from_references(np.array(references), self._seen.size, depth.BINS)
        z = self._truth.depths(self._seen.pixels_in(self._truth._view.camera, pixels))
        z = z / metric_scale(self._seen, depth.FOCAL)
        return [Answer(depth.answer(metres), 1.0) for metres in z]


def perceived(view: View, truth: NoisyTruth, labels: Sequence[str]) -> list[Box3D]:
    """The boxes that the public pipeline finds in a view."""
    settings = {"objects.labels": list(labels), "objects.max_boxes": 100, "depth.answer": "z"}
    models = Models(dict.fromkeys(("depth", "matching", "pose", "objects", "grounding"), "truth"), truth)
    image = np.zeros((*view.depth.shape, 3), np.uint8)
    scene = Perception(Config().updated(settings), models).perceive(
        Frame("", 0, "optical", image, view.camera), {"depth", "objects"}
    )
    return scene.objects or []


def _label(prompt: str) -> str:
    return prompt.split("categories in the image: ", 1)[1].split(". Report", 1)[0]


def _smooth_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random field [height, width] with unit variance that is alike over `SMOOTH` of the width."""
    field = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), SMOOTH * shape[1] / 2, borderType=cv2.BORDER_REFLECT)
    return (field - field.mean()) / field.std()
