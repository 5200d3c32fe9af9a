"""The demo's values: what was perceived beside what is true, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.ros.witness import Moment

FOUND_IOU = 0.25  # a thing is found where a box of its name overlaps it by this much, as AP25 counts (SUN RGB-D)


def values(moments: Sequence[Moment]) -> list[str]:
    """Perceived values beside the true ones, a line each, and what it takes to score as well without looking."""
    posed = sum(m.T_odom_camera is not None for m in moments)
    listed = sum(m.boxes is not None for m in moments)
    return [
        f"frames: {len(moments)}, {posed} with a pose, {listed} with a list of boxes",
        *_depth(moments),
        *_path(moments),
        *_objects(moments),
        *_distances(moments[-1]),
    ]


def T_world_odom(moments: Sequence[Moment]) -> np.ndarray | None:
    """Lays the perceived path [4, 4] on the true one where it starts; None where no pose was perceived."""
    for m in moments:
        if m.T_odom_camera is not None:
            return m.T_world_camera @ np.linalg.inv(m.T_odom_camera)
    return None


def _depth(moments: Sequence[Moment]) -> list[str]:
    known = [np.isfinite(m.depth) & np.isfinite(m.true_depth) for m in moments]
    true = np.concatenate([m.true_depth[k] for m, k in zip(moments, known, strict=True)])
    if not true.size:
        return ["depth: refused for every pixel"]
    perceived = np.concatenate([m.depth[k] for m, k in zip(moments, known, strict=True)])
    constant = float(np.median(true))
    return [
        f"depth: {_scores(perceived, true)}",
        f"   {true.size / sum(k.size for k in known):.0%} of pixels have one; {constant:.1f} m for all of them:",
        f"   {_scores(np.full_like(true, constant), true)}",
    ]


def _scores(perceived: np.ndarray, true: np.ndarray) -> str:
    ratio = perceived / true
    return f"delta1 {np.mean(np.maximum(ratio, 1 / ratio) < 1.25):.3f}, AbsRel {np.mean(abs(ratio - 1)):.3f}"


def _path(moments: Sequence[Moment]) -> list[str]:
    T = T_world_odom(moments)
    if T is None:
        return ["path: every pose was refused"]
    true = np.array([m.T_world_camera[:3, 3] for m in moments])
    pairs = [
        ((T @ m.T_odom_camera)[:3, 3], at) for m, at in zip(moments, true, strict=True) if m.T_odom_camera is not None
    ]
    errors = np.array([np.linalg.norm(perceived - at) for perceived, at in pairs])
    still = np.array([np.linalg.norm(pairs[0][1] - at) for _, at in pairs])
    walked = np.linalg.norm(np.diff(true, axis=0), axis=1).sum()
    return [
        f"path: {walked:.2f} m, error {errors.mean():.2f} m on average, {errors.max():.2f} m at most",
        f"   had it stood still: {still.mean():.2f} m, {still.max():.2f} m",
    ]


def _objects(moments: Sequence[Moment]) -> list[str]:
    true = sum(len(m.true_boxes) for m in moments)
    perceived = sum(len(m.boxes or ()) for m in moments)
    overlaps = [a.iou(b) for m in moments for a, b in same(m.true_boxes, m.boxes or ())]
    found = [iou for iou in overlaps if iou >= FOUND_IOU]
    return [
        f"objects: {len(found)} of {true} found, mean 3D IoU {np.mean(found or [0.0]):.2f}",
        f"   {perceived - len(found)} of {perceived} boxes are wrong (IoU below {FOUND_IOU})",
    ]


def _distances(moment: Moment) -> list[str]:
    lines = ["last frame, distance in metres, true / perceived:"]
    pairs = {id(true): box for true, box in same(moment.true_boxes, moment.boxes or ())}
    for true in sorted(moment.true_boxes, key=lambda b: float(np.linalg.norm(b.center))):
        box = pairs.get(id(true))
        perceived = f"{np.linalg.norm(box.center):.2f}" if box else "-"
        lines.append(f"   {true.label}: {np.linalg.norm(true.center):.2f} / {perceived}")
    return lines


def same(true: Sequence[Box3D], perceived: Sequence[Box3D]) -> list[tuple[Box3D, Box3D]]:
    """Pairs of boxes of one name, each box in one pair at most, so that their centres are as near as can be."""
    if not true or not perceived:
        return []
    distance = np.array([[np.linalg.norm(a.center - b.center) for b in perceived] for a in true])
    other = np.array([[a.label != b.label for b in perceived] for a in true])
    rows, columns = linear_sum_assignment(np.where(other, 1e6, distance))
    return [(true[i], perceived[j]) for i, j in zip(rows, columns, strict=True) if not other[i, j]]
