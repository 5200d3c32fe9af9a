"""The plots of a report, each as SVG; empty where there is nothing to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection

from vlm3_ros.metrics.group import Metric
from vlm3_ros.metrics.poses import MOST_DEG, aligned
from vlm3_ros.offline.report.figure import ERROR, INK, MORE, OTHER, PERCEIVED, TRUE, drawing

WIDTH = 11.75  # inches; the page is as wide
MARKED_UP_TO = 80  # frames whose points are drawn one by one
TIES_UP_TO = 400  # lines between where a frame was perceived to be and where it truly was
BARS_UP_TO = 400  # frames; more are averaged to so many bars
STAGES = (PERCEIVED, OTHER, TRUE, MORE, ERROR)


def over_time(
    seconds: np.ndarray, series: Mapping[str, np.ndarray], metrics: Mapping[str, Metric], shown: Mapping[int, str]
) -> str:
    """Numbers of single frames [N] below each other; ``shown``: names of the frames of which there are pictures."""
    if not series:
        return ""
    size = (WIDTH, 0.5 + 1.25 * len(series))
    with drawing(f"{', '.join(series)} over time", size, rows=len(series), sharex=True) as figure:
        for axes, (name, values) in zip(figure.axes, series.items(), strict=True):
            axes.plot(seconds, values, color=ERROR, marker="." if len(seconds) <= MARKED_UP_TO else "", markersize=4)
            for index, text in shown.items():
                if math.isfinite(values[index]):
                    axes.plot(seconds[index], values[index], "o", color=INK, fillstyle="none", markersize=7)
                    axes.annotate(
                        text, (seconds[index], values[index]), (5, 4), textcoords="offset points", fontsize=8
                    )
            axes.set_title(f"{name}: {metrics[name].says}")
            axes.set_ylabel(f"[{unit(metrics[name])}]")
            axes.margins(x=0.01, y=0.18)
        figure.axes[-1].set_xlabel("time since the first frame [s]")
    return figure.svg


def by_range(rows: Sequence[Mapping[str, float]]) -> str:
    """Depth errors by true depth; the last range may have no end."""
    labels = [
        f"{row['from']:g}–{row['to']:g}" if math.isfinite(row["to"] or math.inf) else f"> {row['from']:g}"
        for row in rows
    ]
    share = np.array([row["pixels"] for row in rows]) / sum(row["pixels"] for row in rows)
    with drawing("depth errors by true depth", (WIDTH, 2.5), columns=3) as figure:
        for axes, values, title, colour in (
            (figure.axes[0], [100 * row["abs_rel"] for row in rows], "abs_rel [%]", ERROR),
            (figure.axes[1], [row["rmse"] for row in rows], "rmse [m]", ERROR),
            (figure.axes[2], 100 * share, "share of all pixels [%]", OTHER),
        ):
            axes.bar(labels, values, color=colour, width=0.7)
            axes.set_title(title)
            axes.set_xlabel("true depth [m]")
            axes.grid(axis="x", visible=False)
    return figure.svg


def reliability(rows: Sequence[Mapping[str, float]]) -> str:
    """How often depth was right, over how sure it claimed to be; of what was answered alone."""
    if not rows:
        return ""
    confidence, right = ([100 * row[name] for row in rows] for name in ("confidence", "right"))
    count = np.array([row["count"] for row in rows])
    with drawing("share of right depth over confidence", (WIDTH, 3.1), columns=2) as figure:
        curve, bars = figure.axes
        curve.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":", label="as sure as right")
        curve.plot(confidence, right, color=PERCEIVED, marker="o", markersize=4, label="this run")
        curve.set(xlim=(0, 102), ylim=(0, 102), ylabel="pixels within a factor of 1.25 [%]")
        curve.set_title("below the dotted line it is too sure, above too modest")
        curve.legend(loc="upper left")
        bars.bar(confidence, 100 * count / count.sum(), color=OTHER, width=7)
        bars.set(xlim=(0, 102), ylabel="share of all pixels [%]")
        bars.set_title("how often it is how sure")
        for axes in figure.axes:
            axes.set_xlabel("confidence [%]")
    return figure.svg


def trajectory(path: np.ndarray, true: np.ndarray, seconds: np.ndarray) -> str:
    """Positions [N, 3] in odom, whose z is up, and the true ones [N, 3] in a world of their own, laid on them."""
    true = laid_on(path, true)
    apart = np.linalg.norm(path - true, axis=1)
    with drawing("trajectory from above, and its error over time", (WIDTH, 4.2), columns=2) as figure:
        above, error = figure.axes
        ties = np.stack([path[:, :2], true[:, :2]], axis=1)[:: math.ceil(len(path) / TIES_UP_TO)]
        above.add_collection(LineCollection(list(ties), colors=ERROR, linewidths=0.7, alpha=0.6))
        above.plot(true[:, 0], true[:, 1], color=TRUE, label="true")
        above.plot(path[:, 0], path[:, 1], color=PERCEIVED, label="perceived", linestyle="--")
        above.plot(*path[0, :2], "o", color=INK, fillstyle="none", markersize=8)
        above.annotate("start", (path[0, 0], path[0, 1]), (8, 5), textcoords="offset points", fontsize=8)
        above.set_aspect("equal", adjustable="datalim")
        above.set(xlabel="x of odom [m]", ylabel="y of odom [m]")
        above.set_title("from above")
        above.legend(loc="best")
        error.plot(seconds, 100 * apart, color=ERROR)
        error.set_ylim(bottom=0)
        error.set(xlabel="time since the first frame [s]", ylabel="distance from the true position [cm]")
        error.set_title("error, once the paths are laid on each other")
    return figure.svg


def laid_on(path: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True positions [N, 3] in the axes of the perceived ones [N, 3]."""
    T = aligned(true, path)
    return true @ T[:3, :3].T + T[:3, 3]


def angles(errors: Mapping[str, np.ndarray]) -> str:
    """Share of the pairs of frames whose angle errors [N] in degrees, NaN where there are none, are below a limit.

    Those of a pair without an answer are MOST_DEG, and below none.
    """
    pairs = {name: np.isfinite(values).sum() for name, values in errors.items()}
    known = {name: np.sort(values[values < MOST_DEG]) for name, values in errors.items()}
    if not any(map(len, known.values())):
        return ""
    most = max(np.quantile(values, 0.95) for values in known.values() if len(values))
    limit = next((limit for limit in (1.0, 2.0, 5.0, 15.0, 30.0, 90.0) if limit >= most), 180.0)
    with drawing("share of pairs of frames over their angle errors", (WIDTH, 2.6)) as figure:
        (axes,) = figure.axes
        for (name, values), colour in zip(known.items(), (PERCEIVED, MORE), strict=False):
            share = 100 * np.arange(len(values) + 1) / max(1, pairs[name])
            axes.step([0.0, *values, 180.0], [*share, share[-1]], where="post", color=colour, label=name)
        axes.set(xlim=(0, limit), ylim=(0, 102), xlabel="error [°]", ylabel="share of the pairs [%]")
        axes.set_title("pairs of neighbouring frames whose error is smaller; without an answer it never is")
        axes.legend(loc="lower right")
    return figure.svg


def timings(stages: Mapping[str, np.ndarray]) -> str:
    """Milliseconds [N] that each stage took, and how often a frame took how long."""
    if not stages:
        return ""
    times = np.array(list(stages.values()))  # [stages, N]
    count = times.shape[1]
    with drawing("time of computing, by stage", (WIDTH, 2.8), columns=2, width_ratios=(2, 1)) as figure:
        bars, histogram = figure.axes
        each = math.ceil(count / BARS_UP_TO)
        starts = np.arange(0, count, each)
        means = np.add.reduceat(times, starts, axis=1) / np.diff(np.append(starts, count))
        below = np.zeros(len(starts))
        for name, values, colour in zip(stages, means, itertools.cycle(STAGES), strict=False):
            bars.bar(starts, values, each * 0.9, below, color=colour, label=name)
            below = below + values
        bars.set(xlabel="frame", ylabel="time of computing [ms]")
        bars.set_title("by stage" if each == 1 else f"by stage, means of {each} frames")
        bars.grid(axis="x", visible=False)
        bars.legend(loc="upper right", ncols=len(stages))
        bars.margins(x=0.01, y=0.25)
        histogram.hist(times.sum(axis=0), bins=min(30, max(5, count // 3)), color=ERROR)
        histogram.set(xlabel="time of computing [ms]", ylabel="frames")
        histogram.set_title("how often how long")
    return figure.svg


def unit(metric: Metric) -> str:
    """Of an axis: a dash for a share, a ratio or a count."""
    return metric.unit or "–"
