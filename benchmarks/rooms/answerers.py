"""Who answers, and what makes asking about a place cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from vlm3_ros.config import CheckpointConfig, Config, settings
from vlm3_ros.perception import Frame
from vlm3_ros.perception.scene import Tally
from vlm3_ros.perception.sight import Sight
from vlm3_ros.sim.demo import LABELS
from vlm3_ros.tasks import Question
from vlm3_ros.vlm import Answer, Picture, View
from vlm3_ros.vlm.models import Looks, Models

POINTS = 48  # per box; the node's default of 120 would be most of the time here
PROTOCOL = [f"vlm.checkpoint.{s.name}" for s in settings(CheckpointConfig)]

Show = Callable[[Frame], Sight]


def config(checkpoint: str) -> Config:
    """One checkpoint for all tasks, and the demo's labels."""
    return Config().updated(
        {"objects.labels": LABELS, "objects.points": POINTS, **dict.fromkeys(PROTOCOL, checkpoint)}
    )


@contextmanager
def shown(models: Models) -> Iterator[Show]:
    """Frames in front of the models, each looked at once and asked every question once, whoever asks it."""
    with models.frame() as looks:
        once = _Once(looks)
        yield cache(lambda frame: Sight(frame, once, Tally()))


class _Once:
    """`Looks` that remember answers: to read one in two ways costs nothing."""

    def __init__(self, looks: Looks):
        self._looks = looks
        self._known: dict[tuple[str, tuple[Picture, ...]], dict[str, Answer | None]] = {}

    def look(self, task: str, pictures: Sequence[Picture]) -> View:
        known = self._known.setdefault((task, tuple(pictures)), {})
        return _OnceView(self._looks.look(task, pictures), known)

    def image_scale(self, task: str) -> float:
        return self._looks.image_scale(task)


class _OnceView:
    def __init__(self, view: View, known: dict[str, Answer | None]):
        self._view, self._known = view, known

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        new = list({q.text: q for q in questions if q.text not in self._known}.values())
        if new:
            self._known.update(zip((q.text for q in new), self._view.ask(new, budget_s), strict=True))
        return [self._known[q.text] for q in questions]


class Silent:
    """A source of models that say nothing: what is true of a place is all that remains."""

    def __init__(self, image_scale: float):
        self._image_scale = image_scale

    def memory_bytes(self, name: str) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1

    def image_scale(self, name: str) -> float:
        return self._image_scale

    def open(self, name: str) -> Silent:
        return self

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[Silent]:
        yield self

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return [Answer("", 0.0) for _ in questions]

    def close(self) -> None:
        pass
