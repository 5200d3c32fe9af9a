"""A contact sheet: pictures of a data set with some of its questions and answers drawn on them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from vlm3_ros.camera import from_references
from vlm3_ros.drawing import INK, PAPER, PERCEIVED, Colour, write
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.learn.data.shards import DataSet
from vlm3_ros.tasks import depth, grounding, matching, objects
from vlm3_ros.vlm import Picture

WIDTH = 440  # px of a picture
GAP = 10  # px
COLUMNS = 4  # pictures in a row, and samples of a kind
PALETTE: tuple[Colour, ...] = ((255, 170, 40), (90, 220, 120), (90, 170, 255), (255, 110, 150), (200, 140, 255))
LINE_PX = 17
LETTERS = 66  # in a line of text below a picture


def contact_sheet(data: DataSet) -> np.ndarray:
    """An RGB picture with a few samples of each kind, spread evenly over the data set."""
    tiles: list[np.ndarray] = []
    candidates = [data[i] for i in _spread(len(data))]
    for draw, task in _TILES:
        tiles += [draw(sample) for sample in _some([s for s in candidates if _worth_a_look(s, task)])]
    return _arranged(tiles)


def _spread(count: int) -> list[int]:
    """At most 120 of the samples, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, 120)).astype(int)).tolist()


def _some(samples: Sequence[Sample]) -> list[Sample]:
    """COLUMNS of them at most, from the middle of as many equal parts."""
    count = min(COLUMNS, len(samples))
    return [samples[int((i + 0.5) * len(samples) / count)] for i in range(count)]


def _worth_a_look(sample: Sample, task: str) -> bool:
    """Whether it is of a task, and something is found where it is grounding."""
    exchanges = _of(sample, task)
    return bool(exchanges) and (task != "grounding" or any(map(reading.boxes, exchanges)))


# --------------------------------------------------------------------------------------------------------- tiles


def _depths(sample: Sample) -> np.ndarray:
    """Points in the colour of their distance, and some of the distances."""
    tile, picture = _tile(sample.pictures[:1])
    exchanges = _of(sample, "depth")
    metres = np.array([reading.metres(exchange) for exchange in exchanges])
    pixels = _pixels([reading.pixel(exchange) for exchange in exchanges], picture, depth.BINS)
    near, far = float(metres.min()), float(metres.max())
    shades = np.clip((1 / metres - 1 / far) / max(1 / near - 1 / far, 1e-9), 0.0, 1.0)
    turbo = cv2.applyColorMap((shades * 255).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1].tolist()
    for (u, v), colour in zip(pixels, turbo, strict=True):
        cv2.circle(picture, (u, v), 4, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(picture, (u, v), 3, colour, -1, cv2.LINE_AA)
    for i in _apart(pixels, 70):
        write(picture, f"{metres[i]:.2f}", (pixels[i][0] + 5, pixels[i][1] + 4), INK, 0.38)
    return _told(
        tile, [f"depth: {len(exchanges)} points, {near:.2f} (red) to {far:.2f} m (blue)", *_text(exchanges[0])]
    )


def _things(sample: Sample) -> np.ndarray:
    """Regions with a question about them."""
    tile, picture = _tile(sample.pictures[:1])
    exchanges = _of(sample, "objects")
    most = max(exchanges, key=lambda exchange: len(reading.regions(exchange)))
    others = {region for exchange in exchanges for region in reading.regions(exchange)}
    for region in others:
        _rectangle(picture, region, objects.BINS, (150, 150, 150))
    for name, colour, region in zip("AB", PALETTE, reading.regions(most), strict=False):
        _rectangle(picture, region, objects.BINS, colour, name)
    asked, answered = most.question, most.answer
    for name, region in zip("AB", reading.regions(most), strict=False):
        asked, answered = (text.replace(objects.name(region), name) for text in (asked, answered))
    return _told(
        tile, [f"objects: {len(exchanges)} questions on {len(others)} regions, one of them:", asked, answered]
    )


def _places(sample: Sample) -> np.ndarray:
    """Boxes of the things that were asked for."""
    tile, picture = _tile(sample.pictures[:1])
    exchanges = _of(sample, "grounding")
    for number, exchange in enumerate(exchanges):
        for box in reading.boxes(exchange):
            corners = round(box.x1), round(box.y1), round(box.x2), round(box.y2)
            _rectangle(picture, corners, grounding.BINS, PALETTE[number % len(PALETTE)], box.label)
    return _told(tile, [f"grounding: {', '.join(map(reading.label, exchanges))}"])


def _matches(sample: Sample) -> np.ndarray:
    """Some matches, the same colour and number in both pictures."""
    tile, left, right = _tile(sample.pictures)
    exchanges = _of(sample, "matching")
    first = _pixels([reading.pixel(exchange) for exchange in exchanges], left, matching.BINS)
    second = _pixels([reading.match(exchange) for exchange in exchanges], right, matching.BINS)
    for number, i in enumerate(_apart(first, 60), 1):
        colour = PALETTE[number % len(PALETTE)]
        for picture, at in ((left, first[i]), (right, second[i])):
            cv2.drawMarker(picture, at, (0, 0, 0), cv2.MARKER_CROSS, 13, 3)
            cv2.drawMarker(picture, at, colour, cv2.MARKER_CROSS, 11, 1)
            write(picture, str(number), (at[0] + 5, at[1] - 4), colour, 0.4)
    return _told(tile, [f"matching: {len(exchanges)} pixels", *_text(exchanges[0])])


def _motion(sample: Sample) -> np.ndarray:
    """The four answers about the motion between two pictures."""
    tile, *_ = _tile(sample.pictures)
    return _told(tile, ["pose of the second camera in the first", *(e.answer for e in _of(sample, "pose"))])


_TILES: tuple[tuple[Callable[[Sample], np.ndarray], str], ...] = (
    (_depths, "depth"),
    (_things, "objects"),
    (_places, "grounding"),
    (_matches, "matching"),
    (_motion, "pose"),
)


# ------------------------------------------------------------------------------------------------------- drawing


def _tile(pictures: Sequence[Picture]) -> tuple[np.ndarray, ...]:
    """Pictures beside each other, and views into each of them to draw on."""
    heights = [round(WIDTH * p.size[1] / p.size[0]) for p in pictures]
    tile = np.full((max(heights), (WIDTH + GAP) * len(pictures) - GAP, 3), PAPER, np.uint8)
    views = []
    for i, (picture, height) in enumerate(zip(pictures, heights, strict=True)):
        view = tile[:height, i * (WIDTH + GAP) : i * (WIDTH + GAP) + WIDTH]
        shown = cv2.resize(picture.pixels, picture.size, interpolation=cv2.INTER_AREA)  # as the model sees it
        view[:] = cv2.resize(shown, (WIDTH, height), interpolation=cv2.INTER_AREA)
        views.append(view)
    return tile, *views


def _arranged(tiles: Iterable[np.ndarray]) -> np.ndarray:
    """Tiles in rows of the sheet's width, those of a kind beside each other."""
    rows: list[list[np.ndarray]] = [[]]
    full = COLUMNS * (WIDTH + GAP) - GAP
    for tile in tiles:
        if sum(t.shape[1] + GAP for t in rows[-1]) + tile.shape[1] > full:
            rows.append([])
        rows[-1].append(tile)
    heights = [max((tile.shape[0] for tile in row), default=0) + GAP for row in rows]
    sheet = np.full((sum(heights) + GAP, full + 2 * GAP, 3), PAPER, np.uint8)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for tile in row:
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left += tile.shape[1] + GAP
        top += height
    return sheet


def _told(tile: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """A tile with lines of text below it, the first one as heading."""
    letters = LETTERS * tile.shape[1] // WIDTH
    lines = [line for text in texts[1:] for line in textwrap.wrap(text.replace("°", " deg"), letters)]
    below = np.full(((len(lines) + 2) * LINE_PX, tile.shape[1], 3), PAPER, np.uint8)
    write(below, texts[0], (2, LINE_PX), PERCEIVED, 0.42)
    for i, line in enumerate(lines, 2):
        write(below, line, (2, i * LINE_PX), INK, 0.4)
    return np.vstack([tile, below])


def _text(exchange: Exchange) -> tuple[str, str]:
    return exchange.question.split("?")[0] + "?", exchange.answer.replace("\n", " ")


def _rectangle(picture: np.ndarray, corners: Sequence[int], bins: int, colour: Colour, name: str = "") -> None:
    height, width, _ = picture.shape
    low, high = (np.multiply(at, (width, height)) // bins for at in (corners[:2], corners[2:]))
    cv2.rectangle(picture, low.tolist(), high.tolist(), colour, 2 if name else 1, cv2.LINE_AA)
    if name:
        write(picture, name, (int(low[0]) + 4, int(low[1]) + 14), colour, 0.45)


def _pixels(references: Sequence[Sequence[float]], picture: np.ndarray, bins: int) -> list[tuple[int, int]]:
    height, width, _ = picture.shape
    found = from_references(np.array(references), (width, height), bins).clip(0, (width - 1, height - 1))
    return [(int(u), int(v)) for u, v in found.round()]


def _apart(pixels: Sequence[tuple[int, int]], distance: float) -> list[int]:
    """As many of the pixels, by their index, as are that far from each other."""
    kept: list[int] = []
    for i, pixel in enumerate(pixels):
        if all(np.hypot(*np.subtract(pixel, pixels[k])) > distance for k in kept):
            kept.append(i)
    return kept


def _of(sample: Sample, task: str) -> list[Exchange]:
    return [exchange for exchange in sample.exchanges if exchange.task == task]
