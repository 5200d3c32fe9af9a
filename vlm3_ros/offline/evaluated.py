"""What `vlm3 evaluate` has written into the folder of a run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros.offline.results import RunError, read_description


class Evaluated:
    """The folder of a run that has been evaluated."""

    def __init__(self, folder: Path):
        """Raises RunError if it is none."""
        self.folder = folder
        self.run = read_description(folder)
        try:
            self.against: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
            self.metrics: dict[str, dict[str, Any]] = json.loads((folder / "metrics.json").read_text())
            with (folder / "frame_metrics.csv").open() as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{folder} has not been evaluated: `vlm3 evaluate {folder}` comes first ({error})"
            ) from error
        self.images: dict[str, str] = self.against.pop("images", {})  # sketches, which older evaluations did not note
        self.names = [name for name in (rows[0] if rows else ()) if name != "stamp"]
        self.frames = {row["stamp"]: row for row in rows}

    def values(self, name: str, stamps: list[str]) -> np.ndarray:
        """A number of single frames [N], NaN where a frame has none."""
        return np.array([float(self.frames[stamp].get(name) or math.nan) for stamp in stamps])
