"""Label files in the forms in which VLM³ and DepthLM are published: fixed pixels, pairs and questions.

A file holds one JSON object, or one on each line (*.jsonl). Its keys tell what it labels:

    depth     {"image", "intrinsics": [fx, fy, cx, cy, width, height], "pixel_coords": [[u, v], ...], "depth": [...]}
              as DepthLM curates its data sets, or VLM³'s own depth_labels.json, an image of focal length 1000 px
    matching  pixel_corr_labels.json: two images and the pixels of both that correspond
    pose      pose_labels.json: two images, their intrinsics, and where the second camera is
    objects   spatialrgpt_labels.json: an image, a question with regions in words, and its answer

Images are named from the folder of the label file. Whether labelled depths are lengths of rays or along Z is not
said. Sources: facebookresearch/VLM3 (sample_data) and facebookresearch/DepthLM_Official (examples/ibims1) on GitHub.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.image_files import MAX_PIXELS
from vlm3_ros.offline import pieces
from vlm3_ros.offline.sources import FrameError, SourceError
from vlm3_ros.tasks import Refusal, pose
from vlm3_ros.tasks.answers import FARTHEST_M
from vlm3_ros.tasks.pose import PoseAnswer

log = logging.getLogger(__name__)

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True, eq=False)
class DepthLabels:
    """Pixels of an image and how far they are."""

    image: Path
    camera: Camera
    pixels: np.ndarray  # [N, 2]
    metres: np.ndarray  # [N] along the ray or along Z


@dataclass(frozen=True, eq=False)
class MatchLabels:
    """Pixels of two images that show the same points."""

    images: tuple[Path, Path]
    sizes: tuple[tuple[int, int], tuple[int, int]]  # (width, height) of both
    pixels_first: np.ndarray  # [N, 2]
    pixels: np.ndarray  # [N, 2]


@dataclass(frozen=True, eq=False)
class PoseLabels:
    """Two images and how the second camera stands to the first one; a number that is not labelled is NaN."""

    images: tuple[Path, Path]
    cameras: tuple[Camera, Camera]
    pose: PoseAnswer


@dataclass(frozen=True, eq=False)
class QuestionLabels:
    """A question about an image, its regions written out, and the right answer."""

    image: Path
    camera: Camera
    category: str
    question: str
    answer: str


Labels = DepthLabels | MatchLabels | PoseLabels | QuestionLabels


class LabelFile(Sequence[Labels]):
    """The labels of a file, all of one kind, each read when it is asked for.

    ``last`` is the share of the list that is taken, from its end.
    """

    def __init__(self, path: Path, last: float = 1.0):
        """Raises SourceError where the file has no label that can be read."""
        if not path.is_file():
            raise SourceError(f"{path} is no label file" if path.exists() else f"{path} does not exist")
        if refusal := pieces.refusal(path):
            raise SourceError(f"{path} cannot be read: {refusal}")
        self.path = path
        self._places: list[tuple[int, int]] = []  # first byte and length of each entry
        at = 0
        with path.open("rb") as file:
            for part in file if path.suffix.lower() == ".jsonl" else [file.read()]:
                if part.strip():
                    self._places.append((at, len(part)))
                at += len(part)
        if not self._places:
            raise SourceError(f"{path} is empty")
        self._first = int((1.0 - last) * len(self._places))
        self.kind = self._kind()

    def _kind(self) -> str:
        """That of the first label that can be read. Raises SourceError."""
        first: FrameError | None = None
        for index in range(len(self)):
            try:
                return _kind(self._entry(index))
            except FrameError as error:
                first = first or error
        raise SourceError(str(first)) from first

    def __len__(self) -> int:
        return len(self._places) - self._first

    def __getitem__(self, index: Any) -> Any:
        """One image's or pair's labels. Raises FrameError."""
        entry = self._entry(index)
        try:
            if _kind(entry) != self.kind:
                raise ValueError(f"labels for {_kind(entry)} among those for {self.kind}")
            return READERS[self.kind](entry, self.path.parent)
        except FrameError as error:
            raise FrameError(f"{self._where(index)}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FrameError(f"{self._where(index)} cannot be read: {type(error).__name__}: {error}") from error

    def _entry(self, index: int) -> dict[str, Any]:
        start, length = self._places[self._first + index]
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(length)
        try:
            entry = json.loads(text)
            if not isinstance(entry, dict):
                raise ValueError("it is no JSON object")
            return entry
        except (ValueError, RecursionError) as error:
            raise FrameError(f"{self._where(index)} is no label: {error}") from error

    def _where(self, index: int) -> str:
        return f"label {self._first + index + 1} of {self.path}"


def _kind(entry: dict[str, Any]) -> str:
    """Which of READERS an entry is for. Raises FrameError."""
    for kind, keys in KEYS.items():
        if any(all(key in entry for key in form) for form in keys):
            return kind
    known = "; ".join(f"{kind}: {' or '.join(', '.join(form) for form in forms)}" for kind, forms in KEYS.items())
    raise FrameError(f"the keys {', '.join(sorted(entry))} are none of a label that is known ({known})")


# ------------------------------------------------------------------------------------------------------ one kind each


def _depth(entry: dict[str, Any], folder: Path) -> DepthLabels:
    if "samples" in entry:
        camera = _camera(entry["intrinsics_after_focal_normalization_to_1000"], entry["image_size"])
        pixels = [sample["pixel_coord_resized"] for sample in entry["samples"]]
        metres = [sample["depth_meters"] for sample in entry["samples"]]
    else:
        fx, fy, cx, cy, width, height = entry["intrinsics"]
        size = {"width": width, "height": height}
        camera = _camera({"fx": fx or fy, "fy": fy or fx, "cx": cx, "cy": cy}, size)  # as DepthLM mends zeros
        pixels, metres = entry["pixel_coords"], entry["depth"]
    image = folder / _text(entry, "image").lstrip("/")
    uv, z = _rows(pixels, 2), _rows(metres, 1)[:, 0]
    if len(uv) != len(z):
        raise ValueError("there must be one depth for each pixel")
    inside = ((uv >= -0.5) & (uv < np.array(camera.size) - 0.5)).all(axis=1)  # False for NaN
    kept = _kept(image, inside & (z > 0.0) & (z <= FARTHEST_M), "outside of the image, or without a depth above 0")
    return DepthLabels(image, camera, uv[kept], z[kept])


def _matching(entry: dict[str, Any], folder: Path) -> MatchLabels:
    first, second = (_size(entry[f"image_{i}_size_resized"]) for i in (1, 2))
    pixels = [[pair[f"img{i}_pixel_in_resized"] for pair in entry["correspondences"]] for i in (1, 2)]
    images, first_uv, uv = _two(entry, folder), _rows(pixels[0], 2), _rows(pixels[1], 2)
    kept = _kept(images[1], np.isfinite(first_uv).all(axis=1) & np.isfinite(uv).all(axis=1), "no pairs of numbers")
    return MatchLabels(images, (first, second), first_uv[kept], uv[kept])


def _pose(entry: dict[str, Any], folder: Path) -> PoseLabels:
    first, second = (_camera(entry[f"intrinsics_{i}_resized"], entry[f"image_{i}_size_resized"]) for i in (1, 2))
    true = entry["ground_truth_pose"]
    direction = pose.DIRECTION.grammar.read(f"unit vector {true['translation_unit_vector']}")
    if isinstance(direction, Refusal):
        raise ValueError(f"translation_unit_vector is no vector: {true['translation_unit_vector']}")
    x, y, z = direction
    angles = (float(true["yaw_deg"]), float(true["pitch_deg"]), float(true["roll_deg"]))
    angle, distance = (_known(true.get(name)) for name in ("rotation_angle_deg", "translation_distance_m"))
    return PoseLabels(_two(entry, folder), (first, second), PoseAnswer(angle, angles, (x, y, z), distance))


def _objects(entry: dict[str, Any], folder: Path) -> QuestionLabels:
    camera = _camera(entry["intrinsics_after_focal_normalization_to_1000"], entry["image_size_resized"])
    return QuestionLabels(
        folder / _text(entry, "image"),
        camera,
        _text(entry["qa_info"], "category"),
        _text(entry, "prompt"),
        _text(entry, "answer"),
    )


READERS: dict[str, Callable[[dict[str, Any], Path], Labels]] = {
    "depth": _depth,
    "matching": _matching,
    "pose": _pose,
    "objects": _objects,
}
KEYS = {
    "depth": (("image", "intrinsics", "pixel_coords", "depth"), ("image", "samples")),
    "matching": (("image_1", "image_2", "correspondences"),),
    "pose": (("image_1", "image_2", "ground_truth_pose"),),
    "objects": (("image", "prompt", "answer", "qa_info"),),
}


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _two(entry: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    return folder / _text(entry, "image_1"), folder / _text(entry, "image_2")


def _text(entry: dict[str, Any], name: str) -> str:
    """Raises ValueError."""
    if not isinstance(entry[name], str):
        raise ValueError(f"{name} is no text")
    return entry[name]


def _size(size: dict[str, int]) -> tuple[int, int]:
    width, height = int(size["width"]), int(size["height"])
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"no image is {width}x{height}")
    return width, height


def _camera(intrinsics: dict[str, float], size: dict[str, int]) -> Camera:
    numbers = [float(intrinsics[name]) for name in ("fx", "fy", "cx", "cy")]
    if not np.isfinite(numbers).all():
        raise ValueError("the intrinsics hold NaN or infinity")
    return Camera(*_size(size), *numbers)


def _rows(values: Sequence[Any], length: int) -> np.ndarray:
    """[N, length]; a row that is not so many numbers is NaN."""
    rows = np.full((len(values), length), np.nan)
    for row, value in zip(rows, values, strict=True):
        with suppress(TypeError, ValueError, OverflowError):
            row[:] = np.array(value, float).reshape(length)
    return rows


def _kept(image: Path, usable: np.ndarray, why: str) -> np.ndarray:
    """Which labelled pixels can be used [N]; others are counted, by the reason. Raises ValueError if none can."""
    left_out = int((~usable).sum())
    if left_out == len(usable):
        raise ValueError(
            f"it labels no pixel that can be used; {left_out} are {why}" if left_out else "it labels no pixel"
        )
    if left_out:
        log.warning("%s: %d of %d labelled pixels are left out: %s", image, left_out, len(usable), why)
    return usable
