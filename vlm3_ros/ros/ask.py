"""The service ~/ask: a question about the newest frame, answered between two frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.task import Future

from vlm3_ros.ros.worker import Worker
from vlm3_ros.srv import Ask

LONGEST_S = 86400.0  # a longer timeout, infinity or NaN is none


class AskService:
    """Hands requests to the worker thread; the executor goes on while the model thinks.

    ``answer`` runs in that thread; what it raises is told to whoever asked.
    """

    def __init__(self, node: Node, answer: Callable[[Ask.Request], Ask.Response], worker: Worker, clock: Clock):
        self._node = node
        self._answer = answer
        self._worker = worker
        self._clock = clock
        # In the node's default group a request that waits would keep every other callback of the node from running.
        self._group = ReentrantCallbackGroup()
        self._service = node.create_service(Ask, "~/ask", self._on_request, callback_group=self._group)

    async def _on_request(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        answered: Future = Future(executor=self._node.executor)
        if not self._worker.submit(lambda: self._run(request, answered)):
            response.message = "the node is not active"
            return response
        if not 0.0 < request.timeout_s <= LONGEST_S:
            return await answered
        timer = self._node.create_timer(
            request.timeout_s,
            lambda: self._finish(answered, _too_late(request.timeout_s)),
            callback_group=self._group,
            clock=self._clock,
        )
        try:
            return await answered
        finally:
            self._node.destroy_timer(timer)

    def _run(self, request: Ask.Request, answered: Future) -> None:
        if answered.done():  # it waited too long for the frame in hand
            return
        try:
            response = self._answer(request)
        except Exception as error:  # a question must never end the node
            response = Ask.Response(message=str(error) or type(error).__name__)
        self._finish(answered, response)

    def _finish(self, answered: Future, response: Ask.Response) -> None:
        if not answered.done():
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
