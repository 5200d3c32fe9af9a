"""Which kind of recording a path is."""

from __future__ import annotations

import logging
from pathlib import Path

from vlm3_ros.config import CameraConfig
from vlm3_ros.offline import folders, kitti, labels, pieces
from vlm3_ros.offline.bag import BagSource
from vlm3_ros.offline.folders import FolderSource
from vlm3_ros.offline.kitti import KittiSource
from vlm3_ros.offline.labelled import LabelledSource
from vlm3_ros.offline.manifest import ManifestSource
from vlm3_ros.offline.simulated import NAME, SimulatedSource
from vlm3_ros.offline.sources import Choices, Source, SourceError
from vlm3_ros.offline.tum import TumSource

log = logging.getLogger(__name__)


def open_source(path: Path, choices: Choices, settings: CameraConfig) -> Source:
    """The recording at ``path``. Raises SourceError, whatever is the matter with it."""
    try:
        return _opened(path, choices, settings)
    except (SourceError, OSError):
        raise
    except Exception as error:  # of a library, on bytes that nobody thought of
        log.debug("%s", path, exc_info=error)
        raise SourceError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _opened(path: Path, choices: Choices, settings: CameraConfig) -> Source:
    if is_simulated(path):
        return SimulatedSource(str(path))
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    if (path / "manifest.json").is_file():
        return ManifestSource(path, settings)
    if (path / "rgb.txt").is_file():
        return TumSource(path, choices, settings)
    if pieces.is_bag(path):
        return BagSource(path, choices, settings)
    if path.suffix.lower() in labels.SUFFIXES:
        return LabelledSource(path, choices, settings)
    if kitti.is_drive(path):
        return KittiSource(path, choices, settings)
    if folders.is_pair(path):
        return FolderSource(path, choices, settings)
    raise SourceError(
        f"{path} is no recording that can be read: "
        + (
            _instead(path)
            or "neither a ROS 2 bag (a folder with metadata.yaml, or *.mcap or *.db3), nor a folder with "
            "manifest.json, rgb.txt (TUM RGB-D), image_02/data (a KITTI drive), or rgb and depth, nor a file of "
            "labels (*.jsonl, *.json)"
        )
    )


def is_simulated(path: Path) -> bool:
    """Whether this is no file, but the name of the simulated room."""
    return str(path).partition(":")[0] == NAME and not path.exists()


def full_name(path: Path) -> str:
    """What names a recording wherever it is opened from."""
    return str(path if is_simulated(path) else path.resolve())


def _instead(path: Path) -> str:
    """What is there instead of a recording, and what to do with it; nothing where it is nothing known."""
    if path.is_file():
        if path.name.lower().endswith(pieces.JOURNALS):
            return f"it is a part of {path.name.rpartition('-')[0]}, which has to be given, with this file beside it"
        return pieces.refusal(path)
    there = sorted(path.iterdir())
    hints = {
        "its labels can be read": [p for p in there if p.suffix == ".jsonl"],
        "it holds recordings, each to be given by itself": [p for p in there if _holds_recording(p)],
        f"it holds bags of ROS 1, which have to be converted ({pieces.CONVERT})": [
            p for p in there if p.suffix == ".bag"
        ],
        'it holds images alone; a manifest.json, {"frames": [{"rgb": FILE, "K": [fx, fy, cx, cy]}, ...]}, makes a '
        "recording of them": [p for p in there if p.suffix.lower() in folders.SUFFIXES],
    }
    listed = ((hint, [p.name for p in files]) for hint, files in hints.items() if files)
    return next((f"{hint}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}" for hint, names in listed), "")


def _holds_recording(folder: Path) -> bool:
    return folder.is_dir() and (pieces.is_bag(folder) or (folder / "manifest.json").exists())
