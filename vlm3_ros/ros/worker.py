"""The one thread that perceives."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.ros.stream import Stream


class Worker:
    """Takes the newest image of each camera in turn, one at a time, and runs jobs between images.

    Callbacks of the executor stay short, so that the clock, parameters and lifecycle services are served while a
    frame takes seconds. ``perceive`` must not raise.
    """

    def __init__(self, wake: threading.Condition, perceive: Callable[[Stream, Image | CompressedImage], None]):
        self._wake = wake
        self._perceive = perceive
        self._streams: deque[Stream] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self, streams: Sequence[Stream]) -> None:
        """Begin to perceive these cameras."""
        self._streams = deque(streams)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="perception", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End after the frame in hand; whether it ended in time. Jobs that wait are run to their end first."""
        if self._thread is None:
            return True
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._thread = None
        return True

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job before the next image; False if nothing is running that could."""
        with self._wake:
            if self._thread is None or self._stopping:
                return False
            self._jobs.append(job)
            self._wake.notify()
        return True

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._jobs or any(s.waiting for s in self._streams))
                if not self._jobs and self._stopping:
                    return
                job = self._jobs.popleft() if self._jobs else None
                stream = next((s for s in self._streams if s.waiting), None)
            if job is not None:
                job()
            elif stream is not None:
                self._streams.remove(stream)  # to the end of the line: every camera gets its turn
                self._streams.append(stream)
                message = stream.take()
                assert message is not None
                self._perceive(stream, message)
