"""The demo's room: a living room with a dining corner, furnished by hand."""

from __future__ import annotations

from dataclasses import replace
from math import pi

import numpy as np

from vlm3_ros.sim import furniture as f
from vlm3_ros.sim.layout import skirting
from vlm3_ros.sim.room import Material, Room, Thing

LABELS = ["sofa", "cabinet", "bookshelf", "table", "chair", "plant", "ball", "box"]  # what the demo looks for
WALK_SEED = 26  # of the demo's walk: several things in every frame, most of the room in half a minute

# label, maker, seed of its sizes and colours, foot (x, y, z) in metres, yaw in quarter turns
THINGS = (
    ("sofa", f.sofa, 6, (-0.9, 1.9, 0.0), -1.0),
    ("cabinet", f.cabinet, 7, (-0.9, -2.1, 0.0), 1.0),
    ("bookshelf", f.bookshelf, 4, (2.6, 1.3, 0.0), 2.0),
    ("table", f.table, 10, (1.45, -1.0, 0.0), 1.05),
    ("chair", f.chair, 8, (2.3, -1.0, 0.0), 2.1),
    ("chair", f.chair, 8, (1.35, -0.2, 0.0), -0.9),
    ("plant", f.plant, 8, (-2.4, 1.95, 0.0), 0.0),
    ("lamp", f.floor_lamp, 5, (0.55, 2.05, 0.0), 0.0),
    ("ball", f.ball, 4, (0.25, 0.75, 0.0), 0.4),
    ("box", f.carton, 8, (-2.35, -1.0, 0.0), 0.2),
    ("bin", f.waste_bin, 7, (0.35, -2.1, 0.0), 0.0),
)
ON_TOP = (  # carrier's index in THINGS, then as above with x and y from the carrier's middle
    (1, "television", f.television, 4, (0.0, 0.1), 1.0),
    (3, "vase", f.vase, 7, (-0.05, 0.3), 0.0),
    (3, "box", f.carton, 3, (0.1, -0.25), 0.3),
)
DECOR = (
    ("door", f.door, 5, (-2.8, 0.4, 0.0), 0.0),
    ("window", f.window, 2, (-1.0, 2.4, 1.05), -1.0),
    ("window", f.window, 2, (2.8, -0.9, 1.0), 2.0),
    ("picture", f.picture, 3, (0.9, 2.4, 1.35), -1.0),
    ("picture", f.picture, 8, (1.2, -2.4, 1.3), 1.0),
    ("rug", f.rug, 2, (-0.8, 0.35, 0.0), 0.0),
)


def demo_room() -> Room:
    """A pleasant room with 14 things, the same every time."""
    cream, teal = (0.97, 0.93, 0.86), (0.55, 0.72, 0.72)
    plain = Material("plaster", (0.89, 0.85, 0.77), cream, 1.4)
    feature = Material("diamonds", (0.45, 0.63, 0.64), teal, 1.2)
    oak = Material("planks", (0.4, 0.27, 0.16), (0.82, 0.64, 0.44), 1.3)
    white = Material("plaster", (0.9, 0.9, 0.88), (0.97, 0.97, 0.95), 1.5)
    bricks = Material("bricks", (0.56, 0.33, 0.26), (0.85, 0.8, 0.74))
    size = (5.6, 4.8, 2.6)
    standing = [_made(*row) for row in THINGS]
    for carrier, label, maker, seed, (x, y), yaw in ON_TOP:
        below = standing[carrier]
        standing.append(_made(label, maker, seed, (below.center[0] + x, below.center[1] + y, below.top), yaw))
    light = f.round_part("cylinder", (-0.06, 0.0), 0.45, replace(white, glow=1.5))
    decor = [*(_made(*row) for row in DECOR), Thing.standing("ceiling light", [light], (0.0, 0.0, size[2]))]
    walls = (plain, bricks, plain, feature)
    return Room(size, oak, white, walls, tuple(standing), (*decor, *skirting(size, white)))


def _made(label: str, maker: f.Maker, seed: int, at: tuple[float, float, float], quarters: float) -> Thing:
    return Thing.standing(label, maker(np.random.default_rng(seed)), at, quarters * pi / 2)
