"""Everything that decides a training run, each setting once: type, default, range and one line of help.

A recipe file is YAML with these names; `vlm3 train --set NAME=VALUE` changes single ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlm3_ros.config import ConfigError, setting, settings

FILE = "recipe.yaml"  # beside the results of a run: all its settings
BRIEFER = 4  # times as many questions in a look without constant text


@dataclass(frozen=True)
class Questions:
    """How many questions of a task a look is asked, of those that its sample has."""

    depth: int = setting(10, "per look at one image", 0, 1000)
    objects: int = setting(2, "per look at one image", 0, 1000)
    grounding: int = setting(1, "per look at one image", 0, 100)
    matching: int = setting(10, "per look at two images", 0, 1000)
    pose: int = setting(4, "per look at two images", 0, 4)


@dataclass(frozen=True)
class Shares:
    """How often each kind of look is taken, relative to the others: the mixture of tasks."""

    single: float = setting(0.6, "one image: depth, objects, grounding", 0.0, 1.0)
    matching: float = setting(0.2, "two images: matching", 0.0, 1.0)
    pose: float = setting(0.2, "two images: pose", 0.0, 1.0)


@dataclass(frozen=True)
class Digits:
    """How much of the loss is about what answers say, not about their words; 1: plain fine-tuning."""

    first: float = setting(1.0, "an answer's first token, signs, the first two digits of a number", 0.0, 1000.0)
    later: float = setting(1.0, "the digits behind those", 0.0, 1000.0)


@dataclass(frozen=True)
class NewModel:
    """A small model that starts from nothing, where ``model`` is "new"."""

    tokenizer: str = setting("", "tokenizer.json of the new model")
    image_scale: float = setting(0.25, "fraction of the protocol's image sizes that it sees", 0.05, 1.0)


@dataclass(frozen=True)
class Recipe:
    """A training run."""

    model: str = setting("Qwen/Qwen3-VL-4B-Instruct", "checkpoint to start from: hub id, folder, or new")
    data: str = setting("", "mixture file, see `vlm3 data`; what it holds out is measured on")
    new: NewModel = field(default_factory=NewModel)
    method: str = setting(
        "qlora",
        "full: all weights; lora: adapters; qlora: adapters on 4-bit weights",
        choices=("full", "lora", "qlora"),
    )
    rank: int = setting(32, "of the adapters (their alpha is twice that)", 1, 1024)
    asked: float = setting(
        1.0, "share of looks in which something is asked; in others auxiliary losses teach to see", 0.0, 1.0
    )
    brief: float = setting(
        0.0,
        "share of looks in which constant text is left out, and four times as many questions asked instead; "
        "over a run it falls evenly, as far as this mean allows",
        0.0,
        1.0,
    )
    auxiliary: bool = setting(False, "auxiliary losses on vision and middle layers where something is asked, too")
    digits: Digits = field(default_factory=Digits)
    optimizer: str = setting(
        "adamw",
        "adamw; or muon for the matrices in the layers and adamw for the rest, for models that start from nothing",
        choices=("adamw", "muon"),
    )
    steps: int = setting(1000, "optimizer steps", 1, 10_000_000)
    looks: int = setting(8, "per step", 1, 4096)
    questions: Questions = field(default_factory=Questions)
    shares: Shares = field(default_factory=Shares)
    learning_rate: float = setting(5.5e-5, "at its peak; cosine decay", 1e-8, 1.0)
    warmup: float = setting(0.1, "share of the steps in which the learning rate rises", 0.0, 1.0)
    weight_decay: float = setting(0.01, "of the optimizer", 0.0, 1.0)
    max_grad_norm: float = setting(0.02, "gradients are clipped to this norm", 0.0, 1000.0)
    precision: str = setting("bf16", "of the arithmetic; weights that are trained are fp32", choices=("bf16", "fp32"))
    recompute: bool = setting(
        False, "compute layers again in the backward pass: much less memory for a third more time"
    )
    save_every: int = setting(500, "steps between checkpoints to resume from", 1, 1_000_000)
    measure_every: int = setting(500, "steps between measurements on held-out data", 1, 1_000_000)
    measured_looks: int = setting(64, "held-out looks of each kind per measurement", 1, 100_000)
    seed: int = setting(0, "of everything drawn at random", 0, 2**31 - 1)

    def updated(self, values: Mapping[str, Any]) -> Recipe:
        """A copy with some settings, by dotted name, changed. Raises ConfigError."""
        known = {s.name: s for s in settings(Recipe)}
        recipe = self
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"there is no setting {name} in a recipe")
            recipe = _replaced(recipe, name.split("."), known[name].check(value))
        return recipe

    def values(self) -> dict[str, Any]:
        """All settings by dotted name."""
        return {s.name: _get(self, s.name.split(".")) for s in settings(Recipe)}


def read_recipe(path: Path, changes: Mapping[str, Any]) -> Recipe:
    """A recipe file, with changes. Raises ConfigError."""
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path} is no recipe: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no recipe: it must be a mapping of settings")
    return Recipe().updated({**_flat(content), **changes})


def to_yaml(recipe: Recipe) -> str:
    """A recipe file with every setting and its help."""
    lines: list[str] = []
    group = ""
    for s in settings(Recipe):
        *path, name = s.name.split(".")
        if path and path[0] != group:
            lines.append(f"{path[0]}:")
        group = path[0] if path else ""
        indent = "  " * len(path)
        lines += [f"{indent}# {s.help}", f"{indent}{name}: {json.dumps(recipe.values()[s.name])}"]
    return "\n".join(lines) + "\n"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _replaced(of: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replaced(getattr(of, path[0]), path[1:], value)
    return replace(of, **{path[0]: value})


def _get(of: Any, path: list[str]) -> Any:
    return _get(getattr(of, path[0]), path[1:]) if path else of
