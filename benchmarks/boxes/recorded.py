"""How well 3D boxes fit recorded truth, and what one costs, as JSON.

Each folder holds depth images, poses and 3D boxes, described by a manifest.json. The 2D box is the outline of the
object's mask, or of its projected 3D box where there are no masks, cut at the image's border; the depth answers are
the true depth with two decimals, after multiplicative log-normal noise. Gravity comes from the frame's own depth.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry import gravity
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.boxes import fit_box, sample_pixels
from vlm3_ros.geometry.boxes import outline as sight

MIN_MASK_PX = 150  # a smaller piece of an object is no detection
MIN_IN_VIEW = 0.7  # of the outline of the projected box
GRID_PX = 32  # between the pixels that gravity is found from


def true_box(entry: dict, world_to_camera: np.ndarray) -> Box3D:
    """A box of the manifest in the axes of one camera."""
    c, s = np.cos(entry["yaw_rad"]), np.sin(entry["yaw_rad"])
    center = (world_to_camera @ [*entry["center_m"], 1.0])[:3]
    rotation = world_to_camera[:3, :3] @ [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]
    return Box3D(entry["label"], 1.0, center, np.array(entry["size_m"]), rotation)


def outline(box: Box3D, camera: Camera, mask: np.ndarray | None) -> tuple[float, ...] | None:
    """The 2D box (x1, y1, x2, y2) in pixels from the image's border; None where too little is in view."""
    if mask is not None:
        rows, columns = np.nonzero(mask)
        if len(rows) < MIN_MASK_PX:
            return None
        return tuple(map(float, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)))
    pixels = camera.project(box.corners()) + 0.5
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    cut_low, cut_high = np.clip(low, 0, camera.size), np.clip(high, 0, camera.size)
    if not np.prod(cut_high - cut_low) >= MIN_IN_VIEW * np.prod(high - low):
        return None
    return (*cut_low, *cut_high)


def detections(folder: Path) -> Iterator[tuple[Camera, np.ndarray, list[tuple[Box3D, tuple[float, ...]]]]]:
    """Camera, depth [height, width] in metres (0 unknown) and the boxes in view of each frame."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for frame in manifest["frames"]:
        camera = Camera(frame["width"], frame["height"], *frame["K"])
        depth = cv2.imread(str(folder / frame["depth"]), cv2.IMREAD_UNCHANGED) / frame["depth_scale"]
        ids = cv2.imread(str(folder / frame["mask"]), cv2.IMREAD_UNCHANGED) if "mask" in frame else None
        world_to_camera = np.linalg.inv(frame["T_world_cam"])
        seen = []
        for entry in manifest["boxes"]:
            box = true_box(entry, world_to_camera)
            edges = outline(box, camera, None if ids is None else ids == entry["instance_id"])
            if edges is not None:
                seen.append((box, edges))
        yield camera, depth, seen


def answers(
    camera: Camera, depth: np.ndarray, pixels: np.ndarray, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The points [M, 3] at those of the pixels [N, 2] whose depth is known, and which those are [N]."""
    z = depth[pixels[:, 1], pixels[:, 0]]
    z = np.round(z * np.exp(rng.normal(0.0, noise, len(z))), 2)
    known = z > 0.0
    return (camera.rays(pixels) * z[:, None])[known], known


def evaluate(folder: Path, noise: float = 0.0, count: int = 120) -> tuple[dict[str, list[float]], list[float]]:
    """IoU of every detection by label (0 for refusals), and seconds of process CPU time per fit."""
    rng = np.random.default_rng(0)
    ious, seconds = defaultdict(list), []
    for camera, depth, seen in detections(folder):
        grid = np.mgrid[GRID_PX // 2 : camera.width : GRID_PX, GRID_PX // 2 : camera.height : GRID_PX]
        up = gravity.up(answers(camera, depth, grid.reshape(2, -1).T, noise, rng)[0], noise)
        for truth, edges in seen:
            pixels, inside = sample_pixels(edges, camera.size, count)
            points, known = answers(camera, depth, pixels, noise, rng)
            start = time.process_time()
            box = fit_box(truth.label, 1.0, points, inside[known], sight(edges, camera), up)
            seconds.append(time.process_time() - start)
            ious[truth.label].append(box.iou(truth) if isinstance(box, Box3D) else 0.0)
    return ious, seconds


def report(folders: Sequence[Path], noise: float = 0.0, count: int = 120) -> None:
    """Print the results of some folders as JSON."""
    results = {}
    for folder in folders:
        ious, seconds = evaluate(folder, noise, count)
        results[folder.name] = {
            "mean_iou": {label: round(float(np.mean(values)), 3) for label, values in sorted(ious.items())},
            "min_iou": {label: round(min(values), 3) for label, values in sorted(ious.items())},
            "boxes": {label: len(values) for label, values in sorted(ious.items())},
            "fit_ms": {"median": round(float(np.median(seconds)) * 1e3, 2), "max": round(max(seconds) * 1e3, 2)},
        }
    print(json.dumps({"noise": noise, "count": count, "results": results}, indent=2))
