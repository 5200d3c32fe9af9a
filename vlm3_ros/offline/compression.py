"""What bags are compressed with: whole pieces, and the beginning of one that was cut off."""

from __future__ import annotations

import sys

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # where a message compressed by itself begins; CDR begins with a zero


def message(data: bytes) -> bytes:
    """A serialized message, be it compressed by itself or not."""
    return zstd.decompress(data) if data.startswith(ZSTD_MAGIC) else data


def beginning(data: bytes, compression: str) -> bytes:
    """What can be had of the records in a chunk of an mcap file from the first bytes of them."""
    if not compression:
        return data
    makers = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
    try:
        return makers[compression]().decompress(data)
    except (KeyError, RuntimeError, zstd.ZstdError):  # another compression; no such data
        return b""
