"""The commands `vlm3 run`, `evaluate`, `report`, `compare`, `calibrate` and `benchmark`, from arguments to files."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from vlm3_ros.config import Config, ConfigError
from vlm3_ros.offline import calibrate as calibration
from vlm3_ros.offline import published, scale, settings
from vlm3_ros.offline.benchmark import AS_PUBLISHED, TASKS, Benchmark
from vlm3_ros.offline.compare import Comparison
from vlm3_ros.offline.evaluate import measure, table
from vlm3_ros.offline.evaluated import Evaluated
from vlm3_ros.offline.job import Job, Outcome, Worker, jobs_for
from vlm3_ros.offline.labels import LabelFile
from vlm3_ros.offline.moments import Moments
from vlm3_ros.offline.opening import full_name, open_source
from vlm3_ros.offline.results import RunError, read_description, write_json
from vlm3_ros.offline.sources import Choices, SourceError
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.factory import models_for


def run(arguments: Namespace) -> int:
    """Perceive recordings; returns the exit status: 0 if anything was perceived of each, 130 if interrupted."""
    logging.basicConfig(level=logging.WARNING, format="vlm3 run: %(message)s")
    try:
        config = settings.read_config(arguments.config, arguments.set)
        jobs = jobs_for(arguments.source, arguments.out, Choices(**given(arguments)), arguments.depth_png)
        return max([_summary(outcome, len(jobs)) for outcome in _outcomes(arguments, jobs, config)])
    except (ConfigError, RunError) as error:
        return _failed("run", error)
    except KeyboardInterrupt:
        print("vlm3 run: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def evaluate(arguments: Namespace) -> int:
    """Compare a run with the truth; writes its numbers beside it and prints a table; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="vlm3 evaluate: %(message)s")
    folder: Path = arguments.folder
    try:
        about = read_description(folder)
        config = Config().updated(about["settings"])
        truth = arguments.truth or Path(about["source"])
        choices = replace(_choices(about["choices"]), **given(arguments))
        found = measure(Moments(folder, open_source(truth, choices, config.camera)))
    except (ConfigError, SourceError, RunError) as error:
        return _failed("evaluate", error)
    found.write(folder, {"truth": full_name(truth), "choices": asdict(choices)})
    print(table(found.metrics))
    if not found.compared:
        return _failed("evaluate", f"nothing in {truth} could be compared with what the run perceived")
    return 0


def report(arguments: Namespace) -> int:
    """Write report.html into the folder of an evaluated run; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="vlm3 report: %(message)s")
    try:
        from vlm3_ros.offline.report.page import write_report
    except ImportError as error:
        return _failed("report", f"{error}; it needs: pip install jinja2 matplotlib")
    try:
        run = Evaluated(arguments.folder)
        camera = Config().updated(run.run["settings"]).camera
        truth = open_source(Path(run.against["truth"]), _choices(run.against["choices"]), camera)
        path = write_report(run, Moments(run.folder, truth))
    except (ConfigError, SourceError, RunError) as error:
        return _failed("report", error)
    print(path)
    return 0


def compare(arguments: Namespace) -> int:
    """Print how run B differs from run A; returns 0, or 1 if B is worse in anything, or 2 if that cannot be told."""
    try:
        found = Comparison(Evaluated(arguments.a), Evaluated(arguments.b))
    except RunError as error:
        _failed("compare", error)
        return 2
    print(found.table())
    return 1 if found.worse else 0


def calibrate(arguments: Namespace) -> int:
    """Find depth.answer and depth.scale from true depth; returns the exit status: 0 if both could be told."""
    logging.basicConfig(level=logging.WARNING, format="vlm3 calibrate: %(message)s")
    try:
        config = settings.read_config(arguments.config, arguments.set).updated({"node.tasks": ["depth"]})
        source = open_source(arguments.source, Choices(**given(arguments)), config.camera)
        models = models_for(config)
        try:
            answers = calibration.asked(source, config, models, arguments.frames)
        finally:
            models.close()
        found = calibration.judged(answers)
        print(calibration.report(answers, found))
        if arguments.write is not None and found.settings():
            settings.merge_into(arguments.write, found.settings())
            print(f"written to {arguments.write}: {', '.join(found.settings())}")
    except (ConfigError, SourceError, ModelError) as error:
        return _failed("calibrate", error)
    for doubt in found.doubts:
        print(f"vlm3 calibrate: {doubt}", file=sys.stderr)
    return 1 if found.doubts else 0


def benchmark(arguments: Namespace) -> int:
    """Ask what a label file labels, and print the paper's table row; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="vlm3 benchmark: %(message)s")
    try:
        labels = LabelFile(arguments.labels)
        dataset = published.known_dataset(labels.kind, arguments.dataset) if arguments.dataset else ""
        config = settings.read_config(arguments.config, arguments.set, AS_PUBLISHED)
        config = config.updated({"node.tasks": [TASKS[labels.kind]]})
        models = models_for(config)
        bench = Benchmark(labels, config, models)
        try:
            result = bench()
        finally:
            models.close()
    except (ConfigError, SourceError, ModelError) as error:
        return _failed("benchmark", error)
    if arguments.out is not None:
        about = {"labels": str(arguments.labels.resolve()), "kind": labels.kind, "dataset": dataset}
        write_json(arguments.out, {**about, "result": result, "settings": settings.to_parameters(bench.config)})
    for reason in bench.left_out[:5]:
        print(f"vlm3 benchmark: left out: {reason}", file=sys.stderr)
    if len(bench.left_out) == len(labels):
        return _failed("benchmark", f"none of the {len(labels)} labels in {arguments.labels} could be used")
    print(published.table(labels.kind, result, dataset))
    print(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int)))
    return 0


def _outcomes(arguments: Namespace, jobs: Sequence[Job], config: Config) -> Iterator[Outcome]:
    if arguments.workers:
        yield from scale.perceived(jobs, config, arguments.workers, arguments.cluster, arguments.gpus_per_worker)
    else:
        with closing(Worker(config)) as worker:
            yield from map(worker.perceive, jobs)


def _summary(outcome: Outcome, jobs: int) -> int:
    """Say what became of one of so many jobs; returns its exit status."""
    if outcome.failure:
        return _failed("run", f"{outcome.out.name}: {outcome.failure}" if jobs > 1 else outcome.failure)
    total = outcome.perceived + outcome.lost
    print(f"{outcome.perceived} of {total} frames perceived: {outcome.out / 'bag'}")
    if outcome.lost:
        print(
            f"{outcome.lost} of {total} could not be used, the first because: {outcome.first_error}", file=sys.stderr
        )
    return 0 if outcome.perceived else 1


def given(arguments: Namespace) -> dict[str, Any]:
    """The fields of Choices that the command line names."""
    named = {f.name: getattr(arguments, f.name, None) for f in fields(Choices)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in named.items() if value}


def _choices(written: dict[str, Any]) -> Choices:
    """From what JSON makes of them."""
    return Choices(**{**written, "intrinsics": tuple(written["intrinsics"])})


def _failed(command: str, error: object) -> int:
    print(f"vlm3 {command}: {error}", file=sys.stderr)
    return 1
