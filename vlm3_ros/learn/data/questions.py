"""From what is true of frames to questions and right answers in the protocol's words.

Answers are those of a model that takes every picture for one of the unified focal length: what rounding to whole
tokens changes is divided out of the lengths taught, as `camera.metric_scale` is multiplied into those answered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import Camera, from_references, metric_scale, taken_for, to_references
from vlm3_ros.geometry import motion
from vlm3_ros.learn.data.objects import about_regions
from vlm3_ros.learn.data.sample import Exchange, Known, Region
from vlm3_ros.learn.data.views import correspondences, depth_at, relative_pose
from vlm3_ros.perception.sight import shown
from vlm3_ros.tasks import depth, grounding, matching, pose

MAX_METRES = 999.0  # three digits before the point


@dataclass(frozen=True)
class Seen:
    """A camera as a model sees it, and the focal length in pixels that it takes it for."""

    camera: Camera
    focal: float


def depth_exchanges(
    known: Known, seen: Seen, count: int, rng: np.random.Generator, ray: bool = True
) -> list[Exchange]:
    """Depth at ``count`` pixels drawn at random among those with known depth; fewer where that is an eighth of the
    image or less.

    ``ray``: lengths of rays, as the node's default has it, instead of depth along Z.
    """
    assert known.depth is not None
    camera, size = seen.camera, seen.camera.size
    references = np.unique(to_references(rng.uniform(0, size, (8 * count, 2)), size, depth.BINS), axis=0)
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
    if a.depth is None:
        return []
    size = seen_a.size
    references = np.unique(to_references(rng.uniform(0, size, (6 * count, 2)), size, matching.BINS), axis=0)
    references = references[rng.permutation(len(references))]
    pixels = seen_a.pixels_in(a.camera, from_references(references, size, matching.BINS))
    there, visible = correspondences(a, b, pixels)
    visible[visible] = shown(b.frame, there[visible])
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


def grounding_exchange(known: Known, label: str) -> Exchange:
    """Where the things called ``label`` are, from left to right."""
    wanted = sorted((region for region in known.regions if region.label == label), key=_left)
    boxes = [_box2d(region, known.camera) for region in wanted]
    return Exchange("grounding", grounding.question(label).text, grounding.answer(boxes))


def _left(region: Region) -> float:
    return region.corners[0]


def _box2d(region: Region, camera: Camera) -> grounding.Box2D:
    corners = np.reshape(region.corners, (2, 2)) / camera.size * grounding.BINS
    return grounding.Box2D(region.label, *corners.ravel())
