"""Whether depth jumps where it should: the depth boundary errors of iBims-1.

Koch et al., ECCV Workshops 2018 (arXiv 1805.01328). iBims-1 has its edges labelled and finds those of the prediction
with Canny's filter; here both are found as jumps of depth, the occluding contours of Depth Pro (arXiv 2410.02073).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import distance_transform_edt

from vlm3_ros.offline.metrics.group import Metric, Metrics
from vlm3_ros.offline.moments import Moment

JUMP = 1.25  # between neighbours, as a ratio: taking the wrong side costs delta1
GAP_PX = 10  # between neighbours with unknown depth between them, such as the shadow that a depth camera sees
FAR_PX = 10.0  # edges farther apart have nothing to do with each other
DENSE = 0.5  # share of the image whose depth must be known: points of a laser scanner have no edges


class Boundaries:
    """The group `boundaries`."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames with edges in dense true depth"),
        "accuracy_px": Metric("distance of predicted depth edges from the nearest true one", "px", better="less"),
        "completeness_px": Metric("distance of true depth edges from the nearest predicted one", "px", better="less"),
    }

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []

    def add(self, moment: Moment) -> dict[str, float]:
        if moment.depth is None or moment.true_depth is None:
            return {}
        errors = boundary_errors(moment.depth, moment.true_depth)
        if errors:
            self._frames.append(errors)
        return errors

    def result(self) -> dict[str, Any]:
        if not self._frames:
            return {}
        means = {name: float(np.mean([frame[name] for frame in self._frames])) for name in self._frames[0]}
        return {"frames": len(self._frames), **means}


def boundary_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """accuracy_px and completeness_px of two depth images [h, w], NaN unknown; empty where the true one has no edges.

    Accuracy is the mean distance of predicted edge pixels to the nearest true one, of those within FAR_PX;
    completeness that of true edge pixels to the nearest predicted one, FAR_PX at most. Without any edge near a true
    one, both are FAR_PX.
    """
    known = np.isfinite(true)
    if known.mean() < DENSE:
        return {}
    true_edges, edges = depth_edges(true), depth_edges(np.where(known, predicted, np.nan))
    if not true_edges.any():
        return {}
    distance = distance_transform_edt(~true_edges)
    near = distance[edges]
    near = near[near < FAR_PX]
    if not len(near):
        return {"accuracy_px": FAR_PX, "completeness_px": FAR_PX}
    missing = np.minimum(distance_transform_edt(~edges)[true_edges], FAR_PX)
    return {"accuracy_px": float(near.mean()), "completeness_px": float(missing.mean())}


def depth_edges(depth: np.ndarray) -> np.ndarray:
    """The nearer pixel wherever depth [h, w] jumps between neighbours in a row or column with known depth."""
    edges = np.zeros(depth.shape, bool)
    for along, marked in ((depth, edges), (depth.T, edges.T)):
        row, column = np.nonzero(np.isfinite(along))
        z = along[row, column]
        beside = (np.diff(row) == 0) & (np.diff(column) <= GAP_PX)
        jump = beside & (np.maximum(z[1:] / z[:-1], z[:-1] / z[1:]) > JUMP)
        nearer = np.flatnonzero(jump) + (z[1:] < z[:-1])[jump]
        marked[row[nearer], column[nearer]] = True
    return edges
