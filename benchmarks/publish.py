"""What publishing a frame costs: building and sending depth/image, depth/camera_info, points and objects/markers.

python -m benchmarks.publish [--frames 200]

640x480 with every pixel known and 10 boxes, to a live subscriber in a process of its own. Milliseconds of CPU time
per frame in the publishing process (all its threads, DDS included; median over the frames), as JSON.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from vlm3_ros.camera import Camera
from vlm3_ros.config import CloudConfig
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.geometry.depth_map import DepthMap
from vlm3_ros.perception import DepthView, Frame, Samples, Scene
from vlm3_ros.ros.outputs import Outputs

WIDTH, HEIGHT, BOXES = 640, 480, 10
LIMIT_MS = 10.0
WARMING_UP = 10  # frames
TOPICS = {
    "depth/image": Image,
    "depth/camera_info": CameraInfo,
    "points": PointCloud2,
    "objects/markers": MarkerArray,
}
PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"


def scene() -> Scene:
    """A frame with all its depth known."""
    rng = np.random.default_rng(0)
    camera = Camera(WIDTH, HEIGHT, 525.0, 525.0, 319.5, 239.5)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    depth = rng.uniform(0.5, 8.0, (HEIGHT, WIDTH)).astype(np.float32)
    samples = Samples(np.zeros((1, 2)), np.ones(1), np.ones(1), np.ones(1))
    view = DepthView(DepthMap(depth, np.ones_like(depth)), samples, image, camera)
    boxes = [Box3D("chair", 0.9, np.array([0.1 * i, 0.0, 3.0]), np.ones(3), np.eye(3)) for i in range(BOXES)]
    return Scene(Frame("", 0, "camera", image, camera), depth=view, objects=boxes)


def listen() -> None:
    """The subscriber's process: confirm every point cloud, the largest of the outputs."""
    rclpy.init()
    node = Node("listener")
    heard = node.create_publisher(String, "heard", 10)
    for topic, kind in TOPICS.items():
        confirm = topic == "points"
        node.create_subscription(kind, topic, lambda _, confirm=confirm: confirm and heard.publish(String()), 10)
    rclpy.spin(node)


def cpu_ms_per_frame(frames: int) -> tuple[list[float], int]:
    """CPU time of `Outputs.publish` for each frame, and how many frames arrived."""
    node, arrived = Node("publisher"), [0]

    def count(_: String) -> None:
        arrived[0] += 1

    node.create_subscription(String, "heard", count, 10)
    outputs, perceived, settings = Outputs(node, ""), scene(), CloudConfig()
    while not (all(map(outputs.subscribed, TOPICS)) and node.count_publishers("heard")):
        rclpy.spin_once(node, timeout_sec=0.1)
    spent = []
    for _ in range(WARMING_UP + frames):
        before = arrived[0]
        start = time.process_time()
        outputs.publish(perceived, settings)
        spent.append((time.process_time() - start) * 1e3)
        end = time.monotonic() + 1.0
        while arrived[0] == before and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
    return spent[WARMING_UP:], arrived[0] - WARMING_UP


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(PROFILE))
    if arguments.listen:
        listen()
        return 0
    listener = subprocess.Popen([sys.executable, __file__, "--listen"])
    rclpy.init()
    try:
        spent, arrived = cpu_ms_per_frame(arguments.frames)
    finally:
        listener.kill()
        listener.wait()
        rclpy.try_shutdown()
    median, worst = np.percentile(spent, [50, 95]).round(2).tolist()
    result = {"size": f"{WIDTH}x{HEIGHT}", "frames": arguments.frames, "arrived": arrived}
    result |= {"cpu_ms_per_frame": median, "cpu_ms_95_percent": worst, "limit_ms": LIMIT_MS}
    print(json.dumps(result, indent=2))
    return 0 if median < LIMIT_MS and arrived == arguments.frames else 1


if __name__ == "__main__":
    sys.exit(main())
