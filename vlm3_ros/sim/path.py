"""Where a camera goes: a robot's walk through a room, and single viewpoints."""

from __future__ import annotations

import heapq
import math

import numpy as np

from vlm3_ros.sim.floorplan import CELL, free_floor
from vlm3_ros.sim.layout import WALKING_MARGIN
from vlm3_ros.sim.room import Room

EYE_HEIGHT = 1.15  # metres above the floor
SPEED = 0.3  # m/s
TURN_RATE = math.radians(20.0)  # per second, at most
_SMOOTHING = 0.2  # metres along the path; cuts corners by at most 0.16 m, less than the margin of the free floor
_DWELL = 5.0  # seconds that the camera looks at one thing


def walk(room: Room, frames: int, rate: float = 10.0, seed: int = 0) -> np.ndarray:
    """A smooth walk at `SPEED` that looks at the room's things: T_world_cam [frames, 4, 4], ``rate`` a second.

    It stays a quarter of a metre clear of walls and things. Raises ValueError for a room without free floor.
    """
    rng = np.random.default_rng(seed)
    positions = _positions(room, frames, SPEED / rate, rng)
    time = np.arange(frames) / rate
    phase = rng.uniform(0, 2 * math.pi, 3)
    height = EYE_HEIGHT + 0.015 * np.sin(2 * math.pi * 0.31 * time + phase[0])
    centers = np.column_stack([positions, height])
    targets = _targets(room, centers, math.ceil(_DWELL * rate), rng)
    yaw, pitch = _headings(targets - centers, 1.0 / rate)
    pitch = pitch + math.radians(0.8) * np.sin(2 * math.pi * 0.23 * time + phase[1])
    roll = math.radians(1.0) * np.sin(2 * math.pi * 0.17 * time + phase[2])
    return np.stack([pose(*each) for each in zip(centers, yaw, pitch, roll, strict=True)])


def viewpoint(room: Room, rng: np.random.Generator) -> np.ndarray:
    """A random place to stand, height and gaze at something in the room: T_world_cam [4, 4]."""
    x, y = _places(room, 0.7 * WALKING_MARGIN, rng, 1)[0]
    center = np.array([x, y, rng.uniform(0.5, min(1.7, room.size[2] - 0.3))])
    (target,) = _targets(room, center[None], 1, rng) + rng.normal(0.0, 0.3, 3)
    yaw, pitch = _headings(target[None] - center, 1.0)
    return pose(center, yaw[0], pitch[0], rng.normal(0.0, math.radians(2.0)))


def pose(center: np.ndarray, yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """T_world_cam [4, 4] of a camera at ``center``; angles in radians.

    ``yaw`` turns its optical axis about z (0 looks along world x), ``pitch`` lifts it, ``roll`` banks to the right.
    """
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    level = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, level)
    T = np.eye(4)
    T[:3, 0] = math.cos(roll) * level + math.sin(roll) * down
    T[:3, 1] = math.cos(roll) * down - math.sin(roll) * level
    T[:3, 2] = forward
    T[:3, 3] = center
    return T


# -------------------------------------------------------------------------------------------------------- the way


def _places(room: Room, margin: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """Random spots [count, 2] of the free floor."""
    points, free = free_floor(room, margin)
    if not free.any():
        raise ValueError(f"no floor of this room is {margin} m away from walls and things: put fewer things into it")
    spots = points[free]
    return spots[rng.integers(len(spots), size=count)]


def _positions(room: Room, frames: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Points [frames, 2] every ``step`` metres on a smooth way from one random place to the next."""
    points, free = free_floor(room, WALKING_MARGIN)
    places = _places(room, WALKING_MARGIN, rng, 1)
    way = [places[0]]
    length = 0.0
    while length < frames * step * 1.3 + 1.0:
        (goal,) = _places(room, WALKING_MARGIN, rng, 1)
        leg = _shortest(points, free, way[-1], goal)
        length += np.linalg.norm(np.diff(leg, axis=0), axis=1).sum() if len(leg) > 1 else 0.0
        way += list(leg[1:])
    smooth = _smoothed(np.array(way))
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(smooth, axis=0), axis=1))])
    wanted = np.arange(frames) * step
    return np.column_stack([np.interp(wanted, along, smooth[:, k]) for k in (0, 1)])


def _shortest(points: np.ndarray, free: np.ndarray, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Shortest way [N, 2] over the free cells of a grid, both ends included (Dijkstra, eight neighbours)."""

    def cell(place: np.ndarray) -> tuple[int, int]:
        column, row = np.rint((place - points[0, 0]) / CELL).astype(int)
        return int(row), int(column)

    source, target = cell(start), cell(goal)
    best, before, queue = {source: 0.0}, {source: source}, [(0.0, source)]
    while queue:
        cost, here = heapq.heappop(queue)
        if here == target:
            break
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            there = here[0] + dr, here[1] + dc
            if not (0 <= there[0] < free.shape[0] and 0 <= there[1] < free.shape[1] and free[there]):
                continue
            longer = cost + math.hypot(dr, dc)
            if longer < best.get(there, math.inf):
                best[there], before[there] = longer, here
                heapq.heappush(queue, (longer, there))
    cells = [target]
    while cells[-1] != source:
        cells.append(before[cells[-1]])
    return np.array([points[c] for c in reversed(cells)])


def _smoothed(way: np.ndarray) -> np.ndarray:
    """A polyline [N, 2] resampled every 2 cm and averaged over a Gaussian window along it."""
    spacing = 0.02
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    dense = np.arange(0.0, along[-1], spacing)
    reach = int(2 * _SMOOTHING / spacing)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * spacing / _SMOOTHING) ** 2)
    kernel /= kernel.sum()
    columns = [np.pad(np.interp(dense, along, way[:, k]), reach, mode="edge") for k in (0, 1)]
    return np.column_stack([np.convolve(column, kernel, mode="valid") for column in columns])


# ------------------------------------------------------------------------------------------------------- the gaze


def _targets(room: Room, centers: np.ndarray, dwell: int, rng: np.random.Generator) -> np.ndarray:
    """What to look at from each of the points [N, 3]: a thing some way off, another after ``dwell`` points → [N, 3].

    Things that are seen across the middle of the room are preferred to those at the nearest wall.
    """
    candidates = np.array([thing.center for thing in room.things] or [(0.0, 0.0, room.size[2] / 3)])
    targets = np.empty_like(centers)
    for first in range(0, len(centers), dwell):
        here = centers[min(first + dwell // 2, len(centers) - 1), :2]
        offset = candidates[:, :2] - here
        distance = np.linalg.norm(offset, axis=1) + 1e-6
        across = -(offset @ here) / (distance * np.linalg.norm(here) + 1e-6)  # 1: the middle lies in that direction
        weight = np.clip(distance - 0.7, 1e-3, 1.5) * np.maximum(across + 0.5, 0.02)
        targets[first : first + dwell] = candidates[rng.choice(len(candidates), p=weight / weight.sum())]
    return targets


def _headings(directions: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Yaw and pitch [N] that follow directions [N, 3] as a head does: at a bounded rate that changes smoothly."""
    wanted_yaw = np.arctan2(directions[:, 1], directions[:, 0])
    wanted_pitch = 0.8 * np.arctan2(directions[:, 2], np.hypot(directions[:, 0], directions[:, 1]))
    wanted = np.column_stack([wanted_yaw, np.clip(wanted_pitch, math.radians(-30.0), math.radians(5.0))])
    headings = np.empty_like(wanted)
    now, rate = wanted[0], np.zeros(2)
    for k, goal in enumerate(wanted):
        error = goal - now
        error[0] = (error[0] + math.pi) % (2 * math.pi) - math.pi
        rate = rate + (np.clip(error, -TURN_RATE, TURN_RATE) - rate) * min(1.0, 3.0 * dt)
        now = now + rate * dt if k else now
        headings[k] = now
    return headings[:, 0], headings[:, 1]
