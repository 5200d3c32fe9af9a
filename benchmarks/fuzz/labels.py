"""Damaged label files of all kinds: every label that is whole, and a sentence for the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.fuzz.mutations import misspelt, odd
from vlm3_ros.config import CameraConfig
from vlm3_ros.offline.labelled import LabelledSource
from vlm3_ros.offline.labels import LabelFile
from vlm3_ros.offline.sources import Choices, FrameError, SourceError

SIZE = {"width": 16, "height": 12}
K = {"fx": 1000.0, "fy": 1000.0, "cx": 7.5, "cy": 5.5}
ENTRIES: dict[str, dict[str, Any]] = {
    "depth": {
        **{"image": "a.png", "intrinsics": [15.0, 15.0, 7.5, 5.5, 16, 12]},
        **{"pixel_coords": [[4, 2], [0, 9]], "depth": [1.5, 2.5]},
    },
    "samples": {
        **{"image": "a.png", "image_size": SIZE, "intrinsics_after_focal_normalization_to_1000": K},
        "samples": [{"pixel_coord_resized": [4, 2], "depth_meters": 1.5}],
    },
    "matching": {
        **{"image_1": "a.png", "image_2": "a.png", "image_1_size_resized": SIZE, "image_2_size_resized": SIZE},
        "correspondences": [{"img1_pixel_in_resized": [4, 2], "img2_pixel_in_resized": [5, 3]}],
    },
    "pose": {
        **{"image_1": "a.png", "image_2": "a.png", "image_1_size_resized": SIZE, "image_2_size_resized": SIZE},
        **{"intrinsics_1_resized": K, "intrinsics_2_resized": K},
        "ground_truth_pose": {
            **{"translation_unit_vector": "(+1.00, +0.00, +0.00)", "translation_distance_m": 0.5},
            **{"rotation_angle_deg": 0.0, "yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0},
        },
    },
    "objects": {
        **{"image": "a.png", "image_size_resized": SIZE, "intrinsics_after_focal_normalization_to_1000": K},
        **{"prompt": "How wide is it?", "answer": "1.00 meters", "qa_info": {"category": "width", "type": "x"}},
    },
}


@dataclass(frozen=True)
class Mutant:
    """A label file of three lines, some values or words of which are others."""

    name: str
    kind: str
    folder: Path
    index: int
    seed: int

    def make(self) -> Path:
        rng = np.random.default_rng((self.seed, self.index))
        entry = ENTRIES[self.kind]
        path = self.folder / "labels.jsonl"
        if rng.random() < 0.8:
            path.write_text("\n".join(json.dumps(e) for e in (entry, odd(entry, rng), odd(entry, rng))))
        else:
            path.write_bytes(misspelt("\n".join([json.dumps(entry)] * 3), rng))
        return path


def mutants(seed: int, folder: Path) -> Iterator[Mutant]:
    """Each kind in turn, without end."""
    cv2.imwrite(str(folder / "a.png"), np.full((12, 16, 3), 90, np.uint8))
    kinds = list(ENTRIES)
    for index in count():
        kind = kinds[index % len(kinds)]
        yield Mutant(f"{kind} #{index}", kind, folder, index, seed)


def attempt(mutant: Any) -> str | None:
    """Read all labels, and those of depth as a recording; what is no SourceError or FrameError goes on."""
    try:
        labels = LabelFile(mutant.make())
    except SourceError:
        return None
    source = LabelledSource(labels.path, Choices(lengths="ray"), CameraConfig()) if labels.kind == "depth" else None
    for index in range(len(labels)):
        for read in [labels.__getitem__] + ([source.frame, source.truth] if source is not None else []):
            try:
                read(index)
            except (FrameError, SourceError) as error:
                if not str(error):
                    return f"{type(error).__name__} without a word"
    return None
