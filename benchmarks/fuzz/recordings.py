"""Damaged bags and data sets: every frame and truth that is whole, and a sentence for the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from benchmarks.fuzz.mutations import damaged, misspelt, odd
from vlm3_ros.camera import Camera
from vlm3_ros.config import CameraConfig
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.mcap import McapWriter
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.sources import Choices, FrameError, SourceError, seconds
from vlm3_ros.offline.types import new, typestore
from vlm3_ros.packing import Packer
from vlm3_ros.perception import Frame

SECOND = 10**9
STAMPS = [1000 * SECOND + i * SECOND // 10 for i in range(3)]
CAMERA = Camera(16, 12, 15.0, 15.0, 7.5, 5.5)
PACKER = Packer(new)
CHOICES = Choices(intrinsics=(15.0, 15.0, 7.5, 5.5), image="")
POSE = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
TEXTS = {".yaml", ".json", ".txt"}


@dataclass(frozen=True)
class Mutant:
    """A recording with one file damaged."""

    name: str
    whole: Path
    file: Path  # in it, relative
    index: int
    seed: int

    def make(self) -> Path:
        """The recording, where it has always been."""
        folder = self.whole.parent / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.whole, folder)
        rng = np.random.default_rng((self.seed, self.index))
        data = (self.whole / self.file).read_bytes()
        if self.file.suffix == ".json" and rng.random() < 0.8:
            changed = json.dumps(odd(json.loads(data), rng)).encode()
        else:
            changed = misspelt(data.decode(), rng) if self.file.suffix in TEXTS else damaged(data, rng)
        (folder / self.file).write_bytes(changed)
        if is_bag(folder) and rng.random() < 0.3:
            (folder / "metadata.yaml").unlink(missing_ok=True)
        return folder


def mutants(seed: int, folder: Path) -> Iterator[Mutant]:
    """Each file of each recording in turn, without end."""
    wholes = _recordings(folder)
    files = [(whole, file.relative_to(whole)) for whole in wholes for file in sorted(whole.rglob("*"))]
    files = [(whole, file) for whole, file in files if (whole / file).is_file()]
    for index in count():
        whole, file = files[index % len(files)]
        yield Mutant(f"{whole.name}/{file} #{index}", whole, file, index, seed)


def attempt(mutant: Any) -> str | None:
    """Open a recording and read all of it; what is no SourceError, FrameError or OSError goes on."""
    try:
        source = open_source(mutant.make(), CHOICES, CameraConfig())
    except (SourceError, OSError) as error:
        return None if str(error) else f"{type(error).__name__} without a word"
    for read in (source.frame, source.truth):
        for index in range(min(len(source.stamps), 20)):
            try:
                read(index)
            except (FrameError, SourceError) as error:
                if not str(error):
                    return f"{type(error).__name__} without a word"
    with suppress(SourceError):
        source.mount("base")
    return None


def is_bag(folder: Path) -> bool:
    return any(file.suffix in (".mcap", ".db3") for file in folder.iterdir())


# ------------------------------------------------------------------------------------------------------ whole ones


def _recordings(folder: Path) -> list[Path]:
    bags = {
        "mcap": (StoragePlugin.MCAP, CompressionMode.NONE),
        "mcap_zstd": (StoragePlugin.MCAP, CompressionMode.STORAGE),
        "mcap_file": (StoragePlugin.MCAP, CompressionMode.FILE),
        "db3": (StoragePlugin.SQLITE3, CompressionMode.NONE),
        "db3_message": (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    }
    found = [_bag(folder / name, *form) for name, form in bags.items()]
    return [*found, _chunks(folder / "chunks"), _tum(folder / "tum"), _manifest(folder / "manifest")]


def _messages() -> Iterator[tuple[str, int, Any]]:
    box = Box3D("chair", 1.0, np.array([0.0, 0.0, 2.0]), np.ones(3), np.eye(3))
    for stamp in STAMPS:
        frame = Frame("", stamp, "camera", np.full((12, 16, 3), 90, np.uint8), CAMERA)
        head, odom = PACKER.header(frame), PACKER.header(frame, "odom")
        yield "/camera/camera_info", stamp, PACKER.camera_info(head, CAMERA)
        yield "/camera/image", stamp, PACKER.colour_image(head, frame.image)
        yield "/depth", stamp, PACKER.float_image(head, np.full((12, 16), 2.0))
        yield "/tf", stamp, PACKER.transforms(PACKER.transform(odom, "base", np.eye(4)))
        yield "/objects", stamp, PACKER.detections(head, [box])
        static = PACKER.transforms(PACKER.transform(PACKER.header(frame, "base"), "camera", np.eye(4)))
        yield "/tf_static", stamp, static


def _bag(path: Path, storage: StoragePlugin, compression: CompressionMode) -> Path:
    store, connections = typestore(), {}
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, time, message in _messages():
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], time, store.serialize_cdr(message, kind))
    return path


def _chunks(path: Path) -> Path:
    """Several chunks, as of a recording longer than this."""
    path.mkdir()
    entries = list(_messages())
    kinds = {topic: message.__msgtype__ for topic, _, message in entries}
    writer = McapWriter(path / "chunks.mcap", kinds, typestore())
    for stamp in STAMPS:
        of = {topic: typestore().serialize_cdr(m, kinds[topic]) for topic, time, m in entries if time == stamp}
        writer.add(stamp, of, "{}")
    writer.finish()
    return path


def _pictures(path: Path, stamp: int) -> None:
    for name, values in (("rgb", np.full((12, 16, 3), 90, np.uint8)), ("depth", np.full((12, 16), 2000, np.uint16))):
        (path / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path / name / f"{stamp}.png"), values)


def _tum(path: Path) -> Path:
    for stamp in STAMPS:
        _pictures(path, stamp)
    for kind in ("rgb", "depth"):
        lines = [f"{seconds(stamp)} {kind}/{stamp}.png" for stamp in STAMPS]
        (path / f"{kind}.txt").write_text("\n".join(["# stamp file", *lines]))
    lines = [f"{seconds(stamp)} 0.0 0.0 0.0 0.0 0.0 0.0 1.0" for stamp in STAMPS]
    (path / "groundtruth.txt").write_text("\n".join(["# stamp tx ty tz qx qy qz qw", *lines]))
    return path


def _manifest(path: Path) -> Path:
    for stamp in STAMPS:
        _pictures(path, stamp)
    frames = [
        {
            **{name: f"{name}/{stamp}.png" for name in ("rgb", "depth")},
            **{"K": [15.0, 15.0, 7.5, 5.5], "stamp": stamp / SECOND, "depth_scale": 1000, "T_world_cam": POSE},
        }
        for stamp in STAMPS
    ]
    box = {"label": "table", "center_m": [0.0, 0.0, 2.0], "size_m": [1.0, 1.0, 1.0], "yaw_rad": 0.2}
    (path / "manifest.json").write_text(json.dumps({"frames": frames, "boxes": [box]}))
    return path
