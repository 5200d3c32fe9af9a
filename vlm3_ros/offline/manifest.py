"""A folder described by a manifest.json: images with intrinsics, depth and poses, and boxes in the world.

    {"frames": [{"rgb": "rgb/0.png", "width": 640, "height": 480, "K": [fx, fy, cx, cy], "stamp": 12.5,  # seconds
                 "depth": "depth/0.png", "depth_scale": 1000, "T_world_cam": [[...], ...]}, ...],
     "boxes": [{"label": "table", "center_m": [x, y, z], "size_m": [x, y, z], "yaw_rad": 0.2}, ...]}

All but rgb and K is optional; frames without a stamp are one second apart.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.config import CameraConfig
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.sources import (
    DataSet,
    FrameError,
    SourceError,
    Truth,
    made_up_stamps,
    nanoseconds,
    read_frame,
    read_truth,
)
from vlm3_ros.perception import Frame

log = logging.getLogger(__name__)


class ManifestSource(DataSet):
    """Frames in the order of their stamps, with everything the manifest says about them."""

    def __init__(self, folder: Path, settings: CameraConfig):
        self._folder, self._settings = folder, settings
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
            frames = manifest["frames"]
            made_up = made_up_stamps(len(frames))
            stamped = [(_stamp(entry, stamp), entry) for entry, stamp in zip(frames, made_up, strict=True)]
            self._boxes = [_Box(box) for box in manifest.get("boxes", ())]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        stamped.sort(key=lambda entry: entry[0])
        self._stamps = [stamp for stamp, _ in stamped]
        self._entries = [entry for _, entry in stamped]

    @property
    def stamps(self) -> Sequence[int]:
        return self._stamps

    def frame(self, index: int) -> Frame:
        entry = self._entries[index]
        if "rgb" not in entry or "K" not in entry:
            raise FrameError(f"frame {index} of the manifest lacks rgb or K")
        size = (entry["width"], entry["height"]) if {"width", "height"} <= entry.keys() else None
        return read_frame(self._folder / entry["rgb"], self._stamps[index], entry["K"], self._settings, size)

    def truth(self, index: int) -> Truth:
        entry, depth = self._entries[index], None
        T = _pose(entry["T_world_cam"]) if "T_world_cam" in entry else None
        if entry.get("depth"):
            try:
                depth = read_truth(self._folder / entry["depth"], entry["depth_scale"])
            except KeyError as error:
                log.warning("frame %d of the manifest has depth but no %s", index, error)
        boxes = [box.seen_from(T) for box in self._boxes] if self._boxes and T is not None else None
        return Truth(depth, T, boxes)


class _Box:
    """A box of the manifest: upright in a world whose z is up."""

    def __init__(self, entry: dict[str, Any]):
        c, s = np.cos(entry["yaw_rad"]), np.sin(entry["yaw_rad"])
        self._label = entry["label"]
        self._center, self._size = np.array(entry["center_m"], float), np.array(entry["size_m"], float)
        self._R_world_box = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def seen_from(self, T_world_camera: np.ndarray) -> Box3D:
        R, t = T_world_camera[:3, :3], T_world_camera[:3, 3]
        return Box3D(self._label, 1.0, R.T @ (self._center - t), self._size, R.T @ self._R_world_box)


def _pose(rows: list[list[float]]) -> np.ndarray:
    """T [4, 4] from one that was rounded for the file: its rotation is made orthonormal again."""
    T = np.array(rows, float)
    T[:3, :3] = Rotation.from_matrix(T[:3, :3]).as_matrix()
    return T


def _stamp(entry: dict[str, Any], otherwise: int) -> int:
    return nanoseconds(str(entry["stamp"])) if "stamp" in entry else otherwise
