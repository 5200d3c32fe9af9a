"""Image files in memory: what their headers promise is checked before any pixel is decoded.

A file of a few kilobytes can ask for gigabytes, by its size or by one flipped bit, and OpenCV believes it.
"""

from __future__ import annotations

import warnings
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `size` says it better
MAX_PIXELS = 80_000_000  # no camera of a robot has more; 8K video has 33 million


class ImageError(ValueError):
    """An image cannot be decoded; the message says why."""


def size(data: bytes) -> tuple[int, int]:
    """(width, height) by the header of an image file. Raises ImageError unless the file is whole and of sane size."""
    if not data:
        raise ImageError("the compressed image holds no data")
    if _is_cut_off(data):
        raise ImageError(f"the compressed image is truncated: {len(data)} bytes hold no whole JPEG file")
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
            image.verify()  # of a PNG each chunk, its length and checksum
    except Image.DecompressionBombError as error:
        raise ImageError(f"the compressed image is too large: {error}") from error
    except Exception as error:  # whatever the readers of many formats come across in bytes that are none
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ImageError(f"{len(data)} bytes are no image that can be decoded{why}") from error
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"the compressed image claims to be {width}x{height}, which no camera has")
    return width, height


def pixels(data: bytes) -> np.ndarray:
    """The values as the file stores them, [height, width] or [height, width, 3 or 4] in OpenCV's order, blue first.

    uint8, uint16 or float32; orientation tags are left out. Raises ImageError.
    """
    size(data)
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"the compressed image cannot be decoded: {error.err}") from error
    if values is None:
        raise ImageError(f"{len(data)} bytes are no image that OpenCV can decode")
    return values


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG file has no end-of-image marker behind its last scan; OpenCV 4 fills what is missing in grey."""
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
