"""The simulated room as a camera: images and camera_info on the topics of a driver, the truth below truth/."""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection3DArray

from vlm3_ros.geometry.motion import Pose
from vlm3_ros.perception import Frame
from vlm3_ros.ros import messages
from vlm3_ros.sim import Rendering
from vlm3_ros.sim.tour import Tour, true_boxes

FRAME_ID = "camera_optical_frame"
WORLD = "world"

PARAMETERS = {
    "width": (320, "image width in pixels"),
    "height": (240, "image height in pixels"),
    "hfov_deg": (70.0, "horizontal field of view in degrees"),
    "rate_hz": (5.0, "images per second; the camera moves 0.3 m/s"),
    "seconds": (60.0, "length of the walk; then it starts over"),
    "wait_for": ("", "topic of images; the walk goes on when one with an image's stamp comes, not by the clock"),
}
LOST_S = 3.0  # without an answer for so long, the image is sent again: transport is best effort


class SimNode(Node):
    """Walks through the demo's room with a camera."""

    def __init__(self) -> None:
        super().__init__("simulator")
        values = {
            name: self.declare_parameter(name, default, ParameterDescriptor(description=text, read_only=True)).value
            for name, (default, text) in PARAMETERS.items()
        }
        self._answers: str = values.pop("wait_for")
        self._answered = False
        self._stamps: set[int] = set()  # nanoseconds, of all images of the present view
        self._sent = 0.0  # monotonic seconds, of the last image
        self._tour = Tour.demo(**values)
        self._shown = -1
        self._view: Rendering | None = None
        self._image = self.create_publisher(Image, "image", 5)
        self._info = self.create_publisher(CameraInfo, "camera_info", 5)
        self._depth = self.create_publisher(Image, "truth/depth/image", 5)
        self._pose = self.create_publisher(PoseWithCovarianceStamped, "truth/camera_pose", 5)
        self._objects = self.create_publisher(Detection3DArray, "truth/objects", 5)
        self.create_timer(1.0 / values["rate_hz"], self._tick)
        if self._answers:
            self.create_subscription(Image, self._answers, self._on_answer, 50)
        self.get_logger().info(f"walking: {len(self._tour)} frames of {values['width']}x{values['height']}")

    def stop(self) -> bool:
        """Nothing outlives its callbacks."""
        return True

    def _tick(self) -> None:
        """By the clock. Until the first answer comes the camera stands still: a model may take minutes to load."""
        if self._answers and not self._answered:
            self._show(0)
        elif not self._answers:
            self._show(self._shown + 1)
        elif time.monotonic() - self._sent > LOST_S:
            self._show(self._shown)

    def _on_answer(self, answer: Image) -> None:
        if messages.nanoseconds(answer.header) in self._stamps:
            self._answered = True
            self._show(self._shown + 1)

    def _show(self, i: int) -> None:
        i %= len(self._tour)
        if self._view is None or i != self._shown:
            self._shown, self._view = i, self._tour[i]
            self._stamps.clear()
        view, stamp = self._view, self.get_clock().now().nanoseconds
        self._stamps.add(stamp)
        self._sent = time.monotonic()
        frame = Frame("", stamp, FRAME_ID, view.image, view.camera)
        head = messages.header(frame)
        self._info.publish(messages.camera_info(head, view.camera))
        self._image.publish(messages.colour_image(head, view.image))
        self._depth.publish(messages.float_image(head, view.depth))
        self._objects.publish(messages.detections(head, true_boxes(view)))
        in_world = messages.header(frame, WORLD)
        self._pose.publish(messages.pose(in_world, Pose(view.T_world_cam, np.zeros((6, 6)))))
