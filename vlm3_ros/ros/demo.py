"""The demo: the simulated room and the node as two processes, and a picture of what came over the topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import rclpy
from ament_index_python.packages import get_package_prefix
from rclpy.executors import ExternalShutdownException

from vlm3_ros.config import one_checkpoint
from vlm3_ros.ros.compared import values
from vlm3_ros.ros.live import shown
from vlm3_ros.ros.panels import picture
from vlm3_ros.ros.witness import Moment, Witness
from vlm3_ros.sim.demo import LABELS
from vlm3_ros.vlm.checkpoint import BUNDLED, inspect

# The walk waits for the node, so that a slow model sees the same frames as a fast one: 0.15 m and 10° apart at most.
SIMULATOR = {"width": 320, "height": 240, "hfov_deg": 70.0, "rate_hz": 2.0, "seconds": 60.0}
NODE = {"node.tasks": ["depth", "pose", "objects"], "objects.labels": LABELS}
# A small model is often torn between two values, and where the first digits of both are equally likely, greedy text
# is one or the other by chance. The median of the digits' distribution loses less.
SMALL = {"depth.statistic": "median", "pose.statistic": "median"}

START_S = 900.0  # for the first frame: a large checkpoint on a slow disk, and kernels that are compiled
LEAST_S = 120.0  # for any other, and at least
PATIENCE = 10.0  # times what the slowest frame took so far


def run(model: str, frames: int, out: Path, port: int | None) -> None:
    """Start simulator and node, wait for ``frames`` perceived frames, write the picture and print the values.

    With a ``port`` the picture is also shown on a page while it grows. Raises RuntimeError when nothing comes,
    OSError where the picture cannot be written, and KeyboardInterrupt.
    """
    if not cv2.haveImageWriter(str(out)):
        raise RuntimeError(f"{out} is not the name of a picture: let it end in .png or .jpg")
    out.parent.mkdir(parents=True, exist_ok=True)
    about, settings = who_answers(model)
    rclpy.init()
    try:
        with shown(port) as page, _perceived(frames, settings) as growing:
            if page is not None:
                print(f"live: {page.address}", flush=True)
                _open(page.address)
            for moments in growing:
                if page is not None:
                    page.show(picture(moments, [*about, *values(moments)]))
    except ExternalShutdownException as error:  # ended by a signal
        raise KeyboardInterrupt from error
    finally:
        rclpy.try_shutdown()
    lines = [*about, *values(moments)]
    cv2.imwrite(str(out), cv2.cvtColor(picture(moments, lines), cv2.COLOR_RGB2BGR))
    print("\n".join(lines))
    print(f"picture: {out}")
    if page is None:
        _open(out.resolve().as_uri())


def who_answers(model: str) -> tuple[list[str], dict[str, Any]]:
    """Who answers, in lines for people, and the node's parameters for it."""
    if model != BUNDLED:
        return [f"answers by: {model}", ""], one_checkpoint(model)
    millions = inspect(BUNDLED).parameters / 1e6
    about = [
        f"answers by: the bundled model ({millions:.0f} M parameters,",
        "   trained on simulated rooms; says nothing about VLM3)",
        "",
    ]
    return about, {**one_checkpoint(BUNDLED), **SMALL}


@contextmanager
def _perceived(frames: int, settings: dict[str, Any]) -> Iterator[Iterator[list[Moment]]]:
    """Simulator and node at work, and what they have said so far, each time that there is more of it."""
    witness = Witness(LABELS)
    walk = {**SIMULATOR, "wait_for": "depth/image"}
    with _process("sim_node", walk) as simulator, _process("vlm3_node", {**NODE, **settings}) as node:
        yield _growing(witness, frames, [simulator, node])


def _growing(witness: Witness, frames: int, processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[Moment]]:
    patience_s, last, seen = START_S, time.monotonic(), 0
    slowest_s = 0.0
    _progress("waiting for the first frame")
    while seen < frames:
        rclpy.spin_once(witness, timeout_sec=0.1)
        waited_s = time.monotonic() - last
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("the simulator or the node ended; its messages are above")
        if witness.fault:
            raise RuntimeError(f"the node cannot start: {witness.fault}")
        if len(witness.moments) > seen:
            seen = min(len(witness.moments), frames)
            slowest_s = max(slowest_s, waited_s)
            patience_s, last = max(LEAST_S, PATIENCE * slowest_s), time.monotonic()
            _progress(f"perceived {seen} of {frames} frames, {waited_s:.1f} s for the last", end=seen == frames)
            yield witness.moments[:seen]
        elif waited_s > patience_s:
            raise RuntimeError(
                f"{seen} of {frames} frames came, then nothing for {waited_s:.0f} s; what the node says is above"
            )


@contextmanager
def _process(executable: str, parameters: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """An installed executable of this package with parameters; interrupted at the end."""
    path = Path(get_package_prefix("vlm3_ros"), "lib", "vlm3_ros", executable)
    settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    process = subprocess.Popen([sys.executable, str(path), "--ros-args", *settings])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()


def _progress(text: str, end: bool = False) -> None:
    """One line that changes on a terminal, a line each time in a log."""
    if sys.stderr.isatty():
        print(f"\r{text:<60}", end="\n" if end else "", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _open(address: str) -> None:
    """Show a page or a file, where there is a screen."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)
