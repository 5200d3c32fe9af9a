"""What a data set asks about, in numbers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.learn.data.shards import DataSet
from vlm3_ros.tasks import Refusal, matching, objects, pose

PERCENT = (0, 5, 25, 50, 75, 95, 100)
BARS = " ▁▂▃▄▅▆▇█"


def report(data: DataSet) -> str:
    """Counts and distributions, for people."""
    samples, exchanges, values = _counted(data.exchanges())
    lines = [
        f"{data.folder}: {len(data)} samples of {len(data.scenes)} scenes, {exchanges.total()} questions",
        "",
        f"  {'task':<12}{'samples':>10}{'questions':>12}",
        *(f"  {task:<12}{samples[task]:>10}{exchanges[task]:>12}" for task in exchanges),
        "",
        f"  {'':<30}{'number':>8}" + "".join(f"{f'{p} %':>9}" for p in PERCENT) + f"{'mean':>9}",
        *(_row(name, np.array(found)) for name, found in sorted(values.items())),
    ]
    left_out: dict[str, int] = data.manifest["left_out"]
    if left_out:
        lines += ["", "  left out", *(f"  {count:>10}  {reason}" for reason, count in left_out.items())]
    return "\n".join(lines)


def _counted(samples: Iterable[Sequence[Exchange]]) -> tuple[Counter[str], Counter[str], dict[str, list[float]]]:
    """Samples and questions by task, and the values in answers by what they mean."""
    by_task: Counter[str] = Counter()
    exchanges: Counter[str] = Counter()
    values: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        by_task.update({exchange.task for exchange in sample})
        exchanges.update(exchange.task for exchange in sample)
        for name, value in _values(sample):
            values[name].append(value)
    return by_task, exchanges, values


def _values(sample: Sequence[Exchange]) -> Iterator[tuple[str, float]]:
    """What the answers of a sample say."""
    for exchange in sample:
        if exchange.task == "depth":
            yield "depth, m", reading.metres(exchange)
        elif exchange.task == "matching":
            (x1, y1), (x2, y2) = reading.pixel(exchange), reading.match(exchange)
            yield "match moved, % of image", math.hypot(x2 - x1, y2 - y1) / matching.BINS * 100
        elif exchange.task == "grounding":
            yield "boxes of one name", len(reading.boxes(exchange))
        elif exchange.task == "objects":
            yield _object_value(exchange)
    motion = [exchange.answer for exchange in sample if exchange.task == "pose"]
    if motion:
        answer = pose.parse(motion)
        assert not isinstance(answer, Refusal)
        yield "pose turned, °", answer.angle_deg
        yield "pose moved, m", answer.distance_m


def _object_value(exchange: Exchange) -> tuple[str, float]:
    kind, value = reading.kind(exchange), float(reading.object_answer(exchange))
    if kind in objects.COMPARISONS:
        return "object is …, yes = 1", value
    return f"object {kind}, {'h' if kind == 'direction' else 'm'}", value


def _row(name: str, values: np.ndarray) -> str:
    quantiles = np.percentile(values, PERCENT)
    counts, _ = np.histogram(values, bins=24)
    heights = np.ceil(counts / counts.max() * (len(BARS) - 1)).astype(int)
    numbers = "".join(f"{q:>9.2f}" for q in (*quantiles, values.mean()))
    return f"  {name:<30}{len(values):>8}{numbers}   {''.join(BARS[h] for h in heights)}"
