"""A room seen from above: what collides, and where one can walk."""

from __future__ import annotations

import cv2
import numpy as np

from vlm3_ros.sim.room import Room, Thing

CELL = 0.1  # metres, grid of the floor


def disjoint(a: Thing, b: Thing, gap: float = 0.0) -> bool:
    """Whether the boxes of two things are apart: at least ``gap`` metres sideways, or one above the other.

    Touching counts as apart. Separating axes of two upright boxes: the vertical and the four sides.
    """
    if a.bottom >= b.top - 1e-6 or b.bottom >= a.top - 1e-6:
        return True
    pa, pb = a.footprint, b.footprint
    for axis in (*a.R[:2, :2].T, *b.R[:2, :2].T):
        sa, sb = pa @ axis, pb @ axis
        if sa.min() >= sb.max() + gap - 1e-6 or sb.min() >= sa.max() + gap - 1e-6:
            return True
    return False


def clearance(room: Room, points: np.ndarray) -> np.ndarray:
    """Horizontal distance [N] from points [N, 2] to the nearest wall or thing, whatever its height; 0 inside one."""
    points = np.asarray(points, float)
    half = np.array(room.size[:2]) / 2
    nearest = np.maximum((half - abs(points)).min(axis=1), 0.0)
    for thing in room.things:
        local = abs((points - thing.center[:2]) @ thing.R[:2, :2]) - np.array(thing.size[:2]) / 2
        nearest = np.minimum(nearest, np.hypot(*np.maximum(local, 0.0).T))
    return nearest


def free_floor(room: Room, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Where something with radius ``margin`` can stand and walk: the largest connected stretch of floor.

    Returns the grid's points [rows, columns, 2] in the world (`CELL` apart) and a mask over them [rows, columns].
    """
    x, y = (np.arange(CELL / 2 - side / 2, side / 2, CELL) for side in room.size[:2])
    points = np.stack(np.meshgrid(x, y), axis=-1)
    free = clearance(room, points.reshape(-1, 2)).reshape(points.shape[:2]) >= margin
    _, labels, stats, _ = cv2.connectedComponentsWithStats(free.astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return points, free & (labels == 1 + areas.argmax()) if areas.size else free
