"""Makers of things: each draws sizes and colours and returns parts with z = 0 at the foot and x to the front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vlm3_ros.sim.materials import Rng, any_hue, cloth, hsv, metal, paint, two_tone, wood
from vlm3_ros.sim.room import Material, Part, Shape

Maker = Callable[[Rng], list[Part]]


def box(center: tuple[float, float, float], size: tuple[float, float, float], material: Material) -> Part:
    return Part("box", center, size, material)


def round_part(
    shape: Shape, z: tuple[float, float], width: float, material: Material, x: float = 0.0, y: float = 0.0
) -> Part:
    """A cylinder or ellipsoid of circular plan ``width`` between two heights."""
    return Part(shape, (x, y, (z[0] + z[1]) / 2), (width, width, z[1] - z[0]), material)


def legs(depth: float, width: float, height: float, thick: float, material: Material) -> list[Part]:
    """Four legs whose outer sides enclose depth × width."""
    x, y = (depth - thick) / 2, (width - thick) / 2
    return [box((sx * x, sy * y, height / 2), (thick, thick, height), material) for sx in (-1, 1) for sy in (-1, 1)]


# ------------------------------------------------------------------------------------------------ to sit and lie on


def chair(rng: Rng) -> list[Part]:
    frame, side, seat = wood(rng), rng.uniform(0.42, 0.48), rng.uniform(0.43, 0.48)
    cushion = cloth(rng) if rng.random() < 0.6 else frame
    back, post = rng.uniform(0.82, 0.98), 0.035
    x = -(side - post) / 2
    parts = legs(side, side, seat - 0.04, post, frame)
    parts.append(box((0, 0, seat - 0.02), (side, side, 0.04), cushion))
    parts += [box((x, s * (side - post) / 2, (seat + back) / 2), (post, post, back - seat), frame) for s in (-1, 1)]
    rail = (back - seat) * rng.uniform(0.35, 0.65)
    parts.append(box((x, 0, back - rail / 2 - 0.01), (0.025, side - 2 * post, rail - 0.02), cushion))
    return parts


def stool(rng: Rng) -> list[Part]:
    height, width, frame = rng.uniform(0.42, 0.65), rng.uniform(0.32, 0.4), metal(rng)
    return [
        round_part("cylinder", (0, 0.025), width * 0.9, frame),
        round_part("cylinder", (0.025, height - 0.06), 0.05, frame),
        round_part("cylinder", (height - 0.06, height), width, cloth(rng)),
    ]


def sofa(rng: Rng) -> list[Part]:
    depth, width, back, arm = rng.uniform(0.82, 0.95), rng.uniform(1.5, 2.1), rng.uniform(0.75, 0.88), 0.17
    cover, foot = cloth(rng), wood(rng)
    inner, seats = width - 2 * arm, 2 if width < 1.85 else 3
    parts = legs(depth - 0.1, width - 0.1, 0.09, 0.06, foot)
    parts.append(box((0, 0, 0.18), (depth, width, 0.18), cover))
    parts.append(box((-depth / 2 + 0.1, 0, 0.27 + (back - 0.27) / 2), (0.2, inner, back - 0.27), cover))
    parts += [box((0, s * (width - arm) / 2, 0.43), (depth, arm, 0.32), cover) for s in (-1, 1)]
    for k in range(seats):
        y = inner * ((k + 0.5) / seats - 0.5)
        parts.append(box((0.095, y, 0.355), (depth - 0.21, inner / seats - 0.012, 0.17), cover))
    pillow = cloth(rng)
    for side in (-1, 1):
        if rng.random() < 0.7:
            parts.append(
                Part("ellipsoid", (-depth / 2 + 0.29, side * (inner / 2 - 0.24), 0.6), (0.17, 0.42, 0.36), pillow)
            )
    return parts


def bed(rng: Rng) -> list[Part]:
    length, width, frame = rng.uniform(1.95, 2.1), rng.uniform(0.95, 1.65), wood(rng)
    sheet = two_tone("fabric", 0.1, 0.04, 0.95, 0.08, period=0.5)
    parts = legs(length, width, 0.16, 0.08, frame)
    parts.append(box((0, 0, 0.24), (length, width, 0.16), frame))
    parts.append(box((-length / 2 + 0.025, 0, rng.uniform(0.45, 0.55)), (0.05, width, rng.uniform(0.7, 0.9)), frame))
    parts.append(box((0.025, 0, 0.4), (length - 0.07, width - 0.05, 0.18), sheet))
    parts.append(box((length * 0.15, 0, 0.435), (length * 0.68, width - 0.01, 0.16), cloth(rng)))
    for k in range(pillows := 1 if width < 1.3 else 2):
        y = width * ((k + 0.5) / pillows - 0.5)
        parts.append(
            Part("ellipsoid", (-length / 2 + 0.3, y, 0.54), (0.38, min(0.62, width / pillows - 0.1), 0.17), sheet)
        )
    return parts


# --------------------------------------------------------------------------------------------------- to put things on


def table(rng: Rng) -> list[Part]:
    depth, width, height = rng.uniform(0.65, 0.9), rng.uniform(1.0, 1.6), rng.uniform(0.7, 0.77)
    top = wood(rng)
    support = top if rng.random() < 0.6 else metal(rng)
    if rng.random() < 0.25:
        return [
            round_part("cylinder", (0, 0.03), depth * 0.6, support),
            round_part("cylinder", (0.03, height - 0.035), 0.08, support),
            round_part("cylinder", (height - 0.035, height), depth * 1.15, top),
        ]
    parts = legs(depth - 0.06, width - 0.06, height - 0.035, rng.uniform(0.045, 0.07), support)
    parts.append(box((0, 0, height - 0.075), (depth - 0.12, width - 0.12, 0.08), support))
    parts.append(box((0, 0, height - 0.0175), (depth, width, 0.035), replace(top, turned=True)))
    return parts


def cabinet(rng: Rng) -> list[Part]:
    depth, width = rng.uniform(0.38, 0.55), rng.uniform(0.7, 1.4)
    height = rng.choice([rng.uniform(0.55, 0.95), rng.uniform(1.3, 1.95)])
    body = wood(rng) if rng.random() < 0.5 else paint(rng)
    front = body if rng.random() < 0.4 else paint(rng)
    knob = metal(rng)
    columns, rows = (
        max(2, round(width / 0.45)),
        1 if height > 1.0 and rng.random() < 0.6 else max(1, round(height / 0.32)),
    )
    parts = [
        box((0, 0, 0.03), (depth - 0.08, width - 0.06, 0.06), metal(rng)),
        box((-0.01, 0, 0.06 + (height - 0.06) / 2), (depth - 0.02, width, height - 0.06), body),
    ]
    high, wide, x = (height - 0.1) / rows, (width - 0.03) / columns, depth / 2 - 0.01
    for row in range(rows):
        for column in range(columns):
            y, z = width / 2 - 0.015 - wide * (column + 0.5), 0.08 + high * (row + 0.5)
            parts.append(box((x, y, z), (0.02, wide - 0.014, high - 0.014), front))
            side = 0.0 if rows > 1 else (0.5 - column % 2) * (0.12 - wide)
            parts.append(
                box((x + 0.02, y + side, z), (0.02, 0.09 if rows > 1 else 0.02, 0.02 if rows > 1 else 0.12), knob)
            )
    return parts


def bookshelf(rng: Rng) -> list[Part]:
    depth, width, height = rng.uniform(0.26, 0.34), rng.uniform(0.7, 1.2), rng.uniform(1.2, 2.0)
    board, frame = 0.025, wood(rng) if rng.random() < 0.6 else paint(rng)
    shelves = max(3, round(height / 0.36))
    gap = (height - board) / shelves
    parts = [box((0, s * (width - board) / 2, height / 2), (depth, board, height), frame) for s in (-1, 1)]
    parts.append(box((-depth / 2 + 0.006, 0, height / 2), (0.012, width - 2 * board, height), frame))
    parts += [
        box((0, 0, board / 2 + gap * k), (depth - 0.002, width - 2 * board, board), frame) for k in range(shelves + 1)
    ]
    for k in range(shelves):
        length = (width - 2 * board) * rng.uniform(0.45, 1.0) - 0.01
        high, books = (gap - board) * rng.uniform(0.65, 0.92), depth * rng.uniform(0.6, 0.8)
        spines = two_tone("books", any_hue(rng), rng.uniform(0.3, 0.6), 0.9, 0.8, period=rng.uniform(0.55, 0.8))
        y = rng.choice([-1, 1]) * (width - 2 * board - length) / 2
        x = -depth / 2 + 0.012 + books / 2
        parts.append(box((x, y, board + gap * k + high / 2), (books, length, high), spines))
    return parts


# ------------------------------------------------------------------------------------------------------- small things


def ball(rng: Rng) -> list[Part]:
    width, tint = rng.uniform(0.16, 0.32), rng.random()
    stripes = Material("stripes", hsv(tint, 0.8, 0.7), hsv(tint + rng.uniform(0.08, 0.5), 0.3, 0.95), period=1.0)
    plain = two_tone("leaves", tint, 0.75, 0.85, 0.25, period=0.5)
    return [round_part("ellipsoid", (0, width), width, stripes if rng.random() < 0.7 else plain)]


def carton(rng: Rng) -> list[Part]:
    """A box: cardboard with tape, or a painted crate."""
    depth, width, height = rng.uniform(0.25, 0.5, 3)
    if rng.random() < 0.3:
        return [box((0, 0, height / 2), (depth, width, height), paint(rng))]
    board = two_tone("wood", 0.09, 0.45, rng.uniform(0.65, 0.78), 0.18, period=0.5)
    tape = two_tone("plaster", 0.11, 0.2, 0.9, 0.06)
    return [
        box((0, 0, (height - 0.002) / 2), (depth, width, height - 0.002), board),
        box((0, 0, height - 0.06), (depth + 0.002, 0.05, 0.12), tape),
    ]


def waste_bin(rng: Rng) -> list[Part]:
    width, height, body = rng.uniform(0.24, 0.34), rng.uniform(0.3, 0.55), paint(rng)
    inside = two_tone("plaster", 0.0, 0.0, 0.12, 0.1)
    return [
        round_part("cylinder", (0, height - 0.03), width * 0.94, body),
        round_part("cylinder", (height - 0.03, height - 0.001), width, body),
        round_part("cylinder", (height - 0.01, height), width * 0.88, inside),
    ]


def plant(rng: Rng) -> list[Part]:
    tall, pot = rng.uniform(0.55, 1.25), rng.uniform(0.2, 0.3)
    clay = two_tone("plaster", rng.choice([0.04, 0.55, 0.1]), rng.uniform(0.1, 0.6), rng.uniform(0.6, 0.9), 0.12)
    leaves = two_tone("leaves", rng.uniform(0.24, 0.38), 0.6, rng.uniform(0.5, 0.75), 0.7, period=0.35)
    soil = two_tone("carpet", 0.07, 0.5, 0.25, 0.5, period=0.3)
    parts = [
        round_part("cylinder", (0, pot), pot, clay),
        round_part("cylinder", (pot - 0.03, pot + 0.003), pot * 0.85, soil),
        round_part("cylinder", (pot, tall * 0.7), 0.025, wood(rng)),
    ]
    crown = pot + 0.08
    for k in range(5):
        angle, width = k * 2.4 + rng.uniform(0, 0.8), rng.uniform(0.5, 0.7) * pot + 0.12
        z = crown + (tall - crown) * k / 5
        x, y = 0.32 * pot * np.cos(angle), 0.32 * pot * np.sin(angle)
        parts.append(round_part("ellipsoid", (z, z + (tall - crown) * 0.38), width * (1.15 - 0.12 * k), leaves, x, y))
    return parts


def lamp(rng: Rng) -> list[Part]:
    """A table lamp; `floor_lamp` is its tall sister."""
    return _lamp(rng, rng.uniform(0.4, 0.55), rng.uniform(0.2, 0.28))


def floor_lamp(rng: Rng) -> list[Part]:
    return _lamp(rng, rng.uniform(1.35, 1.7), rng.uniform(0.32, 0.42))


def _lamp(rng: Rng, height: float, width: float) -> list[Part]:
    frame, shade = (
        metal(rng),
        replace(two_tone("fabric", 0.12, rng.uniform(0.2, 0.45), 1.0, 0.12, period=0.3), glow=1.6),
    )
    return [
        round_part("cylinder", (0, 0.025), width * 0.75, frame),
        round_part("cylinder", (0.025, height - 0.03), 0.03, frame),
        round_part("cylinder", (height - width * 0.75, height), width, shade),
    ]


def vase(rng: Rng) -> list[Part]:
    width, glaze = (
        rng.uniform(0.14, 0.2),
        two_tone("marble", any_hue(rng), 0.5, rng.uniform(0.55, 0.9), 0.4, period=0.4),
    )
    return [
        round_part("ellipsoid", (0, width * 1.3), width, glaze),
        round_part("cylinder", (0, 0.02), width * 0.6, glaze),
        round_part("cylinder", (width * 1.1, width * 1.75), width * 0.38, glaze),
    ]


def television(rng: Rng) -> list[Part]:
    width, frame = rng.uniform(0.7, 1.0), two_tone("plaster", 0.6, 0.05, 0.12, 0.1)
    height, screen = (
        width * 0.58,
        Material("landscape", hsv(rng.random(), 0.7, 0.3), (0.85, 0.9, 1.0), width * 0.96, glow=0.5),
    )
    return [
        box((0, 0, 0.01), (0.2, width * 0.4, 0.02), frame),
        box((-0.02, 0, 0.05), (0.03, 0.08, 0.1), frame),
        box((0, 0, 0.06 + height / 2), (0.04, width, height), frame),
        box((0.021, 0, 0.06 + height / 2), (0.002, width * 0.96, height * 0.92), screen),
    ]


# ------------------------------------------------------------------------------------ decoration: flat, on a surface


def door(rng: Rng) -> list[Part]:
    leaf, frame, knob = wood(rng) if rng.random() < 0.5 else paint(rng), paint(rng), metal(rng)
    parts = [box((0.015, 0, 1.03), (0.03, 1.0, 2.06), frame), box((0.02, 0, 1.0), (0.04, 0.86, 2.0), leaf)]
    parts += [box((0.023, 0, z), (0.046, 0.6, 0.72), leaf) for z in (0.5, 1.45)]
    parts.append(Part("ellipsoid", (0.08, 0.37, 1.02), (0.06, 0.06, 0.06), knob))
    return parts


def window(rng: Rng) -> list[Part]:
    """Daylight behind glass; its parts stand on a sill, z = 0 at the lower edge."""
    width, height = rng.uniform(0.9, 1.6), rng.uniform(0.9, 1.2)
    frame = two_tone("plaster", 0.1, 0.03, 0.95, 0.06)
    sky = Material("landscape", (0.32, 0.45, 0.36), (0.75, 0.88, 1.0), period=max(width, height), glow=1.3)
    return [
        box((0.015, 0, height / 2), (0.03, width, height), frame),
        box((0.017, 0, height / 2), (0.034, width - 0.14, height - 0.14), sky),
        box((0.02, 0, height / 2), (0.04, 0.04, height), frame),
        box((0.02, 0, height * 0.62), (0.04, width, 0.035), frame),
        box((0.06, 0, 0.0), (0.12, width + 0.1, 0.03), frame),
    ]


def picture(rng: Rng) -> list[Part]:
    width, height = rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.6)
    tint = any_hue(rng)
    canvas = Material("landscape", hsv(tint, 0.6, 0.3), hsv(tint + rng.uniform(0.1, 0.5), 0.35, 0.95), period=width)
    return [
        box((0.012, 0, height / 2), (0.024, width, height), wood(rng)),
        box((0.014, 0, height / 2), (0.028, width - 0.08, height - 0.08), canvas),
    ]


def rug(rng: Rng) -> list[Part]:
    size = (*rng.uniform(1.3, 2.2, 2), 0.006)
    pattern, tint = str(rng.choice(["diamonds", "stripes", "carpet"])), any_hue(rng)
    wool = Material(pattern, hsv(tint, 0.55, 0.45), hsv(tint + 0.08, 0.25, 0.85), period=rng.uniform(0.5, 0.9))
    return [box((0, 0, 0.003), size, wool)]


LARGE: dict[str, Maker] = {"sofa": sofa, "bed": bed, "cabinet": cabinet, "bookshelf": bookshelf}
FLOOR: dict[str, Maker] = {
    "box": carton, "ball": ball, "bin": waste_bin, "plant": plant, "lamp": floor_lamp, "stool": stool, "chair": chair
}  # fmt: skip
SMALL: dict[str, Maker] = {"lamp": lamp, "vase": vase, "ball": ball, "box": carton, "television": television}
