"""Building a data set: groups of a source to shards of samples, in parallel, resumable, deterministic by seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros.learn.compose import Amounts, compose
from vlm3_ros.learn.groups import Groups
from vlm3_ros.learn.shards import MANIFEST, DataError, Record, shard_path, write_shard

GROUPS_PER_SHARD = 32


@dataclass(frozen=True)
class Plan:
    """All that decides what is in a data set."""

    source: Groups
    amounts: Amounts
    seed: int = 0

    @property
    def shards(self) -> int:
        return -(-len(self.source) // GROUPS_PER_SHARD)

    def description(self) -> dict[str, Any]:
        return {
            "source": self.source.name,
            "groups": len(self.source),
            "seed": self.seed,
            "image_scale": self.amounts.image_scale,
            "amounts": {**asdict(self.amounts), "labels": list(self.amounts.labels)},
        }


def build(
    plan: Plan, folder: Path, workers: int = 1, told: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Write the shards that are not there yet, then the manifest. ``told`` hears of progress.

    Raises DataError where the folder holds another data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "plan.json"
    description = plan.description()
    if begun.exists() and json.loads(begun.read_text()) != description:
        raise DataError(f"{folder} holds another data set, or part of one: choose another folder or remove it")
    begun.write_text(json.dumps(description, indent=2))
    missing = [n for n in range(plan.shards) if not _tally_path(folder, n).exists()]
    done = plan.shards - len(missing)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for _ in pool.map(_write, missing, *([each] * len(missing) for each in (plan, folder))):
            done += 1
            told(done, plan.shards)
    _write_manifest(plan, folder)


def _write(number: int, plan: Plan, folder: Path) -> None:
    tally: dict[str, Counter[str]] = {"samples": Counter(), "exchanges": Counter(), "left_out": Counter()}
    write_shard(shard_path(folder, number), _records(number, plan, tally))
    _tally_path(folder, number).write_text(json.dumps(tally))


def _records(number: int, plan: Plan, tally: dict[str, Counter[str]]) -> Iterator[Record]:
    for index in range(number * GROUPS_PER_SHARD, min((number + 1) * GROUPS_PER_SHARD, len(plan.source))):
        group = plan.source.group(index)
        rng = np.random.default_rng([plan.seed, index])
        record = compose(group, f"{plan.source.name}-{index:06d}", plan.amounts, rng)
        tally["left_out"] += group.left_out
        tally["samples"]["images"] += len(group.frames)
        tally["samples"]["pairs"] += len(group.pairs)
        for sample in record.samples:
            tally["exchanges"].update(exchange.task for exchange in sample.exchanges)
        yield record


def _tally_path(folder: Path, number: int) -> Path:
    return shard_path(folder, number).with_suffix(".json")


def _write_manifest(plan: Plan, folder: Path) -> None:
    totals: dict[str, Counter[str]] = {}
    for number in range(plan.shards):
        for name, counts in json.loads(_tally_path(folder, number).read_text()).items():
            totals[name] = totals.get(name, Counter()) + Counter(counts)
    manifest = {
        **plan.description(),
        **{name: dict(sorted(counts.items())) for name, counts in totals.items()},
        "shards": [shard_path(folder, number).name for number in range(plan.shards)],
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))
