"""From views to scores, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.boxes import baseline
from benchmarks.boxes.answerers import Noise, NoisyTruth, perceived
from benchmarks.boxes.scenes import views
from vlm3_ros.geometry.box3d import Box3D


@dataclass(frozen=True)
class Case:
    """A row of the table: how noisy answers are, and which things are measured."""

    noise: Noise
    visible: tuple[float, float] = (0.9, 1.01)  # share of a thing's outline, from and to


CASES = {
    **{f"{percent} %": Case(Noise.of(percent)) for percent in (0, 3, 6, 12, 25)},
    "0 %, 30-60 % visible": Case(Noise.of(0), (0.3, 0.6)),
    "12 %, 30-60 % visible": Case(Noise.of(12), (0.3, 0.6)),
    "0 %, 10 % outliers": Case(Noise.of(0, outliers=0.1)),
    "12 %, 10 % outliers": Case(Noise.of(12, outliers=0.1)),
    "12 %, correlated": Case(Noise.of(12, is_smooth=True)),
}


@dataclass(frozen=True)
class Score:
    """How far a found box is from the true one; what was not found has an overlap of 0 and no errors."""

    kind: str
    iou: tuple[float, float]  # of the product and of the baseline, as all below
    center_m: tuple[float, float]
    size: tuple[float, float]  # mean relative error of the sides, each compared with the true one it fits best
    yaw_deg: tuple[float, float]  # to the nearest quarter turn
    covered: float  # whether the true centre lies where the product's covariance puts it in 95 of 100 cases


CHI2_95 = 7.81  # of three coordinates


def measured(case: Case, rooms: int, count: int) -> list[Score]:
    """Scores of all things of a case in ``count`` views of each room."""
    scores = []
    for number, view in enumerate(views(rooms, count)):
        truth = NoisyTruth(view, case.noise, np.random.default_rng([number, 5]))
        wanted = [i for i, s in enumerate(view.seen) if case.visible[0] <= s.visible < case.visible[1]]
        if not wanted:
            continue
        found = {box.label: box for box in perceived(view, truth, [view.seen[i].box.label for i in wanted])}
        for i in wanted:
            true, edges = view.seen[i].box, truth.edges[i]
            simple = baseline.box(true.label, edges, view.camera, view.up, truth)
            scores.append(_score(view.seen[i].kind, true, found.get(true.label), simple))
    return scores


def _score(kind: str, true: Box3D, *found: Box3D | None) -> Score:
    errors = [_errors(true, box) for box in found]
    iou, center, size, yaw = (tuple(column) for column in zip(*errors, strict=True))
    return Score(kind, iou, center, size, yaw, _covered(true, found[0]))  # type: ignore[arg-type]


def _errors(true: Box3D, found: Box3D | None) -> tuple[float, float, float, float]:
    if found is None:
        return 0.0, np.nan, np.nan, np.nan
    along = found.rotation.T @ true.rotation
    yaw = np.degrees(np.arctan2(along[1, 0], along[0, 0]))
    turn = abs((yaw + 45.0) % 90.0 - 45.0)
    same = abs((yaw + 90.0) % 180.0 - 90.0) < 45.0
    size = true.size if same else true.size[[1, 0, 2]]
    return (
        found.iou(true),
        float(np.linalg.norm(found.center - true.center)),
        float(np.abs(found.size / size - 1.0).mean()),
        float(turn),
    )


def _covered(true: Box3D, found: Box3D | None) -> float:
    if found is None or found.center_covariance is None:
        return np.nan
    away = true.center - found.center
    return float(away @ np.linalg.solve(found.center_covariance + 1e-6 * np.eye(3), away) < CHI2_95)


def table(scores: Mapping[str, Sequence[Score]]) -> str:
    """Markdown: product / baseline."""
    heads = ["answers", "things", "median IoU", "> 0.25", "> 0.5", "centre, m", "size", "yaw, °", "centre in 95 %"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, of_case in scores.items():
        lines.append(_line([name, str(len(of_case)), *_cells(of_case)]))
    return "\n".join(lines)


def by_kind(scores: Mapping[str, Sequence[Score]]) -> str:
    """Markdown: median IoU of product / baseline by kind of thing."""
    kinds = sorted({score.kind for of_case in scores.values() for score in of_case})
    lines = [_line(["answers", *kinds]), _line(["---"] * (1 + len(kinds)))]
    for name, of_case in scores.items():
        cells = []
        for kind in kinds:
            iou = np.array([score.iou for score in of_case if score.kind == kind]).reshape(-1, 2)
            cells.append(f"{_pair(np.median(iou, axis=0), 2)} ({len(iou)})" if len(iou) else "–")
        lines.append(_line([name, *cells]))
    return "\n".join(lines)


def _cells(scores: Sequence[Score]) -> list[str]:
    iou = np.array([score.iou for score in scores])
    cells = [_pair(np.median(iou, axis=0)), *(_pair((iou > least).mean(axis=0), 2) for least in (0.25, 0.5))]
    for name, digits in (("center_m", 3), ("size", 2), ("yaw_deg", 1)):
        cells.append(_pair(np.nanmedian([getattr(score, name) for score in scores], axis=0), digits))
    return [*cells, f"{np.nanmean([score.covered for score in scores]):.2f}"]


def _pair(values: np.ndarray, digits: int = 3) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
