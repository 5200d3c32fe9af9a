"""Recordings as training scenes: bags and data sets with depth and poses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm3_ros.config import CameraConfig
from vlm3_ros.learn.data.groups import Group
from vlm3_ros.learn.data.regions import regions
from vlm3_ros.learn.data.sample import Known
from vlm3_ros.learn.data.survey import Rules, surveyed, usable_depth
from vlm3_ros.learn.data.views import EDGE
from vlm3_ros.offline.opening import full_name, open_source
from vlm3_ros.offline.sources import Choices, Source

BESIDE = 1 / 320  # of the image's width: depth this near to an edge or a hole is not asked, sensors smear there


class Recording:
    """One camera's images of one scene; all of them are looked at once when it is made."""

    def __init__(
        self,
        path: Path,
        choices: Choices,
        settings: CameraConfig,
        rules: Rules,
        scene: str = "",
        seed: int = 0,
        told: Callable[[int, int], None] = lambda done, of: None,
    ):
        """``scene``: the place it shows, if other recordings show it too. Raises SourceError."""
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name) or "recording"
        self._scene = scene or self.name
        self._path, self._choices, self._settings, self._rules, self._seed = path, choices, settings, rules, seed
        frames = len(self._source.stamps)
        self._chosen, self.left_out = surveyed(self._source, rules, seed, lambda done: told(done, frames))
        told(frames, frames)

    @property
    def description(self) -> dict[str, Any]:
        return {
            "recording": full_name(self._path),
            "images": len(self._source.stamps),
            "choices": {**asdict(self._choices), "intrinsics": list(self._choices.intrinsics)},
            "hfov_deg": self._settings.hfov_deg,
            "input_rectified": self._settings.input_rectified,
            "rules": {**asdict(self._rules), "range_m": list(self._rules.range_m)},
            "scene": self._scene,
            "seed": self._seed,
        }

    def __len__(self) -> int:
        return len(self._chosen)

    def group(self, index: int) -> Group:
        chosen = self._chosen[index]
        group = Group(self._scene, pairs=list(chosen.pairs))
        for frame in chosen.frames:
            known, left_out = self._known(frame)
            group.frames.append(known)
            group.left_out += left_out
        return group

    def _known(self, index: int) -> tuple[Known, Counter[str]]:
        frame, truth = self._source.frame(index), self._source.truth(index)
        if truth.depth is None:
            return Known(frame, None, truth.T_world_camera), Counter()
        depth = usable_depth(truth.depth, self._rules)
        assert isinstance(depth, np.ndarray)  # the survey has left the others out
        known = Known(frame, without_edges(depth), truth.T_world_camera)
        if truth.boxes is None:
            return known, Counter()
        found, left_out = regions(truth.boxes, frame.camera, depth)
        known = replace(known, regions=found, unclear=frozenset(label for label, _ in left_out))
        return known, Counter(reason for _, reason in left_out)

    @cached_property
    def _source(self) -> Source:
        return open_source(self._path, self._choices, self._settings)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: another process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_source"}


def without_edges(depth: np.ndarray) -> np.ndarray:
    """Depth [height, width] without the pixels near to a jump or to a pixel whose depth is not known (NaN)."""
    reach = max(1, round(depth.shape[1] * BESIDE))
    around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    known = np.nan_to_num(depth, nan=0.0)
    low, high = cv2.erode(known, around), cv2.dilate(known, around)
    return np.where((low > 0.0) & (high <= (1.0 + EDGE) * low), depth, np.float32(np.nan))
