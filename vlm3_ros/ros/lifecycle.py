"""The vlm3 node and its lifecycle: camera images in, depth, clouds, poses and objects out."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.service import Service
from rclpy.task import Future

from vlm3_ros.config import Config
from vlm3_ros.ros import ask, diagnostics
from vlm3_ros.ros.logging import Occasionally, forward_logging
from vlm3_ros.ros.parameters import Parameters
from vlm3_ros.ros.perceiver import Perceiver
from vlm3_ros.ros.stream import Stream
from vlm3_ros.ros.worker import Worker
from vlm3_ros.srv import Ask
from vlm3_ros.vlm import Cancel, Cancelled, ModelError

STOP_S = 3.0  # what is in hand gets this long to end; `ros2 launch` gets rough 5 s after a signal
HELD_UP = "a model is still busy with what it was asked before the node was deactivated; frames wait for its end"

Transition = Callable[["Vlm3Node", LifecycleState], TransitionCallbackReturn]


def _said(transition: Transition) -> Transition:
    """rclpy swallows what a transition raises; say it before it does, unless the end of ROS is what is the matter."""

    @functools.wraps(transition)
    def run(node: Vlm3Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Cancelled:
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            if not node.context.ok():
                return TransitionCallbackReturn.FAILURE
            node._fault = f"{transition.__name__} failed: {error}"
            node.get_logger().error(f"{transition.__name__} failed: {traceback.format_exc()}")
            raise

    return run


class Vlm3Node(LifecycleNodeMixin, Node):
    """The lifecycle around a `Perceiver` and the thread it runs in.

    configure: models are checked and outputs advertised; activate: subscriptions and the worker thread; deactivate
    and cleanup undo them and free the GPU. With node.autostart the first two happen by themselves.

    Transitions run in threads of their own, one at a time, so that the executor serves everybody else meanwhile.
    """

    def __init__(self, **kwargs: Any):
        Node.__init__(self, "vlm3", **kwargs)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        forward_logging(self)
        service = self._service(ChangeState)
        service.callback = self._aside(service.callback)
        self._wake = threading.Condition()
        self._changing = threading.Lock()  # held by the transition under way
        self._settings = Parameters(self, self._on_settings)
        self._record = diagnostics.NodeRecord()
        self._fault = ""  # why the node is not configured
        self._cancel = Cancel()  # what the models are asked
        self._perceiver: Perceiver | None = None  # from configure to cleanup
        self._streams: dict[str, Stream] = {}  # from activate to deactivate
        self._worker: Worker | None = None  # likewise
        self._left_behind: Worker | None = None  # did not end in time; perhaps it has by now
        self._occasionally = Occasionally(self)
        # Steady, so that it also runs while a simulated clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = diagnostics.Reporter(self)
        self.create_timer(1.0, self._report, clock=steady)
        self._ask = ask.AskService(self, self._answer, self._submit, self._record, steady)
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
        self._cancel = Cancel()
        if not self.context.ok():  # `stop` has set the one before
            return TransitionCallbackReturn.FAILURE
        try:
            self._perceiver = Perceiver(self, self.config, self._record, self._cancel)
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
        streams = list(self._streams.values())
        perceive = self._perceiver.perceive
        self._worker = Worker(self._wake, streams, perceive, self._cancel, after=self._left_behind)
        if self.config.vlm.preload:
            self._worker.submit(self._perceiver.preload)
        topics = ", ".join(stream.image_topic for stream in streams)
        self.get_logger().info(f"perceiving {', '.join(self.config.node.tasks)} of {topics}")
        return super().on_activate(state)

    @_said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give up the frame in hand and unsubscribe."""
        self._finish()
        return super().on_deactivate(state)

    @_said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back the models and the topics."""
        self._release()
        return super().on_cleanup(state)

    @_said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give up the frame in hand and give everything back, in whatever state the node is."""
        self._finish()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that raised."""
        self._finish()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> bool:
        """Give everything back at the end of the process, in a few seconds; whether all threads ended."""
        self._cancel.set()
        if not self._changing.acquire(timeout=STOP_S):
            return False
        self._finish()
        self._release()
        return self._left_behind is None or self._left_behind.ended

    def _service(self, kind: type) -> Service:
        return next(service for service in self.services if service.srv_type is kind)

    def _aside(self, change_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The same service's callback, but in a thread of its own."""

        async def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            changed: Future = Future(executor=self.executor)

            def change() -> None:
                try:
                    self._change(lambda: change_state(request, response))
                finally:
                    changed.set_result(response)
                    if self.executor is not None:
                        self.executor.wake()

            threading.Thread(target=change, name="transition", daemon=True).start()
            return await changed

        return answer

    def _change(self, transition: Callable[[], object]) -> None:
        """Do a transition once no other is under way; one that waits longer than STOP_S is refused."""
        if not self._changing.acquire(timeout=STOP_S):
            self.get_logger().warning("a transition is refused: another one is still under way")
            return
        try:
            transition()
        except RuntimeError as error:  # RCLError, which has no public name: not from this state, or ROS has ended
            if self.context.ok():
                self.get_logger().warning(f"a transition is refused: {error}")
        finally:
            self._changing.release()

    def _start(self) -> None:
        self._autostart.cancel()

        def start() -> None:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

        threading.Thread(target=self._change, args=(start,), name="transition", daemon=True).start()

    def _finish(self) -> None:
        """Stop to perceive: what is in hand is cancelled, and left behind where its model does not end."""
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop(STOP_S):
            self._left_behind = worker
            if self.context.ok():
                self.get_logger().warning(
                    f"a model did not stop within {STOP_S:g} s: its answers will be dropped, and no model is asked "
                    "anything before it has ended"
                )
        self._ask.refuse("the node was deactivated before this question was answered")
        self._close_streams()

    def _close_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.close()

    def _release(self) -> None:
        """Give back the topics at once, and the models when nobody is busy with them any more."""
        perceiver, self._perceiver = self._perceiver, None
        if perceiver is None:
            return
        perceiver.close()
        if self._left_behind is None:
            perceiver.models.close()
        else:
            self._left_behind.at_end(perceiver.models.close)

    def _on_settings(self, config: Config) -> None:
        if self._perceiver is not None:
            self._perceiver.config = config

    def _submit(self, job: Callable[[], None]) -> bool:
        """Let the worker run a job; False if the node is not active."""
        worker = self._worker
        return worker is not None and worker.submit(job)

    def _answer(self, request: Ask.Request) -> Ask.Response:
        """Runs in the worker's thread, for ~/ask."""
        if self._perceiver is None:
            raise Cancelled
        return self._perceiver.answer(self._streams.__getitem__, request)

    def _report(self) -> None:
        answer: Any = self._service(GetState).callback(GetState.Request(), GetState.Response())
        state = answer.current_state.label
        made, streams, worker = self._perceiver, self._streams, self._worker
        cameras = [(stream, made.records[name]) for name, stream in streams.items()] if made else []
        for stream, _ in cameras:
            if stream.lacks_calibration:
                stream.find_latched_info()
                self._occasionally.warn(stream.without_calibration)
        models = made.models if made else None
        warning = HELD_UP if worker is not None and worker.held_up else ""
        busy = worker is not None and worker.busy
        fault = self._fault or (made.fault if made else "")
        timeout_s = self.config.node.camera_timeout_s
        self._reporter.publish(state, fault, warning, busy, self._record, cameras, models, timeout_s)
