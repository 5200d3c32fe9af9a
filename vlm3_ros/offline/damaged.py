"""An mcap file that was not closed, as after a power cut: what is whole, with an end that readers accept."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

from vlm3_ros.offline.mcap import DATA_END, FOOTER, MAGIC, OVERHEAD, records

# Data end and footer without a summary (mcap.dev/spec): a reader then scans the records.
END = struct.pack("<BQI", DATA_END, 4, 0) + struct.pack("<BQQQI", FOOTER, 20, 0, 0, 0) + MAGIC


class Damaged:
    """A path, as far as `rosbags` uses one, to the whole records of a file and an end behind them."""

    suffix = ".mcap"

    def __init__(self, path: Path, whole: int):
        self.path, self.whole = path, whole  # bytes up to the end of the last whole record

    @classmethod
    def found(cls, path: Path) -> Damaged | None:
        """The whole part of a file; None if it is no mcap file or nothing of it is whole."""
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            whole = len(MAGIC)
            for _, at, length in records(file, whole):
                whole = at + OVERHEAD + length
        return cls(path, whole) if whole > len(MAGIC) else None

    def exists(self) -> bool:
        return self.path.exists()

    def is_dir(self) -> bool:
        return False

    def open(self, *_: Any, **__: Any) -> BinaryIO:
        return io.BufferedReader(_Joined(self.path, self.whole), 1 << 20)

    def __str__(self) -> str:
        return str(self.path)


class _Joined(io.RawIOBase):
    """The first bytes of a file, and END behind them."""

    def __init__(self, path: Path, whole: int):
        self._file = path.open("rb")
        self._whole, self._at = whole, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._whole + len(END)}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._whole:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._whole - self._at))
        else:
            data = END[self._at - self._whole :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
