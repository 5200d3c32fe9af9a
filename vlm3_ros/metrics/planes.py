"""Whether planes come out flat, and turned as they are: the planarity errors of iBims-1.

Koch, Liebel, Fraundorfer and Körner, Evaluation of CNN-based Single-Image Depth Estimation Methods, ECCV Workshops
2018 (arXiv 1805.01328). iBims-1 has its planes labelled; here they are found in the true depth.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import cv2
import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.metrics.group import Metric, Metrics, Moment, means, median, wanted

MIN_SHARE = 0.05  # of the image that a plane must fill, as in iBims-1
TOLERANCE = 0.01  # of the range: how far off a plane its true points may be
MAX_PLANES = 8
COARSE = 96  # columns of the image in which planes are looked for
HYPOTHESES = 150  # for each plane
REACH = 12  # columns and rows of it between the three points of a hypothesis
NAMES = (
    "coverage",
    "flatness_m",
    "orientation_deg",
    "flatness_m_answered",
    "orientation_deg_answered",
    "flatness_true_m",
)
MOST_DEG = 90.0  # between the normals of two planes


class Planes:
    """The group `planes`."""

    METRICS: ClassVar[Metrics] = {
        "planes": Metric("planes in the true depth, perceived or not"),
        "coverage": Metric("share of their pixels that have a predicted depth", better="more"),
        "flatness_m": Metric(
            "how uneven the predicted points are; unknown: the plane's distance", "m", better="less"
        ),
        "orientation_deg": Metric("median angle between predicted and true normal; unknown: 90", "°", better="less"),
        "flatness_m_answered": Metric("how uneven the predicted points are, of those there are alone", "m"),
        "orientation_deg_answered": Metric("median angle between the normals, of predicted planes alone", "°"),
        "flatness_true_m": Metric("how uneven the true points are themselves", "m"),
    }

    def __init__(self) -> None:
        self._errors: list[dict[str, float]] = []
        self._camera: Camera | None = None  # the last one that was known

    def add(self, moment: Moment) -> dict[str, float]:
        true = moment.true_depth if wanted(moment, "depth") else None
        self._camera = moment.camera or self._camera
        if true is None or self._camera is None:
            return {}
        predicted = np.full(true.shape, np.nan) if moment.depth is None else moment.depth
        camera = self._camera.resized(true.shape[1], true.shape[0])
        found = [plane_errors(predicted, true, plane, camera) for plane in find_planes(true, camera)]
        self._errors += found
        return _summary(found)

    def result(self) -> dict[str, Any]:
        return {"planes": len(self._errors), **_summary(self._errors)} if self._errors else {}


def plane_errors(predicted: np.ndarray, true: np.ndarray, plane: np.ndarray, camera: Camera) -> dict[str, float]:
    """The errors of a plane: three images [h, w], the last one bool and not empty.

    The predicted depth of the plane is brought to the scale of the true one by their medians. Flatness is the
    standard deviation of its points from the plane that fits them best, orientation its angle to the true one. Where
    nothing is predicted, points are off by the plane's distance, the most there is, and the share of them counts with
    MOST_DEG. With less than MIN_SHARE of the image predicted there is no plane, and all of it is unknown.
    """
    plane = plane & np.isfinite(true)
    distance = float(np.median(true[plane]))
    true_normal, true_flatness = _fitted_depth(true, plane, camera)
    errors = {"coverage": float(np.isfinite(predicted[plane]).mean()), "flatness_true_m": true_flatness}
    known = plane & np.isfinite(predicted)
    if known.sum() < MIN_SHARE * known.size:
        return {**errors, "flatness_m": distance, "orientation_deg": MOST_DEG}
    scale = np.median(true[known]) / np.median(predicted[known])
    normal, flatness = _fitted_depth(predicted * scale, known, camera)
    cosine, sine = abs(float(normal @ true_normal)), float(np.linalg.norm(np.cross(normal, true_normal)))
    angle, share = math.degrees(math.atan2(sine, cosine)), errors["coverage"]
    return {
        **errors,
        "flatness_m": math.sqrt(share * min(flatness, distance) ** 2 + (1.0 - share) * distance**2),
        "orientation_deg": share * angle + (1.0 - share) * MOST_DEG,
        "flatness_m_answered": flatness,
        "orientation_deg_answered": angle,
    }


def _fitted_depth(depth: np.ndarray, plane: np.ndarray, camera: Camera) -> tuple[np.ndarray, float]:
    """`fitted` of the points of a depth image [h, w] where the mask ``plane`` is."""
    rays = camera.rays(np.stack(np.nonzero(plane)[::-1], axis=1))
    return fitted(rays * depth[plane].astype(float)[:, None])


def fitted(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit normal [3] of the least-squares plane through points [N, 3], and their standard deviation from it."""
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(points))
    return vectors[:, 0], math.sqrt(max(0.0, float(values[0])))


# ------------------------------------------------------------------------------------------- where the planes are


def find_planes(depth: np.ndarray, camera: Camera) -> list[np.ndarray]:
    """Masks [h, w] of the connected planes in dense depth that fill MIN_SHARE of the image, the largest ones first.

    RANSAC in inverse depth: m · p = 1 for the points p of a plane, and m · p - 1 is the relative error of others. A
    large round thing counts as several planes, each flat within TOLERANCE.
    """
    height, width = depth.shape
    coarse = camera.resized(min(width, COARSE), max(1, round(height * min(1.0, COARSE / width))))
    all_points = _points(depth, camera)
    points = _points(cv2.resize(depth, coarse.size, interpolation=cv2.INTER_NEAREST_EXACT), coarse)
    free, rng = np.isfinite(points[..., 2]), np.random.default_rng(0)
    found: list[np.ndarray] = []
    for _ in range(MAX_PLANES):
        m = _largest(points, free, rng)
        part = free if m is None else _connected(free & (np.abs(points @ m - 1.0) < TOLERANCE))
        if m is None or part.sum() < MIN_SHARE * part.size:
            break
        free = free & ~part
        whole = cv2.resize(part.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        whole &= np.abs(all_points @ m - 1.0) < TOLERANCE
        if whole.sum() >= MIN_SHARE * whole.size:
            found.append(whole)
    return found


def _points(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """[h, w, 3], NaN unknown."""
    rays = camera.rays(np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1))
    return rays * depth[..., None]


def _largest(points: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The m [3] of a plane through three near points that holds most free points; None where there is none."""
    row, column = np.nonzero(free)
    if len(row) < 3:
        return None
    first = rng.integers(0, len(row), HYPOTHESES)
    corners = [np.stack([row[first], column[first]], axis=1)]
    corners += [corners[0] + rng.integers(-REACH, REACH + 1, (HYPOTHESES, 2)) for _ in range(2)]
    inside = np.clip(np.array(corners), 0, np.array(free.shape) - 1)  # [3, hypotheses, (row, column)]
    triples = points[inside[..., 0], inside[..., 1]].transpose(1, 0, 2)
    with np.errstate(invalid="ignore"):
        regular = np.abs(np.linalg.det(triples)) > 1e-6 * np.prod(np.abs(triples[..., 2]), axis=1)  # False for NaN
    if not regular.any():
        return None
    candidates = np.linalg.solve(triples[regular], np.ones((regular.sum(), 3, 1)))[..., 0]
    known = points[free]
    held = np.abs(known @ candidates.T - 1.0) < TOLERANCE
    m = candidates[held.sum(axis=0).argmax()]
    for _ in range(2):
        on = known[np.abs(known @ m - 1.0) < TOLERANCE]
        m = np.linalg.lstsq(on, np.ones(len(on)), rcond=None)[0]
    return m


def _connected(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax() if len(stats) > 1 else mask


def _summary(planes: list[dict[str, float]]) -> dict[str, float]:
    """Means over planes, and medians of their angles: the plane that fits a few metres of noise may be any."""
    if not planes:
        return {}
    angles = {
        name: median([plane[name] for plane in planes if name in plane])
        for name in ("orientation_deg", "orientation_deg_answered")
    }
    found = {**dict.fromkeys(NAMES, math.nan), **means(planes), **angles}
    return {name: found[name] for name in NAMES}
