"""The demo's values, by the definitions of `vlm3 evaluate`: perceived beside true, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.metrics.boxes import BoxScore, in_view
from vlm3_ros.metrics.depth import DepthScore
from vlm3_ros.metrics.poses import complete_trajectory_errors
from vlm3_ros.ros.witness import Moment

LEAST_POSES = 3  # as for vlm3 evaluate: fewer can always be laid on the truth


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
    constant = float(np.median(np.concatenate([m.true_depth[np.isfinite(m.true_depth)] for m in moments])))
    found = _depth_scores([(m.depth, m.true_depth) for m in moments])
    blind = _depth_scores([(np.full_like(m.true_depth, constant), m.true_depth) for m in moments])
    if not found["coverage"]:
        return ["depth: refused for every pixel"]
    return [
        f"depth: {_of_depth(found)}",
        f"   {found['coverage']:.0%} of pixels have one; {constant:.1f} m for all of them:",
        f"   {_of_depth(blind)}",
    ]


def _depth_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    score = DepthScore()
    for perceived, true in pairs:
        score.add(perceived, None, true)
    return score.result()


def _of_depth(scores: dict[str, Any]) -> str:
    return f"delta1 {scores['delta1']:.3f}, AbsRel {scores['abs_rel']:.3f}"


def _path(moments: Sequence[Moment]) -> list[str]:
    path, true = [m.T_odom_camera for m in moments], [m.T_world_camera for m in moments]
    if all(T is None for T in path):
        return ["path: every pose was refused"]
    if len(moments) < LEAST_POSES:
        return ["path: too short to be compared"]
    found = complete_trajectory_errors(path, true)
    still = complete_trajectory_errors([np.eye(4)] * len(true), true)
    return [
        f"path: {found['length_m']:.2f} m, {found['coverage']:.0%} of the poses known",
        f"   ATE {found['ate_m']:.2f} m, {found['ate_max_m']:.2f} m at most",
        f"   had it stood still: {still['ate_m']:.2f} m, {still['ate_max_m']:.2f} m",
    ]


def _objects(moments: Sequence[Moment]) -> list[str]:
    score = BoxScore()
    for m in moments:
        seen = [in_view(box, m.camera) for box in m.true_boxes]
        score.add(
            m.boxes,
            [box for box, visible in zip(m.true_boxes, seen, strict=True) if visible],
            [box for box, visible in zip(m.true_boxes, seen, strict=True) if not visible],
        )
    if not (found := score.result()):
        return ["objects: none is wholly in view"]
    return [
        f"objects: AP25 {found['ap25']:.3f}, median 3D IoU {found['iou_median']:.2f}",
        f"   {found['coverage']:.0%} of {found['true']} got a list; {found['overlapping']} overlapped, "
        f"{found['found']} said",
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
