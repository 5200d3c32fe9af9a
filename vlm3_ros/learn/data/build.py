"""Building a data set: groups of a source to shards of samples, in parallel, resumable, deterministic by seed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros.learn.data.compose import Amounts, compose
from vlm3_ros.learn.data.groups import Group, Groups
from vlm3_ros.learn.data.shards import FORMAT, MANIFEST, DataError, Record, shard_path, write_shard
from vlm3_ros.offline.results import write_whole

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """All that decides what is in a data set."""

    source: Groups
    amounts: Amounts
    seed: int = 0
    groups_per_shard: int = 32

    @property
    def shards(self) -> int:
        return -(-len(self.source) // self.groups_per_shard)

    def description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "source": self.source.name,
            "made_of": self.source.description,
            "groups": len(self.source),
            "groups_per_shard": self.groups_per_shard,
            "seed": self.seed,
            "image_scale": self.amounts.image_scale,
            "amounts": {**asdict(self.amounts), "labels": list(self.amounts.labels)},
        }

    def groups(self, shard: int) -> Iterator[tuple[int, Group]]:
        """The groups of one shard with their numbers."""
        first = shard * self.groups_per_shard
        for index in range(first, min(first + self.groups_per_shard, len(self.source))):
            yield index, self.source.group(index)


@dataclass
class Tally:
    """What is in a shard, or in all of them."""

    samples: Counter[str] = field(default_factory=Counter)  # images and pairs
    exchanges: Counter[str] = field(default_factory=Counter)  # by task
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, group: Group, record: Record) -> None:
        self.left_out += group.left_out
        self.samples.update(images=len(group.frames), pairs=len(group.pairs))
        for sample in record.samples:
            self.exchanges.update(exchange.task for exchange in sample.exchanges)
        pictures = [fingerprint(image) for image in record.images]
        tasks = [sorted({exchange.task for exchange in sample.exchanges}) for sample in record.samples]
        self.records.append(
            {
                "key": record.key,
                "samples": len(record.samples),
                "tasks": tasks,
                "scene": group.scene,
                "pictures": pictures,
            }
        )


def fingerprint(image: np.ndarray) -> str:
    """What the same picture has in any recording: a hash of its pixels, uint8 [h, w, 3]."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).hexdigest()


def build(
    plan: Plan, folder: Path, workers: int = 1, told: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Write the shards that are not there yet, then the manifest. ``told`` hears how many shards are done, of all.

    Raises DataError where the folder holds another data set, or nothing is good enough to be one.
    """
    if not plan.shards:
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in plan.source.left_out.most_common())
        raise DataError(f"nothing is good enough to learn from; left out:{reasons or ' nothing, there is no image'}")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        _begin(plan, folder)
        missing = [n for n in range(plan.shards) if not _tally_path(folder, n).exists()]
        done = plan.shards - len(missing)
        told(done, plan.shards)
        workers = min(workers, max(1, len(missing)))
        with ProcessPoolExecutor(workers, get_context("spawn"), _start, (plan, folder)) as pool:
            try:
                for _ in pool.map(_write, missing):
                    done += 1
                    told(done, plan.shards)
            except BrokenProcessPool as error:
                raise DataError(
                    "a worker process was ended from outside, perhaps for want of memory: the same command goes on, "
                    "with fewer --workers it needs less"
                ) from error
        _write_manifest(plan, folder)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another process is building in {folder}: wait for it, or end it") from error
        yield


def _begin(plan: Plan, folder: Path) -> None:
    begun, description = folder / PLAN, plan.description()
    if begun.exists() and json.loads(begun.read_text()) != description:
        raise DataError(f"{folder} holds another data set, or part of one: choose another folder or remove it")
    write_whole(begun, json.dumps(description, indent=2).encode())


# ---------------------------------------------------------------------------------------------------- in a worker

_task: tuple[Plan, Path] | None = None  # once a process: a recording is opened once, not for each shard


def _start(plan: Plan, folder: Path) -> None:
    global _task
    _task = plan, folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; shards begun are finished
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A build that was killed leaves no process behind that still writes."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(shard: int) -> None:
    assert _task is not None
    plan, folder = _task
    tally = Tally()
    write_shard(shard_path(folder, shard), _records(shard, plan, tally))
    write_whole(_tally_path(folder, shard), json.dumps(vars(tally)).encode())


def _records(shard: int, plan: Plan, tally: Tally) -> Iterator[Record]:
    for index, group in plan.groups(shard):
        rng = np.random.default_rng([plan.seed, index])
        record = compose(group, f"{plan.source.name}-{index:06d}", plan.amounts, rng)
        tally.add(group, record)
        yield record


# ----------------------------------------------------------------------------------------------------- at the end


def _tally_path(folder: Path, number: int) -> Path:
    return shard_path(folder, number).with_suffix(".json")


def _write_manifest(plan: Plan, folder: Path) -> None:
    total, records = Tally(left_out=plan.source.left_out.copy()), {}
    for number in range(plan.shards):
        tally = json.loads(_tally_path(folder, number).read_text())
        for name in ("samples", "exchanges", "left_out"):
            getattr(total, name).update(tally[name])
        records[shard_path(folder, number).name] = tally["records"]
    manifest = {
        **plan.description(),
        "samples": dict(total.samples),
        "exchanges": dict(sorted(total.exchanges.items())),
        "left_out": dict(sorted(total.left_out.items())),
        "shards": list(records),
        "records": records,
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
