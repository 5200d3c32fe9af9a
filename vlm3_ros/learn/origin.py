"""What lay behind the names in a recipe when its run began: another run is not gone on with under the same names."""

from __future__ import annotations

import json
from pathlib import Path

from vlm3_ros.config import ConfigError
from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.offline.results import write_whole
from vlm3_ros.vlm.checkpoint import inspect

FILE = "origin.json"  # beside the recipe


def record(folder: Path, start: str, mixture: Mixture) -> None:
    """Note which weights a run in ``folder`` starts from, and its data; ConfigError where it began with others."""
    now = {"weights": inspect(start).fingerprint, "data": mixture.fingerprint}
    begun = recorded(folder)
    if begun is None:  # the first of several processes; the others find what it has written
        write_whole(folder / FILE, json.dumps(now).encode())
    elif changed := [name for name in now if begun[name] != now[name]]:
        raise ConfigError(
            f"{folder} holds a run that began with other {' and '.join(changed)} under the same name: choose another "
            "folder, or remove it"
        )


def recorded(folder: Path) -> dict[str, str] | None:
    """What `record` has noted; None in a new folder."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else None
