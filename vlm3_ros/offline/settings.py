"""Settings of an offline run: a ROS parameter file and single values, as the node takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlm3_ros.config import Config, ConfigError, settings


def read_config(file: Path | None, values: Sequence[str]) -> Config:
    """The defaults, changed by a parameter file and then by ``values`` such as "depth.points=192". ConfigError."""
    config = Config() if file is None else Config().updated(dict(_of_file(file)))
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, not {value!r}")
        kinds = {setting.name: setting.kind for setting in settings()}
        pairs[name] = text if kinds.get(name) is str else _parsed(text, f"--set {name}")
    return config.updated(pairs)


def to_parameters(config: Config) -> dict[str, Any]:
    """The value of every setting, by its dotted name."""
    return {setting.name: config.get(setting.name) for setting in settings()}


def to_yaml(config: Config) -> str:
    """A ROS parameter file with every setting."""
    lines = [f"    {name}: {json.dumps(value)}" for name, value in to_parameters(config).items()]
    return "\n".join(["/**:", "  ros__parameters:", *lines]) + "\n"


def _of_file(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = _parsed(file.read_text(), str(file))
    except OSError as error:
        raise ConfigError(f"the parameter file cannot be read: {error}") from error
    for node in (content or {}).values() if isinstance(content, dict) else ():
        if isinstance(node, dict):
            yield from _flat(node.get("ros__parameters") or {})


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parsed(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where} is no YAML: {error}") from error
