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
from functools import cached_property
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
    read_depth,
    read_frame,
    read_text,
)
from vlm3_ros.perception import Frame

log = logging.getLogger(__name__)

MAX_SCALE = 1e9  # units per metre: nanometres
ROUNDED = 1e-2  # what a rigid transform may be off by
NO_BOXES = "the manifest has no boxes"


class ManifestSource(DataSet):
    """Frames in the order of their stamps, with everything the manifest says about them."""

    def __init__(self, folder: Path, settings: CameraConfig):
        self._folder, self._settings = folder, settings
        path = folder / "manifest.json"
        try:
            self._manifest = json.loads(read_text(path))
            frames = self._manifest["frames"]
            stamped, left_out = [], []
            for entry, made_up in zip(frames, made_up_stamps(len(frames)), strict=True):
                try:
                    stamped.append((_stamp(entry, made_up), entry))
                except (ValueError, TypeError, ArithmeticError) as error:
                    left_out.append(str(error))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SourceError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        if left_out:
            log.warning("%s: %d frames are left out, the first because: %s", path, len(left_out), left_out[0])
        if not stamped:
            raise SourceError(f"{path} has no frame that can be used")
        stamped.sort(key=lambda entry: entry[0])
        self._stamps = [stamp for stamp, _ in stamped]
        self._entries = [entry for _, entry in stamped]

    @property
    def stamps(self) -> Sequence[int]:
        return self._stamps

    def _frame(self, index: int) -> Frame:
        entry = self._entries[index]
        size = (entry["width"], entry["height"]) if {"width", "height"} <= entry.keys() else None
        return read_frame(self._file(entry, "rgb"), self._stamps[index], _intrinsics(entry), self._settings, size)

    def truth(self, index: int) -> Truth:
        entry = self._entries[index]
        T = _pose(entry)
        return Truth.of(
            depth=lambda: self._depth(entry),
            pose=lambda: T,
            boxes=lambda: T if isinstance(T, str) else [box.seen_from(T) for box in self._boxes] or NO_BOXES,
        )

    def _depth(self, entry: dict[str, Any]) -> np.ndarray | str:
        if not entry.get("depth"):
            return "the manifest names no depth"
        scale = entry.get("depth_scale")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 < scale < MAX_SCALE:
            return f"depth_scale must be a number above 0, not {scale!r:.80}"
        return read_depth(self._file(entry, "depth"), float(scale))

    def _file(self, entry: dict[str, Any], name: str) -> Path:
        if not isinstance(entry.get(name), str):
            raise FrameError(f"a frame of the manifest names no {name}")
        return self._folder / entry[name]

    @cached_property
    def _boxes(self) -> list[_Box]:
        found, left_out = [], []
        entries = self._manifest.get("boxes") or []
        for entry in entries if isinstance(entries, list) else [entries]:
            try:
                found.append(_Box(entry))
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                left_out.append(f"{type(error).__name__}: {error}")
        if left_out:
            log.warning("manifest: %d boxes are left out, the first because: %s", len(left_out), left_out[0])
        return found


class _Box:
    """A box of the manifest: upright in a world whose z is up."""

    def __init__(self, entry: dict[str, Any]):
        c, s = np.cos(entry["yaw_rad"]), np.sin(entry["yaw_rad"])
        self._label = str(entry["label"]).strip()
        if entry["label"] is None or not self._label:
            raise ValueError("its label is empty")
        self._center, self._size = (np.array(entry[name], float).reshape(3) for name in ("center_m", "size_m"))
        if not np.isfinite([c, *self._center, *self._size]).all() or (self._size <= 0.0).any():
            raise ValueError("a box must be finite and larger than nothing")
        self._R_world_box = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def seen_from(self, T_world_camera: np.ndarray) -> Box3D:
        R, t = T_world_camera[:3, :3], T_world_camera[:3, 3]
        return Box3D(self._label, 1.0, R.T @ (self._center - t), self._size, R.T @ self._R_world_box)


def _pose(entry: dict[str, Any]) -> np.ndarray | str:
    """T_world_camera [4, 4], or why it is not known; it was rounded for the file, and is made orthonormal again."""
    if "T_world_cam" not in entry:
        return "the manifest has no T_world_cam"
    try:
        T = np.array(entry["T_world_cam"], float).reshape(4, 4)
        if not np.isfinite(T).all():
            return "T_world_cam holds NaN or infinity"
        R = T[:3, :3]
        if np.abs(T[3] - (0.0, 0.0, 0.0, 1.0)).max() > ROUNDED:
            return "the last row of T_world_cam is not 0 0 0 1: is it transposed?"
        if np.abs(R @ R.T - np.eye(3)).max() > ROUNDED or np.linalg.det(R) < 0.0:
            return "the upper left 3x3 of T_world_cam is no rotation: it is scaled, sheared or mirrored"
        T[:3, :3] = Rotation.from_matrix(T[:3, :3]).as_matrix()
        return T
    except (ValueError, TypeError, OverflowError) as error:
        return f"T_world_cam is no pose of 4x4 numbers: {error}"


def _intrinsics(entry: dict[str, Any]) -> list[float]:
    """Raises FrameError."""
    try:
        fx, fy, cx, cy = map(float, entry["K"])
        if np.isfinite([fx, fy, cx, cy]).all():
            return [fx, fy, cx, cy]
    except (KeyError, ValueError, TypeError, OverflowError):
        pass
    raise FrameError(f"K of a frame of the manifest must be the four numbers fx fy cx cy, not {entry.get('K')!r:.80}")


def _stamp(entry: Any, otherwise: int) -> int:
    if not isinstance(entry, dict):
        raise TypeError(f"a frame must be an object, not {entry!r:.80}")
    return nanoseconds(str(entry["stamp"])) if "stamp" in entry else otherwise
