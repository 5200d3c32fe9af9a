"""The commands `vlm3 data build`, `show` and `check`, from parsed arguments to files."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2

from vlm3_ros.config import Config, ConfigError
from vlm3_ros.learn.data.build import Plan, build
from vlm3_ros.learn.data.compose import Amounts
from vlm3_ros.learn.data.groups import Groups, Several
from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.learn.data.recording import Recording
from vlm3_ros.learn.data.shards import DataError, DataSet
from vlm3_ros.learn.data.sheet import contact_sheet
from vlm3_ros.learn.data.simulated import SimulatedRooms
from vlm3_ros.learn.data.statistics import report
from vlm3_ros.learn.data.survey import Rules
from vlm3_ros.offline.commands import given
from vlm3_ros.offline.disk import trouble
from vlm3_ros.offline.progress import Progress
from vlm3_ros.offline.settings import read_config
from vlm3_ros.offline.sources import Choices, SourceError

ROOMS = "rooms"  # rooms:FIRST:COUNT


def _build(arguments: Namespace) -> int:
    """Make a data set; returns the exit status: 0 if it is complete."""
    logging.basicConfig(level=logging.WARNING, format="vlm3 data build: %(message)s")
    try:
        config = read_config(arguments.config, arguments.set)
        sources = [_source(name, arguments, config) for name in arguments.source]
        plan = Plan(
            sources[0] if len(sources) == 1 else Several(sources), _amounts(arguments, config), arguments.seed
        )
        build(plan, arguments.out, arguments.workers, _Told(things="shards"))
    except (ConfigError, SourceError, DataError) as error:
        return _failed("build", error)
    except OSError as error:
        return _failed("build", trouble(error, arguments.out, goes_on=True) or error)
    print(f"{len(DataSet(arguments.out))} samples in {arguments.out}: `vlm3 data show {arguments.out}` shows them")
    return 0


def _show(arguments: Namespace) -> int:
    """Print what a data set holds and draw some of it; returns the exit status."""
    picture: Path = arguments.picture or arguments.folder / "contact_sheet.png"
    try:
        data = DataSet(arguments.folder)
        print(report(data))
        if not cv2.imwrite(str(picture), contact_sheet(data)[..., ::-1]):
            raise DataError(f"{picture} cannot be written: name another file with --picture")
    except (DataError, cv2.error) as error:
        return _failed("show", error)
    print(f"\n{picture}")
    return 0


def _check(arguments: Namespace) -> int:
    """Tell what a mixture draws, or why it must not be used; returns the exit status."""
    try:
        mixture = Mixture(arguments.mixture)
    except DataError as error:
        return _failed("check", error)
    weights = [part.weight if part.train else 0.0 for part in mixture.sources]
    total = sum(weights) or 1.0
    print(f"{'data set':<32}{'drawn':>8}{'samples':>10}{'held out':>10}{'scenes':>8}{'held out':>10}")
    for part, weight in zip(mixture.sources, weights, strict=True):
        print(
            f"{part.data.folder.name:<32}{weight / total:>8.1%}{len(part.train):>10}{len(part.test):>10}"
            f"{len(part.data.scenes) - len(part.held_out):>8}{len(part.held_out):>10}"
        )
    print("No scene and no picture is both trained on and held out.")
    return 0


def _source(name: str, arguments: Namespace, config: Config) -> Groups:
    kind, *numbers = name.split(":")
    if kind == ROOMS:
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers) or not int(numbers[1]):
            raise SourceError(f"{name!r} names no rooms: {ROOMS}:FIRST:COUNT does, such as {ROOMS}:0:3000")
        return SimulatedRooms(*map(int, numbers))
    rules = Rules(**_named(Rules, arguments))
    choices = Choices(**given(arguments))
    return Recording(Path(name), choices, config.camera, rules, arguments.scene, arguments.seed, _Told(name))


class _Told:
    """Writes how far something is; what is done at the first call was done before."""

    def __init__(self, name: str = "", things: str = "frames"):
        self._name, self._things = name, things
        self._progress: Progress | None = None

    def __call__(self, done: int, of: int) -> None:
        self._progress = self._progress or Progress(done, of, self._name, self._things)
        self._progress(done)
        if done == of:
            self._progress.close()


def _amounts(arguments: Namespace, config: Config) -> Amounts:
    ray, labels = config.depth.answer == "ray", arguments.labels or []
    if len(set(labels)) < len(labels):
        raise DataError(f"--labels must name every thing once, not {' '.join(labels)}")
    return Amounts(**_named(Amounts, arguments), max_tokens=config.camera.max_tokens, ray=ray)


def _named(kind: type[Rules | Amounts], arguments: Namespace) -> dict[str, Any]:
    """The fields of a dataclass that the command line names; the others have their defaults."""
    named = {f.name: getattr(arguments, f.name, None) for f in fields(kind)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in named.items() if v is not None}


def _failed(command: str, error: object) -> int:
    print(f"vlm3 data {command}: {error}", file=sys.stderr)
    return 1


COMMANDS = {"build": _build, "show": _show, "check": _check}
