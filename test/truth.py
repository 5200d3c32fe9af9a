"""A stand-in for a model that answers from ground truth, through the same text as a model would.

It knows a set of frames and recognises them by the bytes of their images. What it answers is what an ideal VLM³
checkpoint would: a length as it appears to one who takes the picture for one of the unified focal length, rounded as
the protocol writes it. It refuses, in words that do not parse, what the truth does not know.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vlm3_ros.camera import Camera, from_references, metric_scale, taken_for
from vlm3_ros.geometry import motion
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.sim.tour import Tour, true_boxes
from vlm3_ros.tasks import Question, depth, grounding, matching, pose
from vlm3_ros.vlm import Answer, Picture

UNKNOWN = "I cannot tell."


@dataclass(frozen=True, eq=False)
class TrueFrame:
    """What is known about one image."""

    camera: Camera
    depth: np.ndarray  # [height, width] metres along Z, NaN unknown
    T_world_camera: np.ndarray  # [4, 4]
    boxes: Sequence[Box3D] = ()  # in camera axes


def fingerprint(image: np.ndarray) -> str:
    """What identifies an image, uint8 [height, width, 3] RGB."""
    return hashlib.sha1(np.ascontiguousarray(image).tobytes()).hexdigest()


class TruthVLM:
    """Answers from ground truth; ``frame_of`` finds the truth of an image."""

    def __init__(self, frame_of: Callable[[np.ndarray], TrueFrame]):
        self._frame_of = frame_of
        self.looks = 0

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[TruthView]:
        self.looks += 1
        yield TruthView([(self._frame_of(p.pixels), p.size) for p in pictures])

    def close(self) -> None:
        pass


class TruthView:
    def __init__(self, seen: list[tuple[TrueFrame, tuple[int, int]]]):
        self._frames = [frame for frame, _ in seen]
        self._seen = [frame.camera.resized(*size) for frame, size in seen]

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return [Answer(self._answer(question.text), probability=1.0, tokens=1) for question in questions]

    def _answer(self, text: str) -> str:
        for pattern, answer in _ANSWERS:
            if found := pattern.fullmatch(text):
                return answer(self, *found.groups())
        return UNKNOWN

    def _depth(self, x: str, y: str) -> str:
        frame, seen = self._frames[0], self._seen[0]
        (asked,) = from_references([(int(x), int(y))], seen.size, depth.BINS)
        z = _at(frame.depth, seen.pixels_in(frame.camera, asked))
        ray = np.linalg.norm(taken_for(seen, depth.FOCAL).rays(asked))
        length = z * ray / metric_scale(seen, depth.FOCAL)
        return depth.answer(length) if np.isfinite(length) else UNKNOWN

    def _match(self, x: str, y: str) -> str:
        (first, second), (seen_1, seen_2) = self._frames, self._seen
        (pixel,) = seen_1.pixels_in(first.camera, from_references([(int(x), int(y))], seen_1.size, matching.BINS))
        point = first.camera.rays(pixel) * _at(first.depth, pixel)
        T = np.linalg.inv(second.T_world_camera) @ first.T_world_camera
        there = second.camera.pixels_in(seen_2, second.camera.project(T[:3, :3] @ point + T[:3, 3]))
        reference = there / seen_2.size * matching.BINS
        inside = (reference >= 0).all() and (reference < matching.BINS).all()  # False for NaN
        return matching.answer(*(int(r) for r in reference.round())) if inside else UNKNOWN

    def _pose(self, which: int) -> str:
        first, second = self._frames
        T = np.linalg.inv(first.T_world_camera) @ second.T_world_camera
        T[:3, 3] /= metric_scale(self._seen[1], pose.FOCAL)
        return pose.answers(motion.pose_answer(T))[which]

    def _ground(self, label: str) -> str:
        frame, found = self._frames[0], []
        for box in frame.boxes:
            pixels = frame.camera.project(box.corners())
            if box.label != label or not np.isfinite(pixels).all():
                continue
            low, high = (
                np.clip(edge + 0.5, 0, frame.camera.size) / frame.camera.size * grounding.BINS
                for edge in (pixels.min(axis=0), pixels.max(axis=0))
            )
            if (high - low > 5).all():
                found.append(grounding.Box2D(box.label, *low, *high))
        return grounding.answer(found)


def _question(prompt: str) -> re.Pattern[str]:
    """A pattern for the questions made from a prompt; its fields become groups."""
    parts = re.split(r"\{[a-z]+\}", prompt.replace("{{", "\0").replace("}}", "\1"))
    return re.compile("(.+)".join(re.escape(p.replace("\0", "{").replace("\1", "}")) for p in parts))


_ANSWERS: list[tuple[re.Pattern[str], Callable[..., str]]] = [
    (_question(depth.PROMPT), TruthView._depth),
    (_question(matching.PROMPT), TruthView._match),
    (_question(grounding.PROMPT), TruthView._ground),
    *((_question(q.text), lambda view, i=i: view._pose(i)) for i, q in enumerate(pose.QUESTIONS)),
]


def _at(values: np.ndarray, pixel: np.ndarray) -> float:
    """The value at the pixel nearest to (u, v)."""
    column, row = np.rint(pixel).astype(int).clip(0, np.array(values.shape)[::-1] - 1)
    return float(values[row, column])


# ------------------------------------------------------------------------------------------ where truth comes from


def manifest_frames(folder: Path) -> dict[str, TrueFrame]:
    """The frames of a folder with a manifest.json, by the fingerprint of their images."""
    manifest = json.loads((folder / "manifest.json").read_text())
    frames = {}
    for entry in manifest["frames"]:
        if not entry.get("depth"):
            continue
        image = cv2.cvtColor(cv2.imread(str(folder / entry["rgb"])), cv2.COLOR_BGR2RGB)
        z = cv2.imread(str(folder / entry["depth"]), cv2.IMREAD_UNCHANGED) / entry["depth_scale"]
        T = np.array(entry["T_world_cam"])
        boxes = [_box_in_camera(box, T) for box in manifest.get("boxes", ())]
        camera = Camera(entry["width"], entry["height"], *entry["K"])
        frames[fingerprint(image)] = TrueFrame(camera, np.where(z > 0, z, np.nan), T, boxes)
    return frames


def _box_in_camera(box: dict, T_world_camera: np.ndarray) -> Box3D:
    c, s = np.cos(box["yaw_rad"]), np.sin(box["yaw_rad"])
    R_world_box = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    R, t = T_world_camera[:3, :3], T_world_camera[:3, 3]
    return Box3D(box["label"], 1.0, R.T @ (np.array(box["center_m"]) - t), np.array(box["size_m"]), R.T @ R_world_box)


def recorded(folder: str) -> TruthVLM:
    """Truth of a recorded folder; as a model's name `test:truth:recorded:<folder>`."""
    frames = manifest_frames(Path(folder))
    return TruthVLM(lambda image: frames[fingerprint(image)])


def simulated(spec: str) -> TruthVLM:
    """Truth of the simulator's tour; ``spec`` is WIDTH,HEIGHT,HFOV_DEG,RATE_HZ,SECONDS as given to sim_node."""
    width, height, *others = spec.split(",")
    return TruthVLM(TourTruth(Tour.demo(int(width), int(height), *map(float, others))))


class TourTruth:
    """Finds a picture in the tour by rendering on from the last one found until it appears."""

    def __init__(self, tour: Tour):
        self._tour = tour
        self._next = 0
        self._known: dict[str, TrueFrame] = {}

    def __call__(self, image: np.ndarray) -> TrueFrame:
        wanted = fingerprint(image)
        for _ in range(len(self._tour)):
            if wanted in self._known:
                break
            view = self._tour[self._next]
            self._next = (self._next + 1) % len(self._tour)
            self._known[fingerprint(view.image)] = TrueFrame(
                view.camera, view.depth, view.T_world_cam, true_boxes(view)
            )
        return self._known[wanted]
