"""Named things as boxes, and questions about regions, with models that answer as a test says."""

from __future__ import annotations

import re
from math import exp, log

import numpy as np
import pytest
from scripted import Reply, Scripted, frame, metres, perception

from vlm3_ros.perception.objects import confidence
from vlm3_ros.tasks import Reason, depth, grounding
from vlm3_ros.tasks.grounding import Box2D
from vlm3_ros.vlm import Answer

SURE = {"chair": 0.64, "sofa": float("nan")}  # probabilities of some answers
NAMES = {"objects.labels": ["sofa", "table", "chair"]}


def labelled(is_cut: bool = False, **texts: str) -> Reply:
    """``texts`` to the grounding questions of some names, "[]" to those of others, 2 m to questions about depth."""

    def reply(question):
        if "Locate" not in question.text:
            return Answer(depth.answer(2.0), 0.9)
        label = next((name for name in texts if f": {name}." in question.text), "")
        return Answer(texts.get(label, "[]"), SURE.get(label, 0.4), is_cut=is_cut)

    return reply


def row(label: str, count: int) -> str:
    """An answer with boxes side by side."""
    return grounding.answer([Box2D(label, 100 * i, 100, 100 * i + 80, 900) for i in range(count)])


@pytest.mark.parametrize(
    ("texts", "expected", "refused"),
    [
        (["[]", "There is nothing.", "[]"], [], {}),
        (["I cannot tell.", "[]", "[]"], None, {Reason.UNPARSED: 1}),
        (["[]", '[{"bbox_2d": [1, 2, 3, 4], "label": "dragon"}]', ""], None, {"out_of_range": 1, "unparsed": 1}),
    ],
)
def test_nothing_there_is_an_empty_list_and_not_known_is_none(texts, expected, refused):
    model = Scripted(labelled(**dict(zip(NAMES["objects.labels"], texts, strict=True))))
    scene = perception(model, NAMES).perceive(frame(), {"objects"})
    assert scene.objects == expected
    assert scene.tally.refused == refused


def test_each_name_is_asked_for_and_the_likeliest_boxes_come_first():
    model = Scripted(labelled(table=row("table", 1), chair=row("chair", 2), sofa=row("sofa", 1)))
    scene = perception(model, NAMES).perceive(frame(), {"objects"})
    assert sum("Locate" in text for text in model.questions) == 3
    assert scene.objects is not None
    assert [box.label for box in scene.objects] == ["chair", "chair", "table", "sofa"]
    assert [box.score for box in scene.objects] == pytest.approx([0.64, 0.64, 0.4, np.nan], nan_ok=True)


def pieces(text: str, odds: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Characters as tokens: sure ones, but for digits of corners (as good as guessed) and the first of some texts."""
    first = {text.index(part): log(p) for part, p in odds.items()}
    in_corners = [m.span(1) for m in re.finditer(r"\[([0-9, ]+)\]", text)]
    return tuple(
        (c, log(0.1) if any(a <= i < b for a, b in in_corners) else first.get(i, 0.0)) for i, c in enumerate(text)
    )


def test_a_score_is_that_of_the_thing_and_not_of_its_corners():
    text = row("chair", 2)
    said = pieces(text, {'[{"': 0.9, ', {"bbox': 0.3})
    total = exp(sum(log for _, log in said))

    def reply(question):
        if "Locate" not in question.text:
            return Answer(depth.answer(2.0), 0.9)
        return Answer(text, total, pieces=said)

    scene = perception(Scripted(reply), {"objects.labels": ["chair"]}).perceive(frame(), {"objects"})
    assert scene.objects is not None
    assert total < 1e-9
    assert [box.score for box in scene.objects] == pytest.approx([0.9, 0.3])


@pytest.mark.parametrize(
    ("text", "odds", "expected"),
    [
        ("Yes, it is, as far as one can tell.", {"Y": 0.8, "tell": 0.1}, 0.8),
        ("No.", {"N": 0.7}, 0.7),
        ("The distance is 1.25 meters away from it.", {"1.25": 0.5, "away": 0.1, "The": 0.2}, 0.5),
        ("It is at 3 o'clock from it.", {"3": 0.6, "from": 0.1}, 0.6),
        ("A red chair beside a table.", {"red": 0.1}, 0.1 ** (1 / 27)),
    ],
)
def test_confidence_is_that_of_what_an_answer_says(text, odds, expected):
    said = pieces(text, odds)
    answer = Answer(text, exp(sum(log for _, log in said)), tokens=len(said), pieces=said)
    assert confidence(answer) == pytest.approx(expected)


def test_a_long_text_of_which_only_the_whole_is_known_is_as_sure_as_its_tokens():
    assert confidence(Answer("A chair beside a table", 0.9**20, tokens=20)) == pytest.approx(0.9)
    assert np.isnan(confidence(Answer("Yes", float("nan"))))


def test_an_answer_that_is_no_list_costs_one_name():
    model = Scripted(labelled(table=row("table", 1), chair="Sorry."))
    scene = perception(model, NAMES).perceive(frame(), {"objects"})
    assert scene.objects is not None
    assert [box.label for box in scene.objects] == ["table"]
    assert scene.tally.refused == {Reason.UNPARSED: 1}


def test_a_list_without_an_end_keeps_its_boxes_and_is_counted():
    model = Scripted(labelled(is_cut=True, chair=row("chair", 2)[:-1] + ', {"bbox_2d": [1, 2'))
    scene = perception(model, {"objects.labels": ["chair"]}).perceive(frame(), {"objects"})
    assert scene.objects is not None
    assert len(scene.objects) == 2
    assert scene.tally.refused == {Reason.CUT_OFF: 1}


def test_a_frame_keeps_the_settings_it_began_with():
    """A scale that is set while depth is asked does not take the boxes of the same frame twice as far."""
    usual = labelled(chair=row("chair", 1))

    def reply(question):
        eyes.config = eyes.config.updated({"depth.scale": 2.0})
        return usual(question)

    eyes = perception(Scripted(reply), {"objects.labels": ["chair"]})
    scene = eyes.perceive(frame(), {"depth", "objects"})
    assert scene.depth is not None
    assert scene.objects is not None
    assert np.median(scene.depth.map.depth) == pytest.approx(2.0, rel=0.2)
    assert scene.objects[0].center[2] == pytest.approx(2.0, rel=0.2)
    assert np.median(eyes.perceive(frame(1), {"depth"}).depth.map.depth) == pytest.approx(4.0, rel=0.2)


def test_without_names_nothing_is_looked_for():
    model = Scripted(labelled())
    assert perception(model, {"objects.labels": []}).perceive(frame(), {"objects"}).objects == []
    assert not model.questions


def test_at_most_so_many_boxes_are_lifted_the_likeliest_of_all_names():
    model = Scripted(labelled(table=row("table", 3), chair=row("chair", 4)))
    scene = perception(model, {**NAMES, "objects.max_boxes": 5}).perceive(frame(), {"objects"})
    assert scene.objects is not None
    assert [box.label for box in scene.objects] == ["chair"] * 4 + ["table"]


CHAIR = grounding.answer([Box2D("chair", 500, 250, 750, 500)])


def depths_asked(model: Scripted) -> np.ndarray:
    """Where depth was asked, [N, 2] in parts of the image."""
    asked = [t[t.index("(") + 1 : t.index(")")].split(", ") for t in model.questions if "how far" in t]
    return np.array(asked, float).reshape(-1, 2) / 2000


def test_depth_is_asked_in_and_around_each_box():
    model = Scripted(labelled(chair=CHAIR))
    perception(model).perceive(frame(), {"objects"})
    x, y = depths_asked(model).T
    within = (x > 0.5) & (x < 0.75) & (y > 0.25) & (y < 0.5)
    assert within.mean() > 0.5
    assert (~within).sum() > 10
    assert x.min() > 0.4
    assert x.max() < 0.85
    assert x[within].mean() == pytest.approx(0.625, abs=0.01)
    assert y[within].mean() == pytest.approx(0.375, abs=0.01)


@pytest.mark.parametrize(("first_column", "boxes"), [(100, 1), (159, 0)], ids=["part of it", "nothing"])
def test_of_a_box_only_what_the_raw_image_shows_is_asked(first_column, boxes):
    valid = np.zeros((120, 160), bool)
    valid[:, first_column:] = True
    model = Scripted(labelled(chair=CHAIR))
    scene = perception(model).perceive(frame(valid=valid), {"objects"})
    x, _ = depths_asked(model).T
    assert (len(x) > 0) == (boxes > 0)
    assert (x > (first_column - 1) / 160).all()
    assert scene.objects is not None
    assert len(scene.objects) == boxes
    assert scene.tally.refused == ({} if boxes else {Reason.INCONSISTENT: 1})


# ------------------------------------------------------------------------------------------------------------- ask


def test_a_question_about_regions_is_asked_in_reference_numbers():
    model = Scripted(lambda question: Answer("Yes.", 0.8))
    answer = perception(model).ask(frame(), "Is <region 2> behind <region 1>?", [(40, 30, 80, 60), (-9, 0, 500, 119)])
    assert answer == Answer("Yes.", 0.8)
    (text,) = model.questions
    first, second = ([int(n) for n in part.split(")")[0].split(", ")] for part in text.split("(")[2:0:-1])
    assert first == pytest.approx([250, 250, 500, 500], abs=4)
    assert second == pytest.approx([0, 0, 999, 995], abs=4)


@pytest.mark.parametrize(
    ("text", "regions", "said"),
    [("Is <region 1> red?", [], "region 1"), ("Is <region 1> red?", [(0, float("nan"), 1, 1)], "NaN")],
)
def test_questions_that_cannot_be_asked(text, regions, said):
    with pytest.raises(ValueError, match=said):
        perception(Scripted(metres(1.0))).ask(frame(), text, regions)
