"""What the ROS-free code logs goes to the ROS logger."""

from __future__ import annotations

import logging

from rclpy.node import Node

ROOT = "vlm3_ros"


class _Forward(logging.Handler):
    def __init__(self, node: Node):
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
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
    """Send everything logged below ``vlm3_ros`` to the node's logger, which filters by its own level."""
    logger = logging.getLogger(ROOT)
    logger.handlers = [_Forward(node)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
