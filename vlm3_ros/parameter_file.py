"""ROS parameter files as the node's settings: which part of a file is for the node, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vlm3_ros.config import ConfigError, settings

NODE = "vlm3"
PARAMETERS = "ros__parameters"
# What every ROS node has, and so what `ros2 param dump` writes; not settings.
STANDARD = re.compile(r"(qos_overrides\..+|use_sim_time|start_type_description_service)")
EXPECTED = (
    f"a parameter file has a node's name (/{NODE}, or /** for all), below it {PARAMETERS}, and below that values"
)


def read(file: Path, parse: Callable[[str], Any], namespace: str | None = None) -> dict[str, Any]:
    """The parameters that a file has for the node, by dotted name, standard ones of ROS among them.

    ``parse`` turns YAML into dicts. The node is in ``namespace``, or in whatever one the file names. Raises
    ConfigError where there is nothing for the node, or where it cannot be known what.
    """
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the parameter file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the parameter file {file} is not in UTF-8 (byte {error.start}): save it as UTF-8, or leave out what is "
            "no English letter"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"the parameter file {file}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"the parameter file {file} is no mapping: {EXPECTED}")
    return _of_node(dict(_sections(content, file)), file, namespace)


def is_standard(name: str) -> bool:
    """Whether a parameter is one that every ROS node has, rather than a setting."""
    return STANDARD.fullmatch(name) is not None


def unknown(names: Iterable[str]) -> list[str]:
    """For each name that is neither a setting nor a standard parameter: that, and which setting may be meant."""
    known = [setting.name for setting in settings()]
    odd = [name for name in names if name not in known and not is_standard(name)]
    return [f"there is no parameter {name}{_meant(name, known)}" for name in odd]


def _meant(name: str, known: list[str]) -> str:
    last = {setting.rpartition(".")[2]: setting for setting in known}
    near = get_close_matches(name, known, 1) or [last[n] for n in get_close_matches(name.rpartition(".")[2], last, 1)]
    return f"; is {near[0]} meant?" if near else ""


def _of_node(sections: dict[str, dict[str, Any]], file: Path, namespace: str | None) -> dict[str, Any]:
    if not sections:
        raise ConfigError(f"the parameter file {file} has no {PARAMETERS}: {EXPECTED}")
    fitting = {name: values for name, values in sections.items() if _is_for(name, namespace)}
    if not fitting:
        node = NODE if namespace is None else _full(f"{namespace}/{NODE}")
        raise ConfigError(
            f"the parameter file {file} is for {', '.join(sections)} and has nothing for {node}: write /** or "
            f"{_full(node)} in place of that name"
        )
    own = [name for name in fitting if "*" not in name]
    if len(own) > 1:
        raise ConfigError(f"the parameter file {file} is for several nodes, {', '.join(own)}: keep one of them")
    merged: dict[str, Any] = {}
    for values in fitting.values():
        merged |= values
    return merged


def _sections(tree: dict[str, Any], file: Path, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The nodes of a file by full name, which may be written as nested namespaces, and their parameters."""
    for key, below in tree.items():
        if key != PARAMETERS:
            if isinstance(below, dict):
                yield from _sections(below, file, _full(f"{name}/{key}"))
        elif isinstance(below, dict | None):
            yield name, dict(_flat(below or {}))
        else:
            raise ConfigError(f"in the parameter file {file}, {PARAMETERS} of {name or 'no node'} is no mapping")


def _is_for(name: str, namespace: str | None) -> bool:
    """Whether a name of a file, wildcards and all, is that of the node; in any namespace if that is None."""
    node = f"{name.rpartition('/')[0] if namespace is None else namespace}/{NODE}"
    pattern = re.escape(name).replace(r"/\*\*", "(/[^/]+)+").replace(r"\*\*", ".+").replace(r"\*", "[^/]+")
    return re.fullmatch(pattern, _full(node)) is not None


def _full(name: str) -> str:
    return "/" + "/".join(part for part in name.split("/") if part)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
