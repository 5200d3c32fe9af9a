"""Plays a bag to the node: from when it is ready until it has done with the last image.

`ros2 run vlm3_ros play_bag BAG [OPTION...]` takes what `ros2 bag play` takes. The node is `vlm3` in this one's
namespace; with its parameter vlm.preload it is ready once its models are loaded.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from vlm3_ros.ros.diagnostics import BUSY, STATE

SILENT_S = 10.0  # the node reports once a second
STOP_S = 3.0  # for the player to end after a signal
QUIET_REPORTS = 2  # the first may be older than the arrival of the last image


class PlayError(Exception):
    """Why the bag was not played to its end, or not perceived to it."""


class Listener(Node):
    """Hears what the node says of itself on /diagnostics."""

    def __init__(self) -> None:
        super().__init__("play_bag")
        self.about = f"{self.get_namespace().rstrip('/')}/vlm3"
        self._heard: DiagnosticStatus | None = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def report(self) -> DiagnosticStatus | None:
        """The node's next report; None where it says nothing. Raises ExternalShutdownException."""
        self._heard, end = None, time.monotonic() + SILENT_S
        while self._heard is None and time.monotonic() < end:
            self.spin(end - time.monotonic())
        return self._heard

    def spin(self, timeout_s: float) -> None:
        """Listen for one message, or until the time is over. Raises ExternalShutdownException."""
        try:
            rclpy.spin_once(self, timeout_sec=max(0.0, timeout_s))
        except RuntimeError:  # RCLError, which has no public name: a signal has shut ROS down under it
            if self.context.ok():
                raise
        if not self.context.ok():
            raise ExternalShutdownException

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._heard = next((status for status in message.status if status.name == self.about), self._heard)


def play(listener: Listener, options: Sequence[str]) -> None:
    """Wait for the node, play, and wait for the node again. Raises PlayError and ExternalShutdownException."""
    _wait_until_ready(listener)
    listener.get_logger().info(f"{listener.about} is ready: ros2 bag play {' '.join(options)}")
    try:
        player = subprocess.Popen(["ros2", "bag", "play", *options])
    except OSError as error:
        raise PlayError(
            f"`ros2 bag play` cannot be started: {error.strerror}; it is in the package ros2bag"
        ) from error
    try:
        while player.poll() is None:
            listener.spin(0.1)
    finally:
        _end(player)
    if player.returncode:
        raise PlayError(f"`ros2 bag play` ended with status {player.returncode}; it says why above")
    listener.get_logger().info(f"the bag has ended; waiting for {listener.about} to finish what it has in hand")
    _wait_until_idle(listener)


def _wait_until_ready(listener: Listener) -> None:
    listener.get_logger().info(f"waiting for {listener.about}")
    while not ((report := listener.report()) and _is_idle(report) and _value(report, STATE) == "active"):
        if report is None:
            listener.get_logger().warning(f"{listener.about} says nothing on /diagnostics yet")
        elif report.level == DiagnosticStatus.ERROR:
            raise PlayError(f"{listener.about} is not ready, and the bag is not played: {report.message}")


def _wait_until_idle(listener: Listener) -> None:
    idle = 0
    while idle < QUIET_REPORTS:
        report = listener.report()
        if report is None:
            raise PlayError(f"{listener.about} no longer says anything on /diagnostics")
        idle = idle + 1 if _is_idle(report) else 0


def _is_idle(report: DiagnosticStatus) -> bool:
    return _value(report, BUSY) == str(False)


def _value(report: DiagnosticStatus, key: str) -> str:
    return next((pair.value for pair in report.values if pair.key == key), "")


def _end(player: subprocess.Popen[bytes]) -> None:
    """Interrupt a player that still runs; one that does not mind is killed."""
    if player.poll() is None:
        player.send_signal(signal.SIGINT)
        try:
            player.wait(STOP_S)
        except subprocess.TimeoutExpired:
            player.kill()
            player.wait()


def main() -> int:
    """Play until the end, or until interrupted; returns the exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)  # rclpy's own handler ends the listening
    rclpy.init()
    try:
        play(Listener(), remove_ros_args(sys.argv)[1:])
    except ExternalShutdownException:
        return 0
    except PlayError as error:
        print(f"play_bag: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0
