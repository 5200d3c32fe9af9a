"""What the ROS-free code logs goes to the ROS logger; and what may be said often is said now and then."""

from __future__ import annotations

import logging
import re
import threading
import time

from rclpy.node import Node

ROOT = "vlm3_ros"
SAY_EVERY_S = 10.0


class _Forward(logging.Handler):
    def __init__(self, node: Node):
        super().__init__()
        self._logger = node.get_logger()
        self._context = node.context

    @property
    def is_alive(self) -> bool:
        """Whether anything can still be sent."""
        return bool(self._context.ok())

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_alive:
            return
        # rclpy remembers the severity of each place that logs, so each severity needs a place of its own.
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logging(node: Node) -> None:
    """Send everything logged below ``vlm3_ros`` to the node's logger, which filters by its own level.

    Of several nodes in a process each says it: it is not known whose it is.
    """
    logger = logging.getLogger(ROOT)
    others = [handler for handler in logger.handlers if isinstance(handler, _Forward) and handler.is_alive]
    logger.handlers = [*others, _Forward(node)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class Occasionally:
    """Warns, but not with the same thing at every frame. Safe to use from several threads."""

    def __init__(self, node: Node):
        self._logger = node.get_logger()
        self._said: dict[str, float] = {}  # what: when
        self._lock = threading.Lock()

    def warn(self, text: str, about: str = "") -> None:
        """Say it, unless the same was said in the last SAY_EVERY_S seconds.

        The same is what has the same ``about``, by default what differs in numbers only.
        """
        about, now = about or re.sub(r"[0-9]+", "#", text), time.monotonic()
        with self._lock:
            self._said = {what: when for what, when in self._said.items() if now - when < SAY_EVERY_S}
            if about in self._said:
                return
            self._said[about] = now
        self._logger.warning(text)
