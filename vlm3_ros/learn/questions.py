"""From what is true of frames to questions and right answers in the protocol's words.

Answers are those of a model that takes every picture for one of the unified focal length: what rounding to whole
tokens changes is divided out of the lengths taught, as `camera.metric_scale` is multiplied into those answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import Camera, from_references, metric_scale, taken_for, to_references
from vlm3_ros.geometry import motion
from vlm3_ros.learn.objects import about_regions
from vlm3_ros.learn.sample import Exchange, Known, Region
from vlm3_ros.tasks import depth, grounding, matching, pose

MAX_METRES = 999.0  # three digits before the point
HIDDEN = 0.02  # relative; a point this much behind what the second image shows is hidden there
EDGE = 0.1  # relative; neighbouring pixels whose depths differ by more have no depth of their own between them


@dataclass(frozen=True)
class Seen:
    """A camera as a model sees it, and the focal length in pixels that it takes it for."""

    camera: Camera
    focal: float


def depth_exchanges(
    known: Known, seen: Seen, count: int, rng: np.random.Generator, ray: bool = True
) -> list[Exchange]:
    """Depth at ``count`` pixels drawn at random among those with known depth; fewer where fewer are known.

    ``ray``: lengths of rays, as the node's default has it, instead of depth along Z.
    """
    assert known.depth is not None
    camera, size = seen.camera, seen.camera.size
    references = np.unique(to_references(rng.uniform(0, size, (2 * count, 2)), size, depth.BINS), axis=0)
    references = references[rng.permutation(len(references))]
    pixels = from_references(references, size, depth.BINS)
    z = depth_at(known.depth, camera.pixels_in(known.camera, pixels))
    metres = z / metric_scale(camera, seen.focal)
    if ray:
        metres = metres * np.linalg.norm(taken_for(camera, seen.focal).rays(pixels), axis=-1)
    usable = np.isfinite(metres) & (metres < MAX_METRES) & (metres >= 0.005)
    chosen = np.flatnonzero(usable)[:count]
    return [
        Exchange("depth", question.text, depth.answer(float(value)))
        for question, value in zip(depth.questions(references[chosen].tolist()), metres[chosen], strict=True)
    ]


def matching_exchanges(
    a: Known, b: Known, seen_a: Camera, seen_b: Camera, count: int, rng: np.random.Generator
) -> list[Exchange]:
    """Where pixels of ``a`` are in ``b``, for pixels that ``b`` really sees: ``count`` at most."""
    size = seen_a.size
    references = np.unique(to_references(rng.uniform(0, size, (6 * count, 2)), size, matching.BINS), axis=0)
    references = references[rng.permutation(len(references))]
    pixels = seen_a.pixels_in(a.camera, from_references(references, size, matching.BINS))
    there, visible = correspondences(a, b, pixels)
    chosen = np.flatnonzero(visible)[:count]
    to = to_references(b.camera.pixels_in(seen_b, there[chosen]), seen_b.size, matching.BINS).tolist()
    return [
        Exchange("matching", question.text, matching.answer(*answer))
        for question, answer in zip(matching.questions(references[chosen].tolist()), to, strict=True)
    ]


def pose_exchanges(a: Known, b: Known, seen_b: Seen) -> list[Exchange]:
    """The four questions about the motion from ``a`` to ``b``."""
    T = relative_pose(a, b)
    T[:3, 3] /= metric_scale(seen_b.camera, seen_b.focal)
    answers = pose.answers(motion.pose_answer(T))
    return [Exchange("pose", q.text, answer) for q, answer in zip(pose.QUESTIONS, answers, strict=True)]


def object_exchanges(known: Known, seen: Seen, count: int, rng: np.random.Generator) -> list[Exchange]:
    """``count`` questions of all kinds about regions and pairs of regions, fewer where there are few things."""
    scale = metric_scale(seen.camera, seen.focal)
    return about_regions(known.regions, known.camera.size, scale, count, rng)


def grounding_exchange(known: Known, labels: Sequence[str]) -> Exchange:
    """Where the things called ``labels`` are, from left to right for each label."""
    wanted = [r for label in labels for r in sorted(known.regions, key=_left) if r.label == label]
    boxes = [_box2d(region, known.camera) for region in wanted]
    return Exchange("grounding", grounding.question(labels).text, grounding.answer(boxes))


def _left(region: Region) -> float:
    return region.corners[0]


def _box2d(region: Region, camera: Camera) -> grounding.Box2D:
    corners = np.reshape(region.corners, (2, 2)) / camera.size * grounding.BINS
    return grounding.Box2D(region.label, *corners.ravel())


# --------------------------------------------------------------------------------------------- geometry of two frames


def depth_at(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Depth along Z [N] at pixels [N, 2], whole or not: bilinear in inverse depth, NaN beside an edge or a hole."""
    height, width = depth.shape
    u, v = np.clip(np.asarray(pixels, float), 0, [width - 1, height - 1]).T
    column, row = (np.minimum(np.floor(x).astype(int), n - 2) for x, n in ((u, width), (v, height)))
    corners = np.stack([depth[row + j, column + i] for j in (0, 1) for i in (0, 1)]).astype(float)  # [4, N]
    a, b = u - column, v - row
    weights = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
    with np.errstate(invalid="ignore", divide="ignore"):
        z = 1.0 / (weights / corners).sum(axis=0)
        steep = corners.max(axis=0) > (1.0 + EDGE) * corners.min(axis=0)
    return np.where(steep, np.nan, z)


def relative_pose(a: Known, b: Known) -> np.ndarray:
    """Pose of camera b in the axes of camera a [4, 4]."""
    assert a.T_world_camera is not None
    assert b.T_world_camera is not None
    return np.linalg.inv(a.T_world_camera) @ b.T_world_camera


def correspondences(a: Known, b: Known, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels [N, 2] of ``a`` are in ``b``: pixels [N, 2], and whether they are seen there [N].

    Seen means inside the image, at the depth that ``b`` has there: nothing in front of it, and no hole.
    """
    assert a.depth is not None
    assert b.depth is not None
    points = a.camera.rays(pixels) * depth_at(a.depth, pixels)[:, None]
    T_b_a = np.linalg.inv(relative_pose(a, b))
    points = points @ T_b_a[:3, :3].T + T_b_a[:3, 3]
    there = b.camera.project(points)
    inside = np.all((there >= -0.5) & (there <= np.subtract(b.camera.size, 0.5)), axis=1)
    z = depth_at(b.depth, np.where(inside.reshape(-1, 1), there, 0.0))
    with np.errstate(invalid="ignore"):
        return there, np.logical_and(inside, np.abs(points[:, 2] / z - 1.0) < HIDDEN)


def covisibility(a: Known, b: Known, step: int = 16) -> float:
    """Share of the pixels with depth of one image that the other sees too, in [0, 1]; of both directions the smaller.

    Measured on every ``step``-th pixel of every ``step``-th row.
    """
    return min(_share_seen(a, b, step), _share_seen(b, a, step))


def _share_seen(a: Known, b: Known, step: int) -> float:
    width, height = a.camera.size
    grid = np.stack(np.meshgrid(np.arange(step // 2, width, step), np.arange(step // 2, height, step)), axis=-1)
    pixels = grid.reshape(-1, 2)
    assert a.depth is not None
    has_depth = np.isfinite(depth_at(a.depth, pixels))
    return float(np.sum(correspondences(a, b, pixels)[1]) / max(1, has_depth.sum()))
