"""How fast the simulator renders: frames per second of process CPU time on one thread, as JSON.

python -m benchmarks.sim [--frames 60]
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import time

import cv2
import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.sim import Room, demo_room, random_room, render, walk
from vlm3_ros.sim.demo import WALK_SEED

SIZES = ((320, 240), (640, 480))


def frames_per_second(room: Room, size: tuple[int, int], frames: int, seed: int) -> float:
    """Over a walk of 30 s, with sensor noise; what is computed once per room is done before."""
    width, height = size
    camera = Camera(width, height, 0.8 * width, 0.8 * width, (width - 1) / 2, (height - 1) / 2)
    poses = walk(room, 300, seed=seed)[:: 300 // frames]
    rng = np.random.default_rng(0)
    render(room, camera, poses[0], rng)
    start = time.process_time()
    for pose in poses:
        render(room, camera, pose, rng)
    return len(poses) / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60, help="frames per measurement, at most 300")
    frames = parser.parse_args().frames
    cv2.setNumThreads(1)
    rooms = {"demo": (demo_room(), WALK_SEED), **{f"random_{seed}": (random_room(seed), seed) for seed in range(4)}}
    results: dict[str, dict[str, float]] = {}
    for size in SIZES:
        speeds = {name: frames_per_second(room, size, frames, seed) for name, (room, seed) in rooms.items()}
        results["x".join(map(str, size))] = {name: round(speed, 1) for name, speed in speeds.items()}
    print(json.dumps({"frames_per_cpu_second": results}, indent=2))


if __name__ == "__main__":
    main()
