"""The demo: the simulated room and the node as two processes, and a picture of what came over the topics."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import Detection3DArray

from vlm3_ros import drawing
from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.ros import messages
from vlm3_ros.ros.images import rgb
from vlm3_ros.sim.demo import LABELS

SIMULATOR = {"width": 320, "height": 240, "hfov_deg": 70.0, "rate_hz": 5.0, "seconds": 60.0}
TOPICS = {
    "image": Image,
    "camera_info": CameraInfo,
    "depth/image": Image,
    "points": PointCloud2,
    "objects": Detection3DArray,
    "camera_pose": PoseWithCovarianceStamped,
    "truth/depth/image": Image,
    "truth/objects": Detection3DArray,
    "truth/camera_pose": PoseWithCovarianceStamped,
}


@dataclass(frozen=True, eq=False)
class Moment:
    """All that was said about one image."""

    image: np.ndarray  # uint8 [h, w, 3] RGB
    camera: Camera
    depth: np.ndarray  # [h, w] metres
    true_depth: np.ndarray
    points: np.ndarray  # [N, 3] camera axes
    colours: np.ndarray  # uint8 [N, 3]
    boxes: list[Box3D]
    true_boxes: list[Box3D]
    T_odom_camera: np.ndarray
    T_world_camera: np.ndarray


class Witness(Node):
    """Listens to all topics and puts together what belongs to one stamp."""

    def __init__(self) -> None:
        super().__init__("demo")
        self.moments: list[Moment] = []
        self._heard: dict[int, dict[str, Any]] = defaultdict(dict)
        for topic, kind in TOPICS.items():
            self.create_subscription(kind, topic, self._listener(topic), 50)

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            stamp = messages.nanoseconds(message.header)
            self._heard[stamp][topic] = message
            if len(self._heard[stamp]) == len(TOPICS):
                self.moments.append(_moment(self._heard.pop(stamp)))

        return hear


def run(answers: dict[str, str], frames: int, out: Path, timeout_s: float = 300.0) -> None:
    """Start simulator and node, wait for ``frames`` perceived frames, write the picture and print the values.

    ``answers`` are the node's parameters that say who answers. Raises RuntimeError when nothing comes.
    """
    parameters = {"objects.labels": LABELS, **answers}
    rclpy.init()
    try:
        witness = Witness()
        with _process("sim_node", SIMULATOR) as simulator, _process("vlm3_node", parameters) as node:
            end = time.monotonic() + timeout_s
            while len(witness.moments) < frames:
                rclpy.spin_once(witness, timeout_sec=0.1)
                if simulator.poll() is not None or node.poll() is not None:
                    raise RuntimeError("the simulator or the node ended; its messages are above")
                if time.monotonic() > end:
                    raise RuntimeError(f"{len(witness.moments)} of {frames} frames came in {timeout_s:.0f} s")
                _progress(len(witness.moments), frames)
    finally:
        rclpy.try_shutdown()
    values = evaluate(witness.moments)
    who = answers.get("vlm.checkpoint.depth") or "GROUND TRUTH (a test double, not a model)"
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), cv2.cvtColor(picture(witness.moments, values, who), cv2.COLOR_RGB2BGR))
    print(f"answers by: {who}")
    print("\n".join(values))
    print(f"picture: {out}")


def evaluate(moments: Sequence[Moment]) -> list[str]:
    """Perceived values beside the true ones, a line each."""
    ratios = np.concatenate([_ratios(m) for m in moments])
    path, errors = _paths(moments)
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    found = [(true, _nearest(true, m.boxes)) for m in moments for true in m.true_boxes]
    overlaps = [true.iou(box) for true, box in found if box is not None]
    lines = [
        f"{len(moments)} frames, {ratios.size} pixels",
        f"depth: delta1 {np.mean(np.maximum(ratios, 1 / ratios) < 1.25):.3f}, AbsRel {np.mean(abs(ratios - 1)):.3f}",
        f"path: {length:.2f} m, largest error {errors.max():.2f} m",
        f"objects: {len(overlaps)} of {len(found)} found, mean 3D IoU {np.mean(overlaps or [0.0]):.2f}",
    ]
    lines.append("last frame, distance in metres (true / perceived):")
    for true in sorted(moments[-1].true_boxes, key=lambda b: float(np.linalg.norm(b.center))):
        box = _nearest(true, moments[-1].boxes)
        perceived = f"{np.linalg.norm(box.center):.2f}" if box else "-"
        lines.append(f"  {true.label}: {np.linalg.norm(true.center):.2f} / {perceived}")
    return lines


def picture(moments: Sequence[Moment], values: Sequence[str], who: str) -> np.ndarray:
    """The last frame with boxes, its depth perceived and true; all clouds and the path from above; the values."""
    last = moments[-1]
    camera, size = last.camera.resized(480, 360), (480, 360)
    seen = cv2.resize(last.image, size, interpolation=cv2.INTER_CUBIC)
    drawing.draw_boxes(seen, last.true_boxes, camera, drawing.TRUE, names=False)
    drawing.draw_boxes(seen, last.boxes, camera, drawing.PERCEIVED)
    near, far = np.nanpercentile(last.true_depth, [1, 99])
    panels = [seen]
    panels += [
        cv2.resize(drawing.depth_in_colour(depth, near, far), size, interpolation=cv2.INTER_NEAREST)
        for depth in (last.depth, last.true_depth)
    ]
    for panel, title in zip(panels, ("camera: boxes perceived / true", "depth perceived", "depth true"), strict=True):
        drawing.write(panel, title, (10, 22))
    text = np.full((540, 480, 3), drawing.PAPER, np.uint8)
    for i, line in enumerate([f"answers by: {who}"[:58], *values]):
        drawing.write(text, line, (14, 34 + 24 * i), size=0.45)
    return np.vstack([np.hstack(panels), np.hstack([_from_above(moments), text])])


def _from_above(moments: Sequence[Moment]) -> np.ndarray:
    """Map of everything perceived, in world axes: the perceived path is laid on the true one at its start."""
    T_world_odom = moments[0].T_world_camera @ np.linalg.inv(moments[0].T_odom_camera)
    poses = [T_world_odom @ m.T_odom_camera for m in moments]
    clouds = [m.points[::7] @ T[:3, :3].T + T[:3, 3] for m, T in zip(moments, poses, strict=True)]
    cloud = np.concatenate(clouds)
    colours = np.concatenate([m.colours[::7] for m in moments])
    low, high = np.percentile(cloud[:, :2], [0.5, 99.5], axis=0)
    above = drawing.Map(low, high, 960, 540)
    indoors = cloud[:, 2] < 2.0  # the ceiling would hide the rest
    above.points(cloud[indoors], colours[indoors])
    for boxes, T, colour in (
        (moments[-1].true_boxes, moments[-1].T_world_camera, drawing.TRUE),
        (moments[-1].boxes, poses[-1], drawing.PERCEIVED),
    ):
        for box in boxes:
            above.footprint(box.corners() @ T[:3, :3].T + T[:3, 3], box.label, colour)
    above.path(np.array([m.T_world_camera[:2, 3] for m in moments]), drawing.TRUE, 5)
    above.path(np.array([T[:2, 3] for T in poses]), drawing.PERCEIVED)
    drawing.write(above.picture, "from above: cloud, path and boxes perceived / true, 1 m grid", (10, 22))
    return above.picture


def _paths(moments: Sequence[Moment]) -> tuple[np.ndarray, np.ndarray]:
    """True positions [N, 3], and how far the perceived ones are off [N] when both start at the same pose."""
    T_world_odom = moments[0].T_world_camera @ np.linalg.inv(moments[0].T_odom_camera)
    true = np.array([m.T_world_camera[:3, 3] for m in moments])
    perceived = np.array([(T_world_odom @ m.T_odom_camera)[:3, 3] for m in moments])
    return true, np.linalg.norm(perceived - true, axis=1)


def _ratios(moment: Moment) -> np.ndarray:
    known = np.isfinite(moment.depth)
    return moment.depth[known] / moment.true_depth[known]


def _nearest(true: Box3D, boxes: Sequence[Box3D]) -> Box3D | None:
    """The nearest perceived box of the same name."""
    same = [box for box in boxes if box.label == true.label]
    return min(same, key=lambda box: float(np.linalg.norm(box.center - true.center)), default=None)


def _moment(heard: dict[str, Any]) -> Moment:
    info = heard["camera_info"]
    points = messages.cloud_array(heard["points"])
    packed = points["rgb"].view(np.uint32)
    return Moment(
        image=rgb(heard["image"]),
        camera=Camera(info.width, info.height, info.k[0], info.k[4], info.k[2], info.k[5]),
        depth=messages.float_array(heard["depth/image"]),
        true_depth=messages.float_array(heard["truth/depth/image"]),
        points=np.stack([points["x"], points["y"], points["z"]], axis=-1),
        colours=np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8),
        boxes=messages.boxes(heard["objects"]),
        true_boxes=[box for box in messages.boxes(heard["truth/objects"]) if box.label in LABELS],
        T_odom_camera=messages.pose_matrix(heard["camera_pose"].pose.pose),
        T_world_camera=messages.pose_matrix(heard["truth/camera_pose"].pose.pose),
    )


@contextmanager
def _process(executable: str, parameters: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """An installed executable of this package with parameters; interrupted at the end."""
    path = Path(get_package_prefix("vlm3_ros"), "lib", "vlm3_ros", executable)
    settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    process = subprocess.Popen([sys.executable, str(path), "--ros-args", *settings])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\rperceived {done} of {of} frames", end="" if done < of else "\n", file=sys.stderr, flush=True)
