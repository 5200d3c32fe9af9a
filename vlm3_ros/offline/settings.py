"""Settings of an offline run: a ROS parameter file and single values, as the node takes them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlm3_ros import parameter_file
from vlm3_ros.config import Config, ConfigError, one_checkpoint, settings, shortened
from vlm3_ros.offline.results import write_whole

OFFLINE = {"cloud.stride": 4}  # every point of depth/image again would be two thirds of the bag


def read_config(
    file: Path | None, values: Sequence[str], defaults: Mapping[str, Any] | None = None, model: str | None = None
) -> Config:
    """The defaults, changed by a parameter file and then by ``values`` such as "depth.points=192". ConfigError.

    The defaults are the node's, but for those in OFFLINE and in ``defaults``. ``model`` is the checkpoint of all
    tasks whatever the file says, but not where one of the values names another.
    """
    config = Config().updated({**OFFLINE, **(defaults or {}), **(_of_file(file) if file else {})})
    config = config.updated(one_checkpoint(model) if model else {})
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, not {shortened(repr(value))}")
        kinds = {setting.name: setting.kind for setting in settings()}
        if name not in kinds:
            raise ConfigError(f"--set: {(parameter_file.unknown([name]) or [f'{name} is no setting'])[0]}")
        pairs[name] = text if kinds.get(name) is str else parsed(text, f"--set {name}")
    return config.updated(pairs)


def to_parameters(config: Config) -> dict[str, Any]:
    """The value of every setting, by its dotted name."""
    return {setting.name: config.get(setting.name) for setting in settings()}


def to_yaml(config: Config) -> str:
    """A ROS parameter file with every setting."""
    lines = [f"    {name}: {json.dumps(value)}" for name, value in to_parameters(config).items()]
    return "\n".join(["/**:", "  ros__parameters:", *lines]) + "\n"


def merge_into(file: Path, values: Mapping[str, Any]) -> None:
    """Set values by dotted name in a ROS parameter file, which keeps all else, comments too; it may be a new one.

    Raises ConfigError, and leaves the file alone, where it is no such file or has parameters of several nodes.
    """
    yaml, text = YAML(), io.StringIO()
    try:
        content = (yaml.load(file.read_text()) if file.exists() else None) or {}
    except (OSError, YAMLError) as error:
        raise ConfigError(f"the parameter file {file} cannot be read: {error}") from error
    nodes = (
        [name for name, node in content.items() if "ros__parameters" in (node or {})] if _is_map(content) else None
    )
    if nodes is None or len(nodes) > 1 or (content and not nodes):
        raise ConfigError(
            f"{file} must hold the parameters of one node, as node name, ros__parameters and values; "
            f"it holds {', '.join(nodes) if nodes else 'none'}"
        )
    node = content.setdefault(nodes[0] if nodes else "/**", {})
    tree = node["ros__parameters"] = node.get("ros__parameters") or {}
    for name, value in values.items():
        _put(tree, name, value)
    yaml.dump(content, text)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.getvalue().encode())


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set a value where its name is already, else beside others of its group, in groups or by dotted names."""
    group, _, rest = name.partition(".")
    if rest and not any(key.startswith(f"{group}.") for key in tree):
        _put(tree.setdefault(group, {}), rest, value)
    else:
        tree[name] = value


def _is_map(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(node, dict | None) for node in content.values())


def _of_file(file: Path) -> dict[str, Any]:
    """The settings in a parameter file; what ROS itself has in it, and `ros2 param dump` writes, is passed over."""
    values = parameter_file.read(file, lambda text: parsed(text, "it"))
    if odd := parameter_file.unknown(values):
        raise ConfigError(f"the parameter file {file}: {odd[0]} (parameters of other nodes go below their own names)")
    return {name: value for name, value in values.items() if not parameter_file.is_standard(name)}


def parsed(text: str, where: str) -> Any:
    """The value that a YAML text stands for. Raises ConfigError, which says ``where`` it is from."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where} is no YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply") from error
    except ValueError as error:  # a date or a number that Python cannot hold
        raise ConfigError(f"{where} has a value that is none: {shortened(str(error))}") from error
