"""What bags are compressed with; of what was damaged or cut off, the beginning can be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # where a message compressed by itself begins; CDR begins with a zero
MAKERS = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
STEP = 1 << 16  # compressed bytes at a time: what is damaged costs the step it is in
LARGEST = 1 << 30  # bytes of one chunk or message; what claims more is damaged or an attack


def message(data: bytes) -> bytes:
    """A serialized message, be it compressed by itself or not. Raises ValueError where it is damaged."""
    if not data.startswith(ZSTD_MAGIC):
        return data
    found, complaint = decompressed(data, "zstd")
    if complaint:
        raise ValueError(complaint)
    return found


def decompressed(data: bytes, kind: str) -> tuple[bytes, str]:
    """What can be had of compressed data, and why it is not all of it; an empty text where it is."""
    if kind not in MAKERS:
        return b"", f"its compression {kind!r} is not known"
    found, size = [], 0
    try:
        for part in _parts(MAKERS[kind], iter([data[at : at + STEP] for at in range(0, len(data), STEP)])):
            found.append(part)
            size += len(part)
            if size > LARGEST:
                return b"", f"it holds more than {LARGEST} bytes"
    except EOFError:
        return b"".join(found), "its compressed data ends too early"
    except (RuntimeError, zstd.ZstdError) as error:
        return b"".join(found), f"its compressed data is damaged: {error}"
    return b"".join(found), ""


def unpack(source: Path, target: Path) -> str:
    """Decompress a file; returns why that is not all of it, or an empty text. Raises OSError."""
    with source.open("rb") as packed, target.open("wb") as file:
        try:
            for part in _parts(zstd.ZstdDecompressor, iter(lambda: packed.read(STEP), b"")):
                file.write(part)
        except EOFError:
            return "its compressed data ends too early"
        except zstd.ZstdError as error:
            return f"its compressed data is damaged: {error}"
    return ""


def _parts(make: Any, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content of one frame after the other, in parts of bounded size. EOFError where the last is not whole."""
    machine, begun = make(), False
    for piece in pieces:
        while piece:
            begun = True
            yield machine.decompress(piece, STEP)
            while not machine.eof and not machine.needs_input:
                yield machine.decompress(b"", STEP)
            piece = machine.unused_data or b"" if machine.eof else b""
            if machine.eof:
                machine, begun = make(), False
    if begun:
        raise EOFError
