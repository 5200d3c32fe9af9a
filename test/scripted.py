"""A stand-in for a model that answers as a test says, and what it takes to put it behind the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import truth
from truth import TrueFrame, TruthVLM

from vlm3_ros.camera import Camera
from vlm3_ros.config import Config
from vlm3_ros.perception import Frame, Perception
from vlm3_ros.tasks import Question, depth
from vlm3_ros.vlm import Answer, Picture
from vlm3_ros.vlm.models import Models

CAMERA = Camera(160, 120, 140.0, 150.0, 82.0, 57.0)
TASKS = ("depth", "matching", "pose", "objects", "grounding")
Reply = Callable[[Question], Answer | None]


@dataclass
class Scripted:
    """A model that answers as it is told, and remembers what it saw and was asked."""

    reply: Reply
    looks: list[list[Picture]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    budgets: list[float | None] = field(default_factory=list)

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[Scripted]:
        self.looks.append(list(pictures))
        yield self

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        self.questions += [question.text for question in questions]
        self.budgets.append(budget_s)
        return [self.reply(question) for question in questions]

    def close(self) -> None:
        pass


class Shelf:
    """A source of models that are there already."""

    def __init__(self, **models: Any):
        self._models = models

    def memory_bytes(self, name: str) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1

    def image_scale(self, name: str) -> float:
        return 1.0

    def open(self, name: str) -> Any:
        return self._models[name]


def perception(model: Any, settings: dict[str, Any] | None = None) -> Perception:
    """A pipeline on one model for all tasks."""
    return Perception(Config().updated(settings or {}), Models(dict.fromkeys(TASKS, "model"), Shelf(model=model)))


def picture(level: int = 0, camera: Camera = CAMERA) -> np.ndarray:
    """An image that is no other's."""
    return np.full((camera.height, camera.width, 3), level, np.uint8)


def frame(level: int = 0, source: str = "", camera: Camera = CAMERA, **changes: Any) -> Frame:
    return replace(Frame(source, level, "optical", picture(level, camera), camera), **changes)


def world(camera: Camera = CAMERA, poses: Sequence[np.ndarray] = (np.eye(4),)) -> TruthVLM:
    """A wall 4 m before the origin, seen from poses that look straight at it; frame n shows what pose n sees."""
    frames = {
        truth.fingerprint(picture(level, camera)): TrueFrame(
            camera, np.full((camera.height, camera.width), 4.0 - T[2, 3]), T
        )
        for level, T in enumerate(poses)
    }
    return TruthVLM(lambda image: frames[truth.fingerprint(image)])


def shifted(x: float, y: float, z: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def metres(value: float, **more: Any) -> Reply:
    return lambda question: Answer(depth.answer(value), 0.9, **more)
