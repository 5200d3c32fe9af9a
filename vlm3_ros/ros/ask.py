"""The service ~/ask: a question about the newest frame, answered between two frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future

from vlm3_ros.ros.diagnostics import NodeRecord
from vlm3_ros.srv import Ask
from vlm3_ros.vlm import Cancelled

LONGEST_S = 86400.0  # a longer timeout, infinity or NaN is none
MOST_WAITING = 64  # questions, the one in hand included
SPACING_S = 0.03  # between responses: every client gets those of all others too, into a queue of 10 by default
AT_ONCE = 1000  # requests that may come before the first is looked at; ROS's own 10 loses all beyond without a word


class AskService:
    """Hands requests to the worker thread by ``submit``; the executor goes on while the model thinks.

    ``answer`` runs in that thread; what it raises is told to whoever asked. Every request gets a response:
    MOST_WAITING may wait, and the one too many is told so at once.
    """

    def __init__(
        self,
        node: Node,
        answer: Callable[[Ask.Request], Ask.Response],
        submit: Callable[[Callable[[], None]], bool],
        record: NodeRecord,
        clock: Clock,
    ):
        self._node = node
        self._answer = answer
        self._submit = submit
        self._record = record
        self._clock = clock
        self._waiting: set[Future] = set()
        self._responses: deque[tuple[Future, Ask.Response]] = deque()  # ready to be sent
        self._lock = threading.Lock()
        # In the node's default group a request that waits would keep every other callback of the node from running.
        self._group = ReentrantCallbackGroup()
        self._service = node.create_service(
            Ask, "~/ask", self._on_request, qos_profile=QoSProfile(depth=AT_ONCE), callback_group=self._group
        )
        self._sender = node.create_timer(SPACING_S, self._send, callback_group=self._group, clock=clock)
        self._sender.cancel()  # runs for SPACING_S after each response

    def refuse(self, reason: str) -> None:
        """Answer all that wait so; what the model still says to them is dropped."""
        with self._lock:
            waiting = list(self._waiting)
        for answered in waiting:
            self._finish(answered, Ask.Response(message=reason))

    async def _on_request(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        answered: Future = Future(executor=self._node.executor)
        with self._lock:
            self._waiting.add(answered)
            too_many = len(self._waiting) > MOST_WAITING
        if too_many:
            self._finish(answered, Ask.Response(message=f"{MOST_WAITING} questions wait already: ask again later"))
        elif not self._submit(lambda: self._run(request, answered)):
            self._finish(answered, Ask.Response(message="the node is not active"))
        elif 0.0 < request.timeout_s <= LONGEST_S:
            return await self._in_time(answered, request.timeout_s)
        return await answered

    async def _in_time(self, answered: Future, timeout_s: float) -> Ask.Response:
        timer = self._node.create_timer(
            timeout_s,
            lambda: self._finish(answered, _too_late(timeout_s)),
            callback_group=self._group,
            clock=self._clock,
        )
        try:
            return await answered
        finally:
            self._node.destroy_timer(timer)

    def _run(self, request: Ask.Request, answered: Future) -> None:
        with self._lock:
            if answered not in self._waiting:  # it waited too long for the frame in hand
                return
        try:
            response = self._answer(request)
        except Cancelled:  # `refuse` says why
            return
        except Exception as error:  # a question must never end the node
            response = Ask.Response(message=str(error) or type(error).__name__)
        self._finish(answered, response)

    def _finish(self, answered: Future, response: Ask.Response) -> None:
        """Give the response, unless another one was given before."""
        with self._lock:
            if answered not in self._waiting:
                return
            self._waiting.remove(answered)
            self._responses.append((answered, response))
            is_first = self._sender.is_canceled()
            if is_first:
                self._sender.reset()
        self._record.count("answered" if response.success else "refused")
        if is_first:
            self._send()

    def _send(self) -> None:
        """Send the next response; where there is none since the last one, the next may go at once."""
        with self._lock:
            if not self._responses:
                self._sender.cancel()
                return
            answered, response = self._responses.popleft()
        answered.set_result(response)
        if self._node.executor is not None:
            self._node.executor.wake()


def question(request: Ask.Request) -> str:
    """The text of a request. Raises ValueError if there is none."""
    if not request.question.strip():
        raise ValueError("the question is empty")
    return str(request.question)


def regions(request: Ask.Request) -> np.ndarray:
    """The regions of a request [N, 4], x1 y1 x2 y2 in pixels. Raises ValueError for what is no list of boxes."""
    numbers = np.asarray(request.regions, float)
    if numbers.size % 4:
        raise ValueError(f"regions holds {numbers.size} numbers; each region takes four, x1 y1 x2 y2")
    boxes = numbers.reshape(-1, 4)
    for i, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        if not (np.isfinite([x1, y1, x2, y2]).all() and x1 < x2 and y1 < y2):
            raise ValueError(f"region {i} is {x1:g} {y1:g} {x2:g} {y2:g}; x1 < x2 and y1 < y2 are needed, in pixels")
    return boxes


def _too_late(timeout_s: float) -> Ask.Response:
    return Ask.Response(message=f"no answer within {timeout_s:g} s: the model is busy, ask again or allow more time")
