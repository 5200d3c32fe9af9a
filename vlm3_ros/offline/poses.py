"""Recorded poses: between two stamps they are interpolated, and frames may be chained as in tf."""

from __future__ import annotations

import bisect
import logging
from collections import Counter, defaultdict

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from vlm3_ros.geometry import frames

log = logging.getLogger(__name__)

NEAR_NS = 100_000_000  # poses at most this far apart are interpolated without a word
REGULAR, SLOWEST_NS = 2.5, 1_000_000_000  # and slower ones, where they come regularly: times their interval, at most


class Path:
    """Poses [4, 4] over time."""

    def __init__(self, name: str, max_gap_ns: int = 0):
        """``name``: what it is for people. ``max_gap_ns``: what may lie between two poses; 0: what is usual here."""
        self._name, self._given_ns = name, max_gap_ns
        self._poses: list[tuple[int, np.ndarray]] = []
        self._gap_ns: int | None = None  # of the poses in their order; None: they are not in order
        self._left_out: Counter[str] = Counter()

    def add(self, stamp: int, T: np.ndarray) -> None:
        """A pose at a stamp in nanoseconds, in any order."""
        self._poses.append((stamp, T))
        self._gap_ns = None

    def leave_out(self, reasons: Counter[str]) -> None:
        """Count poses that cannot be used, by the reason."""
        self._left_out += reasons
        self._gap_ns = None

    def at(self, stamp: int) -> np.ndarray | str:
        """The pose at a stamp, linear in position and along the shortest arc in rotation; or why it is not known."""
        gap_ns = self._in_order() if self._gap_ns is None else self._gap_ns
        after = bisect.bisect_left(self._poses, stamp, key=lambda entry: entry[0])
        if after < len(self._poses) and self._poses[after][0] == stamp:
            return self._poses[after][1]
        if not self._poses:
            return f"{self._name} has no pose that can be used"
        if after in (0, len(self._poses)):
            return f"it is {'after the last' if after else 'before the first'} pose of {self._name}"
        (t1, T1), (t2, T2) = self._poses[after - 1 : after + 1]
        if t2 - t1 > gap_ns:
            return f"the poses of {self._name} around it are more than {gap_ns / 1e9:g} s apart (--max-pose-gap)"
        return interpolated(T1, T2, (stamp - t1) / (t2 - t1))

    def _in_order(self) -> int:
        """Sort, and decide how far poses may be apart; what is not as usual is said."""
        if self._left_out:
            total = len(self._poses) + self._left_out.total()
            reasons = ", ".join(f"{count} x {reason}" for reason, count in self._left_out.most_common())
            log.warning("%s: %d of %d poses are left out: %s", self._name, self._left_out.total(), total, reasons)
            self._left_out.clear()
        self._poses.sort(key=lambda entry: entry[0])
        gaps = np.diff([stamp for stamp, _ in self._poses])
        self._gap_ns = self._given_ns or NEAR_NS
        interval_ns = int(np.median(gaps)) if len(gaps) else 0
        if not self._given_ns and interval_ns > NEAR_NS:
            self._gap_ns = min(int(interval_ns * REGULAR), SLOWEST_NS)
        if interval_ns > self._gap_ns:
            said = "they are not interpolated, and most images will have no true pose: give a larger --max-pose-gap"
        elif interval_ns > NEAR_NS:
            said = f"interpolated over up to {self._gap_ns / 1e9:g} s, which is no measurement (--max-pose-gap)"
        else:
            return self._gap_ns
        log.warning("the poses of %s are %g s apart: %s", self._name, round(interval_ns / 1e9, 3), said)
        return self._gap_ns


def interpolated(T1: np.ndarray, T2: np.ndarray, part: float) -> np.ndarray:
    """The pose at ``part`` in [0, 1] of the way from one to another."""
    T = np.eye(4)
    T[:3, :3] = Slerp([0.0, 1.0], Rotation.from_matrix([T1[:3, :3], T2[:3, :3]]))(part).as_matrix()
    T[:3, 3] = (1.0 - part) * T1[:3, 3] + part * T2[:3, 3]
    return T


class TransformTree:
    """What went over /tf and /tf_static."""

    def __init__(self, max_gap_ns: int = 0) -> None:
        """``max_gap_ns``: as of `Path`, for each link by itself."""
        self._max_gap_ns = max_gap_ns
        self._static: dict[str, tuple[str, np.ndarray]] = {}  # child: (parent, T_parent_child)
        self._moving: dict[str, tuple[str, Path]] = {}
        self._restated: set[str] = set()  # children whose static transform was given otherwise before
        self._others: dict[str, set[str]] = defaultdict(set)  # child: parents beyond the first

    def add(self, parent: str, child: str, stamp: int | None, T_parent_child: np.ndarray) -> None:
        """A transform; without a stamp it holds always. A second parent of a frame is left out (REP 105)."""
        parent, child = frames.bare(parent), frames.bare(child)
        if stamp is None:
            before, T = self._static.get(child, (parent, T_parent_child))
            if before != parent or not np.allclose(T, T_parent_child, atol=1e-6):
                self._restated.add(child)
            self._static[child] = parent, T_parent_child
        elif (path := self._path(parent, child)) is not None:
            path.add(stamp, T_parent_child)

    def leave_out(self, parent: str, child: str, reason: str) -> None:
        """Count a transform that moves a frame and cannot be used."""
        if (path := self._path(frames.bare(parent), frames.bare(child))) is not None:
            path.leave_out(Counter([reason]))

    def _path(self, parent: str, child: str) -> Path | None:
        first, path = self._moving.setdefault(child, (parent, Path(f"/tf {parent} → {child}", self._max_gap_ns)))
        if first == parent:
            return path
        self._others[child].add(parent)
        return None

    def faults(self) -> list[str]:
        """What does not fit together, in sentences."""
        found = [
            f"/tf gives {child!r} other parents too, which are left out: {', '.join(sorted(parents))}"
            for child, parents in self._others.items()
        ]
        found += [
            f"/tf_static says several things about {child!r}: the last is taken, below {self._static[child][0]!r}"
            for child in sorted(self._restated)
        ]
        return found + [
            f"/tf goes in a circle, so nothing is known through it: {' → '.join(c)}" for c in self._loops()
        ]

    def _loops(self) -> list[list[str]]:
        """Frames that are above themselves, each circle from its first name in the alphabet."""
        above = {child: parent for links in (self._static, self._moving) for child, (parent, _) in links.items()}
        found, done = [], set[str]()
        for child in sorted(above):
            way: list[str] = []
            frame = child
            while frame in above and frame not in done:
                done.add(frame)
                way.append(frame)
                frame = above[frame]
            if frame in way:
                found.append([*way[way.index(frame) :], frame])
        return found

    def static(self, a: str, b: str) -> np.ndarray | None:
        """T_a_b [4, 4] by static transforms alone; None where these do not connect the two."""
        return frames.relative(frames.bare(a), frames.bare(b), self._static.get)

    def static_root(self, frame: str) -> str:
        """What a frame is fixed to in the end; itself where it is fixed to nothing."""
        return list(frames.ancestors(frames.bare(frame), self._static.get))[-1]

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

    def at(self, root: str, frame: str, stamp: int) -> np.ndarray | str:
        """T_root_frame [4, 4] at a stamp; or which link of the chain is not known, and why."""
        unknown: list[str] = []

        def parent_of(child: str) -> tuple[str, np.ndarray] | None:
            if child not in self._moving:
                return self._static.get(child)
            parent, path = self._moving[child]
            T = path.at(stamp)
            if isinstance(T, str):
                unknown.append(T)
                return None
            return parent, T

        found = frames.ancestors(frames.bare(frame), parent_of).get(frames.bare(root))
        return found if found is not None else "".join(unknown) or f"/tf does not connect {root!r} with {frame!r}"
