"""How sure a mean over the frames of a recording is."""

from __future__ import annotations

import math

import numpy as np

RESAMPLES = 20_000
MIN_FRAMES = 8  # of fewer, resampling says nothing


def resampled_means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means [RESAMPLES] of values [N] in the order of time, resampled with replacement; N > 0.

    Frames that follow each other are alike, so that runs of ⌈N^(1/3)⌉ of them are drawn, with the first behind the
    last: the circular block bootstrap (Politis and Romano, 1992), its length as of Hall, Horowitz and Jing (1995).
    """
    count = len(values)
    length = math.ceil(round(count ** (1 / 3), 9))
    ring = np.concatenate([values, values[: length - 1]])
    blocks = np.lib.stride_tricks.sliding_window_view(ring, length).mean(axis=1)  # [N]: one from each frame on
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, math.ceil(count / length)))
    return blocks[drawn].mean(axis=1)


def interval(means: np.ndarray, level: float) -> tuple[float, float]:
    """What the middle share ``level`` of resampled means lies within (percentile bootstrap, Efron 1979)."""
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)
