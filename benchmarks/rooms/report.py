"""From records to numbers, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rooms.asking import TASKS

COLUMNS = ("model", "constant", "untrained")
NOTHING = "–"

Measures = dict[str, dict[str, dict[str, float]]]  # column → task → row


def measures(
    asked: Mapping[str, list[Any]], untrained: Mapping[str, list[Any]], other: Mapping[str, list[Any]]
) -> Measures:
    """Of the model, of the constant answers that do best on ``other`` rooms, and of an untrained checkpoint."""
    constant = {
        task: list(map(TASKS[task].constant(other[task]), records))
        for task, records in asked.items()
        if task in other
    }
    columns = zip(COLUMNS, (asked, constant, untrained), strict=True)
    return {
        name: {task: TASKS[task].measure(of_task) for task, of_task in records.items()} for name, records in columns
    }


def table(found: Measures, rooms: Mapping[str, int]) -> str:
    """Markdown; ``rooms`` says of how many rooms each column is."""
    heads = [f"{column} ({rooms[column]} rooms)" for column in COLUMNS]
    lines = [_line(["task", "", *heads]), _line(["---"] * (2 + len(heads)))]
    for task in found["model"]:
        for row, title in TASKS[task].ROWS.items():
            values = [found[column].get(task, {}).get(row, math.nan) for column in COLUMNS]
            lines.append(_line([task, title, *map(_number, values)]))
    return "\n".join(lines)


def written(found: Measures) -> dict[str, Any]:
    """As JSON has it, which knows no NaN."""
    return {
        column: {
            task: {row: value if math.isfinite(value) else None for row, value in rows.items()}
            for task, rows in tasks.items()
        }
        for column, tasks in found.items()
    }


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else NOTHING
