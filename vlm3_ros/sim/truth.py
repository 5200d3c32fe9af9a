"""What is exactly true of pictures of a simulated room: boxes, correspondences, relative pose, covisibility."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import Camera
from vlm3_ros.sim.rendering import Rendering
from vlm3_ros.sim.trace import Rays, alone, cast, rectangle

_SILHOUETTE_RAYS = 200  # per axis, at most, to count a thing's pixels as if nothing hid it
_SAME_DEPTH = 0.002  # relative; two rays that agree this well met the same spot


@dataclass(frozen=True, eq=False)
class VisibleBox:
    """A thing as one camera sees it."""

    thing: int  # index into room.things
    label: str
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 around its visible pixels, which all lie in [x1, x2) × [y1, y2)
    visible: float  # share of its outline that is in the image and not hidden, in (0, 1]
    center: np.ndarray  # [3] metres, camera axes
    size: np.ndarray  # [3] metres, along its own axes (x front, y left, z up)
    R: np.ndarray  # [3, 3] from its own axes to the camera's


def visible_boxes(view: Rendering, min_pixels: int = 1) -> list[VisibleBox]:
    """The things that show at least ``min_pixels`` pixels in a picture, in the order of the room's list."""
    numbers, counts = np.unique(view.thing[view.thing >= 0], return_counts=True)
    return [_visible_box(view, int(i), int(n)) for i, n in zip(numbers, counts, strict=True) if n >= min_pixels]


def correspondences(a: Rendering, b: Rendering, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where whole pixels (u, v) [N, 2] of ``a`` are in ``b``: pixels [N, 2], and whether ``b`` really sees them [N].

    Points behind camera ``b`` are NaN; points outside its image or hidden from it have a pixel but are not seen.
    Occlusion is checked by a ray through the very pixel, not by the neighbouring depth pixels.
    """
    pixels = np.asarray(pixels)
    points = a.camera.rays(pixels) * a.depth[pixels[:, 1], pixels[:, 0], None]
    T_b_a = relative_pose(b.T_world_cam, a.T_world_cam)
    points = points @ T_b_a[:3, :3].T + T_b_a[:3, 3]
    matched = b.camera.project(points)
    u, v = np.nan_to_num(matched, nan=-9.0).T
    inside = (u >= -0.5) & (u <= b.camera.width - 0.5) & (v >= -0.5) & (v <= b.camera.height - 0.5)
    seen = np.zeros(len(pixels), bool)
    seen[inside] = abs(_depth_at(b, matched[inside]) / points[inside, 2] - 1.0) < _SAME_DEPTH
    return matched, seen


def relative_pose(T_world_a: np.ndarray, T_world_b: np.ndarray) -> np.ndarray:
    """Pose of camera b in the axes of camera a [4, 4]."""
    return np.linalg.inv(T_world_a) @ T_world_b


def covisibility(a: Rendering, b: Rendering, step: int = 8) -> float:
    """Share of one picture that the other sees too, in [0, 1]; of the two directions the smaller one.

    Measured on every ``step``-th pixel of every ``step``-th row.
    """
    return min(_share_seen(a, b, step), _share_seen(b, a, step))


def _share_seen(a: Rendering, b: Rendering, step: int) -> float:
    pixels = np.mgrid[step // 2 : a.camera.height : step, step // 2 : a.camera.width : step][::-1].reshape(2, -1).T
    return float(correspondences(a, b, pixels)[1].mean())


def _depth_at(view: Rendering, pixels: np.ndarray) -> np.ndarray:
    """True depth [N] at pixels [N, 2], whole or not."""
    if not len(pixels):
        return np.zeros(0)
    order = np.argsort(pixels[:, 1], kind="stable")
    depth = np.empty(len(pixels))
    rays = Rays(view.camera, view.T_world_cam, pixels[order].T.astype(np.float32))
    depth[order], _ = cast(view.room, rays)
    return depth


def _visible_box(view: Rendering, number: int, count: int) -> VisibleBox:
    thing = view.room.things[number]
    rows, columns = np.nonzero(view.thing == number)
    T_cam_world = np.linalg.inv(view.T_world_cam)
    return VisibleBox(
        thing=number,
        label=thing.label,
        box=(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1),
        visible=min(1.0, count / max(_outline_area(view, number), 1.0)),
        center=T_cam_world[:3, :3] @ thing.center + T_cam_world[:3, 3],
        size=np.array(thing.size),
        R=T_cam_world[:3, :3] @ thing.R,
    )


def _outline_area(view: Rendering, number: int) -> float:
    """Pixels that a thing would cover if nothing hid it, up to one image size beyond the image's edges.

    Exact for things that cover up to 200 × 200 pixels; larger ones are counted on a coarser grid.
    """
    camera: Camera = view.camera
    width, height = camera.size
    u0, v0, u1, v1 = rectangle(camera, view.T_world_cam, view.room.things[number].corners)
    u0, u1 = np.clip(np.floor([u0, u1 + 1]), -width, 2 * width).astype(int)
    v0, v1 = np.clip(np.floor([v0, v1 + 1]), -height, 2 * height).astype(int)
    step = int(np.ceil(max(u1 - u0, v1 - v0, 1) / _SILHOUETTE_RAYS))
    grid = np.mgrid[v0 : v1 + 1 : step, u0 : u1 + 1 : step][::-1].reshape(2, -1).astype(np.float32)
    return float(alone(view.room, number, Rays(camera, view.T_world_cam, grid)).sum()) * step**2
