"""One frame from the camera's topics to the output topics: what there is of a node between configure and cleanup."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.camera import CalibrationError
from vlm3_ros.config import Config
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.perception import Frame, Perception, Scene
from vlm3_ros.ros import ask, diagnostics, messages
from vlm3_ros.ros.continuity import Continuity
from vlm3_ros.ros.diagnostics import CameraRecord
from vlm3_ros.ros.images import ImageError
from vlm3_ros.ros.logging import Occasionally
from vlm3_ros.ros.outputs import Outputs
from vlm3_ros.ros.stream import Stream
from vlm3_ros.ros.transforms import MountError, Transforms
from vlm3_ros.srv import Ask
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.factory import models_for


class Perceiver:
    """Owns the models, the state of every camera and the outputs. Raises ModelError where the models cannot be had.

    `perceive` and `answer` run in the worker's thread, everything else in the executor's.
    """

    def __init__(self, node: Node, config: Config):
        self.models = models_for(config)
        self.outputs = {name: Outputs(node, name) for name in config.node.cameras}
        self.records: dict[str, CameraRecord] = {}
        self._node = node
        self._perception = Perception(config, self.models)
        self._transforms = Transforms(node)
        self._occasionally = Occasionally(node)
        self._continuity = Continuity(node, self._perception)
        self.begin()

    @property
    def config(self) -> Config:
        """The settings; new ones are taken up with the next frame."""
        return self._perception.config

    @config.setter
    def config(self, config: Config) -> None:
        self._perception.config = config

    def begin(self) -> None:
        """Forget all frames and counts."""
        self.records = {name: CameraRecord() for name in self.outputs}
        self._continuity.begin()
        for name in self.outputs:
            self._perception.forget(name)

    def close(self) -> None:
        """Give back the models and the topics."""
        for outputs in self.outputs.values():
            outputs.close()
        self._transforms.close()
        self.models.close()

    def perceive(self, stream: Stream, message: Image | CompressedImage) -> None:
        """Whatever is wrong with one frame is counted and said; the next frame gets its chance."""
        record = self.records[stream.name]
        try:
            stamp = messages.nanoseconds(message.header)
            if not self._continuity.in_order(stream.name, stream.image_topic, stamp, record):
                return
            wanted = self._wanted(stream.name)
            self._continuity.mind_gaps(stream.name, wanted, record)
            if wanted:
                self._perceive(stream.frame(message), wanted, record)
            self._continuity.watch_track(stream.name, self.config.pose.lost_after, record)
        except ImageError as error:
            self._complain(record, "refused", f"{stream.image_topic}: {error}")
        except CalibrationError as error:
            self._complain(record, "refused", str(error))
        except ModelError as error:
            self._complain(record, "failed", str(error))
        except Exception as error:  # a frame must never end the node
            if not self._node.context.ok():  # a signal has shut ROS down under it
                return
            self._complain(record, "failed", f"{type(error).__name__}: {error}")
            self._node.get_logger().debug(traceback.format_exc())

    def answer(self, stream_of: Callable[[str], Stream], request: Ask.Request) -> Ask.Response:
        """Answer a question of ~/ask about the newest frame. Whatever it raises is for whoever asked."""
        cameras = self.config.node.cameras
        if (request.camera or cameras[0]) not in cameras:
            raise LookupError(f"there is no camera {request.camera!r}; node.cameras is {cameras}")
        stream = stream_of(request.camera or cameras[0])
        message = stream.peek()
        if message is None:
            raise LookupError(f"no image has come on {stream.image_topic} yet")
        frame = stream.frame(message)
        answer = self._perception.ask(frame, ask.question(request), ask.regions(request))
        return Ask.Response(
            success=True, answer=answer.text, confidence=answer.probability, header=messages.header(frame)
        )

    def _perceive(self, frame: Frame, wanted: set[str], record: CameraRecord) -> None:
        """Perceive and publish; a task whose model fails costs no other. Raises ModelError where all fail."""
        failed: dict[str, ModelError] = {}
        scene = self._perception.perceive(frame, wanted, failed.__setitem__)
        if failed and failed.keys() == scene.tally.seconds.keys():  # all that were tried
            raise next(iter(failed.values()))
        self.outputs[frame.source].publish(scene, self.config.cloud)
        if scene.pose is not None and (trouble := self._publish_pose(scene.pose, frame)):
            record.note(diagnostics.WARN, trouble)
            self._occasionally.warn(trouble)
        record.add(scene, failed, (self._node.get_clock().now().nanoseconds - frame.stamp) / 1e6)
        self._say_refusals(frame.source, scene)
        for task, error in failed.items():
            text = f"{task} failed: {error}"
            record.note(diagnostics.ERROR, text)
            self._occasionally.warn(text)

    def _wanted(self, name: str) -> set[str]:
        """The tasks whose results somebody uses."""
        wanted = self.outputs[name].tasks()
        if self.config.pose.publish_tf:
            wanted.add("pose")
        return wanted & set(self.config.node.tasks)

    def _publish_pose(self, in_first: Pose, frame: Frame) -> str | None:
        """The pose as a message and in /tf; returns why not, where it cannot be."""
        outputs, settings = self.outputs[frame.source], self.config.pose
        # Every camera starts at the origin of an odom frame of its own.
        odom = f"{frame.source}_{settings.odom_frame}" if frame.source else settings.odom_frame
        try:
            pose = self._transforms.in_odom(in_first, frame, settings)
        except MountError as error:
            return str(error)
        if outputs.subscribed("camera_pose"):
            head = messages.header(frame)
            head.frame_id = odom
            outputs.publish_pose(messages.pose(head, pose))
        if settings.publish_tf:
            return self._transforms.broadcast(pose, frame, odom, settings)
        return None

    def _complain(self, record: CameraRecord, kind: str, text: str) -> None:
        record.note(diagnostics.ERROR, text, kind)
        self._occasionally.warn(f"frame {kind}: {text}")

    def _say_refusals(self, name: str, scene: Scene) -> None:
        """One line a frame at most about answers without a value; all of them are in the diagnostics."""
        if scene.tally.refused:
            counts = ", ".join(f"{count} {reason.value}" for reason, count in scene.tally.refused.items())
            first = scene.tally.examples[0].text.replace("\n", " ")[:120]
            self._occasionally.warn(
                f"camera {name!r}: {scene.tally.asked} questions, no value in {counts}; such as {first!r}",
                about=f"refusals {name}",
            )
