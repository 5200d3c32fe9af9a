"""Objects: names → 2D boxes → depth in and around each → 3D boxes; and free spatial questions about regions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from vlm3_ros.camera import from_references, to_references, unified
from vlm3_ros.config import Config
from vlm3_ros.geometry import boxes, gravity, planes
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.perception.depth import ask_depth
from vlm3_ros.perception.scene import Samples
from vlm3_ros.perception.sight import Sight, shown
from vlm3_ros.tasks import Reason, Refusal, grounding, objects
from vlm3_ros.tasks.grounding import Box2D
from vlm3_ros.vlm import Answer


def perceive_objects(sight: Sight, config: Config, scene_samples: Samples | None) -> list[Box3D] | None:
    """The things with configured names as boxes in camera axes; None where it is not known whether there are any,
    because none was found and an answer was no list.

    ``scene_samples`` of the whole frame, where there are any, tell which way is up; the answers about all boxes do
    so otherwise.
    """
    settings, camera = config.objects, sight.frame.camera
    if not settings.labels:
        return []
    found, is_certain = _find(sight, config)
    if not found:
        return [] if is_certain else None

    # Corners are places on the image's area, not pixels: 0 and BINS are its borders.
    corners = np.array([[(box.x1, box.y1), (box.x2, box.y2)] for box, _ in found])
    corners = from_references(corners, camera.size, grounding.BINS).reshape(-1, 4)
    asked = [_shown_pixels(sight, edges, settings.points) for edges in corners]
    samples = ask_depth(sight, config, np.concatenate([pixels for pixels, _ in asked]))
    split = np.cumsum([len(pixels) for pixels, _ in asked])[:-1]
    clouds = np.split(samples.points(camera), split)
    scene = [] if scene_samples is None else [scene_samples.points(camera)]
    noise = float(np.median([planes.scattered_noise(_known(points)) for points in (*scene, *clouds)]))
    up = gravity.up(_known(np.concatenate(scene or clouds)), noise)
    lifted = []
    for (box, score), edges, (_, inside), points, spread in zip(
        found, corners, asked, clouds, np.split(samples.spread, split), strict=True
    ):
        if scene_samples is not None:  # what was asked of the whole frame is evidence too
            near, within = boxes.near(scene_samples.pixels, tuple(edges))
            points = np.concatenate([points, scene[0][near]])
            spread = np.concatenate([spread, scene_samples.spread[near]])
            inside = np.concatenate([inside, within[near]])
        known = np.isfinite(points).all(axis=-1)
        outline = boxes.outline(tuple(edges), camera)
        fitted = boxes.fit_box(box.label, score, points[known], inside[known], outline, up, noise, spread[known])
        if isinstance(fitted, Refusal):
            sight.tally.refuse(fitted)
        else:
            lifted.append(fitted)
    return lifted


def _shown_pixels(sight: Sight, edges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] to ask for a 2D box and which lie inside it [N], of those that the raw image really shows."""
    pixels, inside = boxes.sample_pixels(tuple(edges), sight.frame.camera.size, count)
    visible = shown(sight.frame, pixels)
    return pixels[visible], inside[visible]


def _find(sight: Sight, config: Config) -> tuple[list[tuple[Box2D, float]], bool]:
    """2D boxes of the named things with their scores, the likeliest first; and whether every name got a list.

    A score is the probability that the list goes on with this thing instead of ending or naming another: of the
    tokens that say so, not of those that say where its corners are.
    """
    labels = config.objects.labels
    view, _ = sight.look("grounding", lambda c, scale: unified(c, grounding.FOCAL, config.camera.max_tokens, scale))
    found: list[tuple[Box2D, float]] = []
    is_certain = True
    for label, answer in zip(labels, sight.ask(view, [grounding.question(label) for label in labels]), strict=True):
        assert answer is not None  # without a budget every question is answered
        read = answer.read(partial(grounding.parse_located, label=label))
        if answer.is_cut:
            sight.tally.refuse(Refusal(Reason.CUT_OFF, answer.text))
        elif isinstance(read, Refusal):
            sight.tally.refuse(read)
        if isinstance(read, Refusal):
            is_certain = False
        else:
            found += [(box, answer.probability_of(spans)) for box, spans in read]
    found.sort(key=lambda one: -np.nan_to_num(one[1]))  # NaN: a server that gives no probabilities
    return found[: config.objects.max_boxes], is_certain


def ask_about(sight: Sight, config: Config, text: str, regions: Sequence[Sequence[float]] | np.ndarray) -> Answer:
    """Ask a spatial question; ``<region N>`` is the Nth of ``regions``, x1 y1 x2 y2 in pixels of the image."""
    camera = sight.frame.camera
    view, seen = sight.look("objects", lambda c, scale: unified(c, objects.FOCAL, config.camera.max_tokens, scale))
    corners = np.reshape(np.asarray(regions, float), (-1, 2))
    if not np.isfinite(corners).all():
        raise ValueError("a region of the question has a corner that is NaN or infinite")
    references = to_references(camera.pixels_in(seen, corners), seen.size, objects.BINS).reshape(-1, 4)
    (answer,) = sight.ask(view, [objects.free(text, [tuple(r) for r in references.tolist()])])
    assert answer is not None
    return answer


def confidence(answer: Answer) -> float:
    """Probability in [0, 1] of what an answer to a spatial question says; NaN if not known.

    Of the yes or no, the hour or the first length; of any other text the geometric mean over its tokens.
    """
    part = objects.decisive(answer.text)
    if part is None or not answer.pieces:
        return answer.mean_probability
    return answer.probability_of([part])


def _known(points: np.ndarray) -> np.ndarray:
    """Those of the points [N, 3] that are not NaN."""
    return points[np.isfinite(points).all(axis=-1)]
