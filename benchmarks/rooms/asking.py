"""Places in front of answerers, in as many processes as there are to be."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from benchmarks.rooms import answerers, boxes, depth, focal, grounding, matches, objects, pose
from benchmarks.rooms.place import Place
from vlm3_ros.config import Config
from vlm3_ros.vlm.factory import models_for
from vlm3_ros.vlm.models import Models

TASKS: dict[str, Any] = {
    "depth": depth,
    "matches": matches,
    "pose": pose,
    "grounding": grounding,
    "boxes": boxes,
    "objects": objects,
    "focal": focal,
}


@dataclass(frozen=True)
class Job:
    """Everything that is wanted of one room."""

    who: str  # key of the checkpoints given to `Crew`; of no checkpoint, what is true of the room
    number: int
    tasks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Result:
    job: Job
    records: dict[str, Any]  # by task; None where the room has nothing to ask
    seconds: dict[str, float]  # CPU time by task, and of "room"


def perceive(job: Job, models: Models, config: Config) -> Result:
    """Show one room to the models."""
    start = time.process_time()
    place = Place.of(job.number)
    seconds, records = {"room": time.process_time() - start}, {}
    with answerers.shown(models) as show:
        for task in job.tasks:
            start = time.process_time()
            records[task] = TASKS[task].ask(place, show, config)
            seconds[task] = time.process_time() - start
    return Result(job, records, seconds)


class Crew:
    """Processes that hold the models of ``checkpoints``, each loaded when it is first asked."""

    def __init__(self, checkpoints: Mapping[str, str], image_scale: float, workers: int):
        self._pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin, initargs=(dict(checkpoints), image_scale)
        )

    def results(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """In the order of the jobs."""
        try:
            yield from self._pool.map(_work, jobs)
        finally:
            self._pool.shutdown(cancel_futures=True)


_configs: dict[str, Config] = {}
_models: dict[str, Models] = {}


def _begin(checkpoints: dict[str, str], image_scale: float) -> None:
    """In each process."""
    for who, name in checkpoints.items():
        _configs[who] = answerers.config(name)
        _models[who] = models_for(_configs[who])
    _configs[""] = answerers.config("nobody")
    names = ("depth", "matching", "pose", "objects", "grounding")
    _models[""] = Models(dict.fromkeys(names, "nobody"), answerers.Silent(image_scale))


def _work(job: Job) -> Result:
    who = job.who if job.who in _models else ""
    return perceive(job, _models[who], _configs[who])


def gathered(results: Iterable[Result], who: str) -> dict[str, list[Any]]:
    """Records by task of one answerer."""
    records: dict[str, list[Any]] = {task: [] for task in TASKS}
    for result in results:
        if result.job.who == who:
            for task, record in result.records.items():
                if record is not None:
                    records[task].append(record)
    return {task: of_task for task, of_task in records.items() if of_task}
