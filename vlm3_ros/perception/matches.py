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
    view, seen_first, seen = sight.look_at_two(
        "matching", first, lambda c, scale: bounded(c, matching.LONGEST_EDGE, config.camera.max_tokens, scale)
    )
    pixels = Grid.of(*first.camera.size, config.matches.points).pixels
    pixels = pixels[shown(first, pixels)]
    references = to_references(first.camera.pixels_in(seen_first, pixels), seen_first.size, matching.BINS)
    answers = sight.ask(view, matching.questions(references, config.matches.think))

    asked, found, confidence = [], [], []
    for reference, answer in zip(references, answers, strict=True):
        assert answer is not None  # without a budget every question is answered
        there = matching.parse(answer.text)
        if isinstance(there, Refusal):
            sight.tally.refuse(there)
            continue
        asked.append(reference)
        found.append(there)
        confidence.append(answer.probability)
    camera = sight.frame.camera
    pixels_first = from_references(np.reshape(asked, (-1, 2)), seen_first.size, matching.BINS)
    pixels_here = from_references(np.reshape(found, (-1, 2)), seen.size, matching.BINS)
    return Matches(
        first,
        seen_first.pixels_in(first.camera, pixels_first),
        seen.pixels_in(camera, pixels_here).clip(0, np.subtract(camera.size, 1)),  # 1000 is the image's far border
        np.array(confidence, float),
    )
