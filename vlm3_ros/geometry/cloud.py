"""A coloured point cloud from a depth map."""

from __future__ import annotations

import cv2
import numpy as np

from vlm3_ros.camera import Camera

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])  # 16 bytes; rgb is 0x00RRGGBB


def coloured(
    depth: np.ndarray,
    image: np.ndarray,
    camera: Camera,
    stride: int = 1,
    min_m: float = 0.0,
    max_m: float = np.inf,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Points [N] of dtype POINT in camera axes, one for each known pixel of every ``stride``-th column and row.

    ``depth`` float32 [height, width] in metres along Z, NaN unknown; ``image`` uint8 [height, width, 3] RGB;
    ``camera`` at their size; ``keep`` bool [height, width] further limits the pixels used.
    """
    z = depth[::stride, ::stride]
    used = (z >= min_m) & (z <= max_m)  # NaN compares as False
    if keep is not None:
        used &= keep[::stride, ::stride]
    x_ray = ((np.arange(0, depth.shape[1], stride) - camera.cx) / camera.fx).astype(np.float32)
    y_ray = ((np.arange(0, depth.shape[0], stride) - camera.cy) / camera.fy).astype(np.float32)
    colour = _packed(image[::stride, ::stride]).view(np.float32)  # the same bits, as merge wants one type
    columns = [(x_ray * z)[used], (y_ray[:, None] * z)[used], z[used], colour[used]]
    if not used.any():
        return np.empty(0, POINT)
    return cv2.merge(columns).reshape(-1, 4).view(POINT)[:, 0]  # one pass over the memory of the points


def _packed(image: np.ndarray) -> np.ndarray:
    """RGB [height, width, 3] as uint32 [height, width], 0x00RRGGBB."""
    lowest_first = np.zeros((*image.shape[:2], 4), np.uint8)
    for byte in range(3):
        lowest_first[..., byte] = image[..., 2 - byte]
    return lowest_first.view("<u4")[..., 0]
