"""How the process of a node begins and ends: quietly, whenever it is interrupted.

Nothing heavy is imported before signals are taken care of: rclpy and a node take seconds.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any


def run(module: str, node_class: str) -> int:
    """Spin a node until it is interrupted; returns the exit status.

    The class's ``stop()`` gives everything back and says whether all threads of the node have ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to give back yet
    make = getattr(importlib.import_module(module), node_class)
    from vlm3_ros.ros.shared_memory import remove_dead_segments

    remove_dead_segments()
    status = _run(make)
    sys.stdout.flush()
    sys.stderr.flush()
    if status is None:
        # A thread is still inside a model, and the interpreter cannot end around it without a crash.
        os._exit(0)
    return status


def _run(make: Any) -> int | None:
    """The exit status; None where a thread did not end."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from vlm3_ros.config import ConfigError

    signals = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until there is a node that can be ended
    # rclpy's own handler ends the executor. A KeyboardInterrupt on top of it may strike inside any callback.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        rclpy.init()
        executor = SingleThreadedExecutor()
        node = make()
    except (ConfigError, RuntimeError) as error:  # RCLError, which has no public name: wrong arguments
        print(f"vlm3: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor.add_node(node)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    try:
        _spin(node, executor)
    finally:
        ended = node.stop()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0 if ended else None


def _spin(node: Any, executor: Any) -> None:
    """Serve callbacks until ROS is shut down. One that raises is said, and does not end the node."""
    import traceback

    import rclpy
    from rclpy.executors import ExternalShutdownException

    while rclpy.ok():
        try:
            executor.spin()
        except ExternalShutdownException:
            return
        except Exception:
            if rclpy.ok():  # otherwise a callback was at work when a signal shut ROS down
                node.get_logger().error(f"a callback failed: {traceback.format_exc()}")
