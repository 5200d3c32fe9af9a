"""Stand-ins for a model that are slow, stuck or failing when a test says so; what they see is a wall.

A picture whose first pixel has the red value r (0 … 255) shows a wall r / 50 metres away, so answers tell pictures
and cameras apart; its green value g says that the camera has moved g / 50 metres ahead. A free question is answered
with its own text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from truth import UNKNOWN, TrueFrame, TruthView, TruthVLM

from vlm3_ros.camera import Camera
from vlm3_ros.tasks import Question
from vlm3_ros.vlm import Answer, ModelError, Picture

FOCAL = 60 / 64  # of every camera in these tests, in widths of its image
METRES_PER_LEVEL = 1 / 50


def wall(image: np.ndarray) -> TrueFrame:
    """What a picture of one colour shows."""
    height, width, _ = image.shape
    f = FOCAL * width
    camera = Camera(width, height, f, f, (width - 1) / 2, (height - 1) / 2)
    distance, ahead, _ = image[0, 0] * METRES_PER_LEVEL
    T_world_camera = np.eye(4)
    T_world_camera[2, 3] = ahead
    return TrueFrame(camera, np.broadcast_to(distance, (height, width)), T_world_camera)


class Wall:
    """Sees walls; a test may hold it up (`gate`), let it fail (`raises`) or make it `blind` while it is asked."""

    def __init__(self, seconds: float = 0.0):
        self.gate = threading.Event()  # questions wait for it
        self.gate.set()
        self.raises: list[Exception] = []  # one is raised at each look
        self.blind = False  # no answer has a value
        self.at_most: int | None = None  # answers to a list of questions, as if its time were over then
        self.in_hand = 0  # looks begun
        self.questions: list[str] = []
        self.slowness: dict[str, float] = {}  # of questions: how many times the usual seconds they take
        self.seconds = seconds
        self._truth = TruthVLM(wall)

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[_WallView]:
        self.in_hand += 1
        if self.raises:
            raise self.raises.pop(0)
        with self._truth.look(pictures) as view:
            yield _WallView(self, view)

    def answer(self, view: TruthView, questions: Sequence[Question]) -> list[Answer | None]:
        time.sleep(self.seconds * self.slowness.get(questions[0].text, 1.0))
        assert self.gate.wait(60.0)
        self.questions += [question.text for question in questions]
        if self.blind:
            return [Answer(UNKNOWN, 0.5) for _ in questions]
        if self.at_most is not None:
            return [*view.ask(questions[: self.at_most]), *[None] * len(questions[self.at_most :])]
        return [
            Answer(question.text, 0.5) if answer.text == UNKNOWN else answer
            for question, answer in zip(questions, view.ask(questions), strict=True)
        ]

    def close(self) -> None:
        pass


class _WallView:
    def __init__(self, wall: Wall, view: TruthView):
        self._wall = wall
        self._view = view

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return self._wall.answer(self._view, questions)


# ------------------------------------------------------------------------------- models by name, of plugin.py

_shared: dict[str, Wall] = {}


def shared(name: str) -> Wall:
    """`test:doubles:shared:<name>`: one object per name and process, for tests with the node in their own process."""
    return _shared.setdefault(name, Wall())


def slow(seconds: str) -> Wall:
    """`test:doubles:slow:<seconds>`: every question list takes this long."""
    return Wall(float(seconds))


def broken() -> Wall:
    """`test:doubles:broken`: cannot be made."""
    raise OSError("broken on purpose")


__all__ = ["ModelError", "Wall", "broken", "shared", "slow", "wall"]
