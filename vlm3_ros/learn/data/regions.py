"""From true 3D boxes to regions in an image: what of a thing is seen, as the depth image has it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data.sample import Region

MIN_VISIBLE = 0.25  # of its outline; a thing that shows less is left out
MIN_AREA = 0.001  # of the image, that shows the thing
MIN_KNOWN = 0.5  # of the outline in the image must have depth, or nothing can be said
MIN_FILLED = 0.25  # of what is not hidden must lie in the box: chairs have gaps, but else the thing is gone
SURFACE = 0.01  # relative; how far from its box a surface may be measured
FOOT = 0.1  # of its height, at most, that may be the floor below a thing instead

UNKNOWN = "box without depth"
GONE = "box without a thing in it"
CUT = "box that reaches behind the camera"
FAINT = "box of which too little shows"

_LATTICE = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 9)] * 3), axis=-1).reshape(-1, 3)  # of a unit box


def regions(
    boxes: Sequence[Box3D], camera: Camera, depth: np.ndarray
) -> tuple[tuple[Region, ...], list[tuple[str, str]]]:
    """The things that show enough; and the name and reason of each other box of which something may show.

    ``boxes`` are in camera axes, ``depth`` [height, width] is metres along Z, NaN unknown.
    """
    found: list[Region] = []
    left_out: list[tuple[str, str]] = []
    for box in boxes:
        region = _region(box, camera, depth)
        if isinstance(region, str):
            left_out.append((box.label, region))
        elif region is not None:
            found.append(region)
    return tuple(found), left_out


def _region(box: Box3D, camera: Camera, depth: np.ndarray) -> Region | str | None:
    """What is seen of a box; None where that is nothing, or why it is left out."""
    corners = camera.project(box.corners())
    if not np.isfinite(corners).all():
        return CUT if _is_in_view(box, camera) else None
    outline = cv2.convexHull(corners.clip(-1e4, 1e4).astype(np.float32))
    mask = np.zeros(depth.shape, np.uint8)
    cv2.fillConvexPoly(mask, np.rint(outline).astype(np.int32), 1)
    row, column = np.nonzero(mask)
    if not len(row):
        return None
    if len(row) < MIN_AREA * depth.size:
        return FAINT
    rays, z = camera.rays(np.column_stack([column, row])), depth[row, column]
    known = np.isfinite(z)
    if known.mean() < MIN_KNOWN:
        return UNKNOWN
    with np.errstate(invalid="ignore"):
        hidden = z < _entry(box, rays) * (1.0 - SURFACE)
    visible = float((~hidden).sum() / max(len(row), cv2.contourArea(outline)))
    inside = ~hidden & _inside(box, rays * z[:, None])
    if visible < MIN_VISIBLE:
        return FAINT if inside.any() or not known.all() else None
    if inside.sum() < MIN_FILLED * (known & ~hidden).sum():
        return GONE
    if inside.sum() < MIN_AREA * depth.size:
        return FAINT
    x, y = column[inside], row[inside]
    return Region(box.label, (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)), visible, box)


def _is_in_view(box: Box3D, camera: Camera) -> bool:
    """Whether any part of a box is before the camera and within its image, hidden or not."""
    pixels = camera.project(_LATTICE * box.size @ box.rotation.T + box.center)  # NaN behind the camera
    with np.errstate(invalid="ignore"):
        return bool(((pixels >= -0.5) & (pixels <= np.subtract(camera.size, 0.5))).all(axis=1).any())


def _inside(box: Box3D, points: np.ndarray) -> np.ndarray:
    """Which of the points [N, 3] belong to the thing in a box; not those that are NaN.

    A measured surface may lie a little outside. What is at the foot of the box belongs to what the thing stands on,
    as far as can be told.
    """
    unit, reach = box.to_unit(points), SURFACE * points[:, 2:] / box.size
    with np.errstate(invalid="ignore"):
        above_foot = unit[:, 2] > np.minimum(reach[:, 2], FOOT) - 0.5
        return above_foot & (np.abs(unit) <= 0.5 + reach).all(axis=1)


def _entry(box: Box3D, rays: np.ndarray) -> np.ndarray:
    """Depth along Z [N] at which rays [N, 3] with z = 1 from the camera come into a box; NaN for those that miss it.

    The slab method: a ray is inside where it is between each of the three pairs of faces.
    """
    start = box.to_unit(np.zeros(3))
    steps = box.to_unit(rays) - start
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(-0.5 - start) / steps, (0.5 - start) / steps])
    enter, leave = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
    return np.where(enter <= leave, np.maximum(enter, 0.0), np.nan)
