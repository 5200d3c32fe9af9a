"""Many recordings in many processes, on many GPUs or machines. Ray (docs.ray.io) places, watches and restarts them.

A recording is never cut: one worker perceives it from its first frame to its last. If the worker dies, another
process takes its place and goes on behind the last whole frame in the recording's bag, which it alone may write to.
So each frame is in the results once, and they are those of a single process.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm3_ros.config import Config
from vlm3_ros.offline.job import Job, Outcome, Worker
from vlm3_ros.offline.opening import full_name
from vlm3_ros.offline.results import RunError

RETRIES = 3  # of a recording whose worker died: what kills every worker must not do so for ever
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # in spite of its name also on Linux; read when Ray is imported
STORE_BYTES = 80 << 20  # about the least Ray takes: results go to files


def perceived(
    jobs: Sequence[Job], config: Config, workers: int, cluster: str = "", gpus_per_worker: float | None = None
) -> Iterator[Outcome]:
    """What became of each job, in the order in which they end.

    ``cluster`` is the address of a running one, whose machines must see recordings and results under the same paths;
    empty: this machine alone. Without ``gpus_per_worker`` it is one if there are any. Raises RunError.
    """
    os.environ.update(QUIET if cluster else {**QUIET, **LOOPBACK})
    options = {} if cluster else {"num_cpus": workers, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray: Any = importlib.import_module("ray")
        ray.init(cluster or "local", logging_level="ERROR", **options)
    except ImportError as error:
        raise RunError("--workers needs Ray: pip install 'vlm3_ros[scale]'") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"Ray cannot be reached or started: {error}") from error
    try:
        share = _share(ray.cluster_resources(), workers, gpus_per_worker)
        actor = ray.remote(max_restarts=-1, max_task_retries=RETRIES, scheduling_strategy="SPREAD", **share)(Worker)
        yield from _shared_out(ray, jobs, [actor.remote(config) for _ in range(min(workers, len(jobs)))])
    finally:
        ray.shutdown()


def _share(there: dict[str, float], workers: int, gpus: float | None) -> dict[str, float]:
    """CPUs and GPUs of one worker. Raises RunError if there are not enough for all: some would wait for ever."""
    if gpus is None:
        gpus = 1.0 if there.get("GPU") else 0.0
    for kind, each, hint in (("CPU", 1.0, ""), ("GPU", gpus, ", or --gpus-per-worker with a fraction or 0")):
        if each * workers > there.get(kind, 0.0):
            raise RunError(
                f"{workers} workers need {each * workers:g} {kind}s, and Ray has {there.get(kind, 0.0):g}: "
                f"give fewer --workers{hint}"
            )
    return {"num_cpus": 1.0, "num_gpus": gpus}


def _shared_out(ray: Any, jobs: Sequence[Job], idle: list[Any]) -> Iterator[Outcome]:
    """Every worker has one job at a time."""
    waiting = deque(replace(job, source=Path(full_name(job.source)), out=job.out.resolve()) for job in jobs)
    running: dict[Any, tuple[Any, Job]] = {}
    while waiting or running:
        while waiting and idle:
            worker, job = idle.pop(), waiting.popleft()
            running[worker.perceive.remote(job)] = worker, job
        (ended,), _ = ray.wait(list(running))
        worker, job = running.pop(ended)
        idle.append(worker)
        try:
            yield ray.get(ended)
        except ray.exceptions.RayError as error:
            yield Outcome(job.out, failure=f"its worker failed, again and again if it died: {error}")
