"""Frames as pictures: what the camera saw, perceived and true depth, and where the two differ."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np

from vlm3_ros.drawing import PERCEIVED, TRUE, depth_in_colour, draw_boxes
from vlm3_ros.metrics.boxes import in_view
from vlm3_ros.offline.moments import Moment

WIDTH = 400  # pixels, at most
WRONG = 0.25  # relative error at which the colours of an error map end
UNKNOWN = (120, 124, 128)
QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class Panel:
    """A picture with what it is."""

    title: str
    data: str  # URI that holds the picture itself


def panels(moment: Moment, near: float, far: float) -> list[Panel]:
    """The pictures of a frame, with depth colours from ``near`` to ``far`` metres; those there are."""
    found = []
    if moment.image is not None:
        found.append(Panel("image", _data(_with_boxes(moment))))
    depth, true = moment.depth, moment.true_depth
    if depth is not None:
        found.append(Panel("perceived depth", _data(depth_in_colour(depth, near, far))))
    if true is not None:
        found.append(Panel("true depth", _data(depth_in_colour(true, near, far))))
    if depth is not None and true is not None:
        found.append(Panel("error of the depth", _data(error_in_colour(depth, true))))
    return found


def depth_limits(moments: Sequence[Moment]) -> tuple[float, float]:
    """The metres that the depth colours of all frames span: but for 2 % at either end, what is true or perceived."""
    images = [image for m in moments for image in (m.true_depth, m.depth) if image is not None]
    known = np.concatenate([image[np.isfinite(image) & (image > 0)][::17] for image in images] or [np.ones(1)])
    near, far = np.quantile(known, (0.02, 0.98)) if len(known) else (1.0, 10.0)
    return float(near), float(max(far, near * 1.1))


def error_in_colour(depth: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Depth against true depth [h, w] as an RGB picture: blue too near, red too far, white right, grey unknown."""
    wrong = (depth - true) / true
    picture = _colours("RdBu_r", (np.nan_to_num(wrong) / WRONG + 1.0) / 2.0)
    picture[~np.isfinite(wrong)] = UNKNOWN
    return picture


def depth_scale(near: float, far: float) -> tuple[str, list[tuple[float, str]]]:
    """The colours of depth from left to right, and where between 0 and 1 on them which metres are."""
    inverse = np.linspace(1.0 / near, 1.0 / far, 256, dtype=np.float32)
    strip = depth_in_colour(np.repeat(1.0 / inverse[None], 8, axis=0), near, far)
    marks = [near, 1 / (0.75 / near + 0.25 / far), 2 / (1 / near + 1 / far), 1 / (0.25 / near + 0.75 / far), far]
    return _data(strip), [(i / 4, f"{metres:.2g} m") for i, metres in enumerate(marks)]


def error_scale() -> tuple[str, list[tuple[float, str]]]:
    """The colours of errors from left to right, and where between 0 and 1 on them which errors are."""
    strip = _colours("RdBu_r", np.repeat(np.linspace(0.0, 1.0, 256)[None], 8, axis=0))
    percent = round(100 * WRONG)
    return _data(strip), [(0.0, f"−{percent} % or nearer"), (0.5, "right"), (1.0, f"+{percent} % or farther")]


def _with_boxes(moment: Moment) -> np.ndarray:
    """The frame's image with true boxes in green and perceived ones in orange."""
    image, camera = moment.image, moment.camera
    assert image is not None
    assert camera is not None
    scale = min(1.0, WIDTH / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = camera.resized(*size)
    true = [box for box in moment.truth.boxes or () if in_view(box, camera)]
    draw_boxes(picture, true, small, TRUE, names=False)
    draw_boxes(picture, moment.boxes or (), small, PERCEIVED)
    return picture


def _colours(name: str, values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] by a colour map of matplotlib, uint8 [..., 3]; others as the nearer end."""
    return (matplotlib.colormaps[name](values)[..., :3] * 255).round().astype(np.uint8)


def _data(picture: np.ndarray) -> str:
    """An RGB picture as a data URI."""
    scale = min(1.0, WIDTH / picture.shape[1])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1.0 else picture
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
