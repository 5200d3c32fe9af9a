"""Pixel correspondence between two views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import Place
from vlm3_ros.config import Config
from vlm3_ros.learn.data.views import correspondences
from vlm3_ros.perception.matches import ask_matches

PIXELS = 24
ROWS = {
    "epe": "EPE, % of the width, of answered ones",
    "epe_median": "median error, % of the width, of answered ones",
    "within_5": "share within 5 % of the width",
    "answered": "share of questions answered",
}


@dataclass(frozen=True, eq=False)
class Record:
    """N pixels of the first image that the second sees, all in parts of the image's width."""

    asked: np.ndarray  # [N, 2] in the first image
    true: np.ndarray  # [N, 2] in the second
    found: np.ndarray  # [N, 2], NaN without an answer


def ask(place: Place, show: Show, config: Config) -> Record | None:
    first, second = place.first, place.second
    if second is None:
        return None
    pixels = place.pixels(8 * PIXELS)
    _, seen = correspondences(first, second, pixels)
    matches = ask_matches(show(second.frame), first.frame, config, pixels[seen][:PIXELS])
    true, seen = correspondences(first, second, matches.pixels_first)  # as rounded to reference numbers
    width = first.camera.width
    return Record(matches.pixels_first[seen] / width, true[seen] / width, matches.pixels[seen] / width)


def measure(records: Sequence[Record]) -> dict[str, float]:
    errors = np.concatenate([np.linalg.norm(record.found - record.true, axis=1) for record in records])
    known = errors[np.isfinite(errors)]
    return {
        "epe": 100.0 * float(known.mean()) if len(known) else np.nan,
        "epe_median": 100.0 * float(np.median(known)) if len(known) else np.nan,
        "within_5": float((errors < 0.05).mean()),
        "answered": len(known) / len(errors),
    }


def constant(other: Sequence[Record]) -> Callable[[Record], Record]:
    """The pixel that was asked, or one pixel for all: whichever is better."""
    middle = np.median(np.concatenate([record.true for record in other]), axis=0)
    ways: list[Callable[[Record], Record]] = [
        lambda r: replace(r, found=r.asked),
        lambda r: replace(r, found=np.broadcast_to(middle, r.true.shape)),
    ]
    return min(ways, key=lambda way: measure([way(record) for record in other])["epe"])
