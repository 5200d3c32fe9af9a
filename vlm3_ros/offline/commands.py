"""The commands `vlm3 run`, `evaluate`, `report`, `compare`, `calibrate` and `benchmark`, from arguments to files."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from vlm3_ros.config import CameraConfig, Config, ConfigError
from vlm3_ros.offline import calibrate as calibration
from vlm3_ros.offline import disk, published, scale, settings
from vlm3_ros.offline.benchmark import AS_PUBLISHED, TASKS, Benchmark
from vlm3_ros.offline.compare import Comparison
from vlm3_ros.offline.evaluate import measure, table
from vlm3_ros.offline.evaluated import Evaluated
from vlm3_ros.offline.job import Job, Outcome, Worker, jobs_for
from vlm3_ros.offline.labels import LabelFile
from vlm3_ros.offline.likeness import sketches
from vlm3_ros.offline.moments import Moments
from vlm3_ros.offline.opening import full_name, open_source
from vlm3_ros.offline.results import RunError, read_description, write_json
from vlm3_ros.offline.sources import Choices, SourceError, nearest
from vlm3_ros.tasks import Reason, describe
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.factory import models_for


def main(arguments: Namespace) -> int:
    """Do what a command says; returns its exit status, which is 1 if that cannot be done."""
    logging.basicConfig(level=logging.WARNING, format=f"vlm3 {arguments.command}: %(message)s")
    try:
        return COMMANDS[arguments.command](arguments)
    except (ConfigError, ModelError, OSError, RunError, SourceError) as error:
        out = getattr(arguments, "out", None) or getattr(arguments, "folder", None)
        return _failed(arguments.command, (out and disk.trouble(error, out)) or error)


def _run(arguments: Namespace) -> int:
    """Perceive recordings; returns 0 if anything was perceived of each, and any answer had a value."""
    config = settings.read_config(arguments.config, arguments.set, model=arguments.model)
    jobs = jobs_for(arguments.source, arguments.out, Choices(**given(arguments)), arguments.depth_png)
    outcomes, statuses = [], []
    for outcome in _outcomes(arguments, jobs, config):
        statuses.append(_summary(outcome, len(jobs)))
        outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if outcome.failure]
    if failed and len(jobs) > 1:
        print(f"vlm3 run: {len(failed)} of {len(jobs)} recordings failed:", file=sys.stderr)
        for outcome in failed:
            print(f"  {outcome.out.name}: {outcome.failure}", file=sys.stderr)
    return max(statuses)


def _evaluate(arguments: Namespace) -> int:
    """Compare a run with the truth; writes its numbers beside it and prints a table. Returns 0 if any has a value."""
    folder: Path = arguments.folder
    about = read_description(folder)
    path = arguments.truth or Path(about["source"])
    choices = replace(_choices(about["choices"]), **given(arguments))
    truth = open_source(path, choices, _camera(about["settings"]))
    moments = Moments(folder, truth)
    if not any(nearest(truth.stamps, moment.stamp) is not None for moment in moments):
        raise SourceError(f"nothing can be compared: no image of {path} has the stamp of a frame of the run")
    found = measure(moments)
    images = found.images if full_name(path) == about["source"] else _images(about)
    found.write(folder, {"truth": full_name(path), "choices": asdict(choices), "images": images})
    print(table(found.metrics))
    for why, count in found.unknown.most_common():
        print(f"vlm3 evaluate: {count} of {len(moments)} frames have no true {why}", file=sys.stderr)
    if not found.compared:
        raise SourceError(f"{path} has images of the same moments, but no truth about anything that was perceived")
    if not found.answered:
        raise RunError(f"nothing in {folder} has a value: the numbers above are those of a run that answers nothing")
    return 0


def _images(about: dict[str, Any]) -> dict[str, str]:
    """Sketches of the images of a run's recording; none where it is not there any more."""
    try:
        return sketches(open_source(Path(about["source"]), _choices(about["choices"]), _camera(about["settings"])))
    except (OSError, SourceError):
        return {}


def _report(arguments: Namespace) -> int:
    """Write report.html into the folder of an evaluated run."""
    try:
        from vlm3_ros.offline.report.page import write_report
    except ImportError as error:
        raise RunError(f"{error}; it needs: pip install jinja2 matplotlib") from error
    run = Evaluated(arguments.folder)
    choices = _choices(run.against["choices"])
    truth = open_source(Path(run.against["truth"]), choices, _camera(run.run["settings"]))
    print(write_report(run, Moments(run.folder, truth)))
    return 0


def _compare(arguments: Namespace) -> int:
    """Print how run B differs from run A; returns 0, or 1 if B is worse in anything, or 2 if that cannot be told."""
    try:
        found = Comparison(Evaluated(arguments.a), Evaluated(arguments.b))
    except RunError as error:
        _failed("compare", error)
        return 2
    print(found.table())
    return 1 if found.worse else 0


def _calibrate(arguments: Namespace) -> int:
    """Find depth.answer and depth.scale from true depth; returns 0 if both could be told."""
    config = settings.read_config(arguments.config, arguments.set, model=arguments.model)
    config = config.updated({"node.tasks": ["depth"]})
    source = open_source(arguments.source, Choices(**given(arguments)), config.camera)
    with closing(models_for(config)) as models:
        answers = calibration.asked(source, config, models, arguments.frames)
    found = calibration.judged(answers)
    print(calibration.report(answers, found))
    if arguments.write is not None and found.settings():
        settings.merge_into(arguments.write, found.settings())
        print(f"written to {arguments.write}: {', '.join(found.settings())}")
    for doubt in found.doubts:
        print(f"vlm3 calibrate: {doubt}", file=sys.stderr)
    return 1 if found.doubts else 0


def _benchmark(arguments: Namespace) -> int:
    """Ask what a label file labels, and print the paper's table row; returns 0 if any answer had a value."""
    labels = LabelFile(arguments.labels, arguments.last)
    dataset = published.known_dataset(labels.kind, arguments.dataset) if arguments.dataset else ""
    config = settings.read_config(arguments.config, arguments.set, AS_PUBLISHED, arguments.model)
    config = config.updated({"node.tasks": [TASKS[labels.kind]]})
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # fails before hours of asking, not after
    with closing(models_for(config)) as models:
        bench = Benchmark(labels, config, models)
        result = bench()
    for reason in bench.left_out[:5]:
        print(f"vlm3 benchmark: left out: {reason}", file=sys.stderr)
    if len(bench.left_out) == len(labels):
        raise SourceError(f"none of the {len(labels)} labels in {arguments.labels} could be used")
    print(published.table(labels.kind, result, dataset))
    print(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int)))
    if arguments.out is not None:
        about = {"labels": str(arguments.labels.resolve()), "last": arguments.last}
        about |= {"kind": labels.kind, "dataset": dataset}
        write_json(arguments.out, {**about, "result": result, "settings": settings.to_parameters(bench.config)})
    if bench.tally.refused:
        said = describe(bench.tally.asked, bench.tally.refused, bench.tally.examples[0].text)
        print(f"vlm3 benchmark: {said}", file=sys.stderr)
    return 0 if bench.values else _failed("benchmark", "no label got an answer with a value")


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "run": _run,
    "evaluate": _evaluate,
    "report": _report,
    "compare": _compare,
    "calibrate": _calibrate,
    "benchmark": _benchmark,
}


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
    if outcome.refused:
        refused = {Reason(name): count for name, count in outcome.refused.items()}
        print(describe(outcome.asked, refused, outcome.example), file=sys.stderr)
    if outcome.asked and not outcome.has_value:
        print(
            "nothing that was asked has a value: is this the right checkpoint, and its download whole?",
            file=sys.stderr,
        )
    return 0 if outcome.perceived and outcome.has_value else 1


def given(arguments: Namespace) -> dict[str, Any]:
    """The fields of Choices that the command line names."""
    named = {f.name: getattr(arguments, f.name, None) for f in fields(Choices)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in named.items() if value}


def _camera(written: dict[str, Any]) -> CameraConfig:
    """Of the settings of a run, whatever else it was run with."""
    return Config().updated({name: value for name, value in written.items() if name.startswith("camera.")}).camera


def _choices(written: dict[str, Any]) -> Choices:
    """From what JSON makes of them."""
    return Choices(**{**written, "intrinsics": tuple(written["intrinsics"])})


def _failed(command: str, error: object) -> int:
    print(f"vlm3 {command}: {error}", file=sys.stderr)
    return 1
