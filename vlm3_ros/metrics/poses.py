"""Poses against true poses: of pairs of frames, and of whole trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.metrics.group import Metric, Metrics, Moment, median, rms, wanted

AUC_DEG = (5, 15, 30)
MIN_MOTION_M = 0.01  # shorter translations have no direction worth to be measured
MOST_DEG = 180.0  # of any angle, and of an unknown one
MOST_LENGTH = 1.0  # of a length's error, in true lengths: that of no motion, and of an unknown one
MOST_M = 1.0  # of the error of a position or a step at least; of longer paths and steps it is more
PAIR = ("rotation_deg", "direction_deg", "length_rel")
PATH = ("ate_m", "ate_max_m", "rpe_m", "rpe_deg")


class Pairs:
    """The group `pairs`: the motion from each frame to the next."""

    METRICS: ClassVar[Metrics] = {
        "pairs": Metric("neighbouring frames with true poses, perceived or not"),
        "answered": Metric("those of them with perceived poses"),
        "coverage": Metric("share of them with perceived poses", better="more"),
        "rotation_deg": Metric("angle of the rotation between perceived and true; unknown: 180", "°", better="less"),
        "direction_deg": Metric("angle between perceived and true translation; unknown: 180", "°", better="less"),
        "length_rel": Metric(
            "error of the translation's length, in true ones; unknown, and at most: 1", better="less"
        ),
        "rotation_deg_median": Metric("median angle of the rotation; unknown: 180", "°", better="less"),
        "direction_deg_median": Metric("median angle between translations; unknown: 180", "°", better="less"),
        "length_rel_median": Metric("median relative error of the translation's length; unknown: 1", better="less"),
        **{
            f"auc{t}": Metric(
                f"area under recall over the larger of the two angles, up to {t}°; unknown is never within",
                better="more",
            )
            for t in AUC_DEG
        },
        "rotation_deg_median_answered": Metric("median angle of the rotation, of answered pairs alone", "°"),
        "direction_deg_median_answered": Metric("median angle between translations, of answered pairs alone", "°"),
        "length_rel_median_answered": Metric("median relative error of the length, of answered pairs alone"),
    }

    def __init__(self) -> None:
        self._before: tuple[np.ndarray | None, np.ndarray | None] = (None, None)  # perceived and true pose
        self._perceived: list[np.ndarray | None] = []
        self._true: list[np.ndarray] = []

    def add(self, moment: Moment) -> dict[str, float]:
        if not wanted(moment, "pose"):
            return {}
        (pose, true), now = self._before, (moment.pose, moment.truth.T_world_camera)
        self._before = now
        if true is None or now[1] is None:
            return {}
        self._perceived.append(None if pose is None or now[0] is None else relative(pose, now[0]))
        self._true.append(relative(true, now[1]))
        moved = self._perceived[-1]
        return {"coverage": float(moved is not None), **pair_error(moved, self._true[-1])}

    def result(self) -> dict[str, Any]:
        return pair_errors(self._perceived, self._true) if self._true else {}


class Trajectory:
    """The group `trajectory`: the poses of all frames as one path."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames with true pose, perceived or not"),
        "poses": Metric("of them with a perceived pose"),
        "coverage": Metric("share of them, but for the first, with a perceived pose", better="more"),
        "length_m": Metric("length of the true path", "m"),
        "ate_m": Metric(
            "root mean square distance from the true path, once laid on it; unknown: its length", "m", better="less"
        ),
        "ate_max_m": Metric("largest distance from the true path, likewise", "m", better="less"),
        "rpe_m": Metric(
            f"root mean square error of the steps; unknown: two true ones, or {MOST_M:g} m", "m", better="less"
        ),
        "rpe_deg": Metric("root mean square error of the turns; unknown: 180", "°", better="less"),
        "step_m": Metric("error of the step from the frame before; unknown as for rpe_m", "m", better="less"),
        "step_deg": Metric("error of the turn from the frame before; unknown: 180", "°", better="less"),
        "ate_m_answered": Metric("root mean square distance from the true path, of perceived poses alone", "m"),
        "ate_max_m_answered": Metric("largest distance from the true path, of perceived poses alone", "m"),
        "rpe_m_answered": Metric("root mean square error of the steps between perceived poses", "m"),
        "rpe_deg_answered": Metric("root mean square error of the turns between perceived poses", "°"),
    }

    def __init__(self) -> None:
        self._path: list[np.ndarray | None] = []
        self._true: list[np.ndarray] = []

    def add(self, moment: Moment) -> dict[str, float]:
        true = moment.truth.T_world_camera if wanted(moment, "pose") else None
        if true is None:
            return {}
        self._path.append(moment.pose)
        self._true.append(true)
        if len(self._path) < 2:
            return {}
        length, angle = _step(self._path[-2:], self._true[-2:])
        return {"coverage": float(moment.pose is not None), "step_m": length, "step_deg": angle}

    def result(self) -> dict[str, Any]:
        return complete_trajectory_errors(self._path, self._true) if len(self._path) > 2 else {}


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


def pair_error(perceived: np.ndarray | None, true: np.ndarray) -> dict[str, float]:
    """A relative pose [4, 4] against the true one; direction and length only of one that moved by MIN_MOTION_M.

    None is a pair without an answer: it has the largest errors there are, MOST_DEG and MOST_LENGTH.
    """
    length = float(np.linalg.norm(true[:3, 3]))
    names = PAIR if length >= MIN_MOTION_M else PAIR[:1]
    if perceived is None:
        return {name: MOST_LENGTH if name == "length_rel" else MOST_DEG for name in names}
    errors = {
        "rotation_deg": rotation_error_deg(perceived, true),
        "direction_deg": direction_error_deg(perceived, true),
    }
    if length >= MIN_MOTION_M:
        errors["length_rel"] = min(MOST_LENGTH, abs(float(np.linalg.norm(perceived[:3, 3])) / length - 1.0))
    return {name: errors[name] for name in names}


def pair_errors(perceived: Sequence[np.ndarray | None], true: Sequence[np.ndarray]) -> dict[str, float]:
    """Relative poses [4, 4] of N > 0 pairs against the true ones; None is a pair without an answer.

    For the AUC, the error of a pair is the larger of its two angles, and a pair without an answer is a failure.
    """
    errors = [pair_error(p, t) for p, t in zip(perceived, true, strict=True)]
    answered = [error for error, p in zip(errors, perceived, strict=True) if p is not None]
    larger = [max(error["rotation_deg"], error.get("direction_deg", 0.0)) for error in errors]
    return {
        "pairs": len(errors),
        "answered": len(answered),
        "coverage": len(answered) / len(errors),
        **{f"{name}_median": median([e[name] for e in errors if name in e]) for name in PAIR},
        **{f"auc{t}": auc(larger, t) for t in AUC_DEG},
        **{f"{name}_median_answered": median([e[name] for e in answered if name in e]) for name in PAIR},
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
    """ATE and RPE of N > 1 poses [4, 4]: root mean squares, as of Sturm et al. (IROS 2012).

    ATE is in metres after `aligned`; RPE compares steps from one pose to the next, in metres and degrees.
    """
    apart = _distances(path, true)
    steps = [step_error(relative(*p), relative(*t)) for p, t in zip(pairwise(path), pairwise(true), strict=True)]
    lengths, angles = np.transpose(steps)
    return {"ate_m": rms(apart), "ate_max_m": float(apart.max()), "rpe_m": rms(lengths), "rpe_deg": rms(angles)}


def complete_trajectory_errors(path: Sequence[np.ndarray | None], true: Sequence[np.ndarray]) -> dict[str, float]:
    """ATE and RPE of N > 1 poses [4, 4], None where there is none, and `trajectory_errors` of those there are.

    Poses are laid on the true path by those there are. One that is not known is off by the length of the true path,
    or MOST_M if that is more, and none counts for more than that. The first pose is where the path begins: it is no
    answer, so that coverage leaves it out.
    """
    length = float(np.linalg.norm(np.diff([T[:3, 3] for T in true], axis=0), axis=1).sum())
    known = [(pose, truth) for pose, truth in zip(path, true, strict=True) if pose is not None]
    far = max(MOST_M, length)
    apart = np.full(len(true), far)
    apart[: len(known)] = np.minimum(_distances(*zip(*known, strict=True)), far) if known else far
    steps = np.array([_step(path[i : i + 2], true[i : i + 2]) for i in range(len(true) - 1)])
    errors = {"ate_m": rms(apart), "ate_max_m": float(apart.max())}
    errors |= {"rpe_m": rms(steps[:, 0]), "rpe_deg": rms(steps[:, 1])}
    conditional = trajectory_errors(*zip(*known, strict=True)) if len(known) > 2 else dict.fromkeys(PATH, math.nan)
    return {
        "frames": len(true),
        "poses": len(known),
        "coverage": sum(pose is not None for pose in path[1:]) / (len(true) - 1),
        "length_m": length,
        **errors,
        **{f"{name}_answered": conditional[name] for name in PATH},
    }


def _distances(path: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> np.ndarray:
    """Metres [N] between the positions of poses [4, 4], once the path is laid on the true one."""
    positions, truths = np.array(path)[:, :3, 3], np.array(true)[:, :3, 3]
    T = aligned(positions, truths)
    return np.linalg.norm(positions @ T[:3, :3].T + T[:3, 3] - truths, axis=1)


def _step(path: Sequence[np.ndarray | None], true: Sequence[np.ndarray]) -> tuple[float, float]:
    """`step_error` between two poses; where one is not known, the largest there is."""
    (before, now), step = path, relative(*true)
    most = max(MOST_M, 2.0 * float(np.linalg.norm(step[:3, 3])))  # as long, and the other way
    if before is None or now is None:
        return most, MOST_DEG
    length, angle = step_error(relative(before, now), step)
    return min(length, most), angle


def step_error(step: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """By how many metres and degrees a step [4, 4] differs from the true one."""
    wrong = relative(true, step)
    return float(np.linalg.norm(wrong[:3, 3])), rotation_error_deg(np.eye(4), wrong)
