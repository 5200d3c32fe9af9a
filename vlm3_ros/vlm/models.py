"""Which model answers which task: shared, loaded when needed, unloaded when memory runs short.

Whatever a model raises leaves here as a ModelError, so that a fault of the model is never taken for one of the frame.

One thread owns a `Models` and everything it hands out: the node's worker. Nothing here takes a lock, and a model's
kernels run in the order in which that thread asks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vlm3_ros.tasks import Question
from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.interface import NO_MEMORY, VLM, Answer, ModelError, Picture, View

log = logging.getLogger(__name__)

T = TypeVar("T")

GB = 1e9
LONGEST = 8000  # characters of a question: about ten times the longest of the protocol
PAUSE = 9.0  # of the time that a vain attempt to load took, before the next: a tenth of the time at most is lost so
LONGEST_PAUSE_S = 60.0
DEVICE_LOST = ("CUDA error", "cuBLAS error", "cuDNN error")  # no call works in this process after such an error


class Source(Protocol):
    """Where models come from: local checkpoints, a model server, a stand-in for tests."""

    def memory_bytes(self, name: str) -> int:
        """Memory the model called ``name`` will take, roughly; 0 for one that lives elsewhere."""

    def free_bytes(self) -> int:
        """Memory that a model could still take; not asked about one that takes none."""

    def image_scale(self, name: str) -> float:
        """The fraction of the protocol's image sizes that the model was trained on: 1 for the released ones."""

    def open(self, name: str) -> VLM:
        """The model called ``name``, ready to look. Raises ModelError."""


@dataclass
class ModelStatus:
    """What one model holds and has done so far."""

    name: str
    tasks: tuple[str, ...]
    loaded: bool = False
    memory_bytes: int = 0  # while loaded
    loads: int = 0
    looks: int = 0
    questions: int = 0  # answered
    tokens: int = 0  # in these answers


class Models:
    """The models behind the tasks; tasks that name the same checkpoint share one.

    ``tasks`` maps a task to the name of its model. ``memory_budget_gb`` bounds what loaded models take together; 0
    stands for what the device has. ``cancel``, from whatever thread, lets the next load, look or question raise
    Cancelled, and the one under way as soon as its model looks at it.
    """

    def __init__(
        self, tasks: Mapping[str, str], source: Source, memory_budget_gb: float = 0.0, cancel: Cancel | None = None
    ):
        self.cancel = cancel or Cancel()
        self._names = dict(tasks)
        self._source = source
        self._budget = memory_budget_gb * GB
        self._scales: dict[str, float] = {}
        self._loaded: dict[str, VLM] = {}  # the least recently used first
        self._views: dict[tuple[str, tuple[Picture, ...]], tuple[View, ExitStack]] = {}
        self._given_up: dict[str, tuple[float, str]] = {}  # until when (monotonic), and why
        self._status = {
            name: ModelStatus(name, tuple(task for task, of in self._names.items() if of == name))
            for name in self._names.values()
        }

    @contextmanager
    def frame(self) -> Iterator[Looks]:
        """What is looked at within this context is looked at once per model and forgotten at its end."""
        try:
            yield Looks(self)
        finally:
            for name in list(self._loaded):
                self._close_views(name)

    def preload(self, tasks: Iterable[str]) -> None:
        """Load the models of these tasks, as many as fit beside each other. Raises ModelError."""
        for name in dict.fromkeys(map(self._model_of, tasks)):
            self.cancel.check()
            if not self._loaded or self._fits(self._source.memory_bytes(name)):
                self._model(name)

    def status(self) -> tuple[ModelStatus, ...]:
        """One entry per model, loaded or not."""
        return tuple(self._status.values())

    def free_bytes(self) -> int | None:
        """Memory left on the device of the loaded models; None while none is loaded here, or it cannot be asked."""
        here = any(status.memory_bytes for status in self._status.values())
        try:
            return self._source.free_bytes() if here else None
        except (OSError, RuntimeError):  # of a device that is lost
            return None

    def close(self) -> None:
        """Unload everything."""
        for name in list(self._loaded):
            self._unload(name)

    def _model_of(self, task: str) -> str:
        if task not in self._names:
            raise ModelError(f"no checkpoint is set for the task {task!r} (set: {', '.join(self._names) or 'none'})")
        return self._names[task]

    def _image_scale(self, name: str) -> float:
        if name not in self._scales:
            self._scales[name] = self._guarded(name, self._source.image_scale, name)
        return self._scales[name]

    def _view(self, name: str, pictures: tuple[Picture, ...]) -> View:
        """The open view of these pictures, after loading and looking where that has not happened yet."""
        self.cancel.check()
        model = self._model(name)
        self.cancel.check()
        if (name, pictures) not in self._views:
            stack = ExitStack()
            view = self._guarded(name, lambda: stack.enter_context(model.look(pictures)))
            self._views[name, pictures] = (view, stack)
            self._status[name].looks += 1
        return self._views[name, pictures][0]

    def _answers(
        self, name: str, pictures: tuple[Picture, ...], questions: Sequence[Question], budget_s: float | None
    ) -> list[Answer | None]:
        if long := next((question.text for question in questions if len(question.text) > LONGEST), None):
            raise ModelError(f"a question has {len(long)} characters, {LONGEST} at most are asked: {long[:60]!r}…")
        view = self._view(name, pictures)
        answers = self._guarded(name, view.ask, questions, budget_s)
        self._count(name, answers)
        return answers

    def _guarded(self, name: str, do: Callable[..., T], *arguments: Any) -> T:
        """What a model does; what it raises becomes a ModelError. One that has lost its device is not asked again."""
        try:
            return do(*arguments)
        except ModelError:
            raise
        except Exception as error:
            log.debug("%s", name, exc_info=error)
            text = f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
            is_short = any(sign in str(error) for sign in NO_MEMORY)
            if is_short or not any(sign in str(error) for sign in DEVICE_LOST):
                raise ModelError(text) from error
            text += ". After that this process cannot use the device any more: start it again"
            self._given_up[name] = (math.inf, text)
            raise ModelError(text) from error

    def _count(self, name: str, answers: Sequence[Answer | None]) -> None:
        given = [answer for answer in answers if answer is not None]
        self._status[name].questions += len(given)
        self._status[name].tokens += sum(answer.tokens for answer in given)

    def _model(self, name: str) -> VLM:
        until, reason = self._given_up.get(name, (-math.inf, ""))
        if time.monotonic() < until:
            raise ModelError(reason)
        if name not in self._loaded:
            self._try_to_load(name)
        self._loaded[name] = self._loaded.pop(name)  # now the most recently used
        return self._loaded[name]

    def _try_to_load(self, name: str) -> None:
        """Load a model, or do not try again for some time."""
        self._given_up.pop(name, None)
        start = time.monotonic()
        try:
            self._guarded(name, self._load, name)
        except ModelError as error:
            now = time.monotonic()
            pause = min(PAUSE * (now - start), LONGEST_PAUSE_S)
            self._given_up.setdefault(name, (now + pause, str(error)))
            raise

    def _load(self, name: str) -> None:
        needed = self._source.memory_bytes(name)
        if self._budget and needed > self._budget:
            raise ModelError(
                f"{name} takes {needed / GB:.1f} GB, more than the memory budget of {self._budget / GB:.1f} GB: "
                "raise the budget (0: what the device has) or use precision nf4"
            )
        while self._loaded and not self._fits(needed):
            self._unload(next(iter(self._loaded)))
        log.info("loading %s (%.1f GB)", name, needed / GB)
        self._loaded[name] = self._source.open(name)
        status = self._status[name]
        status.loaded, status.memory_bytes, status.loads = True, needed, status.loads + 1

    def _fits(self, needed: int) -> bool:
        if self._budget:
            return needed + sum(status.memory_bytes for status in self._status.values()) <= self._budget
        return not needed or needed <= self._source.free_bytes()

    def _unload(self, name: str) -> None:
        log.info("unloading %s", name)
        self._close_views(name)
        try:
            self._loaded.pop(name).close()
        except Exception as error:  # of a device that is lost: there is nothing left to give back
            log.warning("unloading %s: %s", name, error)
        self._status[name].loaded, self._status[name].memory_bytes = False, 0

    def _close_views(self, name: str) -> None:
        for key in [key for key in self._views if key[0] == name]:
            self._guarded(name, self._views.pop(key)[1].close)


class Looks:
    """One frame's looks."""

    def __init__(self, models: Models):
        self._models = models

    def look(self, task: str, pictures: Sequence[Picture]) -> View:
        """What the model of ``task`` sees in one or two pictures; nothing happens before it is asked.

        The same `Picture` objects are looked at once per model, whatever the task. A model that had to give way to
        another one in the meantime comes back, and looks again, when it is asked again.
        """
        return _FrameView(self._models, self._models._model_of(task), tuple(pictures))

    def image_scale(self, task: str) -> float:
        """The fraction of the protocol's image sizes that the model of ``task`` was trained on."""
        return self._models._image_scale(self._models._model_of(task))


class _FrameView:
    def __init__(self, models: Models, name: str, pictures: tuple[Picture, ...]):
        self._models, self._name, self._pictures = models, name, pictures

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return self._models._answers(self._name, self._pictures, questions, budget_s)
