"""How often `vlm3 calibrate` is right, and how often its intervals hold what they say, as a table.

python -m benchmarks.calibrate [--trials 200] [--seed 0]

Each trial makes answers of known meaning and factor: rooms of slanted walls, seen by cameras of some field of view,
200 pixels a frame; each answer with noise of its own and with that of its frame (a level, and a tilt across the
image), range compressed by 5 %, one in twenty wildly wrong. It takes minutes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vlm3_ros.offline.calibrate import MEANINGS, Answers, Finding, judged

FRAMES = (5, 8, 12, 40)
FIELDS_DEG = (10.0, 20.0, 30.0, 40.0, 60.0, 90.0)
NOISES = (0.05, 0.12, 0.25)
PIXELS = 200
FACTOR = 1.13  # from answers to depth
COMPRESSION = 0.05
WILD = 0.05


class Row(NamedTuple):
    """Shares of the trials; of none, NaN."""

    right: float
    wrong: float
    slope_held: float
    scale_held: float  # of those told
    scale_told: float


def answers(
    rng: np.random.Generator, frames: int, field_deg: float, noise: float, slope: float, level: float = 0.03
) -> Answers:
    """Answers about ``frames`` rooms; ``slope`` 0: depth along z, 1: length of the ray."""
    made, half = Answers(), np.tan(np.radians(field_deg) / 2.0)
    for _ in range(frames):
        x, y = rng.uniform(-half, half, PIXELS), rng.uniform(-half, half, PIXELS) * 0.75
        a, b, tilt_x, tilt_y = (*rng.uniform(-0.6, 0.6, 2), *(rng.normal(0.0, noise / 5.0, 2) / half))
        ray, z = np.sqrt(1.0 + x**2 + y**2), rng.uniform(1.5, 5.0) / np.maximum(0.2, 1.0 + a * x + b * y)
        log = slope * np.log(ray) - COMPRESSION * np.log(z / 3.0) - np.log(FACTOR) + tilt_x * x + tilt_y * y
        log += rng.normal(0.0, level) + rng.normal(0.0, noise, PIXELS)
        log += np.where(rng.random(PIXELS) < WILD, rng.normal(0.0, 1.0, PIXELS), 0.0)
        made.add(np.exp(log), ray, z)
    return made


def trial(rng: np.random.Generator, frames: int, field_deg: float, noise: float, meaning: str) -> Finding:
    """What is found in one set of answers."""
    return judged(answers(rng, frames, field_deg, noise, MEANINGS[meaning]))


def measured(frames: int, field_deg: float, noise: float, trials: int, seed: int = 0) -> Row:
    """Half of the trials for each meaning."""
    rng = np.random.default_rng([seed, frames, int(field_deg), round(1000 * noise)])
    right = wrong = slope_held = scale_held = scale_told = 0
    for meaning in itertools.islice(itertools.cycle(MEANINGS), trials):
        found = trial(rng, frames, field_deg, noise, meaning)
        right += found.answer == meaning
        wrong += found.answer not in (meaning, None)
        assert found.slope is not None
        slope_held += found.slope.low <= MEANINGS[meaning] <= found.slope.high
        if found.scale is not None and found.answer in (meaning, None):
            scale_told += 1
            scale_held += found.scale.low <= FACTOR <= found.scale.high
    return Row(
        right / trials,
        wrong / trials,
        slope_held / trials,
        scale_held / scale_told if scale_told else np.nan,
        scale_told / trials,
    )


def table(trials: int, seed: int) -> Iterator[str]:
    """Markdown, a line at a time."""
    yield "| frames | field of view | noise | right / wrong / refused | slope held | scale told | scale held |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for frames, field_deg, noise in itertools.product(FRAMES, FIELDS_DEG, NOISES):
        row = measured(frames, field_deg, noise, trials, seed)
        shares = f"{row.right:.2f} / {row.wrong:.3f} / {1 - row.right - row.wrong:.2f}"
        held = f"{row.scale_held:.2f}" if row.scale_told else "–"
        yield (
            f"| {frames} | {field_deg:.0f}° | {noise:.0%} | {shares} | {row.slope_held:.2f} "
            f"| {row.scale_told:.2f} | {held} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for line in table(arguments.trials, arguments.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()
