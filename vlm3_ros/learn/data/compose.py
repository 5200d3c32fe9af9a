"""From a group of frames to a record of samples: which questions are asked about which pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import Camera, bounded, unified
from vlm3_ros.learn.data import questions
from vlm3_ros.learn.data.groups import Group
from vlm3_ros.learn.data.questions import Seen
from vlm3_ros.learn.data.sample import Exchange, Known, Sample
from vlm3_ros.learn.data.shards import Record
from vlm3_ros.tasks import depth, matching, pose
from vlm3_ros.vlm import Picture


@dataclass(frozen=True)
class Amounts:
    """How many questions are asked at most, by task, and at which size pictures are seen."""

    depth: int = 160  # per image
    matching: int = 64  # per pair and direction
    objects: int = 16  # per image
    labels: tuple[str, ...] = ()  # names of things that are looked for in every image whose things are known
    image_scale: float = 1.0  # fraction of the protocol's image sizes
    max_tokens: int = 1600  # as the setting camera.max_tokens
    ray: bool = True  # lengths of rays instead of depth along Z, as the setting depth.answer


def compose(group: Group, key: str, amounts: Amounts, rng: np.random.Generator) -> Record:
    """All samples of a group: one for each image, and two (matching, pose) for each pair in each direction."""
    images = [known.frame.image for known in group.frames]
    samples = [_one(known, f"{key}-{i}", group.scene, amounts, rng) for i, known in enumerate(group.frames)]
    for i, j in group.pairs:
        for a, b in ((i, j), (j, i)):
            samples += _two(group.frames[a], group.frames[b], f"{key}-{a}-{b}", group.scene, amounts, rng)
    return Record(key, images, [sample for sample in samples if sample.exchanges])


def _one(known: Known, key: str, scene: str, amounts: Amounts, rng: np.random.Generator) -> Sample:
    """Depth, regions and grounding share the focal length and so the look."""
    camera = unified(known.camera, depth.FOCAL, amounts.max_tokens, amounts.image_scale)
    seen = Seen(camera, depth.FOCAL * amounts.image_scale)
    exchanges: list[Exchange] = []
    if known.depth is not None:
        exchanges += questions.depth_exchanges(known, seen, amounts.depth, rng, amounts.ray)
    exchanges += questions.object_exchanges(known, seen, amounts.objects, rng)
    exchanges += [questions.grounding_exchange(known, label) for label in amounts.labels if known.has_all(label)]
    return Sample(key, scene, (Picture(known.frame.image, camera.size),), tuple(exchanges))


def _two(a: Known, b: Known, key: str, scene: str, amounts: Amounts, rng: np.random.Generator) -> list[Sample]:
    def pictures(size_a: Camera, size_b: Camera) -> tuple[Picture, Picture]:
        return Picture(a.frame.image, size_a.size), Picture(b.frame.image, size_b.size)

    scale, tokens = amounts.image_scale, amounts.max_tokens
    free = [bounded(known.camera, matching.LONGEST_EDGE, tokens, scale) for known in (a, b)]
    matches = questions.matching_exchanges(a, b, free[0], free[1], amounts.matching, rng)
    fixed = [unified(known.camera, pose.FOCAL, tokens, scale) for known in (a, b)]
    motion = questions.pose_exchanges(a, b, Seen(fixed[1], pose.FOCAL * scale))
    return [
        Sample(f"{key}-matching", scene, pictures(*free), tuple(matches)),
        Sample(f"{key}-pose", scene, pictures(*fixed), tuple(motion)),
    ]
