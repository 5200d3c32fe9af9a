"""Depth through cameras of other focal lengths, with the unification of VLM³ and without it.

Without it, the image is shown as if the 70° camera had taken it, and the answers are read as if that were so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.rooms import depth
from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import HFOV_DEG, Place, camera
from vlm3_ros.config import Config
from vlm3_ros.perception.depth import ask_depth

PIXELS = 24
OTHER_DEG = (55.0, 62.0, 82.0)
WAYS = ("unified", "as_it_is")
ROWS = {
    f"{deg:.0f}_{way}": f"δ1 at {deg:.0f}° ({camera(deg).focal:.0f} px), {words}"
    for deg in (HFOV_DEG, *OTHER_DEG)
    for way, words in zip(WAYS, ("unified", f"shown as if of {HFOV_DEG:.0f}°"), strict=True)
    if (deg, way) != (HFOV_DEG, WAYS[1])
}


@dataclass(frozen=True, eq=False)
class Record:
    """Which of N answers are right, by row."""

    right: dict[str, np.ndarray]  # bool [N]


def ask(place: Place, show: Show, config: Config) -> Record:
    pixels = place.pixels(depth.PIXELS)[:PIXELS]
    right = {}
    for deg in (HFOV_DEG, *OTHER_DEG):
        known = place.first if deg == HFOV_DEG else place.through(deg)
        frames = known.frame, replace(known.frame, camera=camera(HFOV_DEG))
        for way, frame in zip(WAYS, frames, strict=True):
            if (name := f"{deg:.0f}_{way}") in ROWS:
                found = ask_depth(show(frame), config, pixels).z
                right[name] = depth.right(found, depth.true_depth(known, pixels))
    return Record(right)


def measure(records: Sequence[Record]) -> dict[str, float]:
    return {name: float(np.mean([record.right[name].mean() for record in records])) for name in ROWS}
