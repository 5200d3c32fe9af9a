"""Matches: where pixels of the frame before are in this one."""

from __future__ import annotations

import numpy as np

from vlm3_ros.camera import bounded, from_references, to_references
from vlm3_ros.config import Config
from vlm3_ros.geometry.depth_map import Grid
from vlm3_ros.perception.scene import Frame, Matches
from vlm3_ros.perception.sight import Sight, shown
from vlm3_ros.tasks import Refusal, matching


def perceive_matches(sight: Sight, first: Frame, config: Config) -> Matches:
    """A grid of pixels of ``first``, looked for in the frame."""
    grid = Grid.of(*first.camera.size, config.matches.points).pixels
    asked = ask_matches(sight, first, config, grid[shown(first, grid)])
    found = np.isfinite(asked.pixels).all(axis=1)
    pixels = asked.pixels[found].clip(0, np.subtract(sight.frame.camera.size, 1))  # 1000 is the image's far border
    return Matches(first, asked.pixels_first[found], pixels, asked.confidence[found])


def ask_matches(sight: Sight, first: Frame, config: Config, pixels: np.ndarray) -> Matches:
    """Ask where pixels [N, 2] of ``first`` are in the frame, which may be just off the image; NaN: refused."""
    view, seen_first, seen = sight.look_at_two(
        "matching", first, lambda c, scale: bounded(c, matching.LONGEST_EDGE, config.camera.max_tokens, scale)
    )
    references = to_references(first.camera.pixels_in(seen_first, pixels), seen_first.size, matching.BINS)
    answers = sight.ask(view, matching.questions(references, config.matches.think))

    found, confidence = np.full((len(answers), 2), np.nan), np.zeros(len(answers))
    for i, answer in enumerate(answers):
        assert answer is not None  # without a budget every question is answered
        there = answer.read(matching.parse)
        if isinstance(there, Refusal):
            sight.tally.refuse(there)
        else:
            found[i], confidence[i] = there, answer.probability
    camera = sight.frame.camera
    pixels_first = from_references(references, seen_first.size, matching.BINS)
    pixels_here = from_references(found, seen.size, matching.BINS)
    return Matches(
        first,
        seen_first.pixels_in(first.camera, pixels_first),
        seen.pixels_in(camera, pixels_here),
        confidence,
    )
