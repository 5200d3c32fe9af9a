"""Images as messages carry them to arrays: every common encoding, padded rows, both byte orders, compressed files.

The messages may be of any library that has them (rclpy, rosbags): only their fields are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from vlm3_ros import image_files
from vlm3_ros.image_files import ImageError

__all__ = [
    "DEPTH_ENCODINGS",
    "ENCODINGS",
    "ImageError",
    "compressed_depth",
    "decoded",
    "decompressed",
    "depth",
    "size",
]


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
    # Untyped: in OpenCV's order, which is what cv_bridge passes through.
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


RGB_ORDER = ("rgb8", "rgba8", "rgb16", "rgba16")
COLOURS = (*RGB_ORDER, "bgr8", "bgra8", "bgr16", "bgra16")
FULL_SCALES = (  # what is stored where nothing was measured, in metres; see `metres`
    np.float32(65.535),  # 16-bit millimetres, converted to floats on the way
    np.float32(65504.0),  # half floats
    np.finfo(np.float32).max,
)


def size(message: RawMessage | CompressedMessage) -> tuple[int, int]:
    """(width, height) of the picture, before it is decoded. Raises ImageError."""
    if hasattr(message, "format"):
        with _of_format(message.format):
            return image_files.size(bytes(message.data))
    if message.encoding in ENCODINGS:
        _check(message, ENCODINGS[message.encoding])
    return message.width, message.height


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
        return _upper_half(converted)
    # Data that needed no conversion still belongs to the message.
    return converted.copy() if np.shares_memory(converted, np.frombuffer(message.data, np.uint8)) else converted


def decompressed(message: CompressedMessage) -> np.ndarray:
    """The picture in a JPEG, PNG or other image file as uint8 [height, width, 3] RGB. Raises ImageError."""
    with _of_format(message.format):
        return colours(image_files.pixels(bytes(message.data)), _stored_encoding(message.format))


def colours(values: np.ndarray, encoding: str = "") -> np.ndarray:
    """The values of an image file as uint8 [height, width, 3] RGB. Raises ImageError.

    ``encoding`` says what was stored where that is not OpenCV's order: a Bayer mosaic, or red first.
    """
    channels = 1 if values.ndim == 2 else values.shape[2]
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{values.dtype} values are no picture; is it depth?")
    if encoding.startswith("bayer_") and (channels == 1 or _is_grey(values)):
        if encoding not in ENCODINGS:
            raise ImageError(f"unknown Bayer pattern {encoding!r}")
        values, to_rgb = values.reshape(*values.shape[:2], -1)[..., 0], ENCODINGS[encoding].to_rgb
    elif encoding in RGB_ORDER and channels > 1:
        to_rgb = cv2.COLOR_RGBA2RGB if channels == 4 else None
    else:
        to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    try:
        picture = values if to_rgb is None else cv2.cvtColor(np.ascontiguousarray(values), to_rgb)
    except cv2.error as error:
        raise ImageError(f"a {values.shape[1]}x{values.shape[0]} image cannot be {encoding}: {error.err}") from error
    return _upper_half(picture) if picture.dtype == np.uint16 else picture


def depth(message: RawMessage) -> np.ndarray:
    """A depth image as float32 [height, width] in metres, NaN unknown (REP 118). Raises ImageError."""
    return metres(_pixels(message, DEPTH_ENCODINGS)[..., 0])


def compressed_depth(message: CompressedMessage) -> np.ndarray:
    """The depth in a PNG file or in the form of compressed_depth_image_transport, as `depth`. Raises ImageError.

    That form puts 12 bytes before the PNG: the kind of compression, and for 32FC1 the two numbers A, B of its
    quantised inverse depth, z = A / (value - B).
    """
    encoding, _, kind = message.format.partition(";")
    data = bytes(message.data)
    if "compressedDepth" not in kind:
        with _of_format(message.format):
            return metres(image_files.pixels(data))
    if "rvl" in kind:
        raise ImageError(f"depth of format {message.format!r} cannot be read, only png can: record it as png or raw")
    with _of_format(f"{message.format}, which begins with 12 bytes of its own"):
        values = image_files.pixels(data[12:])
    if encoding.strip() != "32FC1":
        return metres(values)
    a, b = np.frombuffer(data[4:12], "<f4")
    with np.errstate(divide="ignore", invalid="ignore"):
        return metres(np.where(values > 0, a / (values - b), np.float32(np.nan)).astype(np.float32))


def _pixels(message: RawMessage, encodings: Mapping[str, _Encoding]) -> np.ndarray:
    """The values as they are stored, [rows, width, channels] in the machine's byte order; a view where possible."""
    encoding = encodings.get(message.encoding)
    if encoding is None:
        raise ImageError(f"unknown encoding {message.encoding!r} (known: {', '.join(encodings)})")
    _check(message, encoding)
    dtype = np.dtype(encoding.dtype).newbyteorder(">" if message.is_bigendian else "<")
    rows = int(message.height * encoding.height_factor)
    data = np.frombuffer(message.data, np.uint8)
    strides = (message.step, encoding.channels * dtype.itemsize, dtype.itemsize)
    picture = np.ndarray((rows, message.width, encoding.channels), dtype, data, strides=strides)
    return np.ascontiguousarray(picture, dtype.newbyteorder("="))


def _check(message: RawMessage, encoding: _Encoding) -> None:
    """Raise ImageError unless there is all the data that the message says it has."""
    width, rows = message.width, int(message.height * encoding.height_factor)
    row_bytes = width * encoding.channels * np.dtype(encoding.dtype).itemsize
    if not width or not rows:
        raise ImageError(f"the image is empty ({width}x{message.height})")
    if message.step < row_bytes:
        raise ImageError(
            f"step {message.step} is too small: a row of {width} {message.encoding} pixels has {row_bytes} bytes"
        )
    # The last row needs no padding behind it; some drivers leave it out.
    needed = message.step * (rows - 1) + row_bytes
    if len(message.data) < needed:
        raise ImageError(
            f"the data is truncated: {len(message.data)} bytes, but {width}x{message.height} {message.encoding} "
            f"at step {message.step} has {needed}"
        )


def metres(values: np.ndarray, scale: float = 1000.0) -> np.ndarray:
    """Depth values [height, width] as float32 metres, NaN unknown.

    REP 118: integers are ``scale`` to a metre with 0 unknown, floats are metres with NaN or infinity unknown. The
    full scale of a type is unknown too: it is what cameras and converters store where they measured nothing. Raises
    ImageError.
    """
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"{values.dtype} {values.shape} is no depth image")
    if values.dtype == np.float32:
        found, known = values, np.isfinite(values) & (values > 0) & ~np.isin(values, FULL_SCALES)
    else:
        found, known = values / np.float32(scale), (values > 0) & (values < np.iinfo(values.dtype).max)
    return np.where(known, found, np.float32(np.nan)).astype(np.float32)


@contextmanager
def _of_format(form: str) -> Iterator[None]:
    """Name CompressedImage.format in an ImageError."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{error}; its format is {form!r}") from error


def _stored_encoding(form: str) -> str:
    """What the values in a file of CompressedImage.format are, where they are not as image files have them.

    image_transport writes "ENCODING; jpeg compressed TARGET". Where it made colours of the image, TARGET is one of
    colours; without it the values are stored as they were: a Bayer mosaic, or red where files have blue.
    """
    encoding, *rest = re.split(r"[;\s]+", form.casefold().strip())
    if any(word in COLOURS for word in rest):
        return ""
    mosaic = next((word for word in (encoding, *rest) if word.startswith("bayer_")), "")
    return mosaic or (encoding if "compressed" in rest else "")


def _is_grey(values: np.ndarray) -> bool:
    """Whether all channels [height, width, C] are the same."""
    return bool((values == values[..., :1]).all())


def _upper_half(values: np.ndarray) -> np.ndarray:
    """16 bits as 8."""
    return (values.view(np.uint16) >> 8).astype(np.uint8)
