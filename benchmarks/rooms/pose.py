"""Relative camera pose of two views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import Place
from vlm3_ros.config import Config
from vlm3_ros.learn.data.views import relative_pose
from vlm3_ros.metrics.poses import AUC_DEG, pair_errors
from vlm3_ros.perception.pose import ask_pose
from vlm3_ros.tasks import Refusal

OF_EACH = {  # of the greedy answers, and of the medians of their digits' distributions
    **{f"auc{deg}": f"AUC@{deg}°" for deg in AUC_DEG},
    "auc30_far": "AUC@30° where the camera moved at least 20 cm",
    "rotation_deg_median_answered": "median error of the rotation, °, of answered pairs",
    "direction_deg_median_answered": "median error of the direction, °, of answered pairs",
    "length_rel_median_answered": "median relative error of the length, of answered pairs",
}
ROWS = {
    **OF_EACH,
    **{f"{name}_of_medians": f"{title}, medians of the digits" for name, title in OF_EACH.items()},
    "answered": "share of pairs answered",
}
FAR_M = 0.2  # the directions of shorter moves are told by a pixel or two


@dataclass(frozen=True, eq=False)
class Record:
    """The second camera in the axes of the first."""

    true: np.ndarray  # [4, 4]
    greedy: np.ndarray | None  # None where the answers are refused
    median: np.ndarray | None


def ask(place: Place, show: Show, config: Config) -> Record | None:
    if place.second is None:
        return None
    sight = show(place.second.frame)
    greedy, median = (
        ask_pose(sight, place.first.frame, config.updated({"pose.statistic": statistic}))
        for statistic in ("greedy", "median")
    )
    true = relative_pose(place.first, place.second)
    return Record(true, *(None if isinstance(found, Refusal) else found for found in (greedy, median)))


def measure(records: Sequence[Record]) -> dict[str, float]:
    true = [record.true for record in records]
    greedy, medians = (_errors([getattr(record, name) for record in records], true) for name in ("greedy", "median"))
    answered = greedy["answered"] / greedy["pairs"]
    return {**greedy, **{f"{name}_of_medians": value for name, value in medians.items()}, "answered": answered}


def _errors(found: Sequence[np.ndarray | None], true: Sequence[np.ndarray]) -> dict[str, float]:
    far = [(f, t) for f, t in zip(found, true, strict=True) if np.linalg.norm(t[:3, 3]) >= FAR_M]
    return {**pair_errors(found, true), "auc30_far": pair_errors(*zip(*far, strict=True))["auc30"] if far else np.nan}


def constant(other: Sequence[Record]) -> Callable[[Record], Record]:
    """The mean rotation, the median length, and of all directions that were true the best."""
    true = np.stack([record.true for record in other])
    best = np.eye(4)
    best[:3, :3] = Rotation.from_matrix(true[:, :3, :3]).mean().as_matrix()
    lengths = np.linalg.norm(true[:, :3, 3], axis=1)

    def moved(direction: np.ndarray) -> np.ndarray:
        T = best.copy()
        T[:3, 3] = direction * np.median(lengths)
        return T

    motions = [moved(direction) for direction in true[:, :3, 3] / lengths[:, None]]
    found = max(motions, key=lambda T: measure([replace(record, greedy=T) for record in other])["auc30"])
    return lambda record: replace(record, greedy=found, median=found)
