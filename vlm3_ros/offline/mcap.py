"""An mcap file that grows frame by frame and can be gone on with after a kill (mcap.dev/spec).

Each frame is an uncompressed chunk, its message indexes, and behind these a metadata record with a note: a frame
whose note is whole is in the file, anything after the last such frame is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rosbags.typesys.store import Typestore

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, METADATA, DATA_END = 0x07, 0x08, 0x0B, 0x0C, 0x0F
OVERHEAD = 9  # bytes before the content of a record: one of operation code, eight of length
CHUNK_HEAD = 40  # bytes in an uncompressed chunk before its records: three times 8, a checksum, no name, a length
MESSAGE_HEAD = 22  # bytes in a message before its data
NOTE = "vlm3_ros frame"


class LockedError(Exception):
    """Another process is writing the file."""


@dataclass(frozen=True)
class Frame:
    """Where a frame lies in the file; offsets and lengths in bytes."""

    time: int  # nanoseconds
    chunk: tuple[int, int]  # offset and length; zeros: the frame has no messages
    indexes: dict[int, int]  # channel: offset of its message index
    note: str
    end: int


class McapWriter:
    """Appends frames to those that are in the file already; memory does not grow with them. Raises LockedError."""

    def __init__(self, path: Path, topics: Mapping[str, str], store: Typestore):
        self._path = path
        self._channels = {topic: (number, kind) for number, (topic, kind) in enumerate(topics.items(), 1)}
        self._declarations = _declarations(topics, store)
        start = MAGIC + _record(HEADER, _text("ros2") + _text("vlm3_ros")) + self._declarations
        self.frames = 0
        self.counts = dict.fromkeys(topics, 0)  # messages
        self._span: tuple[int, int] | None = None
        path.touch()
        self._file = path.open("r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it, however the process ends
        except BlockingIOError as error:
            self._file.close()
            raise LockedError(str(path)) from error
        self._end = self._recover(start)
        if self._end < self._file.seek(0, io.SEEK_END):
            self._file.truncate(self._end)  # only if it must be: closing a file that was cut, ext4 writes all to disk
        self._file.seek(self._end)
        if not self._end:
            self._write(start)

    @property
    def span(self) -> tuple[int, int]:
        """Times of the first and last message in nanoseconds; zeros without messages."""
        return self._span or (0, 0)

    def add(self, time: int, messages: Mapping[str, bytes | memoryview], note: str) -> None:
        """Append a frame: serialized messages by topic, one each, all of one time in nanoseconds."""
        offsets: dict[int, int] = {}  # by channel, in the chunk
        if messages:
            offset = 0
            inner: list[bytes | memoryview] = []
            for topic, data in messages.items():
                number, _ = self._channels[topic]
                offsets[number] = offset
                head = struct.pack("<BQHIQQ", MESSAGE, MESSAGE_HEAD + len(data), number, 0, time, time)
                inner += [head, data]
                offset += len(head) + len(data)
            self._write(chunk_head(time, time, offset), *inner)
            for number, offset in offsets.items():
                self._write(_record(MESSAGE_INDEX, struct.pack("<HIQQ", number, 16, time, offset)))
        self._write(_record(METADATA, _text(NOTE) + _block(_text("note") + _text(note))))
        self._count(time, offsets)

    def finish(self) -> None:
        """Write what a reader needs to jump to any time, and close."""
        self._write(_record(DATA_END, struct.pack("<I", 0)))
        summary, chunks = self._end, 0
        self._write(self._declarations)
        for frame in kept(self._path):
            if frame.indexes:
                self._write(_chunk_index(frame))
                chunks += 1
        counts = [(number, self.counts[topic]) for topic, (number, _) in self._channels.items()]
        kinds = {kind for _, kind in self._channels.values()}
        totals = (sum(self.counts.values()), len(kinds), len(counts), 0, self.frames, chunks)
        table = b"".join(struct.pack("<HQ", *count) for count in counts)
        self._write(_record(STATISTICS, struct.pack("<QHIIIIQQ", *totals, *self.span) + _block(table)))
        self._write(_record(FOOTER, struct.pack("<QQI", summary, 0, 0)), MAGIC)
        self.close()

    def close(self) -> None:
        """Leave the file as it is."""
        self._file.close()

    def _write(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            left = memoryview(part)
            while left:  # a disk that gets full takes a part of it, and says so the next time only
                written = self._file.write(left)
                self._end += written
                left = left[written:]

    def _count(self, time: int, indexes: Mapping[int, int]) -> None:
        self.frames += 1
        for topic, (number, _) in self._channels.items():
            self.counts[topic] += number in indexes
        if indexes:
            first, last = self._span or (time, time)
            self._span = min(first, time), max(last, time)

    def _recover(self, start: bytes) -> int:
        """Count the frames of an earlier process that are whole; returns where the last one ends."""
        end = len(start) if self._file.read(len(start)) == start else 0
        for frame in kept(self._path) if end else ():
            self._count(frame.time, frame.indexes)
            end = frame.end
        return end


def chunk_head(first: int, last: int, length: int) -> bytes:
    """What stands before the records, ``length`` bytes of them, of an uncompressed chunk; times in nanoseconds."""
    return struct.pack("<BQQQQIIQ", CHUNK, CHUNK_HEAD + length, first, last, length, 0, 0, length)


def kept(path: Path) -> Iterator[Frame]:
    """The whole frames in a file, be it finished or not."""
    chunk, time, indexes = (0, 0), 0, {}
    with path.open("rb") as file:
        for operation, at, length in records(file, len(MAGIC)):
            if operation == CHUNK:
                chunk = at, OVERHEAD + length
            elif operation == MESSAGE_INDEX and length >= 22:
                number, _, time, _ = struct.unpack("<HIQQ", file.read(22))
                indexes[number] = at
            elif operation == METADATA:
                note = file.read(length)[len(_text(NOTE)) + 4 + len(_text("note")) + 4 :].decode(errors="replace")
                yield Frame(time, chunk, indexes, note, at + OVERHEAD + length)
                chunk, time, indexes = (0, 0), 0, {}


def records(file: BinaryIO, start: int) -> Iterator[tuple[int, int, int]]:
    """Operation code, offset and length of content of each whole record up to the end of the data.

    The file stands at the record's content whenever one is given.
    """
    size, at = file.seek(0, io.SEEK_END), start
    while at + OVERHEAD <= size:
        file.seek(at)
        operation, length = struct.unpack("<BQ", file.read(OVERHEAD))
        if operation in (0, FOOTER, DATA_END) or at + OVERHEAD + length > size:
            return
        yield operation, at, length
        at += OVERHEAD + length


def _declarations(topics: Mapping[str, str], store: Typestore) -> bytes:
    """A schema for each type and a channel for each topic."""
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(topics.values()), 1)}
    parts = []
    for kind, number in kinds.items():
        text, _ = store.generate_msgdef(kind, ros_version=2)
        parts.append(_record(SCHEMA, struct.pack("<H", number) + _text(kind) + _text("ros2msg") + _text(text)))
    for number, (topic, kind) in enumerate(topics.items(), 1):
        qos = _block(_text("offered_qos_profiles") + _text(""))
        parts.append(_record(CHANNEL, struct.pack("<HH", number, kinds[kind]) + _text(topic) + _text("cdr") + qos))
    return b"".join(parts)


def _chunk_index(frame: Frame) -> bytes:
    start, length = frame.chunk
    offsets = b"".join(struct.pack("<HQ", *entry) for entry in frame.indexes.items())
    indexes = len(frame.indexes) * (OVERHEAD + 22)
    inner = length - OVERHEAD - CHUNK_HEAD
    head = struct.pack("<QQQQ", frame.time, frame.time, start, length) + _block(offsets)
    return _record(CHUNK_INDEX, head + struct.pack("<Q", indexes) + _text("") + struct.pack("<QQ", inner, inner))


def _record(operation: int, content: bytes) -> bytes:
    return struct.pack("<BQ", operation, len(content)) + content


def _block(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _text(text: str) -> bytes:
    return _block(text.encode())
