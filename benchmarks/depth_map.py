"""How true the dense map is between answers, as Markdown tables.

python -m benchmarks.depth_map [DATA] [--points 192 432 768] [--picture FILE]

Each scene is a picture with exact depth: streets and floors of planes and boxes, cast here; rooms of the simulator;
recorded frames from the folders in DATA. The answers are its depth at the grid points with the errors of a case (what
they are: ``CASES``). A cell has δ1 and AbsRel of the dense map and, behind it, those of linear interpolation of the
same answers in inverse depth (scipy; the nearest answer outside their hull). With exact answers it also has how far
depth edges lie from the true ones and the true ones from them, in pixels (accuracy, completeness). The last line is
the time of a map on one thread.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import griddata
from scipy.ndimage import gaussian_filter

from vlm3_ros.camera import Camera
from vlm3_ros.config import DepthConfig
from vlm3_ros.geometry.depth_map import Grid, densify
from vlm3_ros.metrics.boundaries import boundary_errors
from vlm3_ros.metrics.depth import depth_errors
from vlm3_ros.sim import random_room, render, viewpoint
from vlm3_ros.sim.path import pose

FOLDERS = {  # and every how many frames
    "tum_fr3_cabinet": 10,
    "tum_fr3_office": 5,
    "icl_nuim_5": 1,
    "redwood_livingroom_5": 1,
    "middlebury_motorcycle": 1,
    "sim_pybullet_room": 6,
}
MAX_WIDTH = 640
STRIDE = 3  # between rows and columns of the pixels that count for δ1 and AbsRel: scipy takes its time


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, uint8 [h, w, 3] RGB, and its depth [h, w] along Z in metres, NaN unknown."""

    kind: str
    image: np.ndarray
    depth: np.ndarray


# ---------------------------------------------------------------------------------------------------------- scenes


def cast(kind: str, camera: Camera, T_world_cam: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Scene:
    """Boxes [N, 2, 3] (low and high corners, z up, ±inf for half-spaces) seen from a pose; unknown beside them."""
    pixels = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1)
    rays = camera.rays(pixels) @ T_world_cam[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = (boxes[:, None, None] - T_world_cam[:3, 3]) / rays[None, :, :, None]
    near, far = bounds.min(axis=3).max(axis=-1), bounds.max(axis=3).min(axis=-1)
    hit = np.where((near < far) & (near > 0.0), near, np.inf)
    which, z = hit.argmin(axis=0), hit.min(axis=0)
    face = bounds.min(axis=3).argmax(axis=-1)
    face = np.take_along_axis(face, which[None], axis=0)[0]
    colours = rng.uniform(40, 215, (len(boxes), 1, 3)) * rng.uniform(0.75, 1.15, (1, 3, 1))
    image = colours[which, face] * (1.0 + 0.1 * gaussian_filter(rng.normal(size=z.shape), 3)[..., None] * 5)
    image[~np.isfinite(z)] = (170, 200, 230)
    image += rng.normal(0.0, 3.0, image.shape)
    return Scene(kind, image.clip(0, 255).astype(np.uint8), np.where(z < 80.0, z, np.nan).astype(np.float32))


def streets(count: int) -> Iterator[Scene]:
    """A wide camera on a car: ground, fronts of houses at both sides, parked cars and poles."""
    camera = Camera(640, 193, 371.0, 371.0, 314.0, 89.0)
    for seed in range(count):
        rng = np.random.default_rng([seed, 10])
        left, right = rng.uniform(4.0, 12.0, 2)
        boxes = [[(-np.inf, -np.inf, -np.inf), (np.inf, np.inf, 0.0)]]
        boxes += [[(x, left, 0.0), (x + 14.0, left + 9.0, rng.uniform(3, 12))] for x in np.arange(-10, 80, 16.0)]
        boxes += [[(x, -right - 9.0, 0.0), (x + 14.0, -right, rng.uniform(3, 12))] for x in np.arange(-4, 80, 16.0)]
        for _ in range(6):
            x, y = rng.uniform(6.0, 50.0), rng.choice((left - 2.2, 2.2 - right)) + rng.uniform(-0.4, 0.4)
            boxes.append([(x, y - 0.9, 0.2), (x + 4.2, y + 0.9, 1.5)])
        for _ in range(4):
            x, y = rng.uniform(6.0, 40.0), rng.choice((left - 0.5, 0.5 - right))
            boxes.append([(x, y - 0.1, 0.0), (x + 0.2, y + 0.1, 6.0)])
        eye = pose(np.array([0.0, 0.0, 1.65]), rng.uniform(-0.15, 0.15), rng.uniform(-0.02, 0.05))
        yield cast("street", camera, eye, np.array(boxes), rng)


def floors(count: int) -> Iterator[Scene]:
    """A camera near to the floor of a hall with walls, and nothing else in it."""
    for seed in range(count):
        rng = np.random.default_rng([seed, 11])
        focal = rng.choice((380.0, 520.0, 620.0))
        camera = Camera(640, 480, focal, focal, 319.5, 239.5)
        wide, far = rng.uniform(2.0, 5.0), rng.uniform(8.0, 40.0)
        inf = np.inf
        boxes = [[(-inf, -inf, -inf), (inf, inf, 0.0)], [(far, -inf, -inf), (inf, inf, inf)]]
        boxes += [[(-inf, wide, -inf), (inf, inf, inf)], [(-inf, -inf, -inf), (inf, -wide, inf)]]
        height = (0.25, 0.4, 0.6, 0.8)[seed % 4]
        eye = pose(np.array([0.0, 0.0, height]), rng.uniform(-0.5, 0.5), rng.uniform(-0.1, 0.25))
        yield cast("floor", camera, eye, np.array(boxes), rng)


def rooms(count: int) -> Iterator[Scene]:
    """Furnished rooms of the simulator through cameras of 45 to 100 degrees."""
    for seed in range(count):
        rng = np.random.default_rng([seed, 12])
        room = random_room(70_000 + seed)
        width, height = ((640, 480), (480, 640), (640, 360))[seed % 3]
        focal = width / 2 / math.tan(math.radians((70.0, 45.0, 100.0, 60.0)[seed % 4]) / 2)
        camera = Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
        seen = render(room, camera, viewpoint(room, rng), rng)
        yield Scene("rooms", seen.image, np.where(seen.depth > 0, seen.depth, np.nan).astype(np.float32))


def recorded(folder: Path, step: int) -> Iterator[Scene]:
    """Every ``step``-th frame of a folder with a manifest.json, at most MAX_WIDTH wide."""
    for frame in json.loads((folder / "manifest.json").read_text())["frames"][::step]:
        if not frame.get("depth"):
            continue
        image = cv2.imread(str(folder / frame["rgb"]))[..., ::-1]
        depth = cv2.imread(str(folder / frame["depth"]), cv2.IMREAD_UNCHANGED).astype(np.float32)
        depth = np.where(depth > 0, depth / frame["depth_scale"], np.nan)
        if depth.shape[1] > MAX_WIDTH:
            size = MAX_WIDTH, round(depth.shape[0] * MAX_WIDTH / depth.shape[1])
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
        yield Scene(folder.name, np.ascontiguousarray(image), depth.astype(np.float32))


# --------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Case:
    """Errors of answers; standard deviations are those of ln(answer / truth)."""

    point: float = 0.0  # of each answer alone
    picture: float = 0.05  # of all answers of a picture together
    smooth: float = 0.0  # of a field of errors that changes over a few grid steps
    far: float = 0.0  # of an answer as far as the picture goes, none near by
    wrong: float = 0.0  # share of answers off by up to a factor of three
    missing: float = 0.0  # share of answers
    told: bool = False  # whether the answers say their spread, itself uneven by 40 %

    def answers(self, true: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Answers and their spread, both [R, C], from true depth [R, C]."""
        field = gaussian_filter(rng.normal(size=true.shape), 2.0)
        sigma = self.point + self.far * true / np.nanmax(true)
        error = (
            rng.normal(size=true.shape) * sigma + self.smooth * field / field.std() + rng.normal(0.0, self.picture)
        )
        is_wrong = rng.random(true.shape) < self.wrong
        error = np.where(is_wrong, rng.uniform(-1.1, 1.1, true.shape), error)
        z = np.where(rng.random(true.shape) < self.missing, np.nan, true * np.exp(error))
        return z, z * sigma * np.exp(rng.normal(0.0, 0.4, true.shape)) if self.told else np.full(true.shape, np.nan)


CASES = {
    "exact": Case(picture=0.0),
    "3 %": Case(0.03),
    "8 %": Case(0.08),
    "12 %": Case(0.12),
    "25 %": Case(0.25),
    "12 %, spread told": Case(0.12, told=True),
    "12 %, 10 % wrong": Case(0.12, wrong=0.1),
    "12 %, 20 % missing": Case(0.12, missing=0.2),
    "exact, 20 % missing": Case(picture=0.0, missing=0.2),
    "4 % and 12 % smooth": Case(0.04, smooth=0.12),
    "4 % near to 20 % far": Case(0.04, far=0.16),
}
AT_ALL_COUNTS = ("exact", "12 %")  # the others only at the number of points of the settings


def linear(grid: Grid, z: np.ndarray) -> np.ndarray:
    """Depth at every STRIDE-th row and column, linear in inverse depth within the triangles of the answers."""
    known = np.isfinite(z)
    pixels = tuple(np.meshgrid(np.arange(0, grid.width, STRIDE), np.arange(0, grid.height, STRIDE)))
    inside, nearest = (
        griddata(grid.pixels[known], 1.0 / z[known], pixels, method) for method in ("linear", "nearest")
    )
    return 1.0 / np.where(np.isfinite(inside), inside, nearest)


def errors(depth: np.ndarray, true: np.ndarray) -> list[float]:
    """δ1 and AbsRel where both are known."""
    both = np.isfinite(depth) & np.isfinite(true)
    found = depth_errors(depth[both].astype(float), true[both].astype(float))
    return [found["delta1"], found["abs_rel"]]


def measure(scene: Scene, points: int, case: Case, seed: int) -> list[float]:
    """δ1 and AbsRel of the map and of linear interpolation, accuracy and completeness of edges, milliseconds."""
    grid = Grid.of(scene.depth.shape[1], scene.depth.shape[0], points)
    column, row = np.rint(grid.pixels).astype(int).T
    true = scene.depth[row, column].astype(float).reshape(grid.rows, grid.columns)
    z, spread = (values.ravel() for values in case.answers(true, np.random.default_rng([seed, points])))
    start = time.process_time()
    found = densify(grid, z, np.isfinite(z).astype(float), scene.image, spread=spread).depth
    seconds = time.process_time() - start
    edges = boundary_errors(found, scene.depth) if case == CASES["exact"] else {}
    edges_px = [edges.get(name, np.nan) for name in ("accuracy_px", "completeness_px")]
    some = slice(None, None, STRIDE)
    mine, theirs = (errors(depth, scene.depth[some, some]) for depth in (found[some, some], linear(grid, z)))
    return [*mine, *theirs, *edges_px, seconds * 1e3]


# --------------------------------------------------------------------------------------------------------- report


def table(scenes: list[Scene], cases: dict[str, Case], points: int) -> tuple[str, list[float]]:
    """Markdown, a line per case and a column per kind of scene; and the milliseconds of all maps."""
    kinds = list(dict.fromkeys(scene.kind for scene in scenes))
    lines = ["| answers | " + " | ".join(kinds) + " |", "| --- |" + " --- |" * len(kinds)]
    spent = []
    for name, case in cases.items():
        cells = []
        for kind in kinds:
            rows = [measure(s, points, case, seed) for seed, s in enumerate(scenes) if s.kind == kind]
            delta1, abs_rel, linear1, linear_rel, accuracy, completeness, _ = np.array(rows).mean(axis=0)
            cell = f"{delta1:.4f} {abs_rel:.3f} ({linear1:.4f} {linear_rel:.3f})"
            edges = f" {accuracy:.2f} {completeness:.2f} px" if np.isfinite(accuracy) else ""
            cells.append(cell + edges)
            spent += [row[-1] for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines), spent


def picture(scenes: list[Scene], file: Path) -> None:
    """A picture, its true depth, and the maps of exact and of noisy answers, for the first scene of each kind."""
    rows = []
    for scene in {scene.kind: scene for scene in reversed(scenes)}.values():
        grid = Grid.of(scene.depth.shape[1], scene.depth.shape[0], 432)
        column, row = np.rint(grid.pixels).astype(int).T
        true, maps = scene.depth[row, column].astype(float).reshape(grid.rows, grid.columns), [scene.depth]
        for name in AT_ALL_COUNTS:
            z, spread = (values.ravel() for values in CASES[name].answers(true, np.random.default_rng(0)))
            maps.append(densify(grid, z, np.isfinite(z).astype(float), scene.image, spread=spread).depth)
        nearest = np.nanpercentile(scene.depth, 1)
        shades = [(255 * nearest / np.nan_to_num(m, nan=1e9)).clip(0, 255).astype(np.uint8) for m in maps]
        tiles = [scene.image[..., ::-1], *(cv2.applyColorMap(shade, cv2.COLORMAP_TURBO) for shade in shades)]
        height, width = scene.depth.shape
        rows.append(np.hstack([cv2.resize(tile, (400, round(400 * height / width))) for tile in tiles]))
    cv2.imwrite(str(file), np.vstack(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder with recordings: " + ", ".join(FOLDERS))
    parser.add_argument("--points", type=int, nargs="+", default=[192, 432, 768])
    parser.add_argument("--picture", type=Path, help="file for a picture of some maps")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    scenes = [*streets(4), *floors(4), *rooms(6)]
    if arguments.data is not None:
        scenes += [s for name, step in FOLDERS.items() for s in recorded(arguments.data / name, step)]
    if arguments.picture:
        picture(scenes, arguments.picture)
    spent = []
    for points in arguments.points:
        some = CASES if points == DepthConfig().points else {name: CASES[name] for name in AT_ALL_COUNTS}
        text, milliseconds = table(scenes, some, points)
        print(f"{points} points\n\n{text}\n")
        spent += milliseconds
    print(f"{np.median(spent):.1f} ms a map")


if __name__ == "__main__":
    main()
