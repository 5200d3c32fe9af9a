"""Which kind of recording a path is."""

from __future__ import annotations

from pathlib import Path

from vlm3_ros.config import CameraConfig
from vlm3_ros.offline import folders, kitti, labels
from vlm3_ros.offline.bag import BagSource
from vlm3_ros.offline.folders import FolderSource
from vlm3_ros.offline.kitti import KittiSource
from vlm3_ros.offline.labelled import LabelledSource
from vlm3_ros.offline.manifest import ManifestSource
from vlm3_ros.offline.simulated import NAME, SimulatedSource
from vlm3_ros.offline.sources import Choices, Source, SourceError
from vlm3_ros.offline.tum import TumSource


def open_source(path: Path, choices: Choices, settings: CameraConfig) -> Source:
    """The recording at ``path``. Raises SourceError."""
    if is_simulated(path):
        return SimulatedSource(str(path))
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    if (path / "manifest.json").is_file():
        return ManifestSource(path, settings)
    if (path / "rgb.txt").is_file():
        return TumSource(path, choices, settings)
    if path.suffix in (".mcap", ".db3") or (path.is_dir() and any(map(is_bag_file, path.iterdir()))):
        return BagSource(path, choices, settings)
    if path.suffix in labels.SUFFIXES:
        return LabelledSource(path, choices, settings)
    if kitti.is_drive(path):
        return KittiSource(path, choices, settings)
    if folders.is_pair(path):
        return FolderSource(path, choices, settings)
    raise SourceError(
        f"{path} is no recording that can be read: neither a ROS 2 bag (a folder with metadata.yaml, or *.mcap or "
        "*.db3), nor a folder with manifest.json, rgb.txt (TUM RGB-D), image_02/data (a KITTI drive), or rgb and "
        f"depth{_label_files(path)}"
    )


def is_simulated(path: Path) -> bool:
    """Whether this is no file, but the name of the simulated room."""
    return str(path).partition(":")[0] == NAME and not path.exists()


def full_name(path: Path) -> str:
    """What names a recording wherever it is opened from."""
    return str(path if is_simulated(path) else path.resolve())


def _label_files(folder: Path) -> str:
    """The label files in a folder, as a suggestion."""
    found = sorted(map(str, folder.glob("*.jsonl"))) if folder.is_dir() else []
    return f"; but its labels can be: {', '.join(found)}" if found else ", nor a file of labels (*.jsonl, *.json)"


def is_bag_file(path: Path) -> bool:
    """Whether a file is part of a bag, by its name."""
    return path.name == "metadata.yaml" or path.suffix in (".mcap", ".db3")
