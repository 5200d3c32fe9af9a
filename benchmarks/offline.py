"""What `vlm3 run` costs without the model, as JSON: reading, decoding, geometry, packing and writing, and its memory.

python -m benchmarks.offline [--frames 300] [--width 640 --height 480] [--jpeg]

A bag of a textured, moving picture is made in a temporary folder; the model answers 2 metres to everything at once.
One thread; the bag that is written holds the node's depth outputs, 7.3 MB a frame at 640x480.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from vlm3_ros.camera import Camera
from vlm3_ros.config import Config
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.results import Results
from vlm3_ros.offline.run import Run, output_topics
from vlm3_ros.offline.sources import Choices
from vlm3_ros.offline.types import new, typestore
from vlm3_ros.packing import Packer
from vlm3_ros.perception import Frame
from vlm3_ros.tasks import Question, depth
from vlm3_ros.vlm import Answer, Picture
from vlm3_ros.vlm.models import Models

PERIOD_NS = 33_333_333


class Free:
    """A model, and its view, and where it comes from; costs nothing."""

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return [self._answer] * len(questions)

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[Free]:
        yield self

    def open(self, name: str) -> Free:
        return self

    def close(self) -> None:
        pass

    def memory_bytes(self, name: str) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1

    _answer = Answer(depth.answer(2.0), 0.9, tokens=1)


def make_bag(path: Path, frames: int, camera: Camera, jpeg: bool) -> None:
    packer, store = Packer(new), typestore()
    texture = np.random.default_rng(0).integers(0, 255, (camera.height // 8, camera.width // 8 + frames, 3), np.uint8)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = ("CompressedImage" if jpeg else "Image", "CameraInfo")
        images, infos = (
            writer.add_connection(topic, f"sensor_msgs/msg/{kind}", typestore=store)
            for topic, kind in zip(("/image/compressed" if jpeg else "/image", "/camera_info"), kinds, strict=True)
        )
        for i in range(frames):
            picture = cv2.resize(texture[:, i : i + camera.width // 8], camera.size, interpolation=cv2.INTER_CUBIC)
            head = packer.header(Frame("", 10**9 + i * PERIOD_NS, "camera", picture, camera))
            message = packer.colour_image(head, picture)
            if jpeg:
                data = cv2.imencode(".jpg", picture)[1].ravel()
                message = new("sensor_msgs/msg/CompressedImage", header=head, format="jpeg", data=data)
            for connection, sent in ((infos, packer.camera_info(head, camera)), (images, message)):
                writer.write(connection, 10**9 + i * PERIOD_NS, store.serialize_cdr(sent, sent.__msgtype__))


def resident_mb() -> float:
    """Memory of this process that is really there now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(frames: int, camera: Camera, jpeg: bool, folder: Path) -> dict[str, float]:
    make_bag(folder / "bag", frames, camera, jpeg)
    config = Config().updated({"node.tasks": ["depth"]})
    cv2.setNumThreads(1)
    start = time.perf_counter()
    source = open_source(folder / "bag", Choices(), config.camera)
    opened = time.perf_counter()
    results = Results(folder / "out", {}, output_topics(config))
    free = Free()
    run, early = Run(source, config, Models({"depth": "free"}, free), results), []
    add = results.add

    def adding(*what: object) -> None:
        add(*what)  # type: ignore[arg-type]
        if len(results.records) == frames // 10:
            early.append(resident_mb())

    results.add = adding  # type: ignore[method-assign]
    finish, times = results.finish, []

    def finishing() -> None:
        times.append(time.perf_counter())
        finish()

    results.finish = finishing  # type: ignore[method-assign]
    records = run()
    end = time.perf_counter()
    depth_s = np.median([record.seconds["depth"] for record in records])
    return {
        "frames": frames,
        "frames_per_s": frames / (end - start),
        "index_ms_per_frame": (opened - start) / frames * 1e3,
        "perceive_and_keep_ms_per_frame": (times[0] - opened) / frames * 1e3,
        "of_that_depth_map_ms": float(depth_s) * 1e3,
        "complete_bag_ms_per_frame": (end - times[0]) / frames * 1e3,
        "bag_mb_per_frame": (folder / "out" / "bag" / "bag.mcap").stat().st_size / frames / 1e6,
        "resident_mb_after_a_tenth": early[0],
        "resident_mb_at_the_end": resident_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--jpeg", action="store_true")
    arguments = parser.parse_args()
    width, height = arguments.width, arguments.height
    camera = Camera(width, height, 0.9 * width, 0.9 * width, (width - 1) / 2, (height - 1) / 2)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments.frames, camera, arguments.jpeg, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
