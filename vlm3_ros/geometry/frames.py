"""Coordinate frames that hang together as a tree, each below one parent, as in tf.

``T_a_b`` [4, 4] maps points of frame b to frame a, so it is also the pose of b in a.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlm3_ros.geometry.motion import Pose

# Axes of an optical frame (X right, Y down, Z forward) in a level body frame (x forward, y left, z up), REP 103.
BODY_OPTICAL = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

ParentOf = Callable[[str], tuple[str, np.ndarray] | None]  # a frame's parent and T_parent_frame; None at a root


def bare(frame: str) -> str:
    """A frame's name without the slash in front that ROS 1 had; tf2 takes none with it."""
    return frame.lstrip("/")


def same(a: str, b: str) -> bool:
    """Whether two names may be of one frame: a slash in front makes no difference, an empty name contradicts none."""
    return not bare(a) or not bare(b) or bare(a) == bare(b)


def ancestors(frame: str, parent_of: ParentOf) -> dict[str, np.ndarray]:
    """All ancestors of a frame, itself included, nearest first, with T_ancestor_frame."""
    found, T = {frame: np.eye(4)}, np.eye(4)
    while (above := parent_of(frame)) is not None:
        frame, step = above
        if frame in found:  # a loop: somebody's mistake, not a reason to hang
            break
        T = step @ T
        found[frame] = T
    return found


def relative(a: str, b: str, parent_of: ParentOf) -> np.ndarray | None:
    """T_a_b [4, 4]; None where the two frames do not hang together."""
    to_b, to_a = ancestors(b, parent_of), ancestors(a, parent_of)
    for frame, T_frame_b in to_b.items():
        if frame in to_a:
            return np.linalg.inv(to_a[frame]) @ T_frame_b
    return None


def in_odom(pose: Pose, start: np.ndarray) -> Pose:
    """A pose relative to the first camera as one in the odom frame, in which the first camera was at ``start``."""
    turn = np.kron(np.eye(2), start[:3, :3])
    return Pose(start @ pose.T, turn @ pose.covariance @ turn.T)
