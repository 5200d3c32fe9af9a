"""How one thread tells another to stop what it asks of a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancelled(BaseException):
    """What was asked is not wanted any more.

    Like asyncio's exception of that name it is no Exception: whoever handles faults must not take it for one.
    """


class Cancel:
    """A wish to stop, from any thread; models look at it between batches of questions and between requests."""

    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ask for the stop; what waits for a server is called at once."""
        with self._lock:
            self._is_set.set()
            calls = list(self._calls)
        for call in calls:
            call()

    def clear(self) -> None:
        """Take it back."""
        self._is_set.clear()

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._is_set.is_set()

    def check(self) -> None:
        """Raise Cancelled if it is set."""
        if self.is_set():
            raise Cancelled

    def wait(self, timeout_s: float) -> None:
        """Sleep; raises Cancelled as soon as it is set."""
        if self._is_set.wait(timeout_s):
            raise Cancelled

    @contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """Within this context, ``call`` is called when it is set: from another thread, and perhaps after its end."""
        with self._lock:
            self.check()
            self._calls.append(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.remove(call)
