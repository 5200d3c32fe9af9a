"""Whether training data made from recordings is right: every answer against the recording, as JSON and a table.

python -m benchmarks.data DATA [--json FILE]

Builds a data set from each recording and reads its shards again. Which image of the recording a picture shows is
found by looking; depth, poses and disparity are read from the recording's own files by code that shares nothing with
what made the answers. Errors are in pixels of the recorded image:

own    from a pixel and the answer to where depth and poses (or disparity) of the first image say that it went
other  back again: from the answer by the second image's depth to the pixel that was asked
image  between the surroundings of the pixel in both images, the second brought to the view of the first by depth and
       poses: what is wrong with the recording itself (Lucas-Kanade, at corners)
pose   from where the answered motion takes pixels to where the recorded one does
round  there and back by the answered motion, by depth of the first and then of the second image
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm3_ros.config import CameraConfig
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.build import Plan, build
from vlm3_ros.learn.data.compose import Amounts
from vlm3_ros.learn.data.recording import Recording
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.learn.data.shards import DataSet
from vlm3_ros.learn.data.survey import Rules
from vlm3_ros.offline.sources import Choices
from vlm3_ros.tasks import pose

# A recording, and the folder that holds the same frames as files.
RECORDINGS = {
    "tum_fr3_cabinet": "tum_fr3_cabinet",
    "tum_fr3_office": "tum_fr3_office",
    "redwood_livingroom_5": "redwood_livingroom_5",
    "middlebury_motorcycle": "middlebury_motorcycle",
    "icl_nuim_5": "icl_nuim_5",
    "sim_pybullet_room": "sim_pybullet_room",
    "bags_made/tum_fr3_cabinet": "tum_fr3_cabinet",
    "bags_made/tum_fr3_office_1hz": "tum_fr3_office",
    "bags_made/redwood_livingroom_5_raw": "redwood_livingroom_5",
    "bags_made/tum_fr3_cabinet_3f_raw_db3": "tum_fr3_cabinet",
}
THUMB = (48, 36)
WINDOW = 21  # px, side of what is looked for in the other image
CORNER = 1e-3  # least eigenvalue of its gradients, as OpenCV scales it
GRID_PX = 24  # between the pixels that a motion is tried on
VISIBLE = 0.05  # relative; nearer to each other than this, two depths are of one surface


@dataclass(frozen=True, eq=False)
class Image:
    """An image of a recording and all that is known about it."""

    rgb: np.ndarray
    K: tuple[float, float, float, float]  # fx fy cx cy
    T: np.ndarray  # [4, 4] world ← camera
    depth: np.ndarray | None  # [h, w] metres, 0 unknown
    disparity: np.ndarray | None = None  # [h, w] pixels to the left in the other image, 0 unknown


def images(folder: Path) -> list[Image]:
    """All images of a manifest folder."""
    found = []
    for entry in json.loads((folder / "manifest.json").read_text())["frames"]:
        rgb = cv2.imread(str(folder / entry["rgb"]))[..., ::-1]
        depth = cv2.imread(str(folder / entry["depth"]), -1) / entry["depth_scale"] if entry.get("depth") else None
        disparity = None
        if depth is not None and (folder / "disparity_left.npz").exists():
            (disparity,) = np.load(folder / "disparity_left.npz").values()
            disparity = np.where(np.isfinite(disparity), disparity, 0.0)
        found.append(Image(rgb, tuple(entry["K"]), np.array(entry["T_world_cam"]), depth, disparity))
    return found


class Check:
    """Errors of a data set's answers, by what was compared."""

    def __init__(self, recording: list[Image], ray: bool):
        self.errors: dict[str, list[float]] = defaultdict(list)
        self._recording, self._ray = recording, ray
        self._thumbs = np.stack([_thumb(image.rgb) for image in recording])

    def add(self, sample: Sample) -> None:
        shown = [self._image(picture.pixels) for picture in sample.pictures]
        sizes = [picture.size for picture in sample.pictures]
        by_task: dict[str, list[Exchange]] = defaultdict(list)
        for exchange in sample.exchanges:
            by_task[exchange.task].append(exchange)
        if by_task["depth"]:
            self._depth(shown[0], sizes[0], by_task["depth"])
        if by_task["matching"]:
            self._matching(shown[0], shown[1], by_task["matching"])
        if by_task["pose"]:
            self._pose(shown[0], shown[1], sizes[1], by_task["pose"])

    def _image(self, rgb: np.ndarray) -> Image:
        difference = np.abs(self._thumbs - _thumb(rgb)).mean(axis=(1, 2, 3))
        best = int(difference.argmin())
        if difference[best] > 2.0:
            raise ValueError(f"no image of the recording looks like it: {difference[best]:.1f} grey levels apart")
        return self._recording[best]

    def _depth(self, image: Image, size: tuple[int, int], exchanges: list[Exchange]) -> None:
        assert image.depth is not None
        h, w = image.depth.shape
        fx, fy, cx, cy = image.K
        sx, sy = size[0] / w, size[1] / h
        focal = math.sqrt(fx * sx * fy * sy)
        for exchange in exchanges:
            x, y = reading.pixel(exchange)
            u, v = x / 2000 * size[0], y / 2000 * size[1]  # of the picture as it is seen
            z = reading.metres(exchange) * focal / 1000.0
            if self._ray:
                ray = ((u - ((cx + 0.5) * sx - 0.5)) / 1000.0, (v - ((cy + 0.5) * sy - 0.5)) / 1000.0, 1.0)
                z /= math.hypot(*ray)
            true = _at(image.depth, np.array([[(u + 0.5) / sx - 0.5, (v + 0.5) / sy - 0.5]]))[0]
            self.errors["depth"].append(abs(z / true - 1.0) * 100.0)

    def _matching(self, a: Image, b: Image, exchanges: list[Exchange]) -> None:
        first = _asked(a, [reading.pixel(exchange) for exchange in exchanges])
        second = _asked(b, [reading.match(exchange) for exchange in exchanges])
        if a.disparity is not None:
            there = first - np.stack([_at(a.disparity, first), np.zeros(len(first))], axis=1)
        else:
            there, _ = _carry(a, b, first, np.linalg.inv(b.T) @ a.T)
        self._note("own", there - second)
        if b.depth is not None:
            back, _ = _carry(b, a, second, np.linalg.inv(a.T) @ b.T)
            self._note("other", back - first)
        if a.disparity is None:
            self._note("image", _misfit(a, b, first))

    def _pose(self, a: Image, b: Image, size: tuple[int, int], exchanges: list[Exchange]) -> None:
        if a.depth is None:
            return
        answered = pose.parse([exchange.answer for exchange in exchanges])
        assert isinstance(answered, pose.PoseAnswer)
        h, w = b.rgb.shape[:2]
        scale = math.sqrt(b.K[0] * size[0] / w * b.K[1] * size[1] / h) / 750.0
        T_a_b = np.eye(4)
        T_a_b[:3, :3] = _rotation(*answered.yaw_pitch_roll_deg)
        direction = np.array(answered.direction)
        T_a_b[:3, 3] = direction / np.linalg.norm(direction) * answered.distance_m * scale
        pixels = np.mgrid[GRID_PX // 2 : w : GRID_PX, GRID_PX // 2 : h : GRID_PX].reshape(2, -1).T.astype(float)
        pixels = pixels[_at(a.depth, pixels) > 0.0]
        there, z = _carry(a, b, pixels, np.linalg.inv(T_a_b))
        recorded, _ = _carry(a, b, pixels, np.linalg.inv(b.T) @ a.T)
        inside = ((recorded >= 0) & (recorded <= (w - 1, h - 1))).all(axis=1)
        self._note("pose", (there - recorded)[inside])
        if b.depth is not None:
            inside &= ((there >= 0) & (there <= (w - 1, h - 1))).all(axis=1)
            pixels, there, z = pixels[inside], there[inside], z[inside]
            seen = np.abs(_at(b.depth, there) / z - 1.0) < VISIBLE
            back, _ = _carry(b, a, there[seen], T_a_b)
            self._note("round", back - pixels[seen])

    def _note(self, what: str, differences: np.ndarray) -> None:
        lengths = np.linalg.norm(differences, axis=1)
        self.errors[what] += lengths[np.isfinite(lengths)].tolist()


def _thumb(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, THUMB, interpolation=cv2.INTER_AREA).astype(float)


def _asked(image: Image, references: list[tuple[float, float]]) -> np.ndarray:
    """Pixels of the recorded image for references in thousandths of the seen one."""
    h, w = image.rgb.shape[:2]
    long = 1024 / max(w, h)  # matching is asked of images that are 1024 px long
    return np.array(references) / 1000.0 * (w, h) + 0.5 / long - 0.5


def _at(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Values at the nearest whole pixels."""
    column, row = np.rint(pixels).astype(int).T
    height, width = values.shape
    return values[row.clip(0, height - 1), column.clip(0, width - 1)]


def _carry(a: Image, b: Image, pixels: np.ndarray, T_b_a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of ``a`` in ``b`` by the depth of ``a`` and a motion, and their depth there; NaN where it is unknown."""
    assert a.depth is not None
    z = _at(a.depth, pixels)
    z = np.where(z > 0.0, z, np.nan)
    x, y = (pixels[:, 0] - a.K[2]) / a.K[0] * z, (pixels[:, 1] - a.K[3]) / a.K[1] * z
    X = T_b_a[:3, :3] @ np.stack([x, y, z]) + T_b_a[:3, 3:]
    return np.stack([X[0] / X[2] * b.K[0] + b.K[2], X[1] / X[2] * b.K[1] + b.K[3]], axis=1), X[2]


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Ry(yaw) · Rx(pitch) · Rz(roll), degrees."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return about_y @ about_x @ np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])


def _misfit(a: Image, b: Image, pixels: np.ndarray) -> np.ndarray:
    """How far [N, 2] what is around pixels of ``a`` lies from where ``b``, brought to the view of ``a``, shows it.

    Lucas-Kanade; NaN where there is no corner to hold on to, where depth has a hole in its window, and where the way
    back does not lead to the pixel again.
    """
    height, width, _ = a.rgb.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(float)
    there, _ = _carry(a, b, grid, np.linalg.inv(b.T) @ a.T)
    where = np.nan_to_num(there, nan=-1.0).reshape(height, width, 2).astype(np.float32)
    known = ((where >= 0) & (where <= np.array(b.rgb.shape[1::-1]) - 1)).all(axis=2).astype(np.uint8)
    whole = cv2.erode(known, np.ones((WINDOW, WINDOW), np.uint8), borderValue=0)
    brought = cv2.remap(np.ascontiguousarray(b.rgb), where[..., 0], where[..., 1], cv2.INTER_LINEAR)
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (a.rgb, brought)]
    p = pixels.astype(np.float32).reshape(-1, 1, 2)
    how: dict[str, Any] = {"winSize": (WINDOW, WINDOW), "maxLevel": 1, "minEigThreshold": CORNER}
    q, found, _ = cv2.calcOpticalFlowPyrLK(*grey, p, None, **how)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(*grey[::-1], q, None, **how)
    good = found.astype(bool) & found_back.astype(bool) & (np.linalg.norm(back - p, axis=2) < 0.5)
    return np.where(good & (_at(whole, pixels)[:, None] > 0), (q - p)[:, 0], np.nan).astype(float)


# --------------------------------------------------------------------------------------------------------- report


def verified(source: Path, folder: Path, out: Path, amounts: Amounts) -> dict[str, Any]:
    """Build a data set from a recording and check every answer; counts and errors."""
    build(Plan(Recording(source, Choices(), CameraConfig(), Rules()), amounts), out)
    data, check = DataSet(out), Check(images(folder), amounts.ray)
    samples: Counter[str] = Counter()
    for sample in data:
        samples.update({exchange.task for exchange in sample.exchanges})
        check.add(sample)
    return {
        "images": data.manifest["samples"]["images"],
        "pairs": data.manifest["samples"]["pairs"],
        "samples": dict(sorted(samples.items())),
        "questions": data.manifest["exchanges"],
        "left_out": data.manifest["left_out"],
        "errors": {name: _summary(found) for name, found in sorted(check.errors.items()) if found},
    }


def _summary(errors: list[float]) -> dict[str, float]:
    median, p95 = np.percentile(errors, (50, 95)).round(3).tolist()
    return {"count": len(errors), "median": median, "p95": p95}


COLUMNS = {"own": "px", "other": "px", "image": "px", "pose": "px", "round": "px", "depth": "%"}


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    tasks = ("depth", "matching", "pose", "objects")
    columns = [f"{name}, {unit}" for name, unit in COLUMNS.items()]
    head = ["recording", "images", "pairs", *tasks, *columns, "left out"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for name, found in results.items():
        errors = [found["errors"].get(column) for column in COLUMNS]
        cells = [name, found["images"], found["pairs"], *(found["questions"].get(task, 0) for task in tasks)]
        cells += [f"{e['median']:.2f} / {e['p95']:.2f}" if e else "" for e in errors]
        cells.append(", ".join(f"{count} x {reason}" for reason, count in found["left_out"].items()))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the recordings")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args()
    results = {}
    for name, folder in RECORDINGS.items():
        with tempfile.TemporaryDirectory() as out:
            results[name] = verified(arguments.data / name, arguments.data / folder, Path(out), Amounts())
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    print(table(results))


if __name__ == "__main__":
    main()
