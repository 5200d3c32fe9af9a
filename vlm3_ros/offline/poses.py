"""Recorded poses: between two stamps they are interpolated, and frames may be chained as in tf."""

from __future__ import annotations

import bisect
from collections import defaultdict

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from vlm3_ros.geometry import frames

MAX_GAP_NS = 100_000_000  # between two poses farther apart than this nothing is known


class Path:
    """Poses [4, 4] over time."""

    def __init__(self) -> None:
        self._poses: list[tuple[int, np.ndarray]] = []
        self._sorted = True

    def add(self, stamp: int, T: np.ndarray) -> None:
        """A pose at a stamp in nanoseconds, in any order."""
        self._poses.append((stamp, T))
        self._sorted = False

    def at(self, stamp: int) -> np.ndarray | None:
        """The pose at a stamp: linear in position, along the shortest arc in rotation; None where it is not known."""
        if not self._sorted:
            self._poses.sort(key=lambda entry: entry[0])
            self._sorted = True
        after = bisect.bisect_left(self._poses, stamp, key=lambda entry: entry[0])
        if after < len(self._poses) and self._poses[after][0] == stamp:
            return self._poses[after][1]
        if after in (0, len(self._poses)):
            return None
        (t1, T1), (t2, T2) = self._poses[after - 1 : after + 1]
        return interpolated(T1, T2, (stamp - t1) / (t2 - t1)) if t2 - t1 <= MAX_GAP_NS else None


def interpolated(T1: np.ndarray, T2: np.ndarray, part: float) -> np.ndarray:
    """The pose at ``part`` in [0, 1] of the way from one to another."""
    T = np.eye(4)
    T[:3, :3] = Slerp([0.0, 1.0], Rotation.from_matrix([T1[:3, :3], T2[:3, :3]]))(part).as_matrix()
    T[:3, 3] = (1.0 - part) * T1[:3, 3] + part * T2[:3, 3]
    return T


class TransformTree:
    """What went over /tf and /tf_static."""

    def __init__(self) -> None:
        self._static: dict[str, tuple[str, np.ndarray]] = {}  # child: (parent, T_parent_child)
        self._moving: dict[str, tuple[str, Path]] = {}
        self._others: dict[str, set[str]] = defaultdict(set)  # child: parents beyond the first

    def add(self, parent: str, child: str, stamp: int | None, T_parent_child: np.ndarray) -> None:
        """A transform; without a stamp it holds always. A second parent of a frame is left out (REP 105)."""
        parent, child = frames.bare(parent), frames.bare(child)
        if stamp is None:
            self._static[child] = parent, T_parent_child
            return
        first, path = self._moving.setdefault(child, (parent, Path()))
        if first == parent:
            path.add(stamp, T_parent_child)
        else:
            self._others[child].add(parent)

    def conflicts(self) -> dict[str, set[str]]:
        """Frames with more than one parent: the parents that were left out."""
        return dict(self._others)

    def static(self, a: str, b: str) -> np.ndarray | None:
        """T_a_b [4, 4] by static transforms alone; None where these do not connect the two."""
        return frames.relative(frames.bare(a), frames.bare(b), self._static.get)

    def moving_root(self, frame: str) -> str | None:
        """The frame at the root of the tree above a frame, if anything on the way there moves."""
        frame = frames.bare(frame)
        moving, seen = False, {frame}
        while frame in self._static or frame in self._moving:
            moving |= frame in self._moving
            frame = (self._moving.get(frame) or self._static[frame])[0]
            if frame in seen:
                return None
            seen.add(frame)
        return frame if moving else None

    def at(self, root: str, frame: str, stamp: int) -> np.ndarray | None:
        """T_root_frame [4, 4] at a stamp; None where it is not known."""

        def parent_of(child: str) -> tuple[str, np.ndarray] | None:
            if child not in self._moving:
                return self._static.get(child)
            parent, path = self._moving[child]
            T = path.at(stamp)
            return None if T is None else (parent, T)

        return frames.ancestors(frames.bare(frame), parent_of).get(frames.bare(root))
