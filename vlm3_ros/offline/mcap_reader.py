"""The messages of an mcap file (mcap.dev/spec), as far as they are whole.

The file is walked from record to record; its summary is asked only where the walk is lost. So a file that was not
closed, that has no index or is damaged somewhere is read like any other, and damage costs what it is in.
"""

from __future__ import annotations

import io
import logging
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

from vlm3_ros.offline import compression
from vlm3_ros.offline.mcap import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEADER,
    MAGIC,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    OVERHEAD,
    SCHEMA,
    STATISTICS,
    records,
)

log = logging.getLogger(__name__)

LAST, PRIVATE = DATA_END, 0x80  # operation codes: the last of the format, the first that anybody may use
DECLARATION = 1 << 16  # bytes of a schema or channel that are read: its names stand at its beginning
COMPLAINTS = 5  # about one file; more are counted


@dataclass
class Declared:
    """A channel as a file declares it, and how many messages it has there."""

    topic: str
    kind: str  # type of its messages, in the file's own words
    encoding: str
    count: int = 0


@dataclass
class _Part:
    """A chunk, or a row of messages that are in none."""

    at: int  # first byte of a chunk's content, or of the first message
    end: int
    is_chunk: bool
    counts: Counter[int] = field(default_factory=Counter)  # messages by channel, as far as they are known


class Complaints:
    """What is the matter with a file, each said once, and not without end."""

    def __init__(self, path: Path):
        self._path, self._said = path, set[str]()

    def __call__(self, text: str) -> None:
        if text in self._said:
            return
        self._said.add(text)
        if len(self._said) <= COMPLAINTS:
            log.warning("%s is damaged: %s", self._path, text)
        elif len(self._said) == COMPLAINTS + 1:
            log.warning("%s is damaged in more places, which are not said one by one", self._path)

    def __len__(self) -> int:
        return len(self._said)


class McapReader:
    """An mcap file. What cannot be read in it is said and left out. Raises OSError."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._complain = Complaints(path)
        self._size = self._file.seek(0, io.SEEK_END)
        self._schemas: dict[int, str] = {}
        self._parts: list[_Part] = []
        self._stated: Counter[int] = Counter()  # messages by channel, as the summary has them
        self.profile = ""
        self.declared: dict[int, Declared] = {}
        self._content = lru_cache(maxsize=2)(self._read_content)
        self._walk()
        self._look_into_chunks()
        self._count()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(self, channels: Collection[int]) -> Iterator[tuple[int, Any, bytes]]:
        """Time of recording in nanoseconds, place and data of each message, in the order of the file."""
        for number, part in enumerate(self._parts):
            if not part.counts.keys().isdisjoint(channels):
                yield from self._messages_in(number, channels)

    def read(self, place: Any) -> bytes:
        """The data of a message. Raises ValueError where they are not there any more."""
        number, at, length = place
        if number is None:
            self._file.seek(at)
            data = self._file.read(length)
        else:
            data = self._content(number)[0][at : at + length]
        if len(data) != length:
            raise ValueError("its data is cut off")
        return data

    # ----------------------------------------------------------------------------------------- the whole file

    def _walk(self) -> None:
        if self._bytes(0, len(MAGIC)) != MAGIC:
            self._complain("it does not begin as an mcap file does")
        at, operation = len(MAGIC), 0
        while at + OVERHEAD <= self._size:
            operation, length = struct.unpack("<BQ", self._bytes(at, OVERHEAD))
            end = at + OVERHEAD + length
            known = 0 < operation <= LAST or operation >= PRIVATE
            if known and end <= self._size:
                self._take(operation, at, length)
                at = end
                if operation == FOOTER:
                    return
                continue
            self._complain(f"what begins at byte {at} is no whole record")
            following = min((start for start in self._landmarks if start > at), default=self._size)
            if operation == CHUNK:
                self._parts.append(_Part(at + OVERHEAD, following, True))
            at = following
        if self._size:
            self._complain("it was not closed")

    def _take(self, operation: int, at: int, length: int) -> None:
        """What is to be known of a record at the top of the file."""
        content = at + OVERHEAD
        if operation == MESSAGE and length >= MESSAGE_HEAD:
            if not self._parts or self._parts[-1].is_chunk or self._parts[-1].end != at:
                self._parts.append(_Part(at, at, False))
            self._parts[-1].end = content + length
            self._parts[-1].counts[struct.unpack("<H", self._bytes(content, 2))[0]] += 1
        elif operation == CHUNK:
            self._parts.append(_Part(content, content + length, True))
        elif operation == MESSAGE_INDEX and length >= 6 and self._parts:
            channel, size = struct.unpack("<HI", self._bytes(content, 6))
            if size:
                self._parts[-1].counts[channel] += min(size, length - 6) // 16
        elif operation in (HEADER, SCHEMA, CHANNEL):
            self._declare(operation, self._bytes(content, min(length, DECLARATION)))
        elif operation == STATISTICS:
            table = self._bytes(content, min(length, DECLARATION * 10))[46:]
            self._stated.update(dict(struct.iter_unpack("<HQ", table[: len(table) // 10 * 10])))

    def _declare(self, operation: int, content: bytes) -> None:
        """The first declaration of a number holds."""
        try:
            if operation == HEADER:
                self.profile, _ = _text(content, 0)
            elif operation == SCHEMA:
                self._schemas.setdefault(struct.unpack_from("<H", content)[0], _text(content, 2)[0])
            else:
                number, schema = struct.unpack_from("<HH", content)
                topic, at = _text(content, 4)
                encoding, _ = _text(content, at)
                kind = self._schemas.get(schema, "")
                self.declared.setdefault(number, Declared(topic, kind, encoding))
        except struct.error:
            self._complain("a declaration in it is cut off")

    def _look_into_chunks(self) -> None:
        """Where no index says what a chunk holds, or it holds channels that are not declared outside of it."""
        looked_for = set(self.declared)
        for number, part in enumerate(self._parts):
            if part.is_chunk and (not part.counts or not looked_for.issuperset(part.counts)):
                looked_for.update(part.counts)  # in one chunk each: it is declared before its first message
                part.counts = Counter()
                for _ in self._messages_in(number, (), part.counts):
                    pass

    def _count(self) -> None:
        found: Counter[int] = Counter()
        for part in self._parts:
            found.update(part.counts)
        for number, channel in self.declared.items():
            channel.count = found[number]
        if nowhere := sum(count for number, count in found.items() if number not in self.declared):
            self._complain(f"{nowhere} messages are of channels that are nowhere declared")
        if (stated := self._stated.total()) > (total := found.total()):
            self._complain(f"by its own statistics it holds {stated} messages, of which {total} were found")

    @cached_property
    def _landmarks(self) -> list[int]:
        """Where chunks and the summary begin, by the index at the end of the file."""
        tail = self._bytes(self._size - len(MAGIC) - OVERHEAD - 20, OVERHEAD + 20)
        if len(tail) < OVERHEAD + 20 or tail[0] != FOOTER:
            return []
        (summary,) = struct.unpack_from("<Q", tail, OVERHEAD)
        found = [summary]
        for operation, at, length in records(self._file, summary) if summary else ():
            if operation == CHUNK_INDEX and length >= 24:
                found += struct.unpack("<Q", self._bytes(at + OVERHEAD + 16, 8))
        return found

    # ---------------------------------------------------------------------------------------------- one part

    def _messages_in(
        self, number: int, channels: Collection[int], counts: Counter[int] | None = None
    ) -> Iterator[tuple[int, Any, bytes]]:
        """The messages of channels in a part; ``counts``: of all channels, and what is declared there is taken."""
        part = self._parts[number]
        if part.is_chunk:
            content, start = self._content(number)
            place = None if start is not None else number
            found = self._records_in(part, content)
        else:
            content, start, place = None, 0, None
            found = ((op, at, n) for op, at, n in records(self._file, part.at) if at < part.end)
        for operation, at, length in found:
            body = at + OVERHEAD
            if operation != MESSAGE:
                if counts is not None and content is not None:
                    self._declare(operation, content[body : body + min(length, DECLARATION)])
                continue
            head = self._bytes(body, MESSAGE_HEAD) if content is None else content[body : body + MESSAGE_HEAD]
            if len(head) < MESSAGE_HEAD:
                continue
            channel, _, time = struct.unpack_from("<HIQ", head)
            if counts is not None:
                counts[channel] += 1
            if channel in channels:
                at, length = body + MESSAGE_HEAD, length - MESSAGE_HEAD
                data = self._bytes(at, length) if content is None else content[at : at + length]
                yield time, (place, at + (start or 0), length), data

    def _records_in(self, part: _Part, content: bytes) -> Iterator[tuple[int, int, int]]:
        """Operation, offset and length of the whole records in the content of a chunk."""
        at = 0
        while at < len(content):
            operation, length = struct.unpack_from("<BQ", content, at) if at + OVERHEAD <= len(content) else (0, 0)
            end = at + OVERHEAD + length
            if operation not in (SCHEMA, CHANNEL, MESSAGE) or end > len(content):
                self._complain(f"a record in the chunk at byte {part.at} is not whole, what follows in it is lost")
                return
            yield operation, at, length
            at = end

    def _read_content(self, number: int) -> tuple[bytes, int | None]:
        """The records in a chunk, and where in the file they begin if they are not compressed."""
        part = self._parts[number]
        where = f"the chunk at byte {part.at}"
        if part.end - part.at > compression.LARGEST:
            self._complain(f"{where} is larger than {compression.LARGEST} bytes and left out")
            return b"", None
        chunk = self._bytes(part.at, part.end - part.at)
        try:
            size, crc = struct.unpack_from("<QI", chunk, 16)
            kind, at = _text(chunk, 28)
            (length,) = struct.unpack_from("<Q", chunk, at)
        except struct.error:
            self._complain(f"{where} is cut off")
            return b"", None
        data = chunk[at + 8 : at + 8 + length]
        content, complaint = compression.decompressed(data, kind) if kind else (data, "")
        if complaint:
            self._complain(f"of {where} only the beginning can be read, if anything: {complaint}")
        elif crc and crc32(content) != crc:
            self._complain(f"{where} has not the checksum it should: something in it is not as it was recorded")
        elif len(content) != size:
            self._complain(f"{where} holds {len(content)} bytes and not {size}")
        return content, None if kind else part.at + at + 8

    def _bytes(self, at: int, length: int) -> bytes:
        self._file.seek(max(0, at))
        return self._file.read(length)


def _text(content: bytes, at: int) -> tuple[str, int]:
    """A text with its length in front, and where it ends. Raises struct.error."""
    (length,) = struct.unpack_from("<I", content, at)
    text = content[at + 4 : at + 4 + length]
    if len(text) < length:
        raise struct.error
    return text.decode(errors="replace"), at + 4 + length
