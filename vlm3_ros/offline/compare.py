"""Two runs over the same frames: which one is better, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm3_ros.offline.bootstrap import MIN_FRAMES, interval, resampled_means
from vlm3_ros.offline.evaluate import meaning
from vlm3_ros.offline.evaluated import Evaluated
from vlm3_ros.offline.likeness import RECTIFIED, SAME, alike
from vlm3_ros.offline.results import RunError

LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """A number of single frames in both runs: its means over the frames that have it in both."""

    name: str  # group.name
    frames: int
    alone: tuple[int, int]  # common frames that have it in A only, and in B only
    a: float
    b: float
    interval: tuple[float, float] | None  # of b − a at LEVEL; None of too few frames
    verdict: str  # about b: "better", "worse"; with "?" where it may be chance, being one of many; or ""


class Comparison:
    """Run B against run A. Raises RunError if they are over different recordings, or have no number in common."""

    def __init__(self, a: Evaluated, b: Evaluated):
        self.a, self.b = a, b
        _check_recordings(a, b)
        self._common = [stamp for stamp in a.frames if stamp in b.frames]  # in the order of time
        names = [name for name in a.names if name in b.names and meaning(name).better]
        values = {name: np.stack([run.values(name, self._common) for run in (a, b)], axis=1) for name in names}
        values = {name: pairs for name, pairs in values.items() if np.isfinite(pairs).all(axis=1).any()}
        if not values:
            raise RunError(
                f"the two runs have nothing in common that could be compared: {a.folder} is of {a.run['source']}, "
                f"{b.folder} of {b.run['source']}, and {len(self._common)} frames have the same stamp"
            )
        self.rows = [_row(name, pairs, len(values)) for name, pairs in values.items()]

    @property
    def worse(self) -> list[str]:
        """In what B is surely worse; not time, which says as much about the machine."""
        return [row.name for row in self.rows if row.verdict == "worse" and row.name != "frames.seconds"]

    @property
    def differences(self) -> list[str]:
        """What is to be known about the two runs before their numbers are."""
        a, b, found = self.a, self.b, []
        if a.run["source"] != b.run["source"]:
            found.append(f"the same images, recorded as {a.run['source']} and {b.run['source']}")
        if a.against != b.against:
            found.append(f"evaluated against other truth: {a.against['truth']} and {b.against['truth']}")
        for one, other, name in ((a, b, "A"), (b, a, "B")):
            if only := len(one.frames.keys() - other.frames.keys()):
                found.append(f"frames that only {name} has, not compared: {only}")
        before, after = a.run["settings"], b.run["settings"]
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                found.append(f"{name}: {before.get(name)} in A, {after.get(name)} in B")
        before, after = (run.run.get("weights", {}) for run in (a, b))  # older runs did not note them
        shared = sorted(before.keys() & after.keys())
        found += [f"{name}: other weights in A than in B" for name in shared if before[name] != after[name]]
        return found

    def table(self) -> str:
        """For people: means over the common frames, then what is only known of whole runs."""
        lines = [f"A  {self.a.folder}", f"B  {self.b.folder}", *(f"   {text}" for text in self.differences), ""]
        lines.append(f"{'means over common frames':<32}{'frames':>7}{'A':>12}{'B':>12}{'B − A':>12}  95 % interval")
        lines += [_line(row) for row in self.rows]
        lines += [f"fewer than {MIN_FRAMES} frames: –"] * any(row.interval is None for row in self.rows)
        if any(row.verdict.endswith("?") for row in self.rows):
            lines.append(f"?: not chance by itself, but of {len(self.rows)} numbers some are by chance")
        alone = {(row.name.partition(".")[0], row.alone): row for row in self.rows if any(row.alone)}
        lines += [f"{group}: {a} frames have numbers only in A, {b} only in B" for group, (a, b) in alone]
        if self.a.frames.keys() == self.b.frames.keys():
            lines += ["", f"{'whole runs':<39}{'A':>12}{'B':>12}{'B − A':>12}"]
            lines += [f"{name:<39}{a:>12.5g}{b:>12.5g}{b - a:>+12.3g}" for name, a, b in self._wholes()]
        return "\n".join(lines)

    def _wholes(self) -> Iterator[tuple[str, float, float]]:
        """Numbers of the whole runs that are not among those of single frames."""
        a, b = _numbers(self.a.metrics), _numbers(self.b.metrics)
        for name in a:
            if name in b and name not in self.a.names:
                yield name, a[name], b[name]


def _check_recordings(a: Evaluated, b: Evaluated) -> None:
    """Raises RunError unless both recordings are the same, by their images or, where unknown, their paths."""
    cameras = [
        {name: value for name, value in run.run["settings"].items() if name.startswith("camera.")} for run in (a, b)
    ]
    same = alike(a.images, b.images, SAME if cameras[0] == cameras[1] else RECTIFIED)
    sources = f"{a.folder} is of {a.run['source']}, {b.folder} of {b.run['source']}"
    if same is False:
        raise RunError(
            f"the two runs are over different recordings: {sources}, and their images of the same stamps are not "
            "alike. Compare runs over one recording, with other settings or other models"
        )
    if same is None and a.run["source"] != b.run["source"]:
        raise RunError(
            f"it cannot be told whether the two runs are over the same recording: {sources}, and no images of the "
            "same stamps were seen. If they are, run `vlm3 evaluate` on both again"
        )


def _numbers(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    """By group.name, those that can be better or worse."""
    named = {f"{group}.{name}": value for group, values in metrics.items() for name, value in values.items()}
    return {name: value for name, value in named.items() if isinstance(value, (int, float)) and meaning(name).better}


def _row(name: str, pairs: np.ndarray, numbers: int) -> Row:
    """From values [N, 2] of both runs, NaN unknown; it is one of so many ``numbers`` that are looked at."""
    known = np.isfinite(pairs)
    only_a, only_b = (int((known[:, i] & ~known[:, 1 - i]).sum()) for i in (0, 1))
    pairs = pairs[known.all(axis=1)]
    a, b = pairs.mean(axis=0).tolist()
    span, verdict = None, ""
    if len(pairs) >= MIN_FRAMES:
        means = resampled_means(pairs[:, 1] - pairs[:, 0])
        span = interval(means, LEVEL)
        if not _holds_zero(span):
            verdict = "better" if (span[0] > 0.0) == (meaning(name).better == "more") else "worse"
            verdict += "?" * _holds_zero(interval(means, 1.0 - (1.0 - LEVEL) / numbers))  # Bonferroni
    return Row(name, len(pairs), (only_a, only_b), a, b, span, verdict)


def _holds_zero(span: tuple[float, float]) -> bool:
    return span[0] <= 0.0 <= span[1]


def _line(row: Row) -> str:
    span = "–" if row.interval is None else "[{:+.3g}, {:+.3g}]".format(*row.interval)
    numbers = f"{row.frames:>7}{row.a:>12.5g}{row.b:>12.5g}{row.b - row.a:>+12.3g}"
    return f"{row.name:<32}{numbers}  {span:<22} {row.verdict}".rstrip()
