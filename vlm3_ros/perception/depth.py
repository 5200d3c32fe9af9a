"""Metric depth: a grid of pixels is asked, and between them the map is interpolated."""

from __future__ import annotations

import cv2
import numpy as np

from vlm3_ros.camera import Camera, from_references, metric_scale, taken_for, to_references, unified
from vlm3_ros.config import Config, DepthConfig
from vlm3_ros.geometry.depth_map import DepthMap, Grid, densify
from vlm3_ros.perception.scene import DepthView, Samples
from vlm3_ros.perception.sight import Sight, shown
from vlm3_ros.tasks import Reason, Refusal, depth
from vlm3_ros.vlm import Answer

SAME_SURFACE = 1.1  # answers closer together than this factor mean the same surface


def perceive_depth(sight: Sight, config: Config) -> DepthView:
    """The depth map of a frame, at the frame's size or depth.max_width."""
    frame, settings = sight.frame, config.depth
    camera = _at_most(frame.camera, settings.max_width)
    image = (
        frame.image if camera == frame.camera else cv2.resize(frame.image, camera.size, interpolation=cv2.INTER_AREA)
    )
    grid = Grid.of(camera.width, camera.height, settings.points)
    order = grid.coarse_first
    pixels = camera.pixels_in(frame.camera, grid.pixels[order])
    visible = shown(frame, pixels)
    samples = ask_depth(sight, config, pixels[visible], settings.budget_s or None)

    z, confidence, spread = np.full(len(order), np.nan), np.zeros(len(order)), np.full(len(order), np.nan)
    asked = order[visible]
    z[asked], confidence[asked], spread[asked] = samples.z, samples.confidence, samples.spread
    dense = densify(grid, z, confidence, image, settings.edge_ratio, spread)
    if frame.valid is not None:
        valid = cv2.resize(frame.valid.astype(np.uint8), camera.size, interpolation=cv2.INTER_NEAREST) > 0
        dense = DepthMap(
            np.where(valid, dense.depth, np.float32(np.nan)), np.where(valid, dense.confidence, np.float32(0))
        )
    return DepthView(dense, samples, image, camera)


def ask_depth(sight: Sight, config: Config, pixels: np.ndarray, budget_s: float | None = None) -> Samples:
    """Ask the depth of pixels [N, 2] of the frame's image, and read the answers as metres along Z."""
    settings, camera = config.depth, sight.frame.camera
    view, seen = sight.look("depth", lambda c, scale: unified(c, depth.FOCAL, config.camera.max_tokens, scale))
    focal = depth.FOCAL * sight.image_scale("depth")
    references = to_references(camera.pixels_in(seen, pixels), seen.size, depth.BINS)
    pixels = from_references(references, seen.size, depth.BINS)
    answers = sight.ask(view, depth.questions(references), budget_s)

    factors = np.full(len(pixels), metric_scale(seen, focal) * settings.scale)  # answer to metres along Z
    if settings.answer == "ray":
        factors /= np.linalg.norm(taken_for(seen, focal).rays(pixels), axis=-1)
    z, confidence, spread = np.full((3, len(answers)), np.nan)
    for i, (answer, factor) in enumerate(zip(answers, factors, strict=True)):
        if answer is None:  # the time budget ended first
            continue
        read = _read(answer, settings, factor)
        if isinstance(read, Refusal):
            sight.tally.refuse(read)
        else:
            z[i], confidence[i], spread[i] = read
    return Samples(seen.pixels_in(camera, pixels), z, np.nan_to_num(confidence), spread)


def ray_factors(sight: Sight, config: Config, pixels: np.ndarray) -> np.ndarray:
    """Lengths [N] of the rays of pixels [N, 2] of the frame's image in depths along Z, as its model sees it."""
    camera, scale = sight.frame.camera, sight.image_scale("depth")
    seen = unified(camera, depth.FOCAL, config.camera.max_tokens, scale)
    return np.linalg.norm(taken_for(seen, depth.FOCAL * scale).rays(camera.pixels_in(seen, pixels)), axis=-1)


def _read(answer: Answer, settings: DepthConfig, factor: float) -> tuple[float, float, float] | Refusal:
    """Depth along Z, confidence and spread of one answer."""
    metres = answer.read(depth.parse)
    if isinstance(metres, Refusal):
        return metres
    confidence, spread = answer.probability, np.nan
    if answer.numbers:
        distribution = answer.numbers[-1]
        if settings.statistic == "median":
            metres = distribution.median()
        elif settings.statistic == "mode":
            metres = distribution.mode(ratio=SAME_SURFACE - 1.0).median()
        confidence = distribution.between(metres / 1.25, metres * 1.25)  # what δ1 counts as right
        spread = distribution.spread() * factor
    if not 0.0 < metres * factor <= settings.max_m:
        return Refusal(Reason.OUT_OF_RANGE, answer.text)
    return metres * factor, confidence, spread


def _at_most(camera: Camera, width: int) -> Camera:
    """The camera's view no wider than ``width`` pixels."""
    if camera.width <= width:
        return camera
    return camera.resized(width, max(1, round(camera.height * width / camera.width)))
