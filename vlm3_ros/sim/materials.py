"""Materials drawn at random, in colours that people furnish with."""

from __future__ import annotations

import colorsys

import numpy as np

from vlm3_ros.sim.room import Colour, Material

Rng = np.random.Generator


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour by hue (0 to 1, red = 0), saturation and value."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def two_tone(
    pattern: str, hue: float, saturation: float, value: float, contrast: float, period: float = 1.0
) -> Material:
    """A material whose dark colour is the light one made darker and a little richer."""
    dark = hsv(hue, saturation * 1.1, value * (1.0 - contrast))
    return Material(pattern, dark, hsv(hue, saturation, value), period)


def any_hue(rng: Rng) -> float:
    """One of the hues people furnish with: terracotta, ochre, sage, teal, blue, plum."""
    return rng.choice([0.03, 0.1, 0.24, 0.46, 0.57, 0.62, 0.93]) + rng.normal(0.0, 0.02)


def wood(rng: Rng, period: float = 0.9) -> Material:
    value = rng.choice([0.42, 0.62, 0.8, 0.88])
    return two_tone("wood", rng.uniform(0.06, 0.11), rng.uniform(0.35, 0.62), value, 0.45, period=period)


def paint(rng: Rng) -> Material:
    """Lacquer: white, grey or a muted colour."""
    if rng.random() < 0.4:
        return two_tone("plaster", 0.1, rng.uniform(0.0, 0.1), rng.uniform(0.75, 0.95), 0.08)
    return two_tone("plaster", any_hue(rng), rng.uniform(0.15, 0.42), rng.uniform(0.5, 0.9), 0.1)


def cloth(rng: Rng) -> Material:
    pattern = rng.choice(["fabric", "fabric", "carpet", "stripes", "diamonds"])
    contrast = 0.45 if pattern in ("fabric", "carpet") else 0.3
    return two_tone(
        str(pattern),
        rng.random(),
        rng.uniform(0.2, 0.65),
        rng.uniform(0.5, 0.85),
        contrast,
        period=rng.uniform(0.3, 0.6),
    )


def metal(rng: Rng) -> Material:
    return two_tone("plaster", 0.6, 0.05, rng.choice([0.18, 0.4, 0.7]), 0.15)
