"""Images as messages carry them to arrays: every common encoding, padded rows, both byte orders, compressed files.

The messages may be of any library that has them (rclpy, rosbags): only their fields are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np


class ImageError(ValueError):
    """An image message cannot be decoded; the message says why."""


class RawMessage(Protocol):
    """The fields of sensor_msgs/Image that are read here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage."""

    format: str
    data: Any


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
DEPTH_ENCODINGS = {  # REP 118: metres as floats, or millimetres
    "32FC1": _Encoding("f4", 1, None),
    "16UC1": _Encoding("u2", 1, None),
    "mono16": _Encoding("u2", 1, None),
}


def decoded(message: RawMessage) -> np.ndarray:
    """The picture as uint8 [height, width, 3] RGB, not written to by anyone else. Raises ImageError."""
    picture = _pixels(message, ENCODINGS)
    to_rgb = ENCODINGS[message.encoding].to_rgb
    try:
        converted = picture if to_rgb is None else cv2.cvtColor(picture, to_rgb)
    except cv2.error as error:
        raise ImageError(
            f"a {message.width}x{message.height} image cannot be {message.encoding}: {error.err}"
        ) from error
    if converted.dtype == np.uint16:
        return (converted.view(np.uint16) >> 8).astype(np.uint8)
    # Data that needed no conversion still belongs to the message.
    return converted.copy() if np.shares_memory(converted, np.frombuffer(message.data, np.uint8)) else converted


def decompressed(message: CompressedMessage) -> np.ndarray:
    """The picture in a JPEG, PNG or other image file as uint8 [height, width, 3] RGB. Raises ImageError."""
    picture = _file(np.frombuffer(message.data, np.uint8), message.format, cv2.IMREAD_COLOR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def depth(message: RawMessage) -> np.ndarray:
    """A depth image as float32 [height, width] in metres, NaN unknown (REP 118). Raises ImageError."""
    return _metres(_pixels(message, DEPTH_ENCODINGS)[..., 0])


def compressed_depth(message: CompressedMessage) -> np.ndarray:
    """The depth in a PNG file or in the form of compressed_depth_image_transport, as `depth`. Raises ImageError.

    That form puts 12 bytes before the PNG: the kind of compression, and for 32FC1 the two numbers A, B of its
    quantised inverse depth, z = A / (value - B).
    """
    encoding, _, kind = message.format.partition(";")
    data = np.frombuffer(message.data, np.uint8)
    if "compressedDepth" not in kind:
        return _metres(_file(data, message.format, cv2.IMREAD_UNCHANGED))
    if "rvl" in kind:
        raise ImageError(f"depth of format {message.format!r} cannot be read, only png can: record it as png or raw")
    values = _file(data[12:], message.format, cv2.IMREAD_UNCHANGED)
    if encoding.strip() != "32FC1":
        return _metres(values)
    a, b = data[4:12].view("<f4")
    with np.errstate(divide="ignore", invalid="ignore"):
        return _metres(np.where(values > 0, a / (values - b), np.float32(np.nan)).astype(np.float32))


def _pixels(message: RawMessage, encodings: Mapping[str, _Encoding]) -> np.ndarray:
    """The values as they are stored, [rows, width, channels] in the machine's byte order; a view where possible."""
    encoding = encodings.get(message.encoding)
    if encoding is None:
        raise ImageError(f"unknown encoding {message.encoding!r} (known: {', '.join(encodings)})")
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
    return np.ascontiguousarray(picture, dtype.newbyteorder("="))


def _file(data: np.ndarray, kind: str, flags: int) -> np.ndarray:
    """The picture in the bytes of an image file, as OpenCV reads it."""
    if not data.size:
        raise ImageError("the compressed image holds no data")
    if _is_cut_off(data.tobytes()):
        raise ImageError(f"the compressed image is truncated: {data.size} bytes hold no whole JPEG file")
    try:
        picture = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"the compressed image cannot be decoded: {error.err}") from error
    if picture is None:
        raise ImageError(f"{data.size} bytes of format {kind!r} are no image OpenCV can decode")
    return picture


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG file has no end-of-image marker behind its last scan; OpenCV 4 fills what is missing in grey."""
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _metres(values: np.ndarray) -> np.ndarray:
    """REP 118's integers (millimetres, 0 unknown) and floats (metres, NaN or infinity unknown) as float32 metres."""
    if values.ndim != 2 or values.dtype not in (np.uint16, np.float32):
        raise ImageError(f"{values.dtype} {values.shape} is no depth image")
    metres = values / np.float32(1000) if values.dtype == np.uint16 else values
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan)).astype(np.float32)
