"""What a run has written against the truth of a recording."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros.metrics.boundaries import Boundaries
from vlm3_ros.metrics.boxes import Objects
from vlm3_ros.metrics.confidence import Confidence
from vlm3_ros.metrics.depth import Depth
from vlm3_ros.metrics.frames import Frames
from vlm3_ros.metrics.group import COVERAGE, Group, Metric
from vlm3_ros.metrics.matches import Matches
from vlm3_ros.metrics.planes import Planes
from vlm3_ros.metrics.poses import Pairs, Trajectory
from vlm3_ros.offline.likeness import sketch
from vlm3_ros.offline.moments import Moment
from vlm3_ros.offline.results import write_json, write_whole
from vlm3_ros.offline.sources import seconds
from vlm3_ros.offline.tum import trajectory_text

# By name, in the order of the reports. A new kind of metric is a file in metrics/ and a line here.
GROUPS: dict[str, type[Group]] = {
    "frames": Frames,
    "depth": Depth,
    "planes": Planes,
    "boundaries": Boundaries,
    "confidence": Confidence,
    "matches": Matches,
    "pairs": Pairs,
    "trajectory": Trajectory,
    "objects": Objects,
}


@dataclass(frozen=True)
class Evaluation:
    """All numbers for which there are both outputs and truth."""

    metrics: dict[str, dict[str, Any]]  # by group and name; tables are lists of rows
    frames: dict[int, dict[str, float]]  # by stamp and "group.name": the numbers of single frames
    true_poses: dict[int, np.ndarray]  # T [4, 4] by stamp, in the world of the truth
    unknown: Counter[str]  # frames without a truth, by which and why
    images: dict[str, str]  # sketches by stamp in seconds, of the images that came with the truth

    @property
    def compared(self) -> bool:
        """Whether anything was compared with truth."""
        return self.metrics.keys() > {"frames"}

    @property
    def answered(self) -> bool:
        """Whether any group was: the numbers of a run that answered nothing are those of the worst there is."""
        return len(unanswered(self.metrics)) < len(self.metrics) - 1

    def write(self, folder: Path, against: dict[str, Any]) -> None:
        """The numbers as JSON and CSV, the true trajectory, and what the run was measured ``against``."""
        write_whole(folder / "true_trajectory.txt", trajectory_text(self.true_poses.items()).encode())
        write_json(folder / "evaluation.json", against)
        write_json(folder / "metrics.json", self.metrics)
        names = list(dict.fromkeys(name for values in self.frames.values() for name in values))
        names.sort(key=lambda name: list(GROUPS).index(name.partition(".")[0]))
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["stamp", *names])
        for stamp, values in self.frames.items():
            rows.writerow([seconds(stamp), *(values.get(name, "") for name in names)])
        write_whole(folder / "frame_metrics.csv", text.getvalue().encode())


def measure(moments: Iterable[Moment]) -> Evaluation:
    """One pass over the frames of a run, through all groups."""
    groups = {name: group() for name, group in GROUPS.items()}
    frames: dict[int, dict[str, float]] = {}
    true_poses: dict[int, np.ndarray] = {}
    unknown: Counter[str] = Counter()
    images: dict[str, str] = {}
    before: int | None = None
    for moment in moments:
        again = moment.error and moment.stamp == before  # another image of the same stamp: its truth has counted
        found = {
            f"{group}.{name}": value
            for group, metrics in groups.items()
            if group == "frames" or not again
            for name, value in metrics.add(moment).items()
        }
        before = moment.stamp
        if moment.image is not None:
            images[seconds(moment.stamp)] = sketch(moment.image)
        if found:
            frames[moment.stamp] = found
        if (T := moment.truth.T_world_camera) is not None:
            true_poses[moment.stamp] = T
        unknown.update(f"{what}: {why}" for what, why in moment.truth.unknown.items())
    results = {name: group.result() for name, group in groups.items()}
    known = {name: result for name, result in results.items() if result}
    return Evaluation(known, frames, true_poses, unknown, images)


def meaning(name: str) -> Metric:
    """What "group.name" is; one that says nothing for a number that this version does not know."""
    group, _, metric = name.partition(".")
    return GROUPS[group].METRICS.get(metric, Metric("")) if group in GROUPS else Metric("")


def unanswered(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """The groups in which nothing at all was answered; those of older versions may not say so."""
    return [group for group, values in metrics.items() if group != "frames" and values.get(COVERAGE) == 0.0]


def table(metrics: dict[str, dict[str, Any]]) -> str:
    """The single numbers of all groups, for people."""
    lines, empty = [], unanswered(metrics)
    for group, values in metrics.items():
        numbers = [(name, value) for name, value in values.items() if isinstance(value, (int, float))]
        lines.append(f"{group}: nothing was answered, and all of it counts as missed" if group in empty else group)
        lines += [f"  {name:<28} {f'{value:.6g}' if math.isfinite(value) else '–':>12}" for name, value in numbers]
    return "\n".join(lines)
