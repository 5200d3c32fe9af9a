"""The vlm3 node: camera images in, depth, clouds, poses and objects out."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.config import Config, ConfigError
from vlm3_ros.ros import ask, diagnostics
from vlm3_ros.ros.logging import Occasionally, forward_logging
from vlm3_ros.ros.parameters import Parameters
from vlm3_ros.ros.perceiver import Perceiver
from vlm3_ros.ros.stream import Stream
from vlm3_ros.ros.worker import Worker
from vlm3_ros.srv import Ask
from vlm3_ros.vlm import ModelError

STOP_S = 3.0  # the frame in hand gets this long to end after a signal; `ros2 launch` gets rough after 5 s

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
    """The lifecycle around a `Perceiver` and the thread it runs in.

    configure: models are checked and outputs advertised; activate: subscriptions and the worker thread; deactivate
    and cleanup undo them and free the GPU. With node.autostart the first two happen by themselves.
    """

    def __init__(self, **kwargs: Any):
        super().__init__("vlm3", **kwargs)
        forward_logging(self)
        self._service_change_state.callback = _refusing(self._service_change_state.callback)
        self._wake = threading.Condition()
        self._settings = Parameters(self, self._on_settings)
        self._worker = Worker(self._wake, self._perceive)
        self._fault = ""  # why the node is not configured
        self._perceiver: Perceiver | None = None  # from configure to cleanup
        self._streams: dict[str, Stream] = {}  # from activate to deactivate
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
            self._perceiver = Perceiver(self, self.config)
        except ModelError as error:
            self._fault = str(error)
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._fault = ""
        return super().on_configure(state)

    @_said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to perceive."""
        assert self._perceiver is not None
        self._perceiver.begin()
        self._streams = {name: Stream(self, name, self.config, self._wake) for name in self.config.node.cameras}
        self._worker.start(list(self._streams.values()))
        topics = ", ".join(stream.image_topic for stream in self._streams.values())
        self.get_logger().info(f"perceiving {', '.join(self.config.node.tasks)} of {topics}")
        return super().on_activate(state)

    @_said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the frame in hand and unsubscribe."""
        if not self._finish():
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
        """Finish the frame in hand and give everything back, in whatever state the node is."""
        if not self._finish():
            return TransitionCallbackReturn.FAILURE
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that raised."""
        if not self._finish():
            return TransitionCallbackReturn.FAILURE
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> bool:
        """End the worker and give everything back at the end of the process; whether the worker ended in time."""
        ended = self._worker.stop(STOP_S)
        if ended:
            self._release()
        return ended

    def _start(self) -> None:
        self._autostart.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _finish(self) -> bool:
        """Wait for the frame in hand, however long it takes; False where a signal shut ROS down before its end."""
        while not self._worker.stop(timeout_s=0.5):
            if not self.context.ok():  # `stop` comes next
                return False
        return True

    def _close_streams(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams = {}

    def _release(self) -> None:
        self._close_streams()
        if self._perceiver is not None:
            self._perceiver.close()
        self._perceiver = None

    def _on_settings(self, config: Config) -> None:
        if self._perceiver is not None:
            self._perceiver.config = config

    def _perceive(self, stream: Stream, message: Image | CompressedImage) -> None:
        """Runs in the worker's thread, which there is only while the node is active."""
        assert self._perceiver is not None
        self._perceiver.perceive(stream, message)

    def _answer(self, request: Ask.Request) -> Ask.Response:
        """Likewise, for ~/ask."""
        assert self._perceiver is not None
        return self._perceiver.answer(self._streams.__getitem__, request)

    def _report(self) -> None:
        _, state = self._state_machine.current_state
        made = self._perceiver
        cameras = [(stream, made.records[name]) for name, stream in self._streams.items()] if made else []
        for stream, _ in cameras:
            if stream.lacks_calibration:
                self._occasionally.warn(stream.without_calibration)
        models = made.models if made else None
        self._reporter.publish(state, self._fault, cameras, models, self.config.node.camera_timeout_s)


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
