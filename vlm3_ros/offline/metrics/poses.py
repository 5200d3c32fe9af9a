"""Poses against true poses: of pairs of frames, and of whole trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment

AUC_DEG = (5, 15, 30)
MIN_MOTION_M = 0.01  # shorter translations have no direction worth to be measured


class Pairs:
    """The group `pairs`: the motion from each perceived frame to the next."""

    METRICS: ClassVar[Metrics] = {
        "pairs": Metric("neighbouring frames with true poses"),
        "answered": Metric("those of them with perceived poses"),
        "rotation_deg": Metric("angle of the rotation between perceived and true", "°", better="less"),
        "direction_deg": Metric("angle between perceived and true translation", "°", better="less"),
        "length_rel": Metric("error of the translation's length as a part of the true one", better="less"),
        "rotation_deg_median": Metric("median angle of the rotation between perceived and true", "°", better="less"),
        "direction_deg_median": Metric("median angle between perceived and true translation", "°", better="less"),
        "length_rel_median": Metric("median relative error of the translation's length", better="less"),
        **{
            f"auc{t}": Metric(f"area under recall over the larger of the two angles, up to {t}°", better="more")
            for t in AUC_DEG
        },
    }

    def __init__(self) -> None:
        self._before: tuple[np.ndarray | None, np.ndarray | None] = (None, None)  # perceived and true pose
        self._any = False  # poses perceived
        self._perceived: list[np.ndarray | None] = []
        self._true: list[np.ndarray] = []

    def add(self, moment: Moment) -> dict[str, float]:
        if moment.error:
            return {}
        (pose, true), now = self._before, (moment.pose, moment.truth.T_world_camera)
        self._before = now
        self._any |= now[0] is not None
        if true is None or now[1] is None:
            return {}
        moved = None if pose is None or now[0] is None else relative(pose, now[0])
        self._perceived.append(moved)
        self._true.append(relative(true, now[1]))
        return {} if moved is None else pair_error(moved, self._true[-1])

    def result(self) -> dict[str, Any]:
        return pair_errors(self._perceived, self._true) if self._any and self._true else {}


class Trajectory:
    """The group `trajectory`: the poses of all frames as one path."""

    METRICS: ClassVar[Metrics] = {
        "poses": Metric("frames with perceived and true pose"),
        "length_m": Metric("length of the true path", "m"),
        "ate_m": Metric("root mean square distance from the true path, once laid on it", "m", better="less"),
        "ate_max_m": Metric("largest distance from the true path, once laid on it", "m", better="less"),
        "rpe_m": Metric("root mean square error of the steps", "m", better="less"),
        "rpe_deg": Metric("root mean square error of the turns", "°", better="less"),
        "step_m": Metric("error of the step from the frame before", "m", better="less"),
        "step_deg": Metric("error of the turn from the frame before", "°", better="less"),
    }

    def __init__(self) -> None:
        self._path: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def add(self, moment: Moment) -> dict[str, float]:
        pose, true = moment.pose, moment.truth.T_world_camera
        if pose is None or true is None:
            return {}
        self._path.append(pose)
        self._true.append(true)
        if len(self._path) < 2:
            return {}
        length, angle = step_error(relative(*self._path[-2:]), relative(*self._true[-2:]))
        return {"step_m": length, "step_deg": angle}

    def result(self) -> dict[str, Any]:
        return trajectory_errors(self._path, self._true) if len(self._path) > 2 else {}


def rotation_error_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between the rotations of two poses [4, 4], in degrees."""
    return math.degrees(Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).magnitude())


def direction_error_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between the translations of two poses [4, 4], in degrees; 180 if exactly one of them is zero."""
    u, v = a[:3, 3], b[:3, 3]
    if not u.any() or not v.any():
        return 0.0 if not u.any() and not v.any() else 180.0
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(u, v))), float(u @ v)))


def auc(errors: Sequence[float], threshold: float) -> float:
    """Area under the curve of recall over error up to ``threshold``, as a part of the whole; NaN or inf is a failure.

    The curve is drawn with straight lines through (0, 0) and the sorted errors (SuperGlue, arXiv 1911.11763).
    """
    known = np.sort([error for error in errors if math.isfinite(error)])
    x, recall = np.concatenate([[0.0], known]), np.arange(len(known) + 1) / max(1, len(errors))
    last = int(np.searchsorted(x, threshold))
    x = np.concatenate([x[:last], [threshold]])
    recall = np.concatenate([recall[:last], [recall[last - 1]]])
    return float((np.diff(x) * (recall[1:] + recall[:-1]) / 2.0).sum() / threshold)


def relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The pose [4, 4] of b in the axes of a."""
    return np.linalg.inv(a) @ b


def pair_error(perceived: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """A relative pose [4, 4] against the true one; direction and length only of one that moved by MIN_MOTION_M."""
    errors = {"rotation_deg": rotation_error_deg(perceived, true)}
    length = float(np.linalg.norm(true[:3, 3]))
    if length >= MIN_MOTION_M:
        errors["direction_deg"] = direction_error_deg(perceived, true)
        errors["length_rel"] = abs(float(np.linalg.norm(perceived[:3, 3])) / length - 1.0)
    return errors


def pair_errors(perceived: Sequence[np.ndarray | None], true: Sequence[np.ndarray]) -> dict[str, float]:
    """Relative poses [4, 4] of pairs against the true ones; None is a pair without an answer.

    Medians are over the answered pairs; for the AUC, the error of a pair is the larger of its two angles, and a pair
    without an answer is a failure.
    """
    errors = [pair_error(p, t) for p, t in zip(perceived, true, strict=True) if p is not None]
    larger = [max(error["rotation_deg"], error.get("direction_deg", 0.0)) for error in errors]
    larger += [math.inf] * (len(true) - len(errors))
    names = ("rotation_deg", "direction_deg", "length_rel")
    return {
        "pairs": len(true),
        "answered": len(errors),
        **{f"{name}_median": _median([error[name] for error in errors if name in error]) for name in names},
        **{f"auc{t}": auc(larger, t) for t in AUC_DEG},
    }


def aligned(path: np.ndarray, true: np.ndarray) -> np.ndarray:
    """T [4, 4] that lays positions [N, 3] on the true ones [N, 3] with the least squares of distances, unscaled.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.
    """
    middle, true_middle = path.mean(axis=0), true.mean(axis=0)
    u, _, vt = np.linalg.svd((true - true_middle).T @ (path - middle))
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    T = np.eye(4)
    T[:3, :3] = u @ mirror @ vt
    T[:3, 3] = true_middle - T[:3, :3] @ middle
    return T


def trajectory_errors(path: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, float]:
    """ATE and RPE of N > 2 poses [4, 4]: root mean squares, as of Sturm et al. (IROS 2012).

    ATE is in metres after `aligned`; RPE compares steps from one frame to the next, in metres and degrees.
    """
    poses, truths = np.array(path), np.array(true)
    T = aligned(poses[:, :3, 3], truths[:, :3, 3])
    apart = np.linalg.norm((T @ poses)[:, :3, 3] - truths[:, :3, 3], axis=1)
    steps = [step_error(relative(*p), relative(*t)) for p, t in zip(pairwise(poses), pairwise(truths), strict=True)]
    lengths, angles = np.transpose(steps)
    return {
        "poses": len(poses),
        "length_m": float(np.linalg.norm(np.diff(truths[:, :3, 3], axis=0), axis=1).sum()),
        "ate_m": _rms(apart),
        "ate_max_m": float(apart.max()),
        "rpe_m": _rms(lengths),
        "rpe_deg": _rms(angles),
    }


def step_error(step: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """By how many metres and degrees a step [4, 4] differs from the true one."""
    wrong = relative(true, step)
    return float(np.linalg.norm(wrong[:3, 3])), rotation_error_deg(np.eye(4), wrong)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else math.nan
