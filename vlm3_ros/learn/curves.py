"""A picture of how a training run went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MEASURED = {  # of held-out looks: name in the log, legend
    "eval_depth_delta1": "depth δ1",
    "eval_depth_median_delta1": "depth δ1, median of digits",
    "eval_pose_auc30": "pose AUC@30",
    "eval_objects_right": "object questions right",
    "eval_grounding_recall": "2D boxes found",
    "eval_seen_depth_delta1": "depth δ1, seen",
    "eval_seen_pose_auc30": "pose AUC@30, seen",
}


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses over steps, and below them what was measured on held-out looks, if anything was, as a PNG file.

    ``history`` is the log of transformers' Trainer.
    """
    from matplotlib.figure import Figure

    is_measured = any(name in entry for entry in history for name in MEASURED)
    figure = Figure(figsize=(10.0, 7.0 if is_measured else 4.0), layout="constrained")
    upper, *lower = figure.subplots(1 + is_measured, 1, sharex=True, squeeze=False)[:, 0]
    logged = [entry for entry in history if "loss" in entry]
    names = {name for entry in logged for name in entry if name.startswith("answers to ")}
    for name in ("loss", *sorted(names)):
        _line(upper, logged, name, name if name != "loss" else "all together")
    upper.set(ylabel="loss (nats per token)", yscale="log")
    for axes in lower:
        for name, legend in MEASURED.items():
            _line(axes, history, name, legend)
        axes.set(ylabel="share of what is held out", ylim=(0.0, 1.0))
    (upper, *lower)[-1].set(xlabel="optimizer step")
    for axes in (upper, *lower):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=110)


def _line(axes: Any, history: Sequence[dict[str, Any]], name: str, legend: str) -> None:
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=legend, marker="." if len(points) < 100 else None)
