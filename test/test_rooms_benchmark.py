"""`python -m benchmarks.rooms`: what it measures of a model that is always right, of constants, and of silence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from scripted import TASKS as PROTOCOL
from scripted import Shelf
from truth import TrueFrame, TruthView, fingerprint

from benchmarks.rooms import answerers, boxes, depth, focal, pose
from benchmarks.rooms.asking import TASKS, Job, perceive
from benchmarks.rooms.place import HFOV_DEG, Place, camera
from benchmarks.rooms.report import measures, table, written
from vlm3_ros.camera import unified
from vlm3_ros.learn.data.questions import Seen, grounding_exchange, object_exchanges
from vlm3_ros.learn.data.sample import Exchange, Known
from vlm3_ros.tasks import Question, objects
from vlm3_ros.tasks.depth import answer as depth_answer
from vlm3_ros.tasks.pose import QUESTIONS, PoseAnswer
from vlm3_ros.tasks.pose import answers as pose_answers
from vlm3_ros.vlm import Answer, Distribution, Picture
from vlm3_ros.vlm.models import Models

ROOMS = range(4)
OTHER = range(1000, 1004)
CONFIG = answerers.config("model")
EXACT = {
    "depth": {"delta1": 1.0, "delta1_median": 1.0, "delta1_inside": 1.0, "answered": 1.0},
    "matches": {"within_5": 1.0, "answered": 1.0},
    "pose": {"answered": 1.0},
    "grounding": {"precision": 1.0, "recall": 1.0},
    "boxes": {},
    "objects": {"right": 1.0, "right_yes_no": 1.0, "right_length": 1.0, "right_clock": 1.0},
    "focal": {name: 1.0 for name in focal.ROWS if name.endswith("unified")},
}
NEARLY = {  # what rounding to reference numbers and two decimals leaves: row → at most
    "depth": {"abs_rel": 0.01, "abs_rel_median": 0.01},
    "matches": {"epe": 0.15, "epe_median": 0.15},
    "pose": {
        "rotation_deg_median_answered": 0.1,
        "direction_deg_median_answered": 1.0,
        "length_rel_median_answered": 0.02,
    },
    "grounding": {},
    "boxes": {},
    "objects": {},
    "focal": {},
}


class Right:
    """Gives the right answer to everything that is asked about some rooms."""

    def __init__(self, rooms: Sequence[int]):
        self._frames: dict[str, TrueFrame] = {}
        self._exchanges: dict[str, list[Exchange]] = {}
        for place in map(Place.of, rooms):
            for known in (place.first, place.second, *map(place.through, focal.OTHER_DEG)):
                if known is not None:
                    self._add(known, place)

    def _add(self, known: Known, place: Place) -> None:
        key = fingerprint(known.frame.image)
        self._frames[key] = TrueFrame(known.camera, known.depth, known.T_world_camera)
        seen = Seen(unified(known.camera, objects.FOCAL, CONFIG.camera.max_tokens), objects.FOCAL)
        self._exchanges[key] = [
            *(grounding_exchange(known, label) for label in CONFIG.objects.labels),
            *object_exchanges(known, seen, 1000, place.rng()),
        ]

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[RightView]:
        keys = [fingerprint(picture.pixels) for picture in pictures]
        truth = TruthView([(self._frames[key], p.size) for key, p in zip(keys, pictures, strict=True)])
        yield RightView(truth, {e.question: e.answer for e in self._exchanges[keys[0]]})

    def close(self) -> None:
        pass


class RightView:
    def __init__(self, truth: TruthView, answers: dict[str, str]):
        self._truth, self._answers = truth, answers

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        return [
            Answer(self._answers[q.text], 1.0) if q.text in self._answers else self._truth.ask([q])[0]
            for q in questions
        ]


class Torn(Right):
    """Its numbers' distributions are right; its text is that of a motion backwards, and of depths out of reach."""

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[TornView]:
        with super().look(pictures) as view:
            yield TornView(view)


class TornView:
    def __init__(self, right: RightView):
        self._right = right

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        back = pose_answers(PoseAnswer(90.0, (90.0, 0.0, 0.0), (0.0, 0.0, -1.0), 3.0))
        wrong = {q.text: text for q, text in zip(QUESTIONS, back, strict=True)}
        answers = []
        for question, right in zip(questions, self._right.ask(questions), strict=True):
            values = question.grammar.read(right.text)
            numbers = tuple(Distribution(np.array([value]), np.ones(1)) for value in values)
            answers.append(Answer(wrong.get(question.text, depth_answer(99.0)), 1.0, numbers))
        return answers


@cache
def records(who: str, rooms: range) -> dict[str, list[Any]]:
    """By task, of one who is right, of one whose text is not, or of one who says nothing."""
    model = {"right": Right, "torn": Torn}.get(who)
    tasks = ("depth", "pose") if who == "torn" else tuple(TASKS)
    models = Models(dict.fromkeys(PROTOCOL, "model"), Shelf(model=model(rooms)) if model else answerers.Silent(1.0))
    results = [perceive(Job(who, number, tasks), models, CONFIG) for number in rooms]
    return {task: [r.records[task] for r in results if r.records[task] is not None] for task in tasks}


@pytest.mark.parametrize("task", TASKS)
def test_right_answers_reach_the_best_values(task):
    found = TASKS[task].measure(records("right", ROOMS)[task])
    assert set(TASKS[task].ROWS) <= set(found)
    assert {row: found[row] for row in EXACT[task]} == EXACT[task]
    for row, most in NEARLY[task].items():
        assert 0.0 <= found[row] < most, row


def test_right_answers_give_all_of_the_pose_curve_and_good_boxes():
    moved, found = (TASKS[task].measure(records("right", ROOMS)[task]) for task in ("pose", "boxes"))
    assert min(moved[f"{row}{which}"] for row in ("auc30", "auc30_far") for which in ("", "_of_medians")) > 0.97
    assert found["recall"] > 0.9  # things behind others are lifted from what shows of them
    assert found["iou"] * found["recall"] > 0.35  # the mean over all things, found or not


@pytest.mark.parametrize(
    ("task", "greedy", "medians"),
    [("depth", "delta1", "delta1_median"), ("pose", "auc30", "auc30_of_medians")],
)
def test_text_and_medians_are_told_apart(task, greedy, medians):
    """A model whose text is wrong, and whose numbers are right."""
    found = TASKS[task].measure(records("torn", ROOMS)[task])
    assert found[greedy] < 0.05
    assert found[medians] > 0.95


def test_far_moves_are_counted_by_themselves():
    far, near = (np.eye(4) + np.outer([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, x]) for x in (0.2, 0.19))
    back = np.linalg.inv(near)
    found = pose.measure([pose.Record(far, far, None), pose.Record(near, back, near)])
    assert (found["auc30"], found["auc30_far"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert (found["auc30_of_medians"], found["auc30_far_of_medians"]) == (pytest.approx(0.5), pytest.approx(0.0))


def test_true_boxes_are_matched_with_themselves_whatever_their_order():
    of_rooms = records("right", ROOMS)["boxes"]
    found = boxes.measure([boxes.Record(record.true, record.true[::-1]) for record in of_rooms])
    assert found["iou"] == pytest.approx(1.0)
    assert (found["recall"], found["recall25"], found["precision"], found["center_m"]) == (1.0, 1.0, 1.0, 0.0)


def test_a_box_matches_one_true_box_only():
    record = next(record for record in records("right", ROOMS)["boxes"] if record.true)
    found = boxes.measure([boxes.Record(record.true[:1], record.true[:1] * 3)])
    assert found["precision"] == pytest.approx(1 / 3)


def test_without_unification_the_same_answers_are_wrong():
    found = focal.measure(records("right", ROOMS)["focal"])
    for deg in focal.OTHER_DEG:
        magnified = camera(deg).focal / camera(HFOV_DEG).focal
        is_off = max(magnified, 1 / magnified) > depth.RATIO
        assert (found[f"{deg:.0f}_as_it_is"] < 0.1) == is_off


@pytest.mark.parametrize("task", TASKS)
def test_silence_has_no_right_answer(task):
    found = TASKS[task].measure(records("silent", ROOMS)[task])
    better_more = ("delta1", "within", "auc3", "recall", "precision", "answered", "right", "55", "70")
    values = {row: found[row] for row in TASKS[task].ROWS if row.startswith(better_more)}
    assert values
    assert set(values.values()) == {0.0}


@pytest.mark.parametrize("task", [task for task in TASKS if hasattr(TASKS[task], "constant")])
def test_constants_are_chosen_without_the_rooms_that_are_measured(task):
    """They come from silent records: the truth of other rooms is all they need, and they beat silence."""
    of_task = records("silent", ROOMS)[task]
    answer = TASKS[task].constant(records("silent", OTHER)[task])
    found, right = (TASKS[task].measure(r) for r in (list(map(answer, of_task)), records("right", ROOMS)[task]))
    first, worse = next(iter(TASKS[task].ROWS)), {"matches": -1}.get(task, 1)
    assert math.isfinite(found[first])
    assert found[first] * worse < right[first] * worse


def test_the_best_constant_depth_is_found():
    true = np.full(40, 2.0)
    record = depth.Record(true, true > 0, *np.full((3, 40), np.nan))
    found = depth.measure([depth.constant([record])(record)])
    assert found["delta1"] == 1.0
    assert found["abs_rel_median"] < 0.01


def test_a_confidence_that_knows_has_an_auroc_of_one():
    is_right = np.array([True, False, True, False])
    assert depth.auroc(np.array([0.9, 0.2, 0.8, 0.1]), is_right) == 1.0
    assert depth.auroc(np.full(4, 0.5), is_right) == 0.5
    assert math.isnan(depth.auroc(np.full(4, 0.5), np.ones(4, bool)))


def test_the_table_has_a_line_for_every_row_and_a_dash_for_what_is_not_measured():
    few = {task: of_task for task, of_task in records("silent", ROOMS).items() if task != "focal"}
    other = {task: of_task for task, of_task in records("silent", OTHER).items() if task != "focal"}
    found = measures(records("right", ROOMS), few, other)
    lines = table(found, {"model": 4, "constant": 4, "untrained": 4}).splitlines()
    assert len(lines) == 2 + sum(len(task.ROWS) for task in TASKS.values())
    assert lines[2].startswith("| depth | δ1, greedy | 1.000 | 0.")
    assert lines[-1].endswith("| – | – |")
    assert written(found)["untrained"]["depth"]["abs_rel"] is None
