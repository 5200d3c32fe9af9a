"""The service ~/ask: a question about the newest frame, answered between two frames."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.task import Future

from vlm3_ros.ros.worker import Worker
from vlm3_ros.srv import Ask


class AskService:
    """Hands requests to the worker thread; the executor goes on while the model thinks.

    ``answer`` runs in that thread; what it raises is told to whoever asked.
    """

    def __init__(self, node: Node, answer: Callable[[Ask.Request], Ask.Response], worker: Worker, clock: Clock):
        self._node = node
        self._answer = answer
        self._worker = worker
        self._clock = clock
        self._service = node.create_service(Ask, "~/ask", self._on_request)

    async def _on_request(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        answered: Future = Future(executor=self._node.executor)
        if not self._worker.submit(lambda: self._run(request, answered)):
            response.message = "the node is not active"
            return response
        if request.timeout_s <= 0.0:
            return await answered
        timer = self._node.create_timer(
            request.timeout_s, lambda: self._finish(answered, _too_late(request.timeout_s)), clock=self._clock
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
            self._node.executor.wake()


def _too_late(timeout_s: float) -> Ask.Response:
    return Ask.Response(message=f"no answer within {timeout_s:g} s: the model is busy, ask again or allow more time")
