"""The messages of a ROS 2 bag, by `rosbags`; what is damaged is said, and the rest is read.

Messages are read as the types that Jazzy has, not as the definitions in the bag: the few types read here are the same
in every distribution of ROS 2, and so a broken or unknown definition of another topic does no harm.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import logging
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader

from vlm3_ros.offline import compression
from vlm3_ros.offline.damaged import Damaged
from vlm3_ros.offline.sources import FrameError, SourceError
from vlm3_ros.offline.types import typestore

log = logging.getLogger(__name__)

SKIPPED = 8  # messages that are rather read in vain than looked for


class BagReader:
    """A bag: a folder with metadata.yaml, or with the files alone, or a single file."""

    def __init__(self, path: Path):
        self.path = path
        self._stack = ExitStack()
        # Each file by itself: one that cannot be read takes none of the others along.
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
        # Without any, the files are compressed as a whole, which only a reader with the metadata can open.
        self._readers = [r for file in files or [path] if (r := self._open(file)) is not None]
        if not self._readers:
            raise SourceError(f"nothing of the bag {path} can be read")
        self.topics: dict[str, str] = {}  # name: type
        self.counts: dict[str, int] = defaultdict(int)
        self._first: dict[str, Any] = {}
        for connection in (c for reader in self._readers for c in reader.connections):
            self.topics.setdefault(connection.topic, _full_name(connection.msgtype))
            self.counts[connection.topic] += connection.msgcount

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def raw(self, topic: str, start: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Time of recording in nanoseconds and serialized message, in the order of recording.

        ``start``: the first time of recording that is wanted; what is before it is skipped without being read.
        """
        files = (self._of_file(reader, topic, start) for reader in self._readers)
        yield from heapq.merge(*files, key=lambda message: message[0])

    def messages(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Time of recording in nanoseconds and message; those that cannot be read are left out, and said."""
        for time, raw in self.raw(topic):
            try:
                yield time, self.message(topic, raw)
            except FrameError as error:
                log.warning("%s", error)

    def first(self, topic: str) -> Any:
        """The first message of a topic. Raises FrameError."""
        if topic not in self._first:
            time_and_raw = next(self.raw(topic), None)
            if time_and_raw is None:
                raise FrameError(f"{topic} holds no message that can be read")
            self._first[topic] = self.message(topic, time_and_raw[1])
        return self._first[topic]

    def message(self, topic: str, raw: bytes) -> Any:
        """A message from its serialized form. Raises FrameError."""
        kind = self.topics[topic]
        if kind not in typestore().fielddefs:
            raise FrameError(f"{topic} has messages of type {kind}, which cannot be read")
        try:
            return typestore().deserialize_cdr(raw, kind)
        except Exception as error:  # whatever random bytes do to the generated code
            raise FrameError(f"a message of {topic} is broken: {type(error).__name__}: {error}") from error

    def of_type(self, kind: str) -> list[str]:
        """The topics of a type that hold any message."""
        return sorted(topic for topic, name in self.topics.items() if name == kind and self.counts[topic])

    def _open(self, file: Path) -> Reader | None:
        try:
            return self._stack.enter_context(Reader(file))
        except Exception as error:  # rosbags, its databases and struct raise what they like on broken files
            if file.suffix == ".mcap" and (damaged := Damaged.found(file)) is not None:
                log.warning("%s is damaged (%s): reading what is whole before the damage", file, error)
                return self._stack.enter_context(Reader(damaged))  # type: ignore[arg-type]
            hint = f"; `sqlite3 {file} .recover | sqlite3 saved.db3` may save a part" if file.suffix == ".db3" else ""
            log.warning("%s cannot be read: %s%s", file, error, hint)
            return None

    def _of_file(self, reader: Reader, topic: str, start: int | None) -> Iterator[tuple[int, bytes]]:
        connections = [c for c in reader.connections if c.topic == topic]
        if not connections:
            return
        try:
            for _, time, data in reader.messages(connections, start):
                yield time, compression.message(bytes(data))
        except Exception as error:
            log.warning("%s: %s cannot be read to its end: %s", reader.path, topic, error)


class Series:
    """The messages with a header of one topic in the order of their stamps; cheapest one after the other."""

    def __init__(self, bag: BagReader, topic: str):
        self._bag, self.topic = bag, topic
        order, unstamped = [], 0
        self._times: list[int] = []  # of recording, by position
        for position, (time, raw) in enumerate(bag.raw(topic)):
            self._times.append(time)
            stamp = _header_stamp(raw)
            unstamped += not stamp
            order.append((stamp or time, position))
        if unstamped:
            log.warning("%d messages of %s have no stamp: the time of recording is taken for it", unstamped, topic)
        if late := sum(after < before for before, after in pairwise(order)):
            log.warning("%d messages of %s have an older stamp than the one before: put in order", late, topic)
        order.sort()
        self.stamps = [stamp for stamp, _ in order]  # nanoseconds
        self._positions = [position for _, position in order]
        self._ahead: Iterator[tuple[int, bytes]] = iter(())
        self._next = len(order)  # position of what _ahead gives next

    def __getitem__(self, index: int) -> Any:
        """A message. Raises FrameError."""
        position = self._positions[index]
        if not self._next <= position <= self._next + SKIPPED:
            start = self._times[position]
            self._next = bisect.bisect_left(self._times, start)
            self._ahead = self._bag.raw(self.topic, start)
        _, raw = next(itertools.islice(self._ahead, position - self._next, None))
        self._next = position + 1
        return self._bag.message(self.topic, raw)


def _header_stamp(raw: bytes) -> int:
    """The stamp in nanoseconds of a serialized message that begins with a header; 0 if it has none."""
    if len(raw) < 12:
        return 0
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * 10**9 + nanosec


def _full_name(kind: str) -> str:
    """Some tools leave the middle out: sensor_msgs/Image."""
    package, *_, name = kind.split("/")
    return f"{package}/msg/{name}"
