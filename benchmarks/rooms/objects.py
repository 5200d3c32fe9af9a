"""Spatial questions about regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.rooms.answerers import Show
from benchmarks.rooms.place import Place
from vlm3_ros.camera import unified
from vlm3_ros.config import Config
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.questions import Seen, object_exchanges
from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.learn.scores import MEASURES, question
from vlm3_ros.tasks import objects
from vlm3_ros.vlm import Answer

QUESTIONS = 12
CONSTANTS = [
    *("Yes.", "No."),
    *(f"{hour} o'clock" for hour in range(1, 13)),
    *(f"{metres:.2f} meters" for metres in np.geomspace(0.05, 10.0, 80)),
]
ROWS = {
    "right": "right, of all",
    "right_yes_no": "comparisons right",
    "right_length": "lengths within 25 %",
    "right_clock": "clock directions within an hour",
}


@dataclass(frozen=True, eq=False)
class Record:
    exchanges: list[Exchange]
    answers: list[Answer]


def ask(place: Place, show: Show, config: Config) -> Record:
    """As `perception.objects.ask_about`, all questions at once."""
    sight = show(place.first.frame)
    view, seen = sight.look("objects", lambda c, scale: unified(c, objects.FOCAL, config.camera.max_tokens, scale))
    focal = objects.FOCAL * sight.image_scale("objects")
    exchanges = object_exchanges(place.first, Seen(seen, focal), QUESTIONS, place.rng())
    exchanges.sort(key=lambda exchange: question(exchange).grammar.parts != objects.YES_NO.parts)  # asked together
    answers = sight.ask(view, [question(exchange) for exchange in exchanges])
    return Record(exchanges, [answer for answer in answers if answer is not None])


def measure(records: Sequence[Record]) -> dict[str, float]:
    return MEASURES["objects"]([(None, record.exchanges, record.answers) for record in records if record.exchanges])


def constant(other: Sequence[Record]) -> Callable[[Record], Record]:
    """For each kind of question the answer that is most often right."""
    asked: dict[str, list[Exchange]] = defaultdict(list)
    for record in other:
        for exchange in record.exchanges:
            asked[reading.kind(exchange)].append(exchange)
    best = {kind: max(CONSTANTS, key=lambda text: _right(exchanges, text)) for kind, exchanges in asked.items()}
    return lambda r: replace(r, answers=[Answer(best.get(reading.kind(e), ""), 1.0) for e in r.exchanges])


def _right(exchanges: list[Exchange], text: str) -> float:
    return measure([Record(exchanges, [Answer(text, 1.0)] * len(exchanges))])["right"]
