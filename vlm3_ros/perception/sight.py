"""One frame in front of the models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.perception.scene import Frame, Tally
from vlm3_ros.tasks import Question
from vlm3_ros.vlm import Answer, Picture, View
from vlm3_ros.vlm.models import Looks

Fit = Callable[[Camera, float], Camera]  # how a task wants to see a camera's images, given the model's image scale


class Sight:
    """Shows a frame to the model of a task, at the size the task wants, and counts what is asked.

    Tasks that want the same size share the picture, so that those on one checkpoint share its look as well.
    """

    def __init__(self, frame: Frame, looks: Looks, tally: Tally):
        self.frame = frame
        self.tally = tally
        self._looks = looks
        self._pictures: dict[tuple[Frame, tuple[int, int]], Picture] = {}

    def look(self, task: str, fit: Fit) -> tuple[View, Camera]:
        """The model's view of the frame, and the camera through which it sees it."""
        picture, seen = self._picture(self.frame, task, fit)
        return self._looks.look(task, [picture]), seen

    def look_at_two(self, task: str, first: Frame, fit: Fit) -> tuple[View, Camera, Camera]:
        """The model's view of an earlier frame and this one, and the cameras through which it sees them."""
        (picture_1, seen_1), (picture_2, seen_2) = (self._picture(f, task, fit) for f in (first, self.frame))
        return self._looks.look(task, [picture_1, picture_2]), seen_1, seen_2

    def image_scale(self, task: str) -> float:
        """The fraction of the protocol's image sizes that the model of a task was trained on."""
        return self._looks.image_scale(task)

    def ask(self, view: View, questions: list[Question], budget_s: float | None = None) -> list[Answer | None]:
        """Ask and count; None for what the time budget leaves out, which is not asked."""
        answers = view.ask(questions, budget_s)
        left_out = answers.count(None)
        self.tally.asked += len(answers) - left_out
        self.tally.left_out += left_out
        return answers

    def _picture(self, frame: Frame, task: str, fit: Fit) -> tuple[Picture, Camera]:
        seen = fit(frame.camera, self.image_scale(task))
        picture = self._pictures.setdefault((frame, seen.size), Picture(frame.image, seen.size))
        return picture, seen


def shown(frame: Frame, pixels: np.ndarray) -> np.ndarray:
    """Which of the pixels [N, 2] the raw image behind a rectified frame really shows: bool [N]."""
    if frame.valid is None:
        return np.ones(len(pixels), bool)
    column, row = np.rint(np.asarray(pixels)).astype(int).T
    height, width = frame.valid.shape
    return frame.valid[row.clip(0, height - 1), column.clip(0, width - 1)]
