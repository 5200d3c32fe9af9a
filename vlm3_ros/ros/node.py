"""The vlm3 node: camera images in, depth, clouds, poses and objects out."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.camera import CalibrationError
from vlm3_ros.config import Config, ConfigError
from vlm3_ros.perception import Perception, Scene
from vlm3_ros.ros import ask, diagnostics, messages
from vlm3_ros.ros.images import ImageError
from vlm3_ros.ros.logging import Occasionally, forward_logging
from vlm3_ros.ros.outputs import Outputs
from vlm3_ros.ros.parameters import Parameters
from vlm3_ros.ros.stream import Stream
from vlm3_ros.ros.transforms import MountError, Transforms
from vlm3_ros.ros.worker import Worker
from vlm3_ros.srv import Ask
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.factory import models_for
from vlm3_ros.vlm.models import Models

JUMP_NS = 10**9  # a stamp this much older than the last one is a jump back in time, not a late frame
STOP_S = 3.0  # the frame in hand gets this long to end at shutdown; `ros2 launch` gets rough after 5 s

Transition = Callable[["Vlm3Node", LifecycleState], TransitionCallbackReturn]
Service = Callable[[ChangeState.Request, ChangeState.Response], ChangeState.Response]


def _said(transition: Transition) -> Transition:
    """rclpy swallows what a transition raises; say it before it does."""

    @functools.wraps(transition)
    def run(node: Vlm3Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node._fault = f"{transition.__name__} failed: {error}"
            node.get_logger().error(f"{transition.__name__} failed: {traceback.format_exc()}")
            raise

    return run


def _refusing(change_state: Service) -> Service:
    """Refuse a transition that the present state does not have; rclpy raises out of the executor then."""

    def run(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return change_state(request, response)
        except RuntimeError:  # RCLError, which has no public name
            response.success = False
            return response

    return run


class Vlm3Node(LifecycleNode):
    """Wires topics to the perception pipeline.

    configure: models are checked and outputs advertised; activate: subscriptions and the worker thread; deactivate
    and cleanup undo them and free the GPU. With node.autostart the first two happen by themselves.
    """

    def __init__(self, **kwargs: object):
        super().__init__("vlm3", **kwargs)
        forward_logging(self)
        self._service_change_state.callback = _refusing(self._service_change_state.callback)
        self._wake = threading.Condition()
        self._settings = Parameters(self, self._on_settings)
        self._worker = Worker(self._wake, self._perceive)
        self._fault = ""  # why the node is not configured
        self._models: Models | None = None
        self._perception: Perception | None = None
        self._transforms: Transforms | None = None
        self._outputs: dict[str, Outputs] = {}
        self._streams: dict[str, Stream] = {}
        self._records: dict[str, diagnostics.CameraRecord] = {}
        self._last_stamp: dict[str, int] = {}
        self._occasionally = Occasionally(self)
        # Steady, so that it also runs while a simulated clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = diagnostics.Reporter(self)
        self.create_timer(1.0, self._report, clock=steady)
        self._ask = ask.AskService(self, self._answer, self._worker, steady)
        if self.config.node.autostart:
            self._autostart = self.create_timer(0.0, self._start, clock=steady)

    @property
    def config(self) -> Config:
        """The settings as they are now."""
        return self._settings.config

    # ---------------------------------------------------------------------------------------------- lifecycle

    @_said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the models, advertise the outputs."""
        try:
            self._models = models_for(self.config)
        except ModelError as error:
            self._fault = str(error)
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._fault = ""
        self._perception = Perception(self.config, self._models)
        self._transforms = Transforms(self)
        self._outputs = {name: Outputs(self, name) for name in self.config.node.cameras}
        return super().on_configure(state)

    @_said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to perceive."""
        cameras = self.config.node.cameras
        self._records = {name: diagnostics.CameraRecord() for name in cameras}
        self._last_stamp = {}
        self._streams = {name: Stream(self, name, self.config, self._wake) for name in cameras}
        self._worker.start(list(self._streams.values()))
        topics = ", ".join(stream.image_topic for stream in self._streams.values())
        self.get_logger().info(f"perceiving {', '.join(self.config.node.tasks)} of {topics}")
        return super().on_activate(state)

    @_said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the frame in hand and unsubscribe."""
        while not self._worker.stop(timeout_s=0.5):
            if not self.context.ok():  # shut down by a signal in the meantime: `stop` comes next
                return TransitionCallbackReturn.FAILURE
        self._close_streams()
        return super().on_deactivate(state)

    @_said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back the models and the topics."""
        self._release()
        return super().on_cleanup(state)

    @_said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop in whatever state the node is."""
        self.stop()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that raised."""
        return TransitionCallbackReturn.SUCCESS if self.stop() else TransitionCallbackReturn.FAILURE

    def stop(self) -> bool:
        """End the worker and give everything back, in whatever state the node is; whether it ended in time."""
        ended = self._worker.stop(STOP_S)
        if ended:
            self._release()
        return ended

    def _start(self) -> None:
        self._autostart.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _close_streams(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams = {}

    def _release(self) -> None:
        self._close_streams()
        for outputs in self._outputs.values():
            outputs.close()
        self._outputs = {}
        if self._transforms is not None:
            self._transforms.close()
        if self._models is not None:
            self._models.close()
        self._models = self._perception = self._transforms = None

    def _on_settings(self, config: Config) -> None:
        if self._perception is not None:
            self._perception.config = config  # taken up with the next frame

    # ------------------------------------------------------------------------------- one frame, worker thread

    def _perceive(self, stream: Stream, message: Image | CompressedImage) -> None:
        """Whatever is wrong with one frame is counted and said; the next frame gets its chance."""
        record = self._records[stream.name]
        try:
            wanted = self._wanted(stream.name)
            if not wanted or not self._in_order(stream.name, messages.nanoseconds(message.header), record):
                return
            scene = self._perception.perceive(stream.frame(message), wanted)
            self._outputs[stream.name].publish(scene, self.config.cloud)
            if scene.pose is not None and (trouble := self._publish_pose(stream.name, scene)):
                record.note(diagnostics.WARN, trouble)
                self._occasionally.warn(trouble)
            record.add(scene, (self.get_clock().now().nanoseconds - scene.frame.stamp) / 1e6)
            self._say_refusals(stream.name, scene)
        except ImageError as error:
            self._complain(record, "refused", f"{stream.image_topic}: {error}")
        except CalibrationError as error:
            self._complain(record, "refused", str(error))
        except ModelError as error:
            self._complain(record, "failed", str(error))
        except Exception as error:  # a frame must never end the node
            if not self.context.ok():  # a signal has shut ROS down under it
                return
            self._complain(record, "failed", f"{type(error).__name__}: {error}")
            self.get_logger().debug(traceback.format_exc())

    def _wanted(self, name: str) -> set[str]:
        """The tasks whose results somebody uses."""
        wanted = self._outputs[name].tasks()
        if self.config.pose.publish_tf:
            wanted.add("pose")
        return wanted & set(self.config.node.tasks)

    def _in_order(self, name: str, stamp: int, record: diagnostics.CameraRecord) -> bool:
        """Whether a frame is newer than the last one; a jump back in time starts the camera anew."""
        last = self._last_stamp.get(name, stamp - 1)
        if last - JUMP_NS < stamp <= last:
            before_s = (last - stamp) / 1e9
            text = f"camera {name!r}: a frame is left out, its stamp is {before_s:.3f} s before that of the last one"
            record.note(diagnostics.WARN, text, "late")
            self._occasionally.warn(text)
            return False
        if stamp <= last:
            record.resets += 1
            self._occasionally.warn(
                f"camera {name!r}: time jumped back by {(last - stamp) / 1e9:.1f} s (a bag that starts over?); "
                "odometry and matching start anew"
            )
            self._perception.forget(name)
        self._last_stamp[name] = stamp
        return True

    def _publish_pose(self, name: str, scene: Scene) -> str | None:
        """The pose as a message and in /tf; returns why not, where it cannot be."""
        outputs, settings = self._outputs[name], self.config.pose
        # Every camera starts at the origin of an odom frame of its own.
        odom = f"{name}_{settings.odom_frame}" if name else settings.odom_frame
        try:
            pose = self._transforms.in_odom(scene.pose, scene.frame, settings)
        except MountError as error:
            return str(error)
        if outputs.subscribed("camera_pose"):
            head = messages.header(scene.frame)
            head.frame_id = odom
            outputs.publish_pose(messages.pose(head, pose))
        if settings.publish_tf:
            return self._transforms.broadcast(pose, scene.frame, odom, settings)
        return None

    def _answer(self, request: Ask.Request) -> Ask.Response:
        """Answer a question of ~/ask; runs in the worker thread."""
        cameras = self.config.node.cameras
        if (request.camera or cameras[0]) not in cameras:
            raise LookupError(f"there is no camera {request.camera!r}; node.cameras is {cameras}")
        stream = self._streams[request.camera or cameras[0]]
        message = stream.peek()
        if message is None:
            raise LookupError(f"no image has come on {stream.image_topic} yet")
        frame = stream.frame(message)
        answer = self._perception.ask(frame, ask.question(request), ask.regions(request))
        return Ask.Response(
            success=True, answer=answer.text, confidence=answer.probability, header=messages.header(frame)
        )

    # ----------------------------------------------------------------------------------- what the node says

    def _report(self) -> None:
        _, state = self._state_machine.current_state
        cameras = [(stream, self._records[name]) for name, stream in self._streams.items()]
        models = self._models.status() if self._models is not None else ()
        for stream, _ in cameras:
            if stream.lacks_calibration:
                self._occasionally.warn(stream.without_calibration)
        self._reporter.publish(state, self._fault, cameras, models, self.config.node.camera_timeout_s)

    def _complain(self, record: diagnostics.CameraRecord, kind: str, text: str) -> None:
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


def _spin(node: Vlm3Node, executor: SingleThreadedExecutor) -> None:
    """Serve callbacks until ROS is shut down. One that raises is said, and does not end the node."""
    while rclpy.ok():
        try:
            executor.spin()
        except ExternalShutdownException:
            return
        except Exception:
            if rclpy.ok():  # otherwise a callback was at work when a signal shut ROS down
                node.get_logger().error(f"a callback failed: {traceback.format_exc()}")


def main() -> int:
    """Run the node until it is interrupted; returns the exit status."""
    # rclpy's own handler ends the executor. A KeyboardInterrupt on top of it may strike inside any callback.
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init()
    try:
        node = Vlm3Node()
    except ConfigError as error:
        print(f"vlm3: {error}", file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        _spin(node, executor)
    finally:
        ended = node.stop()
        executor.shutdown()
        rclpy.try_shutdown()
    if not ended:
        # The thread is still inside a model, and the interpreter cannot end around it without a crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
