"""Measuring on held-out samples: right answers reach the best value of every measure, known mistakes a known one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import lessons
import numpy as np
import pytest

from vlm3_ros.learn.curriculum import Curriculum, held_out
from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.learn.data.shards import DataError
from vlm3_ros.learn.recipe import Recipe
from vlm3_ros.learn.scores import scores
from vlm3_ros.tasks import Question, depth, grounding, matching, pose
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm import Answer, Distribution, Picture


class Scripted:
    """Answers each question as told, by a text or with the distributions of its numbers."""

    def __init__(self, samples: Sequence[Sample], answer: Callable[[Exchange], str | Answer]):
        self._answers = {id(s.pictures[0]): {e.question: answer(e) for e in s.exchanges} for s in samples}

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[Scripted]:
        self._now = self._answers[id(pictures[0])]
        yield self

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        answers = [self._now[question.text] for question in questions]
        return [Answer(answer, 1.0) if isinstance(answer, str) else answer for answer in answers]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return Mixture(lessons.mixture(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def measured(mixture: Mixture) -> list[Sample]:
    return [look.sample for look in held_out(Recipe().updated({"measured_looks": 100}), mixture)]


def test_right_answers_are_perfect(measured):
    found = scores(Scripted(measured, lambda exchange: exchange.answer), measured)
    best_is_1 = ["depth delta1", "depth median_delta1", "depth parsed", "matching parsed", "pose answered"]
    best_is_1 += [
        "objects right",
        "objects right_yes_no",
        "objects right_length",
        "grounding recall",
        "grounding iou",
    ]
    assert {name: found[name] for name in best_is_1} == {
        n: found["pose pairs"] if "answered" in n else 1.0 for n in best_is_1
    }
    assert found["depth abs_rel"] == found["matching epe_percent"] == 0.0
    assert found["pose auc30"] == pytest.approx(1.0, abs=0.01)


def test_words_are_no_answers(measured):
    found = scores(Scripted(measured, lambda exchange: "I cannot tell."), measured)
    for name in ("depth delta1", "matching parsed", "pose auc30", "objects right", "grounding recall"):
        assert found[name] == 0.0


def test_known_mistakes_have_known_scores():
    picture = lessons.sample().pictures
    asked = [*depth.questions([(i, i) for i in range(4)]), *matching.questions([(5, 5), (6, 6)])]
    right = [depth.answer(2.0)] * 4 + [matching.answer(100, 100)] * 2
    given = [depth.answer(m) for m in (2.0, 2.4, 2.6, 4.0)] + [matching.answer(130, 140), "no"]
    tasks = ["depth"] * 4 + ["matching"] * 2
    exchanges = [Exchange(t, q.text, a) for t, q, a in zip(tasks, asked, right, strict=True)]
    (sample,) = [Sample("", "", picture, tuple(exchanges))]
    wrong = dict(zip((q.text for q in asked), given, strict=True))
    found = scores(Scripted([sample], lambda exchange: wrong[exchange.question]), [sample])
    assert found["depth delta1"] == 0.5
    assert found["depth abs_rel"] == pytest.approx((0.0 + 0.2 + 0.3 + 1.0) / 4)
    # 30 and 40 thousandths, and one without a value, which is off by the diagonal.
    assert found["matching epe_percent"] == pytest.approx((5.0 + 100.0 * 2**0.5) / 2)
    assert found["matching parsed"] == 0.5


def test_medians_are_measured_beside_the_text_and_are_it_where_they_are_not_known():
    numbers = [(Distribution(np.array([2.0]), np.ones(1)),)] * 2 + [(Distribution(np.empty(0), np.empty(0)),), ()]
    asked = depth.questions([(i, i) for i in range(4)])
    given = {q.text: Answer(depth.answer(4.0), 1.0, n) for q, n in zip(asked, numbers, strict=True)}
    exchanges = tuple(Exchange("depth", question.text, depth.answer(2.0)) for question in asked)
    sample = Sample("", "", lessons.sample().pictures, exchanges)
    found = scores(Scripted([sample], lambda exchange: given[exchange.question]), [sample])
    assert (found["depth delta1"], found["depth median_delta1"]) == (0.0, 0.5)
    assert (found["depth abs_rel"], found["depth median_abs_rel"]) == (pytest.approx(1.0), pytest.approx(0.5))


def test_motions_that_contradict_themselves_are_not_answered_as_the_node_has_it():
    right = pose.answers(PoseAnswer(30.0, (30.0, 0.0, 0.0), (0.0, 0.0, 1.0), 1.0))
    exchanges = tuple(Exchange("pose", q.text, a) for q, a in zip(pose.QUESTIONS, right, strict=True))
    sample = Sample("", "", lessons.sample(pictures=2).pictures, exchanges)
    given = {**{e.question: e.answer for e in exchanges}, pose.ROTATION.text: "Rotation angle: 60.0 degrees"}
    found = scores(Scripted([sample], lambda exchange: given[exchange.question]), [sample])
    assert (found["pose pairs"], found["pose answered"]) == (1, 0)


@pytest.mark.parametrize(
    ("given", "precision", "recall"),
    [
        ([("chair", 0, 0, 100, 100), ("table", 500, 500, 900, 900)], 1.0, 1.0),
        ([("chair", 0, 0, 100, 100), ("chair", 0, 0, 100, 95)], 1.0, 0.5),  # a duplicate is one box
        ([("chair", 0, 0, 100, 49), ("table", 500, 500, 900, 900)], 0.5, 0.5),
        ([("table", 0, 0, 100, 100)], 0.0, 0.0),
    ],
    ids=["both", "duplicate", "too small", "wrong name"],
)
def test_boxes_are_matched_by_name_and_overlap(given, precision, recall):
    true = [grounding.Box2D("chair", 0, 0, 100, 100), grounding.Box2D("table", 500, 500, 900, 900)]
    exchanges = [Exchange("grounding", grounding.question(box.label).text, grounding.answer([box])) for box in true]
    sample = Sample("", "", lessons.sample().pictures, tuple(exchanges))
    answer = grounding.answer([grounding.Box2D(*box) for box in given])  # to each of the two
    found = scores(Scripted([sample], lambda exchange: answer), [sample])
    assert (found["grounding precision"], found["grounding recall"]) == (precision, recall)


# ------------------------------------------------------------------------------------------ what is trained on


def test_looks_come_by_number_in_the_recipes_shares(mixture):
    recipe = Recipe().updated({"steps": 40, "looks": 5, "brief": 0.25, "shares.single": 0.5, "shares.pose": 0.0})
    looks = [Curriculum(recipe, mixture)[i] for i in range(200)]
    again = Curriculum(recipe, mixture)
    assert len(again) == 200
    for i in (0, 77, 199):
        assert again[i].sample.exchanges == looks[i].sample.exchanges
    pairs = [look for look in looks if len(look.sample.pictures) == 2]
    assert 0.2 < len(pairs) / 200 < 0.4  # 0.2 of 0.7
    assert all(exchange.task == "matching" for look in pairs for exchange in look.sample.exchanges)
    brief = [look.is_brief for look in looks]
    assert 0.15 < sum(brief) / 200 < 0.35
    assert sum(brief[:100]) > 2 * sum(brief[100:])  # from a half down to none
    assert {look.sample.scene for look in looks} == {"room000000"}  # the other one is held out


@pytest.mark.parametrize("is_brief", [False, True])
def test_a_look_is_asked_as_many_questions_as_the_recipe_says(mixture, is_brief):
    recipe = Recipe().updated(
        {"steps": 20, "looks": 1, "brief": float(is_brief), "questions.depth": 2, "questions.matching": 1}
    )
    curriculum, often = Curriculum(recipe, mixture), 4 if is_brief else 1
    found = [Counter(e.task for e in curriculum[i].sample.exchanges) for i in range(20)]
    assert {tasks["depth"] for tasks in found} == {0, 2 * often}
    assert {tasks["matching"] for tasks in found} == {0, often}
    assert all(sum(tasks[task] > 0 for task in ("depth", "matching", "pose")) == 1 for tasks in found)


def test_in_some_looks_there_is_only_to_see(mixture):
    looks = Curriculum(Recipe().updated({"steps": 20, "looks": 5, "asked": 0.25}), mixture)
    asked = [bool(looks[i].sample.exchanges) for i in range(100)]
    assert 0.15 < sum(asked) / 100 < 0.35
    assert all(any(looks[i].facts.alone) for i in range(100))


def test_looks_of_which_nothing_would_be_asked_are_not_taken(mixture):
    nothing = {f"questions.{task}": 0 for task in ("objects", "grounding", "pose")}
    looks = Curriculum(Recipe().updated({"steps": 4, "looks": 5, **nothing}), mixture)
    assert {e.task for i in range(20) for e in looks[i].sample.exchanges} == {"depth", "matching"}
    assert all(looks[i].sample.exchanges for i in range(20))
    with pytest.raises(DataError, match="shares and questions"):
        Curriculum(Recipe().updated({**nothing, "questions.depth": 0, "questions.matching": 0}), mixture)


def test_held_out_looks_are_of_other_scenes_and_the_same_each_time(mixture):
    recipe = Recipe().updated({"measured_looks": 2})
    first, second = held_out(recipe, mixture), held_out(recipe, mixture)
    assert [look.sample.exchanges for look in first] == [look.sample.exchanges for look in second]
    assert {look.sample.scene for look in first} == {"room000001"}
    assert len(first) == 6  # two of each kind
