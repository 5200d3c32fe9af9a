"""Named things as boxes in the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import Place
from vlm3_ros.camera import unified
from vlm3_ros.config import Config
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.questions import grounding_exchange
from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.learn.scores import MEASURES
from vlm3_ros.tasks import grounding
from vlm3_ros.vlm import Answer

ROWS = {"precision": "precision", "recall": "recall", "iou": "mean IoU of the boxes that count as found"}


@dataclass(frozen=True, eq=False)
class Record:
    exchanges: list[Exchange]  # one for each name
    answers: list[Answer]


def ask(place: Place, show: Show, config: Config) -> Record | None:
    sight = show(place.first.frame)
    labels = [label for label in config.objects.labels if place.first.has_all(label)]
    if not labels:
        return None
    view, _ = sight.look("grounding", lambda c, scale: unified(c, grounding.FOCAL, config.camera.max_tokens, scale))
    answers = sight.ask(view, [grounding.question(label) for label in labels])
    assert None not in answers  # without a budget every question is answered
    return Record([grounding_exchange(place.first, label) for label in labels], answers)  # type: ignore[arg-type]


def measure(records: Sequence[Record]) -> dict[str, float]:
    return MEASURES["grounding"]([(None, record.exchanges, record.answers) for record in records])


def constant(other: Sequence[Record]) -> Callable[[Record], Record]:
    """For each name the median box."""
    boxes: dict[str, list[grounding.Box2D]] = {}
    for exchange in (exchange for record in other for exchange in record.exchanges):
        boxes.setdefault(reading.label(exchange), []).extend(reading.boxes(exchange))
    answers = {
        label: Answer(grounding.answer([_median(found)] if found else []), 1.0) for label, found in boxes.items()
    }
    return lambda record: replace(record, answers=[answers[reading.label(e)] for e in record.exchanges])


def _median(boxes: Sequence[grounding.Box2D]) -> grounding.Box2D:
    corners = np.median([(box.x1, box.y1, box.x2, box.y2) for box in boxes], axis=0)
    return grounding.Box2D(boxes[0].label, *corners)
