"""Whether two runs are over the same recording: told by what its images look like, not by what it is called.

A recording may be moved, copied or converted, another one may come to lie at its path, and stamps that were made up
are those of any recording. Other settings of the camera change an image a little (rectification), other takes much.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from vlm3_ros.offline.sources import FrameError, Source, seconds

CELLS = (4, 3)  # columns and rows of a sketch
# Levels of 255 by which half of the cells of half of the frames may differ: what another compression makes of an
# image, and what rectification does.
SAME, RECTIFIED = 1.5, 5.0

Sketches = Mapping[str, str]  # by the stamp in seconds


def sketch(image: np.ndarray) -> str:
    """The mean colours of the cells of an image, uint8 [height, width, 3], as hexadecimal text."""
    return cv2.resize(image, CELLS, interpolation=cv2.INTER_AREA).tobytes().hex()


def sketches(recording: Source) -> dict[str, str]:
    """Of all images of a recording that can be read."""
    found = {}
    for index, stamp in enumerate(recording.stamps):
        try:
            found[seconds(stamp)] = sketch(recording.frame(index).image)
        except FrameError:
            continue
    return found


def alike(a: Sketches, b: Sketches, within: float) -> bool | None:
    """Whether images of the same stamps look alike, within so many levels; None where there are none."""
    common = [stamp for stamp in a if stamp in b]
    if not common:
        return None
    first, second = (np.array([list(bytes.fromhex(of[stamp])) for stamp in common], float) for of in (a, b))
    return bool(np.median(np.median(np.abs(first - second), axis=1)) <= within)
