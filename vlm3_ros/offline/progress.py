"""How far a run is and when it will end, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

LINE_S = 0.2  # between updates of the line in a terminal
LOG_S = 30.0  # between lines in a file


class Progress:
    """A line that is written over in a terminal, and one now and then in a file."""

    def __init__(self, done: int, total: int, name: str = "", things: str = "frames"):
        self._name = f"{name}: " if name else ""
        self._before, self._total, self._things = done, total, things
        self._done = done
        self._start = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int) -> None:
        """So many are done."""
        self._done = done
        now = time.monotonic()
        if now - self._last >= (LINE_S if self._terminal else LOG_S):
            self._last = now
            self._write()

    def close(self) -> None:
        """Write how far it came in the end."""
        self._write()
        if self._terminal:
            print(file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        seconds = time.monotonic() - self._start
        text = line(self._done, self._total, self._done - self._before, seconds, self._things)
        start, end = ("\r\x1b[K", "") if self._terminal else ("", "\n")
        print(f"{start}{self._name}{text}", end=end, file=sys.stderr, flush=True)


def line(done: int, total: int, new: int, seconds: float, things: str = "frames") -> str:
    """Such as "12 of 58 frames, 1.4 frames/s, 0:00:33 left"; ``new`` of them took ``seconds``."""
    text = f"{done} of {total} {things}"
    if not new or seconds <= 0.0:
        return text
    rate = new / seconds
    minutes, left_s = divmod(round((total - done) / rate), 60)
    return f"{text}, {rate:.1f} {things}/s, {minutes // 60}:{minutes % 60:02d}:{left_s:02d} left"
