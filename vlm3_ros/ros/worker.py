"""The one thread that perceives."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.ros.stream import Stream
from vlm3_ros.vlm import Cancel


class Worker:
    """A thread that takes the newest image of each camera in turn, one at a time, from now until it is stopped.

    Jobs run between images: where both wait they share the time, and jobs take no more than half of it. Callbacks of
    the executor stay short, so that the clock, parameters and lifecycle services are served while a frame takes
    seconds. ``perceive`` and jobs must not raise; setting ``cancel`` is to end them. A thread that does not end is
    left behind; ``after`` is such a worker, whose models this one waits for.
    """

    def __init__(
        self,
        wake: threading.Condition,
        streams: Sequence[Stream],
        perceive: Callable[[Stream, Image | CompressedImage], None],
        cancel: Cancel,
        after: Worker | None = None,
    ):
        self._wake = wake
        self._streams = deque(streams)
        self._perceive = perceive
        self._cancel = cancel
        self._after = after
        self._jobs: deque[Callable[[], None]] = deque()
        self._endings: list[Callable[[], None]] = []
        self._stopping = self._ended = False
        self._at_work = False
        self._is_job = False  # what is in hand
        self._owed_s = 0.0  # to the images, for the jobs before
        self._thread = threading.Thread(target=self._run, name="perception", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return self._ended

    @property
    def held_up(self) -> bool:
        """Whether it waits for a worker that was left behind."""
        return self._after is not None and not self._after.ended

    @property
    def busy(self) -> bool:
        """Whether a frame or a job is in hand, or waits."""
        with self._wake:
            return self._at_work or bool(self._jobs) or any(stream.waiting for stream in self._streams)

    def stop(self, timeout_s: float) -> bool:
        """Cancel what is in hand and drop the jobs that wait; whether the thread ended in time."""
        with self._wake:
            self._stopping = True
            self._jobs.clear()
            self._cancel.set()
            self._wake.notify_all()
        self._thread.join(timeout_s)
        return self._ended

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job when its turn comes; False if the worker is being stopped."""
        with self._wake:
            if not self._stopping:
                self._jobs.append(job)
                self._wake.notify_all()
            return not self._stopping

    def at_end(self, action: Callable[[], None]) -> None:
        """Do something when the thread has nothing more to do with the models: in it, or now if it has ended."""
        with self._wake:
            if not self._ended:
                self._endings.append(action)
                return
        action()

    def _run(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or not self.held_up)
            if not self._stopping:
                self._cancel.clear()
        try:
            while (work := self._next_work()) is not None:
                start = time.monotonic()
                work()
                took = time.monotonic() - start
                self._owed_s = max(0.0, self._owed_s + (took if self._is_job else -took))
            while (action := self._next_ending()) is not None:
                action()
        finally:
            with self._wake:
                self._ended = True
                self._wake.notify_all()

    def _next_work(self) -> Callable[[], None] | None:
        """What to do next, once there is something; None at the end."""
        with self._wake:
            self._at_work = False
            self._wake.wait_for(lambda: self._stopping or self._jobs or any(s.waiting for s in self._streams))
            if self._stopping:
                return None
            self._at_work = True
            stream = next((s for s in self._streams if s.waiting), None)
            self._is_job = bool(self._jobs) and (stream is None or not self._owed_s)
            if self._is_job:
                return self._jobs.popleft()
            assert stream is not None
            self._streams.remove(stream)  # to the end of the line: every camera gets its turn
            self._streams.append(stream)
            message = stream.take()
            assert message is not None
            return lambda: self._perceive(stream, message)

    def _next_ending(self) -> Callable[[], None] | None:
        """What is still to be done at the end; when it is nothing, that is the end."""
        with self._wake:
            self._ended = not self._endings
            return None if self._ended else self._endings.pop(0)
