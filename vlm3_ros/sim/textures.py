"""Procedural patterns, all in one image with their mipmaps: a whole picture samples them at once, without aliasing.

A pattern is one tileable grey image; a material blends its two colours by it. Grey 0 is the dark colour.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

SIDE = 512  # pixels of a pattern's finest level
LEVELS = 8  # 512 … 4 pixels
_PAD = 2  # wrapped around every level, so that bilinear lookups never leave it


def _noise(seed: int, slope: float, stretch: float = 1.0) -> np.ndarray:
    """Tileable noise [SIDE, SIDE] in [0, 1] with amplitude ~ 1/f^slope, drawn out along columns by ``stretch``."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE, 1 / SIDE), np.fft.rfftfreq(SIDE, 1 / SIDE), indexing="ij")
    frequency = np.hypot(fx * stretch, fy)
    frequency[0, 0] = np.inf
    spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**slope
    field = np.fft.irfft2(spectrum, (SIDE, SIDE))
    return np.clip(0.5 + field / (5.0 * field.std()), 0.0, 1.0)


def _grid(columns: float, rows: float) -> tuple[np.ndarray, np.ndarray]:
    """Position of every pixel in cells of a ``columns`` × ``rows`` grid: x and y, each [SIDE, SIDE]."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    return x / SIDE * columns, y / SIDE * rows


def _cell_tones(seed: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A random tone in [0, 1] for each cell, given every pixel's (wrapped) cell numbers."""
    tones = np.random.default_rng(seed).random((rows.max() + 1, columns.max() + 1))
    return tones[rows, columns]


def _joint(position: np.ndarray, width: float) -> np.ndarray:
    """1 within ``width`` (in cells) of a cell border along one axis, 0 inside, soft between."""
    inside = np.minimum(position % 1.0, 1.0 - position % 1.0)
    return np.clip(1.5 - inside / width, 0.0, 1.0)


def _plaster() -> np.ndarray:
    return 0.45 * _noise(1, 1.0) + 0.55 * _noise(2, 1.8)


def _carpet() -> np.ndarray:
    return np.clip(0.75 * _noise(3, 0.3) + 0.25 * _noise(4, 1.2), 0, 1)


def _checker() -> np.ndarray:
    x, y = _grid(4, 4)
    tone = _cell_tones(5, y.astype(int), x.astype(int))
    square = (x.astype(int) + y.astype(int)) % 2
    return np.clip(0.08 + 0.78 * square + 0.12 * tone + 0.1 * (_noise(6, 1.2) - 0.5), 0, 1)


def _tiles() -> np.ndarray:
    x, y = _grid(4, 4)
    tone = 0.55 + 0.35 * _cell_tones(7, y.astype(int), x.astype(int)) + 0.3 * (_noise(8, 1.4) - 0.5)
    return np.clip(tone, 0, 1) * (1 - np.maximum(_joint(x, 0.02), _joint(y, 0.02)))


def _planks() -> np.ndarray:
    x, y = _grid(2, 8)
    row = y.astype(int)
    x = x + np.random.default_rng(9).random(8)[row]
    tone = 0.25 + 0.5 * _cell_tones(10, row, x.astype(int) % 2) + 0.55 * (_grain() - 0.5)
    return np.clip(tone, 0.05, 1) * (1 - np.maximum(_joint(x, 0.004), _joint(y, 0.025)))


def _bricks() -> np.ndarray:
    x, y = _grid(4, 8)
    row = y.astype(int)
    x = x + 0.5 * (row % 2)
    brick = 0.05 + 0.4 * _cell_tones(11, row, x.astype(int) % 4) + 0.25 * (_noise(12, 0.8) - 0.5)
    mortar = np.maximum(_joint(x, 0.03), _joint(y, 0.06))
    return np.clip(brick + mortar * (0.9 - brick), 0, 1)


def _stripes() -> np.ndarray:
    x, _ = _grid(8, 8)
    return np.clip(0.5 + 1.6 * np.sin(2 * np.pi * x), 0.1, 0.9) + 0.1 * (_noise(13, 1.0) - 0.5)


def _grain() -> np.ndarray:
    return 0.6 * _noise(14, 1.3, stretch=14.0) + 0.4 * _noise(15, 0.7, stretch=30.0)


def _fabric() -> np.ndarray:
    x, y = _grid(48, 48)
    weave = 0.5 + 0.25 * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
    return np.clip(0.5 * weave + 0.5 * _noise(16, 0.9), 0, 1)


def _marble() -> np.ndarray:
    return np.clip(1.6 * abs(_noise(17, 1.6) - 0.5) ** 0.6 + 0.2 * _noise(18, 0.8), 0, 1)


def _diamonds() -> np.ndarray:
    x, y = _grid(6, 6)
    lattice = np.minimum(_joint(x + y, 0.05) + _joint(x - y, 0.05), 1.0)
    dot = np.hypot((x + y) % 1 - 0.5, (x - y) % 1 - 0.5) < 0.12
    return 0.25 + 0.6 * np.maximum(lattice, dot) + 0.15 * (_noise(19, 1.0) - 0.5)


def _leaves() -> np.ndarray:
    return np.clip(2.2 * (_noise(20, 0.9) - 0.5) + 0.45, 0, 1)


def _books() -> np.ndarray:
    """A row of spines: widths and tones at random, a darker gap between, a band across some."""
    rng = np.random.default_rng(21)
    edges = np.cumsum(rng.uniform(10, 30, 60)).astype(int)
    spine = np.searchsorted(edges[edges < SIDE - 8], np.arange(SIDE))
    tone, band = rng.uniform(0.15, 1.0, 60)[spine], rng.uniform(0.1, 0.9, 60)[spine]
    gap = np.concatenate([[True], np.diff(spine) > 0])
    rows = (np.arange(SIDE)[:, None] + 0.5) / SIDE
    image = np.where(abs(rows - band) < 0.05, 1.0 - tone, tone)
    return np.where(gap | np.roll(gap, 1), 0.0, image)


def _landscape() -> np.ndarray:
    """A picture to hang: hills under a low sun. Row 0 is the bottom, as on every upright surface."""
    x, y = _grid(1, 1)
    image = 0.55 + 0.4 * y
    image = np.where(np.hypot(x - 0.66, y - 0.66) < 0.1, 1.0, image)
    for k, (base, tone) in enumerate(((0.55, 0.45), (0.42, 0.28), (0.24, 0.1))):
        ridge = base + 0.09 * np.sin(2 * np.pi * (x + 0.37 * k)) + 0.04 * np.sin(2 * np.pi * (3 * x + 0.2 * k))
        image = np.where(y < ridge, tone + 0.25 * (y - ridge + 0.2), image)
    return np.clip(image, 0, 1)


PATTERNS = {
    "plaster": _plaster,
    "carpet": _carpet,
    "checker": _checker,
    "tiles": _tiles,
    "planks": _planks,
    "bricks": _bricks,
    "stripes": _stripes,
    "wood": _grain,
    "fabric": _fabric,
    "marble": _marble,
    "diamonds": _diamonds,
    "leaves": _leaves,
    "books": _books,
    "landscape": _landscape,
}
PATTERN_INDEX = {name: i for i, name in enumerate(PATTERNS)}

_BLOCK = SIDE + 2 * _PAD  # rows of the atlas per pattern


def _level_columns() -> np.ndarray:
    """Column where each level's first pixel lies, side by side in the atlas [LEVELS]."""
    widths = [(SIDE >> level) + 2 * _PAD for level in range(LEVELS)]
    return np.concatenate([[0], np.cumsum(widths)[:-1]]) + _PAD


@lru_cache(maxsize=1)
def _atlas() -> np.ndarray:
    """All patterns below each other, their levels side by side, uint8."""
    columns = _level_columns()
    atlas = np.zeros((_BLOCK * len(PATTERNS), columns[-1] + (SIDE >> (LEVELS - 1)) + _PAD), np.uint8)
    for index, draw in enumerate(PATTERNS.values()):
        image = draw().astype(np.float32)
        for level, column in enumerate(columns):
            side = SIDE >> level
            small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            tile = np.pad(np.rint(small * 255).clip(0, 255).astype(np.uint8), _PAD, mode="wrap")
            top = index * _BLOCK
            atlas[top : top + side + 2 * _PAD, column - _PAD : column + side + _PAD] = tile
    return atlas


def sample(pattern: np.ndarray, coordinates: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Grey [N] in [0, 1] of patterns (indices [N]) at coordinates [2, N], averaged over ``footprint`` [N] (periods).

    Trilinear: two bilinear lookups in the levels whose pixels are just finer and coarser than the footprint.
    """
    level = np.clip(np.log2(np.maximum(footprint * SIDE, 1.0)), 0.0, LEVELS - 1.001)
    fine = level.astype(np.int32)
    blend = level - fine
    s, t = coordinates - np.floor(coordinates)
    top = (pattern * _BLOCK + _PAD).astype(np.float32)
    columns = _level_columns().astype(np.float32)
    grey = [
        bilinear(_atlas(), columns[lv] + s * side - 0.5, top + t * side - 0.5)
        for lv, side in ((fine, np.ldexp(np.float32(SIDE), -fine)), (fine + 1, np.ldexp(np.float32(SIDE), -fine - 1)))
    ]
    return (grey[0] + blend * (grey[1] - grey[0])) * np.float32(1 / 255)


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values [N] float32 of a one-channel image between its pixels (columns ``x``, rows ``y``, each [N]).

    The points are folded into rows because cv2.remap bounds each side of its output.
    """
    n = len(x)
    rows = -(-n // 1024)
    maps = np.zeros((2, rows * 1024), np.float32)
    maps[0, :n], maps[1, :n] = x, y
    u, v = maps.reshape(2, rows, 1024)
    return cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).ravel()[:n].astype(np.float32)
