"""The page: what is in it and in which order; how it looks is in page.html."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from vlm3_ros import __version__
from vlm3_ros.config import settings
from vlm3_ros.metrics.group import COVERAGE
from vlm3_ros.offline.evaluate import GROUPS, meaning, unanswered
from vlm3_ros.offline.evaluated import Evaluated
from vlm3_ros.offline.moments import Moment, Moments
from vlm3_ros.offline.report import plots
from vlm3_ros.offline.report.pictures import Panel, depth_limits, depth_scale, error_scale, panels
from vlm3_ros.offline.results import RunError, write_whole
from vlm3_ros.offline.sources import nanoseconds
from vlm3_ros.offline.tum import read_trajectory
from vlm3_ros.vlm.factory import ASKS

HEADINGS = {"frames": "Frames and time", "pairs": "Motion from frame to frame"}
CAPTIONS = {
    "by_label": "by name",
    "by_range_m": "pixels with true depth by it, from and to in metres",
    "by_confidence": "pixels with predicted and true depth by confidence",
    "bins": "pixels by confidence: how many, mean confidence, share within a factor of 1.25",
}
TILES = ("depth.delta1", "depth.abs_rel", "depth.rmse", "trajectory.ate_m", "objects.ap25", "frames.seconds_median")
OVER_TIME = {"frames": (), "depth": ("abs_rel", "delta1", "rmse"), "matches": ("epe", "pck1"), "trajectory": ()}
RANKED_BY = ("depth.abs_rel", "objects.iou", "pairs.rotation_deg")  # the first one there is
WORST = ("worst", "second worst", "third worst")


@dataclass(frozen=True)
class Table:
    """A table among the metrics."""

    caption: str
    header: list[str]
    numeric: list[bool]  # of each column
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A group of metrics on the page."""

    name: str
    heading: str
    note: str  # what is to be known before the numbers
    numbers: list[dict[str, str]]
    plots: list[str]  # SVG
    tables: list[Table]


@dataclass(frozen=True)
class Shown:
    """A frame of which there are pictures."""

    tag: str  # on the page
    text: str
    index: int
    panels: list[Panel] = field(default_factory=list)
    numbers: str = ""


def write_report(run: Evaluated, moments: Moments) -> Path:
    """Write report.html into the folder of a run; ``moments`` are its frames. Returns the file."""
    page = Page(run, moments)
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = run.folder / "report.html"
    write_whole(path, environment.get_template("page.html").render(page.content()).encode())
    return path


class Page:
    """Collects what the template shows."""

    def __init__(self, run: Evaluated, moments: Moments):
        self._run, self._moments = run, moments
        self._unanswered = unanswered(run.metrics)
        self._stamps = list(run.frames)
        if not self._stamps:
            raise RunError(f"no frame of {run.folder} was perceived, so there is nothing to report")
        nanos = np.array([nanoseconds(stamp) for stamp in self._stamps])
        self._seconds = (nanos - nanos[0]) / 1e9
        self._ranked_by = next((name for name in RANKED_BY if name in run.names), "")

    def content(self) -> dict[str, Any]:
        """The values of page.html by name."""
        shown = self._pictured(self._chosen())
        near, far = self._depth_limits
        return {
            "title": self._run.folder.resolve().name,
            "version": __version__,
            "facts": self._facts(),
            "tiles": self._tiles(),
            "sections": [self._section(name, values, shown) for name, values in self._run.metrics.items()],
            "shown": shown,
            "ranked_by": self._ranked_by,
            "depth_scale": depth_scale(near, far),
            "error_scale": error_scale(),
            "settings": self._settings(),
        }

    # --------------------------------------------------------------------------------------------------- the head

    def _facts(self) -> list[tuple[str, str]]:
        asked = self._run.run["settings"]
        tasks = asked.get("node.tasks", [])
        names = {f"vlm.checkpoint.{name}" for task in tasks for name in ASKS.get(task, ())}
        models = sorted({str(asked[name]) for name in names if name in asked})
        return [
            ("recording", Path(self._run.run["source"]).name),
            ("truth", Path(self._run.against["truth"]).name),
            ("frames", f"{len(self._stamps)} over {self._seconds[-1]:.1f} s"),
            ("perceived", ", ".join(tasks)),
            ("models", ", ".join(models)),
        ]

    def _tiles(self) -> list[dict[str, str]]:
        tiles = []
        for name in TILES:
            group, _, metric = name.partition(".")
            if (value := self._run.metrics.get(group, {}).get(metric)) is not None:
                number = _number(name, value)
                if (coverage := self._run.metrics[group].get(COVERAGE)) is not None:
                    number["says"] += f"; answered: {coverage:.1%}"
                tiles.append({"name": name, **number, "value": f"{value:.3g}"})
        return tiles

    def _settings(self) -> list[tuple[str, str, str, bool]]:
        """Name, value, help, and whether it is not the default."""
        asked = self._run.run["settings"]
        return [
            (s.name, str(asked[s.name]), s.help, asked[s.name] != s.default) for s in settings() if s.name in asked
        ]

    # ----------------------------------------------------------------------------------------------------- groups

    def _section(self, group: str, values: Mapping[str, Any], shown: Sequence[Shown]) -> Section:
        numbers = {name: value for name, value in values.items() if not isinstance(value, (list, dict))}
        rows = [{"name": name, **_number(f"{group}.{name}", value)} for name, value in numbers.items()]
        tables = [_table(name, value) for name, value in values.items() if isinstance(value, (list, dict)) and value]
        drawn = [*self._special(group, values), self._over_time(group, shown)]
        heading = HEADINGS.get(group, group.capitalize())
        note = "nothing was answered, and all of it counts as missed" if group in self._unanswered else ""
        return Section(group, heading, note, rows, [plot for plot in drawn if plot], tables)

    def _over_time(self, group: str, shown: Sequence[Shown]) -> str:
        """Some numbers of single frames; of a group that is not named in OVER_TIME, the first three."""
        there = [name for name in _metrics(group) if f"{group}.{name}" in self._run.names]
        names = OVER_TIME.get(group, [name for name in there if meaning(f"{group}.{name}").better][:3])
        return plots.over_time(
            self._seconds,
            {name: self._values(f"{group}.{name}") for name in names if name in there},
            {name: meaning(f"{group}.{name}") for name in names},
            {frame.index: frame.tag for frame in shown},
        )

    def _special(self, group: str, values: Mapping[str, Any]) -> list[str]:
        """The plots that only this group has."""
        if group == "frames":
            perceived = [moment for moment in self._moments if not moment.error]
            stages = sorted({stage for moment in perceived for stage in moment.seconds})
            times = {s: np.array([1000 * m.seconds.get(s, 0.0) for m in perceived]) for s in stages}
            return [plots.timings(times)]
        if group == "depth":
            return [plots.by_range(values["by_range_m"])]
        if group == "confidence":
            return [plots.reliability(values["bins"])]
        if group == "pairs":
            there = [n for n in ("rotation_deg", "direction_deg") if f"pairs.{n}" in self._run.names]
            return [plots.angles({name: self._values(f"pairs.{name}") for name in there})]
        return [self._trajectory()] if group == "trajectory" else []

    def _trajectory(self) -> str:
        perceived, true = (dict(read_trajectory(self._run.folder / name)) for name in TRAJECTORIES)
        stamps = [stamp for stamp in perceived if stamp in true]
        if len(stamps) < 2:
            return ""
        path, truth = (np.array([poses[stamp][:3, 3] for stamp in stamps]) for poses in (perceived, true))
        return plots.trajectory(path, truth, (np.array(stamps) - nanoseconds(self._stamps[0])) / 1e9)

    def _values(self, name: str) -> np.ndarray:
        return self._run.values(name, self._stamps)

    # --------------------------------------------------------------------------------------------------- pictures

    def _chosen(self) -> list[Shown]:
        """The frames with the largest errors, none of them near to another one, and one in the middle."""
        if not self._ranked_by:
            return []
        values = self._values(self._ranked_by) * (-1.0 if meaning(self._ranked_by).better == "more" else 1.0)
        order = [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-np.inf)) if math.isfinite(values[i])]
        apart = max(1, len(order) // 20)
        worst: list[int] = []
        for index in order:
            if len(worst) < len(WORST) and all(abs(index - other) >= apart for other in worst):
                worst.append(index)
        middle = order[len(order) // 2]
        found = [Shown(f"W{i}", WORST[i - 1], index) for i, index in enumerate(worst, 1) if index != middle]
        return [*found, Shown("M", "median", middle)]

    def _pictured(self, chosen: list[Shown]) -> list[Shown]:
        wanted = {nanoseconds(self._stamps[frame.index]): frame for frame in chosen}
        taken: dict[int, Moment] = {}
        for moment in self._moments:
            if moment.stamp in wanted and moment.stamp not in taken:
                _read(moment)
                taken[moment.stamp] = moment
        self._depth_limits = near, far = depth_limits(list(taken.values()))
        return [
            Shown(frame.tag, frame.text, frame.index, panels(taken[stamp], near, far), self._numbers(frame.index))
            for stamp, frame in wanted.items()
        ]

    def _numbers(self, index: int) -> str:
        """What a frame is and what is measured of it, in a line."""
        names = [n for n in ("depth.abs_rel", "depth.delta1", "depth.rmse", "objects.iou") if n in self._run.names]
        row = self._run.frames[self._stamps[index]]
        numbers = [f"{n.partition('.')[2]} {_text(float(row[n]))} {meaning(n).unit}".strip() for n in names if row[n]]
        return ", ".join([f"frame {index + 1} at {self._seconds[index]:.2f} s", *numbers])


TRAJECTORIES = ("trajectory.txt", "true_trajectory.txt")


def _metrics(group: str) -> list[str]:
    return list(GROUPS[group].METRICS) if group in GROUPS else []


def _read(moment: Moment) -> None:
    """Read everything that pictures need, while that is cheap."""
    _ = moment.image, moment.depth, moment.true_depth, moment.boxes


def _number(name: str, value: Any) -> dict[str, str]:
    metric = meaning(name)
    arrow = {"more": "↑", "less": "↓", "": ""}[metric.better]
    return {"value": _text(value), "unit": metric.unit, "arrow": arrow, "better": metric.better, "says": metric.says}


def _table(name: str, value: list[dict[str, Any]] | dict[str, dict[str, Any]]) -> Table:
    rows = [{"name": key, **row} for key, row in value.items()] if isinstance(value, dict) else value
    header = list(rows[0])
    return Table(
        CAPTIONS.get(name, name.replace("_", " ")),
        header,
        [not isinstance(rows[0][column], str) for column in header],
        [[_text(row.get(column)) for column in header] for row in rows],
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
