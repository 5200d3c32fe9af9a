"""Whether depth jumps where it should: the depth boundary errors of iBims-1.

Koch et al., ECCV Workshops 2018 (arXiv 1805.01328). iBims-1 has its edges labelled and finds those of the prediction
with Canny's filter; here both are found as jumps of depth, the occluding contours of Depth Pro (arXiv 2410.02073).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import distance_transform_edt

from vlm3_ros.metrics.group import Metric, Metrics, Moment, means, wanted

JUMP = 1.25  # between neighbours, as a ratio: taking the wrong side costs delta1
GAP_PX = 10  # between neighbours with unknown depth between them, such as the shadow that a depth camera sees
FAR_PX = 10.0  # edges farther apart have nothing to do with each other
DENSE = 0.5  # share of the image whose depth must be known: points of a laser scanner have no edges


class Boundaries:
    """The group `boundaries`."""

    METRICS: ClassVar[Metrics] = {
        "frames": Metric("frames with edges in dense true depth, perceived or not"),
        "coverage": Metric("share of the true edge pixels that have a predicted depth", better="more"),
        "accuracy_px": Metric(
            f"distance of predicted depth edges from the nearest true one; unknown: {FAR_PX:g}", "px", better="less"
        ),
        "completeness_px": Metric(
            f"distance of true depth edges from the nearest predicted one, {FAR_PX:g} at most", "px", better="less"
        ),
    }

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []

    def add(self, moment: Moment) -> dict[str, float]:
        true = moment.true_depth if wanted(moment, "depth") else None
        if true is None:
            return {}
        predicted = np.full(true.shape, np.nan) if moment.depth is None else moment.depth
        errors = boundary_errors(predicted, true)
        if errors:
            self._frames.append(errors)
        return errors

    def result(self) -> dict[str, Any]:
        return {"frames": len(self._frames), **means(self._frames)} if self._frames else {}


def boundary_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The errors of two depth images [h, w], NaN unknown; empty where the true one has no edges.

    Accuracy is the mean distance of predicted edge pixels to the nearest true one, of those within FAR_PX;
    completeness that of true edge pixels to the nearest predicted one, FAR_PX at most. Without any edge near a true
    one, both are FAR_PX. Coverage is the share of the true edge pixels where depth is predicted; so much of the
    accuracy is measured, and the rest of it is FAR_PX.
    """
    known = np.isfinite(true)
    if known.mean() < DENSE:
        return {}
    true_edges, edges = depth_edges(true), depth_edges(np.where(known, predicted, np.nan))
    if not true_edges.any():
        return {}
    coverage = float(np.isfinite(predicted[true_edges]).mean())
    distance = distance_transform_edt(~true_edges)
    near = distance[edges]
    near = near[near < FAR_PX]
    if not len(near):
        return {"coverage": coverage, "accuracy_px": FAR_PX, "completeness_px": FAR_PX}
    missing = np.minimum(distance_transform_edt(~edges)[true_edges], FAR_PX)
    accuracy = coverage * float(near.mean()) + (1.0 - coverage) * FAR_PX
    return {"coverage": coverage, "accuracy_px": accuracy, "completeness_px": float(missing.mean())}


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
