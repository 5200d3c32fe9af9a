"""Image messages to RGB arrays: every common encoding, padded rows, both byte orders, compressed files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image


class ImageError(ValueError):
    """An image message cannot be decoded; the message says why."""


class _Encoding(NamedTuple):
    dtype: str  # of one channel
    channels: int
    to_rgb: int | None  # OpenCV conversion code; None: RGB already
    height_factor: float = 1.0  # rows in the data per image row (planar YUV)


ENCODINGS = {
    "rgb8": _Encoding("u1", 3, None),
    "bgr8": _Encoding("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding("u1", 1, cv2.COLOR_GRAY2RGB),
    "rgb16": _Encoding("u2", 3, None),
    "bgr16": _Encoding("u2", 3, cv2.COLOR_BGR2RGB),
    "rgba16": _Encoding("u2", 4, cv2.COLOR_RGBA2RGB),
    "bgra16": _Encoding("u2", 4, cv2.COLOR_BGRA2RGB),
    "mono16": _Encoding("u2", 1, cv2.COLOR_GRAY2RGB),
    # Untyped: OpenCV's order is what cv_bridge assumes.
    "8UC1": _Encoding("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Encoding("u1", 3, cv2.COLOR_BGR2RGB),
    "8UC4": _Encoding("u1", 4, cv2.COLOR_BGRA2RGB),
    # ROS names a Bayer pattern by its first two pixels of rows 1 and 2, OpenCV by those of rows 2 and 3.
    "bayer_rggb8": _Encoding("u1", 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _Encoding("u1", 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _Encoding("u1", 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _Encoding("u1", 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": _Encoding("u2", 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": _Encoding("u2", 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": _Encoding("u2", 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": _Encoding("u2", 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": _Encoding("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Encoding("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Encoding("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Encoding("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "nv21": _Encoding("u1", 1, cv2.COLOR_YUV2RGB_NV21, 1.5),
    "nv12": _Encoding("u1", 1, cv2.COLOR_YUV2RGB_NV12, 1.5),
}


def rgb(message: Image | CompressedImage) -> np.ndarray:
    """The picture as uint8 [height, width, 3] RGB, not written to by anyone else. Raises ImageError."""
    return _decompressed(message) if isinstance(message, CompressedImage) else _raw(message)


def _raw(message: Image) -> np.ndarray:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        return _by_cv_bridge(message)
    dtype = np.dtype(encoding.dtype).newbyteorder(">" if message.is_bigendian else "<")
    width, rows = message.width, int(message.height * encoding.height_factor)
    row_bytes = width * encoding.channels * dtype.itemsize
    if not width or not rows:
        raise ImageError(f"the image is empty ({width}x{message.height})")
    if message.step < row_bytes:
        raise ImageError(
            f"step {message.step} is too small: a row of {width} {message.encoding} pixels has {row_bytes} bytes"
        )
    # The last row needs no padding behind it; some drivers leave it out.
    needed = message.step * (rows - 1) + row_bytes
    data = np.frombuffer(message.data, np.uint8)
    if data.size < needed:
        raise ImageError(
            f"the data is truncated: {data.size} bytes, but {width}x{message.height} {message.encoding} "
            f"at step {message.step} has {needed}"
        )
    strides = (message.step, encoding.channels * dtype.itemsize, dtype.itemsize)
    picture = np.ndarray((rows, width, encoding.channels), dtype, data, strides=strides)
    picture = np.ascontiguousarray(picture, dtype.newbyteorder("="))
    try:
        converted = picture if encoding.to_rgb is None else cv2.cvtColor(picture, encoding.to_rgb)
    except cv2.error as error:
        raise ImageError(f"a {width}x{message.height} image cannot be {message.encoding}: {error.err}") from error
    if converted.dtype == np.uint16:
        return (converted >> 8).astype(np.uint8)
    # Data that needed no conversion still belongs to the message.
    return converted.copy() if np.shares_memory(converted, data) else converted


def _decompressed(message: CompressedImage) -> np.ndarray:
    if not len(message.data):
        raise ImageError("the compressed image holds no data")
    data = np.frombuffer(message.data, np.uint8)
    if _is_cut_off(data.tobytes()):
        raise ImageError(f"the compressed image is truncated: {data.size} bytes hold no whole JPEG file")
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"the compressed image cannot be decoded: {error.err}") from error
    if picture is None:
        raise ImageError(f"{data.size} bytes of format {message.format!r} are no image OpenCV can decode")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG file has no end-of-image marker behind its last scan; OpenCV 4 fills what is missing in grey."""
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _by_cv_bridge(message: Image) -> np.ndarray:
    """Ask cv_bridge for encodings that this file does not know, where there is one that works."""
    convert = _cv_bridge()
    known = ", ".join(ENCODINGS)
    if convert is None:
        raise ImageError(f"unknown encoding {message.encoding!r} (known: {known})")
    try:
        picture = np.array(convert(message, "rgb8"))
    except Exception as error:  # cv_bridge raises whatever its C++ side throws
        raise ImageError(f"neither this node nor cv_bridge can read {message.encoding!r}: {error}") from error
    if picture.dtype != np.uint8 or picture.shape != (message.height, message.width, 3):
        raise ImageError(f"cv_bridge reads {message.encoding!r} as {picture.dtype} {picture.shape}, which is no RGB")
    return picture


_CV_BRIDGE_WORKS = """
import cv2, numpy
from cv_bridge import CvBridge
bridge = CvBridge()
gray = numpy.arange(12, dtype=numpy.uint16).reshape(3, 4)
assert (bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(gray, "16UC1")) == gray).all()
colour = bridge.cv2_to_imgmsg(numpy.zeros((3, 4, 3), numpy.uint8), "bgr8")
assert bridge.imgmsg_to_cv2(colour, "rgb8").shape == (3, 4, 3)
print("it works")
"""


@lru_cache(maxsize=1)
def _cv_bridge() -> Callable[[Image, str], Any] | None:
    """cv_bridge's converter, if it is installed and right.

    It is tried in a process of its own first: one built for numpy 1 may take the interpreter down under numpy 2, and
    other builds read 16-bit images wrongly.
    """
    try:
        tried = subprocess.run([sys.executable, "-c", _CV_BRIDGE_WORKS], capture_output=True, timeout=30, check=True)
    except subprocess.SubprocessError:
        return None
    if b"it works" not in tried.stdout:
        return None
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2
