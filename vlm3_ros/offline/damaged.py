"""An mcap file that was not closed, as after a power cut: what is whole, with an end that readers accept."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

from vlm3_ros.offline import compression
from vlm3_ros.offline.mcap import CHUNK, DATA_END, FOOTER, MAGIC, OVERHEAD, chunk_head, records

# Data end and footer without a summary (mcap.dev/spec): a reader then scans the records.
END = struct.pack("<BQI", DATA_END, 4, 0) + struct.pack("<BQQQI", FOOTER, 20, 0, 0, 0) + MAGIC


class Damaged:
    """A path, as far as `rosbags` uses one, to the whole records of a file and an end behind them."""

    suffix = ".mcap"

    def __init__(self, path: Path, whole: int, rest: bytes):
        self.path, self.whole = path, whole  # bytes up to the end of the last whole record
        self.rest = rest  # a chunk with what is whole in the one that was cut off

    @classmethod
    def found(cls, path: Path) -> Damaged | None:
        """The whole part of a file; None if it is no mcap file or nothing of it is whole."""
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            whole = len(MAGIC)
            for _, at, length in records(file, whole):
                whole = at + OVERHEAD + length
            file.seek(whole)
            rest = _beginning_of_chunk(file)
        return cls(path, whole, rest) if whole > len(MAGIC) else None

    def exists(self) -> bool:
        return self.path.exists()

    def is_dir(self) -> bool:
        return False

    def open(self, *_: Any, **__: Any) -> BinaryIO:
        return io.BufferedReader(_Joined(self.path, self.whole, self.rest + END), 1 << 20)

    def __str__(self) -> str:
        return str(self.path)


def _beginning_of_chunk(file: BinaryIO) -> bytes:
    """A chunk of the whole records in the one that begins here and was cut off; nothing if there is none."""
    head = file.read(OVERHEAD + 32)
    if len(head) < OVERHEAD + 32 or head[0] != CHUNK:
        return b""
    start, end = struct.unpack_from("<QQ", head, OVERHEAD)
    (length,) = struct.unpack_from("<I", head, OVERHEAD + 28)
    kind = file.read(length).decode(errors="replace")
    file.read(8)
    inner = compression.beginning(file.read(), kind)
    whole = max((at + OVERHEAD + size for _, at, size in records(io.BytesIO(inner), 0)), default=0)
    return chunk_head(start, end, whole) + inner[:whole] if whole else b""


class _Joined(io.RawIOBase):
    """The first bytes of a file, and others behind them."""

    def __init__(self, path: Path, whole: int, others: bytes):
        self._file = path.open("rb")
        self._whole, self._others, self._at = whole, others, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._whole + len(self._others)
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._whole:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._whole - self._at))
        else:
            data = self._others[self._at - self._whole :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
