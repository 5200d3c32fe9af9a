"""Real ROS 2 processes for tests: a DDS domain of their own, on this machine only."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ament_index_python.packages import get_package_prefix

from vlm3_ros.config import one_checkpoint

ROOT = Path(__file__).resolve().parents[1]
TEST = ROOT / "test"


def _domain() -> int:
    """A domain by chance; of the processes that pytest-xdist starts for one run, each another one."""
    run, worker = (os.environ.get(f"PYTEST_XDIST_{name}", "") for name in ("TESTRUNUID", "WORKER"))
    return 1 + (random.Random(run or None).randrange(101) + int(worker.removeprefix("gw") or 0)) % 101


# Set once per test process and inherited by every process that it starts.
ENVIRONMENT = {
    "ROS_DOMAIN_ID": str(_domain()),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),
    "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH", sys.prefix),
    "OMP_NUM_THREADS": "1",
    "VLM3_PLUGINS": "plugin",
}


def answered_by(stand_in: str) -> dict[str, str]:
    """The settings with which a stand-in (see plugin.py) answers all tasks."""
    return one_checkpoint(f"test:{stand_in}")


class Process:
    """A program and what it prints, line by line as it comes."""

    def __init__(self, *command: object, sources: bool = True):
        environment = {**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
        if sources:  # the code under test is that of this checkout, whatever was installed
            inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # ROS itself, if it comes from apt
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(TEST), *inherited]))
        else:
            del environment["VLM3_PLUGINS"]
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive:
            self._process.kill()
        self.wait(10.0)
        if kind is not None:
            print(f"--- output of {self._process.args}:\n{self.output}")

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that was printed so far."""
        return "".join(self.lines)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Exit status, once it ended."""
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Until ``text`` was printed; AssertionError if it ends or the time is over before."""
        end = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.alive, f"ended with {self.wait(5.0)} before it printed {text!r}:\n{self.output}"
            assert time.monotonic() < end, f"did not print {text!r} in {timeout_s:.0f} s:\n{self.output}"
            time.sleep(0.05)

    def wait_for_library(self, name: str, timeout_s: float = 60.0) -> None:
        """Until a library whose file's name holds ``name`` is loaded."""
        end, maps = time.monotonic() + timeout_s, Path(f"/proc/{self.pid}/maps")
        while not any(name in Path(line).name for line in maps.read_text().splitlines()):
            assert self.alive, self.output
            assert time.monotonic() < end, f"{name} was not loaded in {timeout_s:.0f} s"
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended already does not mind."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        self.send(signal.SIGKILL)
        self.wait(10.0)

    def interrupt(self, timeout_s: float = 30.0, by: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; returns the exit status."""
        self.send(by)
        return self.wait(timeout_s)


def executable(name: str) -> Path:
    """An installed program of this package."""
    return Path(get_package_prefix("vlm3_ros"), "lib", "vlm3_ros", name)


def node(parameters: dict[str, object] | None = None, *arguments: str, sources: bool = True) -> Process:
    """The installed vlm3_node, started as `ros2 run` and launch files start it."""
    command: Sequence[str] = [
        a for name, value in (parameters or {}).items() for a in ("-p", f"{name}:={_yaml(value)}")
    ]
    return Process(executable("vlm3_node"), "--ros-args", *arguments, *command, sources=sources)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if not isinstance(value, list) else "[" + ", ".join(f"'{v}'" for v in value) + "]"
