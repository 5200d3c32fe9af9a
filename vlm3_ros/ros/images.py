"""Image messages to RGB arrays: the encodings of vlm3_ros.images, and failing that whatever cv_bridge knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros.images import ENCODINGS, ImageError, decoded, decompressed

__all__ = ["ENCODINGS", "ImageError", "rgb"]


def rgb(message: Image | CompressedImage) -> np.ndarray:
    """The picture as uint8 [height, width, 3] RGB, not written to by anyone else. Raises ImageError."""
    if isinstance(message, CompressedImage):
        return decompressed(message)
    return decoded(message) if message.encoding in ENCODINGS else _by_cv_bridge(message)


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
