"""The commands `vlm3 train` and `vlm3 merge`, from parsed arguments to files."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vlm3_ros.config import ConfigError
from vlm3_ros.learn.data.shards import DataError
from vlm3_ros.learn.recipe import Recipe, read_recipe, to_yaml
from vlm3_ros.vlm import ModelError


def train(arguments: Namespace) -> int:
    """Run a recipe, or what is left of it; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="vlm3 train: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    out: Path = arguments.out
    try:
        recipe = read_recipe(arguments.recipe, changes(arguments.set))
        _keep(recipe, out)
        from vlm3_ros.learn.train import train as run  # PyTorch takes seconds

        print(f"The checkpoint is {run(recipe, out)}")
    except (ConfigError, DataError, ModelError) as error:
        return _failed("train", error)
    return 0


def merge(arguments: Namespace) -> int:
    """Write a checkpoint whose weights hold what was trained; returns the exit status."""
    try:
        recipe = read_recipe(arguments.folder / "recipe.yaml", {})
        from vlm3_ros.learn.adapters import merged

        merged(recipe, arguments.folder / "checkpoint", arguments.out)
    except (ConfigError, ModelError) as error:
        return _failed("merge", error)
    print(f"The checkpoint is {arguments.out}")
    return 0


def changes(values: list[str]) -> dict[str, Any]:
    """What --set NAME=VALUE asks for. Raises ConfigError."""
    changed = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, not {value!r}")
        changed[name] = YAML(typ="safe").load(text)
    return changed


def _keep(recipe: Recipe, out: Path) -> None:
    """Write the recipe beside its results; another one's results are not gone on with."""
    out.mkdir(parents=True, exist_ok=True)
    used = out / "recipe.yaml"
    if used.exists() and read_recipe(used, {}) != recipe:
        raise ConfigError(f"{out} holds the run of another recipe: choose another folder, or remove it")
    used.write_text(to_yaml(recipe))


def _failed(command: str, error: object) -> int:
    print(f"vlm3 {command}: {error}", file=sys.stderr)
    return 1
