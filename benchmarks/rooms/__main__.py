"""How well a checkpoint sees simulated rooms that it was not trained on, as a Markdown table and JSON.

python -m benchmarks.rooms [--model bundled] [--rooms 200] [--workers 2] [--out docs/rooms.json]

Rooms 0 to --rooms − 1, each seen through a 70° camera at 320x240, and once more after a short move; everything is
asked through the functions of `vlm3_ros.perception`, as the node does it. Beside it stand the best constant answers,
chosen on other rooms, and a checkpoint of a new model's architecture that was not trained.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.rooms.asking import TASKS, Crew, Job, Result, gathered
from benchmarks.rooms.report import COLUMNS, measures, table, written
from vlm3_ros.learn.model import Size, new_checkpoint
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.checkpoint import inspect

MODEL, OTHER, UNTRAINED = COLUMNS  # constants are chosen on other rooms, of which only the truth is needed
OTHER_FIRST, OTHER_COUNT = 1000, 60  # among those that are trained on
UNTRAINED_COUNT = 3  # its answers are long and say nothing
NOT_OF_ALL = ("focal",)  # tasks that only the model is measured at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="checkpoint: bundled, a folder or a hub id")
    parser.add_argument("--rooms", type=int, default=200)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    try:
        info = inspect(arguments.model)
    except ModelError as error:
        parser.error(str(error))
    rooms = {MODEL: arguments.rooms, OTHER: arguments.rooms, UNTRAINED: min(UNTRAINED_COUNT, arguments.rooms)}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        new_checkpoint(Path(folder), info.folder / "tokenizer.json", Size(), info.image_scale, seed=0)
        crew = Crew({MODEL: arguments.model, UNTRAINED: folder}, info.image_scale, arguments.workers)
        results = _watched(crew, _jobs(rooms, tuple(arguments.tasks)))
    found = measures(*(gathered(results, who) for who in (MODEL, UNTRAINED, OTHER)))

    seconds = _seconds(results)
    minutes = (time.monotonic() - start) / 60
    print(f"\n{arguments.model}\n\n{table(found, rooms)}\n")
    print(
        f"CPU seconds a room of {MODEL}: {sum(seconds.values()):.2f} ({_listed(seconds)}); {minutes:.1f} min in all"
    )
    if arguments.out:
        content = {
            "model": arguments.model,
            "date": time.strftime("%Y-%m-%d"),
            "rooms": rooms,
            "cpu_seconds_per_room": seconds,
            "measures": written(found),
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def _jobs(rooms: dict[str, int], tasks: tuple[str, ...]) -> list[Job]:
    few = tuple(task for task in tasks if task not in NOT_OF_ALL)
    return [
        *(Job(UNTRAINED, number, few) for number in range(rooms[UNTRAINED])),
        *(Job(MODEL, number, tasks) for number in range(rooms[MODEL])),
        *(Job(OTHER, number, few) for number in range(OTHER_FIRST, OTHER_FIRST + OTHER_COUNT)),
    ]


def _watched(crew: Crew, jobs: list[Job]) -> list[Result]:
    results = []
    for result in crew.results(jobs):
        results.append(result)
        print(f"\r{len(results)} of {len(jobs)} looks at rooms", end="", file=sys.stderr, flush=True)
    return results


def _seconds(results: list[Result]) -> dict[str, float]:
    """Mean CPU seconds of a room of the model, by task."""
    of_model = [result.seconds for result in results if result.job.who == MODEL]
    sums: dict[str, float] = defaultdict(float)
    for seconds in of_model:
        for task, value in seconds.items():
            sums[task] += value / len(of_model)
    return dict(sums)


def _listed(seconds: dict[str, Any]) -> str:
    return ", ".join(f"{task} {value:.2f}" for task, value in seconds.items())


if __name__ == "__main__":
    main()
