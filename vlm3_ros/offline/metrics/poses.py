"""Poses against true poses: of pairs of frames, and of whole trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

AUC_DEG = (5, 15, 30)
MIN_MOTION_M = 0.01  # shorter translations have no direction worth to be measured


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


def pair_errors(perceived: Sequence[np.ndarray | None], true: Sequence[np.ndarray]) -> dict[str, float]:
    """Relative poses [4, 4] of pairs against the true ones; None is a pair without an answer.

    Medians are over the answered pairs, directions over those that moved by MIN_MOTION_M; for the AUC, the error of a
    pair is the larger of its two, and a pair without an answer is a failure.
    """
    answered = [(p, t) for p, t in zip(perceived, true, strict=True) if p is not None]
    rotations = [rotation_error_deg(p, t) for p, t in answered]
    moved = [float(np.linalg.norm(t[:3, 3])) >= MIN_MOTION_M for _, t in answered]
    directions = [direction_error_deg(p, t) if m else math.nan for (p, t), m in zip(answered, moved, strict=True)]
    lengths = [
        abs(float(np.linalg.norm(p[:3, 3])) / float(np.linalg.norm(t[:3, 3])) - 1.0)
        for (p, t), m in zip(answered, moved, strict=True)
        if m
    ]
    larger = [r if math.isnan(d) else max(r, d) for r, d in zip(rotations, directions, strict=True)]
    larger += [math.inf] * (len(true) - len(answered))
    return {
        "pairs": len(true),
        "answered": len(answered),
        "rotation_deg_median": _median(rotations),
        "direction_deg_median": _median([d for d in directions if not math.isnan(d)]),
        "length_rel_median": _median(lengths),
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
    steps, true_steps = ([np.linalg.inv(a) @ b for a, b in pairwise(of)] for of in (poses, truths))
    wrong = [np.linalg.inv(t) @ s for s, t in zip(steps, true_steps, strict=True)]
    turned = [rotation_error_deg(np.eye(4), w) for w in wrong]
    return {
        "poses": len(poses),
        "length_m": float(np.linalg.norm(np.diff(truths[:, :3, 3], axis=0), axis=1).sum()),
        "ate_m": _rms(apart),
        "ate_max_m": float(apart.max()),
        "rpe_m": _rms([float(np.linalg.norm(w[:3, 3])) for w in wrong]),
        "rpe_deg": _rms(turned),
    }


def _rms(values: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else math.nan
