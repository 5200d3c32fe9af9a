"""One frame from the camera's topics to the output topics: what there is of a node between configure and cleanup."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.camera import CalibrationError
from vlm3_ros.config import Config
from vlm3_ros.geometry.frames import bare
from vlm3_ros.geometry.motion import Pose
from vlm3_ros.perception import Frame, Perception, Scene
from vlm3_ros.perception.objects import confidence
from vlm3_ros.ros import ask, diagnostics, messages
from vlm3_ros.ros.continuity import Continuity
from vlm3_ros.ros.diagnostics import CameraRecord, NodeRecord
from vlm3_ros.ros.images import ImageError
from vlm3_ros.ros.logging import Occasionally
from vlm3_ros.ros.outputs import Outputs
from vlm3_ros.ros.stream import Stream
from vlm3_ros.ros.transforms import MountError, Transforms
from vlm3_ros.srv import Ask
from vlm3_ros.tasks import describe
from vlm3_ros.vlm import Cancel, Cancelled, ModelError
from vlm3_ros.vlm.factory import ASKS, models_for


class Perceiver:
    """Owns the models, the state of every camera and the outputs. Raises ModelError where the models cannot be had.

    `perceive` and `answer` run in the worker's thread, everything else in those of transitions. ``config`` may be
    replaced at any time: the next frame takes it up. Once ``cancel`` is set, the frame in hand is given up, and
    nothing of it is published.
    """

    def __init__(self, node: Node, config: Config, record: NodeRecord, cancel: Cancel):
        self.config = config
        self.models = models_for(config, cancel)
        self.outputs = {name: Outputs(node, name, config.node.tasks) for name in config.node.cameras}
        self.fault = ""  # why no frame can be perceived, as far as that is known beforehand
        self._node = node
        self._record = record
        self._transforms = Transforms(node, record)
        self._occasionally = Occasionally(node)
        self._obstacles: dict[str, str] = {}  # by camera: why nothing is broadcast on /tf, as said last
        self.begin()

    def begin(self) -> None:
        """Forget all frames and counts. What is left of a frame that was given up keeps the old ones to itself."""
        self.records = {name: CameraRecord() for name in self.outputs}
        self._perception = Perception(self.config, self.models)
        self._continuity = Continuity(self._node, self._perception)

    def close(self) -> None:
        """Give back the topics; the models are for whoever knows that nobody is busy with them."""
        for outputs in self.outputs.values():
            outputs.close()
        self._transforms.close()

    def preload(self) -> None:
        """Load the models before the first frame. Where that fails it is a `fault` until a frame is perceived."""
        try:
            self.models.preload(asked for task in self.config.node.tasks for asked in ASKS[task])
        except Cancelled:
            pass
        except Exception as error:
            self.fault = f"the models could not be loaded beforehand: {_reason(error)}"
            self._node.get_logger().error(self.fault)

    def perceive(self, stream: Stream, message: Image | CompressedImage) -> None:
        """Whatever is wrong with one frame is counted and said; the next frame gets its chance."""
        record, continuity = self.records[stream.name], self._continuity
        config = self._perception.config = self.config
        try:
            stamp = messages.nanoseconds(message.header)
            if not continuity.in_order(stream.name, stream.image_topic, stamp, record):
                return
            wanted = self._wanted(stream.name, stream.frame_id(message), config, record)
            continuity.mind_gaps(stream.name, wanted, record)
            if wanted:
                self._perceive(stream.frame(message), wanted, config, record)
            continuity.watch_track(stream.name, config.pose.lost_after, record)
        except Cancelled:
            self._record.count("cancelled")
        except ImageError as error:
            self._complain(record, "refused", f"{stream.image_topic}: {error}")
        except CalibrationError as error:
            self._complain(record, "refused", str(error))
        except ModelError as error:
            self._complain(record, "failed", str(error))
        except Exception as error:  # a frame must never end the node
            if not self._node.context.ok() or self.models.cancel.is_set():  # the topics were closed under it
                self._record.count("cancelled")
                return
            self._complain(record, "failed", _reason(error))
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
        self._perception.config = self.config
        answer = self._perception.ask(frame, ask.question(request), ask.regions(request))
        return Ask.Response(
            success=True, answer=answer.text, confidence=confidence(answer), header=messages.header(frame)
        )

    def _perceive(self, frame: Frame, wanted: set[str], config: Config, record: CameraRecord) -> None:
        """Perceive and publish; a task that fails costs no other. Raises what was the matter where all fail."""
        failed: dict[str, Exception] = {}
        scene = self._perception.perceive(frame, wanted, failed.__setitem__)
        self.models.cancel.check()
        if failed and failed.keys() == scene.tally.seconds.keys():  # all that were tried
            raise next(iter(failed.values()))
        self.outputs[frame.source].publish(scene, config.cloud)
        if scene.pose is not None:
            self._publish_pose(scene.pose, frame, config)
        self.fault = ""
        record.add(scene, failed, (self._node.get_clock().now().nanoseconds - frame.stamp) / 1e6)
        self._say_refusals(frame.source, scene)
        for task, error in failed.items():
            text = f"{task} failed: {_reason(error)}"
            record.note(diagnostics.ERROR, text)
            self._occasionally.warn(text)
            self._node.get_logger().debug("".join(traceback.format_exception(error)))

    def _wanted(self, name: str, frame_id: str, config: Config, record: CameraRecord) -> set[str]:
        """The tasks whose results somebody uses; the listeners of /tf use a pose that may be broadcast, and if it may
        not, that is said once."""
        wanted, obstacle = self.outputs[name].tasks(), None
        if "pose" in config.node.tasks and ("pose" in wanted or config.pose.publish_tf):
            try:
                if config.pose.base_frame:
                    self._transforms.mount(config.pose.base_frame, frame_id)
                if config.pose.publish_tf:
                    obstacle = self._transforms.obstacle(frame_id, _odom(name, config), config.pose)
                    wanted |= {"pose"} if obstacle is None else set()
            except MountError as error:
                obstacle = str(error)
                wanted.discard("pose")
        if obstacle is not None:
            record.note(diagnostics.WARN, obstacle)
            if self._obstacles.get(name) != obstacle:
                self._node.get_logger().warning(obstacle)
        self._obstacles[name] = obstacle or ""
        return wanted

    def _publish_pose(self, in_first: Pose, frame: Frame, config: Config) -> None:
        """The pose as a message and in /tf, where it may be: `_wanted` has said why not."""
        odom, outputs = _odom(frame.source, config), self.outputs[frame.source]
        pose = self._transforms.in_odom(in_first, frame.frame_id, config.pose)
        if outputs.subscribed("camera_pose"):
            outputs.publish_pose(messages.pose(messages.header(frame, odom), pose))
        if config.pose.publish_tf:
            self._transforms.broadcast(pose, frame, odom, config.pose)

    def _complain(self, record: CameraRecord, kind: str, text: str) -> None:
        record.note(diagnostics.ERROR, text, kind)
        self._occasionally.warn(f"frame {kind}: {text}")

    def _say_refusals(self, name: str, scene: Scene) -> None:
        """One line a frame at most about answers without a value; all of them are in the diagnostics."""
        if scene.tally.refused:
            said = describe(scene.tally.asked, scene.tally.refused, scene.tally.examples[0].text)
            self._occasionally.warn(f"camera {name!r}: {said}", about=f"refusals {name}")


def _odom(camera: str, config: Config) -> str:
    """The odom frame of a camera: each starts at the origin of one of its own."""
    odom = bare(config.pose.odom_frame)
    return f"{camera}_{odom}" if camera else odom


def _reason(error: Exception) -> str:
    """What was the matter, for people; of a fault in the code its type as well."""
    return str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
