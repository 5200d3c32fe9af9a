"""Views of simulated rooms with exact truth, and recordings of them as folders, for tests of training data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.config import CameraConfig
from vlm3_ros.learn.data import simulated
from vlm3_ros.learn.data.recording import Recording
from vlm3_ros.learn.data.sample import Known
from vlm3_ros.learn.data.survey import Rules
from vlm3_ros.offline.sources import Choices
from vlm3_ros.sim import Rendering, demo_room, render, walk

CAMERA = Camera(160, 120, 130.0, 130.0, 79.5, 59.5)
DEPTH_SCALE = 10_000  # units per metre


@cache
def tour(count: int = 16) -> tuple[Rendering, ...]:
    """Pictures of a walk through the demo's room, two a second."""
    room = demo_room()
    return tuple(render(room, CAMERA, T, np.random.default_rng(0)) for T in walk(room, count, rate=2.0, seed=3))


def known(view: Rendering) -> Known:
    return simulated.known(view, 0)


def wall(metres: float, camera: Camera = CAMERA, T: np.ndarray | None = None) -> Known:
    """A view of nothing but a wall, straight ahead."""
    depth = np.full((camera.height, camera.width), metres, np.float32)
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    view = known(tour(1)[0])
    frame = replace(view.frame, image=image, camera=camera)
    return replace(view, frame=frame, depth=depth, T_world_camera=T, regions=(), unclear=frozenset())


def write_recording(folder: Path, views: Sequence[Rendering]) -> Path:
    """A manifest folder with these views."""
    (folder / "rgb").mkdir(parents=True)
    frames = []
    for i, view in enumerate(views):
        cv2.imwrite(str(folder / f"rgb/{i}.png"), view.image[..., ::-1])
        write_depth(folder, i, view.depth)
        frames.append(
            {
                "rgb": f"rgb/{i}.png",
                "depth": f"rgb/{i}d.png",
                "depth_scale": DEPTH_SCALE,
                "K": [view.camera.fx, view.camera.fy, view.camera.cx, view.camera.cy],
                "T_world_cam": view.T_world_cam.tolist(),
                "stamp": 100.0 + i / 2,
            }
        )
    (folder / "manifest.json").write_text(json.dumps({"frames": frames}))
    return folder


def write_depth(folder: Path, number: int, metres: np.ndarray) -> None:
    """Depth of one frame, NaN unknown."""
    cv2.imwrite(str(folder / f"rgb/{number}d.png"), np.rint(np.nan_to_num(metres) * DEPTH_SCALE).astype(np.uint16))


def change(folder: Path, number: int, **values: object) -> None:
    """Change what the manifest says about a frame; None removes it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {**manifest["frames"][number], **values}
    manifest["frames"][number] = {name: value for name, value in entry.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def recording(path: Path, seed: int = 0, rules: Rules | None = None, scene: str = "") -> Recording:
    return Recording(path, Choices(), CameraConfig(), rules or Rules(), scene, seed)
