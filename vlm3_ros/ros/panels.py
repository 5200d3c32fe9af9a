"""The demo's picture: the last frame, what was perceived of it and what is true, and everything from above."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vlm3_ros import drawing
from vlm3_ros.drawing import INK, PERCEIVED, TRUE
from vlm3_ros.ros.compared import T_world_odom
from vlm3_ros.ros.witness import Moment

SIZE = (480, 360)  # of a panel
TRUE_ROOM: drawing.Colour = (58, 112, 74)
EVERY = 7  # of the points of a frame; the map has no more pixels
OVERHEAD_M = 2.0  # higher than this, the ceiling hides the rest


def picture(moments: Sequence[Moment], lines: Sequence[str]) -> np.ndarray:
    """Camera, perceived and true depth of the last frame, the map of all frames and ``lines`` of text: RGB."""
    text = np.full((540, SIZE[0], 3), drawing.PAPER, np.uint8)
    for i, line in enumerate(lines):
        drawing.write(text, line, (14, 30 + 23 * i), size=0.44)
    last = moments[-1]
    near, far = np.nanpercentile(last.true_depth, [1, 99])
    title = "depth perceived" if np.isfinite(last.depth).any() else "depth perceived: every answer was refused"
    depths = [_depth(last.depth, near, far, title), _depth(last.true_depth, near, far, "depth true")]
    return np.vstack([np.hstack([_camera(last, len(moments)), *depths]), np.hstack([_from_above(moments), text])])


def _camera(moment: Moment, number: int) -> np.ndarray:
    panel, camera = cv2.resize(moment.image, SIZE, interpolation=cv2.INTER_CUBIC), moment.camera.resized(*SIZE)
    drawing.draw_boxes(panel, moment.true_boxes, camera, TRUE, names=False)
    drawing.draw_boxes(panel, moment.boxes or (), camera, PERCEIVED)
    listed = ("perceived" if moment.boxes is not None else "perceived (refused here)", PERCEIVED)
    drawing.caption(panel, (f"camera, frame {number}: boxes", INK), ("true", TRUE), listed)
    return panel


def _depth(depth: np.ndarray, near: float, far: float, title: str) -> np.ndarray:
    panel = cv2.resize(drawing.depth_in_colour(depth, near, far), SIZE, interpolation=cv2.INTER_NEAREST)
    drawing.depth_scale(panel, near, far)
    drawing.caption(panel, (title, INK))
    return panel


def _from_above(moments: Sequence[Moment]) -> np.ndarray:
    """Map in world axes of what is true, and of what was perceived in every frame with a pose over it."""
    room = np.concatenate([_true_points(m) for m in moments])
    path = np.array([m.T_world_camera[:2, 3] for m in moments])
    low, high = np.percentile(room[:, :2], [0.5, 99.5], axis=0)
    above = drawing.Map(np.minimum(low, path.min(axis=0)), np.maximum(high, path.max(axis=0)), 960, 540)
    standing = room[(room[:, 2] > 0.1) & (room[:, 2] < OVERHEAD_M)]
    above.points(standing, np.full((len(standing), 3), TRUE_ROOM, np.uint8), size=2)

    start = T_world_odom(moments)
    if start is not None:
        placed = [(m, start @ m.T_odom_camera) for m in moments if m.T_odom_camera is not None]
        cloud = np.concatenate([_moved(m.points[::EVERY], T) for m, T in placed])
        indoors = cloud[:, 2] < OVERHEAD_M
        above.points(cloud[indoors], np.concatenate([m.colours[::EVERY] for m, _ in placed])[indoors])
    for box in moments[-1].true_boxes:
        above.footprint(_moved(box.corners(), moments[-1].T_world_camera), box.label, TRUE)
    above.path(path, TRUE, 5)
    if start is not None:
        if placed[-1][0] is moments[-1]:
            for box in moments[-1].boxes or ():
                above.footprint(_moved(box.corners(), placed[-1][1]), box.label, PERCEIVED)
        above.path(np.array([T[:2, 3] for _, T in placed]), PERCEIVED)
    drawing.caption(
        above.picture,
        ("from above, 1 m grid: the perceived cloud on the true room; path and boxes", INK),
        ("true", TRUE),
        ("perceived", PERCEIVED),
    )
    return above.picture


def _true_points(moment: Moment) -> np.ndarray:
    """Every fourth column and row of the true depth as points [N, 3] in world axes."""
    v, u = np.mgrid[0 : moment.camera.height : 4, 0 : moment.camera.width : 4]
    z = moment.true_depth[v, u]
    points = moment.camera.rays(np.stack([u, v], axis=-1)) * z[..., None]
    return _moved(points[np.isfinite(z)], moment.T_world_camera)


def _moved(points: np.ndarray, T: np.ndarray) -> np.ndarray:
    return points @ T[:3, :3].T + T[:3, 3]
