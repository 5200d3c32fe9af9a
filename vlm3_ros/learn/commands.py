"""The commands `vlm3 train`, `vlm3 merge` and `vlm3 average`, from parsed arguments to files."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from vlm3_ros.config import ConfigError
from vlm3_ros.learn.data.shards import DataError
from vlm3_ros.learn.recipe import FILE, Recipe, read_recipe
from vlm3_ros.offline.disk import trouble
from vlm3_ros.offline.settings import parsed
from vlm3_ros.vlm import ModelError


def train(arguments: Namespace) -> int:
    """Run a recipe, or what is left of it; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="vlm3 train: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    out: Path = arguments.out
    try:
        recipe = read_recipe(arguments.recipe, changes(arguments.set))
        _refuse_another(recipe, out)
        from vlm3_ros.learn.train import train as run  # PyTorch takes seconds

        print(f"The checkpoint is {run(recipe, out)}")
    except (ConfigError, DataError, ModelError) as error:
        return _failed("train", error)
    except Exception as error:
        return _unwritten("train", error, out, goes_on=True)
    return 0


def merge(arguments: Namespace) -> int:
    """Write a checkpoint whose weights hold what was trained; returns the exit status."""
    try:
        recipe = read_recipe(arguments.folder / FILE, {})
        from vlm3_ros.learn.adapters import merged

        merged(recipe, arguments.folder, arguments.out)
    except (ConfigError, ModelError) as error:
        return _failed("merge", error)
    except Exception as error:
        return _unwritten("merge", error, arguments.out)
    print(f"The checkpoint is {arguments.out}")
    return 0


def average(arguments: Namespace) -> int:
    """Write the mean of checkpoints; returns the exit status."""
    from vlm3_ros.learn.average import average as write  # PyTorch takes seconds

    try:
        write(arguments.checkpoints, arguments.out)
    except ModelError as error:
        return _failed("average", error)
    except Exception as error:
        return _unwritten("average", error, arguments.out)
    print(f"The checkpoint is {arguments.out}")
    return 0


def changes(values: list[str]) -> dict[str, Any]:
    """What --set NAME=VALUE asks for. Raises ConfigError."""
    changed = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, not {value!r}")
        changed[name] = parsed(text, f"--set {name}")
    return changed


def _refuse_another(recipe: Recipe, out: Path) -> None:
    """Raise ConfigError where a folder holds the results of another recipe, which are not gone on with."""
    if (out / FILE).exists() and read_recipe(out / FILE, {}) != recipe:
        raise ConfigError(f"{out} holds the run of another recipe: choose another folder, or remove it")


def _unwritten(command: str, error: Exception, out: Path, goes_on: bool = False) -> int:
    """Say that a disk is full or may not be written to. Raises an error that is about something else."""
    if (said := trouble(error, out, goes_on)) is None:
        raise error
    return _failed(command, said)


def _failed(command: str, error: object) -> int:
    print(f"vlm3 {command}: {error}", file=sys.stderr)
    return 1
