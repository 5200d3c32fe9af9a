"""What `vlm3 run` costs without the model, as JSON: reading, decoding, geometry, packing and writing, and its memory.

python -m benchmarks.offline [--frames 300] [--width 640 --height 480] [--jpeg]

A bag of a textured, moving picture is made in a temporary folder ($TMPDIR) and read over and over; the model answers
at once: a thing 2 metres away before a wall at 4. One thread; the time is CPU time of the process, that of the system
included. Of it, writing into the page cache depends on the machine most: a virtual one takes longer over memory that
it has not used before.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import re
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from vlm3_ros.camera import Camera
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.results import Results
from vlm3_ros.offline.run import Run, output_topics
from vlm3_ros.offline.settings import read_config
from vlm3_ros.offline.sources import Choices, Source
from vlm3_ros.offline.types import new, typestore
from vlm3_ros.packing import Packer
from vlm3_ros.perception import Frame
from vlm3_ros.tasks import Question, depth
from vlm3_ros.vlm import Answer, Picture
from vlm3_ros.vlm.models import Models

PERIOD_NS = 33_333_333
IMAGES = 100  # different ones


class Free:
    """A model, and its view, and where it comes from; costs nothing."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return [self._answers.get(q.text) or self._answer(q.text) for q in questions]

    def _answer(self, text: str) -> Answer:
        x, y = map(int, re.search(r"\((\d+), (\d+)\)", text).groups())  # type: ignore[union-attr]
        metres = 2.0 if 600 < x < 1200 and y > 700 else 4.0
        return self._answers.setdefault(text, Answer(depth.answer(metres), 0.9, tokens=1))

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

    def image_scale(self, name: str) -> float:
        return 1.0


class Repeated:
    """The images of a source again and again, later each time; keeps the peak of memory at a tenth of them."""

    def __init__(self, source: Source, frames: int):
        self._source, self._images = source, len(source.stamps)
        self.stamps = [source.stamps[0] + i * PERIOD_NS for i in range(frames)]
        self.peak_mb_after_a_tenth = 0.0

    def frame(self, index: int) -> Frame:
        if index == len(self.stamps) // 10:
            self.peak_mb_after_a_tenth = peak_mb()
        return replace(self._source.frame(index % self._images), stamp=self.stamps[index])


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


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(frames: int, bag: Path, out: Path) -> dict[str, float]:
    config = read_config(None, ["node.tasks=[depth]"])
    cv2.setNumThreads(1)
    free, before, start = Free(), os.times(), time.perf_counter()
    source = Repeated(open_source(bag, Choices(), config.camera), frames)
    results = Results(out, {}, output_topics(config))
    Run(source, config, Models({"depth": "free"}, free), results)()
    wall_s, after = time.perf_counter() - start, os.times()
    user_s, system_s = after.user - before.user, after.system - before.system
    return {
        "frames": frames,
        "frames_per_cpu_s": frames / (user_s + system_s),
        "frames_per_s": frames / wall_s,
        "user_ms_per_frame": user_s / frames * 1e3,
        "system_ms_per_frame": system_s / frames * 1e3,
        "depth_ms_per_frame": float(np.median([record.seconds["depth"] for record in results.records()])) * 1e3,
        "bag_mb_per_frame": (out / "bag" / "bag.mcap").stat().st_size / frames / 1e6,
        "peak_mb_after_a_tenth": source.peak_mb_after_a_tenth,
        "peak_mb_at_the_end": peak_mb(),
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
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1) as other:
        folder = Path(name)
        other.submit(make_bag, folder / "bag", IMAGES, camera, arguments.jpeg).result()
        print(json.dumps(measure(arguments.frames, folder / "bag", folder / "out"), indent=2))


if __name__ == "__main__":
    main()
