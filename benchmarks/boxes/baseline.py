"""The least that a 3D box has to be better than: one depth, and the 2D box at that depth."""

from __future__ import annotations

import numpy as np

from benchmarks.boxes.answerers import NoisyTruth
from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D

INNER = 0.6  # of the 2D box's sides
POINTS = 120
WIDTH = 0.85  # of the 2D box's, at the depth of the visible front: most things are seen at an angle
DEPTH = 0.9  # of the width


def box(label: str, edges: np.ndarray, camera: Camera, up: np.ndarray, truth: NoisyTruth) -> Box3D:
    """A box that faces the camera, upright along the true ``up``, at the median depth in the middle of ``edges``."""
    (x1, y1, x2, y2), side = edges, round(POINTS**0.5)
    steps = 0.5 + INNER * ((np.arange(side) + 0.5) / side - 0.5)
    u, v = np.meshgrid(x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps)
    z = float(np.median(truth.depths(np.stack([u.ravel(), v.ravel()], axis=1) - 0.5)))
    width = WIDTH * (x2 - x1) / camera.fx * z
    size = np.array([DEPTH * width, width, (y2 - y1) / camera.fy * z])
    away = camera.rays(np.array([(x1 + x2) / 2, (y1 + y2) / 2]) - 0.5)
    ahead = away - (away @ up) * up
    ahead /= np.linalg.norm(ahead)
    center = away * z + ahead * size[0] / 2
    return Box3D(label, 1.0, center, size, np.stack([ahead, np.cross(up, ahead), up], axis=1))
