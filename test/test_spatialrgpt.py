"""Every answer of SpatialRGPT's public templates is read and scored right, and our questions and answers are of them.

The facts below are of AnjieCheng/SpatialRGPT, dataset_pipeline/osdsynth/processor/prompt_template.py: for each
predicate its answers where it holds and where it does not, for each choice its answers, and those with a length or an
hour.
"""

from __future__ import annotations

import itertools
import re

import pytest

from vlm3_ros.metrics.answers import answer_errors
from vlm3_ros.tasks import objects

A, B = (0, 39, 652, 999), (6, 380, 228, 562)
PREDICATES = {  # kind: (true answers, false answers), parted by |
    "left": (
        "Yes, A is to the left of B.|Indeed, A is positioned on the left side of B."
        "|Correct, you'll find A to the left of B.",
        "No, A is not to the left of B.|In fact, A is to the right of B.|Incorrect, A is not on the left side of B.",
    ),
    "right": (
        "Yes, A is to the right of B.|Indeed, A is positioned on the right side of B."
        "|Correct, you'll find A to the right of B.",
        "No, A is not to the right of B.|In fact, A is to the left of B.|Incorrect, A is not on the right side of B.",
    ),
    "above": (
        "Yes, A is above B.|Indeed, A is positioned over B.|Correct, A is located above B.",
        "No, A is not above B.|Actually, A is below B.|Incorrect, A is not positioned above B.",
    ),
    "below": (
        "Yes, A is below B.|Indeed, A is positioned under B.|Correct, A is located below B.",
        "No, A is not below B.|Actually, A is above B.|Incorrect, A is not positioned below B.",
    ),
    "wider": (
        "Yes, A is wider than B.|Indeed, A has a greater width compared to B."
        "|Correct, the width of A exceeds that of B.",
        "No, A is not wider than B.|In fact, A might be narrower than B.|Incorrect, A's width does not surpass B's.",
    ),
    "bigger": (
        "Yes, A is bigger than B.|Indeed, A has a larger size compared to B.|Correct, A is larger in size than B.",
        "No, A is not bigger than B.|Actually, A might be smaller than B.|Incorrect, A is not larger than B.",
    ),
    "taller": (
        "Yes, A is taller than B.|Indeed, A has a greater height compared to B.|Correct, A is much taller as B.",
        "No, A is not taller than B.|In fact, A may be shorter than B.|Incorrect, A's height is not larger of B's.",
    ),
    "shorter": (
        "Yes, A is shorter than B.|Indeed, A has a lesser height compared to B.|Correct, A is not as tall as B.",
        "No, A is not shorter than B.|In fact, A may be taller than B."
        "|Incorrect, A's height does not fall short of B's.",
    ),
    "thinner": (
        "Yes, A is thinner than B.|Indeed, A has a lesser width compared to B.|Correct, A's width is less than B's.",
        "No, A is not thinner than B.|In fact, A might be wider than B.|Incorrect, A's width is not less than B's.",
    ),
    "smaller": (
        "Yes, A is smaller than B.|Indeed, A has a smaller size compared to B."
        "|Correct, A occupies less space than B.",
        "No, A is not smaller than B.|Actually, A might be larger than B."
        "|Incorrect, A is not smaller in size than B.",
    ),
    "behind": (
        "Yes.|Yes, it is.|Yes, it is behind B.|That is True.|Yes, A is further from the viewer.|Yes, A is behind B.",
        "No.|No, it is not.|No, it is in front of B.|That is False.|No, A is closer to the viewer."
        "|No, B is in front of A.",
    ),
    "front": (
        "Yes.|Yes, it is.|Yes, it is in front of B.|That is True.|Yes, A is closer to the viewer."
        "|Yes, A is in front of B.",
        "No.|No, it is not.|No, it is behind B.|That is False.|No, A is further to the viewer.|No, A is behind B.",
    ),
}
CHOICES = (
    "X is more to the left.|From the viewer's perspective, X appears more on the left side."
    "|Positioned to the left is X.|X is more to the right."
    "|From the viewer's perspective, X appears more on the right side.|Positioned to the right is X.|X is above."
    "|Positioned higher is X.|X is higher up.|X is below.|Positioned lower is X.|X is lower down.|X is in front."
    "|Positioned in front is X.|X is more forward.|X is behind.|Positioned behind is X.|X is more backward."
    "|X is taller."
    "|With more height is X.|Standing taller between the two is X.|X is shorter.|With less height is X."
    "|Standing shorter between the two is X."
)
LENGTHS = (
    "X|A and B are X apart.|A is X away from B.|A distance of X exists between A and B.|A is X from B."
    "|A and B are X apart from each other.|They are X apart.|The distance of A from B is X."
    "|A and B are X apart vertically.|A is X away from B vertically."
    "|A vertical distance of X exists between A and B.|A is X from B vertically."
    "|A and B are X apart vertically from each other.|Vertically, They are X apart."
    "|The vertical distance of A from B is X.|It is approximately X.|A and B are X apart horizontally."
    "|A is X away from B horizontally.|A horizontal distance of X exists between A and B."
    "|A is X from B horizontally.|A and B are X apart horizontally from each other."
    "|Horizontally, They are X apart.|The horizontal distance of A from B is X.|The width of A is X.|A is X wide."
    "|A is X in width.|It is X.|The height of A is X.|A is X tall.|A is X in height."
)
DIRECTIONS = "B is roughly at X o'clock from A.|A will find B around the X o'clock direction."
QUESTIONS = {  # those that are templates word for word; how a question begins otherwise is one of several there
    "above": "Can you confirm if A is positioned above B?",
    "below": "Can you confirm if A is positioned below B?",
    "left": "Can you confirm if A is positioned to the left of B?",
    "right": "Can you confirm if A is positioned to the right of B?",
    "bigger": "Can you confirm if A is bigger than B?",
    "smaller": "Can you confirm if A is smaller than B?",
    "taller": "Can you confirm if A is taller than B?",
    "shorter": "Can you confirm if A is shorter than B?",
    "wider": "Can you confirm if A is wider than B?",
    "thinner": "Can you confirm if A is thinner than B?",
    "behind": "Is A behind B?",
    "front": "Is A in front of B?",
    "distance": "What is the distance between A and B?",
    "horizontal distance": "What is the horizontal distance between A and B?",
    "vertical distance": "What is the vertical distance between A and B?",
    "width": "What is the approximate width of A?",
    "height": "What is the approximate height of A?",
    "direction": "If you are at A, where will you find B?",
}
UNITS = {"meters": 1.0, "feet": 0.3048, "inches": 0.0254, "centimeters": 0.01}
DIALECT = {
    "above": "Can you confirm if {a} is above {b}?",
    "behind": "Can you confirm if {a} is behind {b}?",
    "direction": "If you are at {a}, where will you find {b}? Answer as a clock direction.",
}


def filled(template: str, x: str = "") -> str:
    """A template with regions for A and B, and ``x`` for X."""
    names = {"A": objects.name(A), "B": objects.name(B), "X": x}
    return re.sub(r"\b[ABX]\b(?! (?:distance|vertical|horizontal))", lambda found: names[found[0]], template)


@pytest.mark.parametrize("kind", PREDICATES)
def test_every_pair_of_a_right_answer_and_a_given_one_is_scored_right(kind):
    true, false = (list(map(filled, texts.split("|"))) for texts in PREDICATES[kind])
    said = [(text, True) for text in true] + [(text, False) for text in false]
    for (right, truth), (given, claim) in itertools.product(said, said):
        assert answer_errors(given, right)[:2] == ("yes_no", truth == claim), (right, given)
    assert len(said) in (6, 12)


@pytest.mark.parametrize("text", CHOICES.split("|"))
def test_every_choice_is_scored_right(text):
    right = filled(text, objects.name(A))
    for other in CHOICES.split("|"):
        assert answer_errors(filled(other, objects.name(A)), right)[:2] == ("which", True)
        assert answer_errors(filled(other, objects.name(B)), right)[:2] == ("which", False)


@pytest.mark.parametrize("text", LENGTHS.split("|"))
@pytest.mark.parametrize("unit", UNITS)
def test_every_length_is_scored_right_in_every_unit(text, unit):
    right = filled(text, f"{round(1.7 / UNITS[unit], 2)} {unit}")
    for other, size in UNITS.items():
        for factor, is_right in ((1.0, True), (1.2, True), (1.4, False), (0.7, False)):
            given = filled("A and B are X apart.", f"{round(1.7 * factor / size, 2)} {other}")
            kind, judged, error = answer_errors(given, right)
            assert (kind, judged) == ("length", is_right)
            assert error == pytest.approx(abs(factor - 1.0), abs=0.01)


@pytest.mark.parametrize("text", DIRECTIONS.split("|"))
@pytest.mark.parametrize("hour", range(1, 13))
def test_every_direction_is_scored_right(text, hour):
    for other, given in itertools.product(DIRECTIONS.split("|"), range(1, 13)):
        apart = min((hour - given) % 12, (given - hour) % 12)
        assert answer_errors(filled(other, str(given)), filled(text, str(hour))) == (
            "clock",
            apart <= 1,
            apart * 30.0,
        )


def test_a_label_about_both_regions_is_no_choice_between_them():
    supported = filled("There is no vertical gap, as A is directly beneath and supporting B.")
    assert answer_errors(filled("A is above."), supported) is None


# ------------------------------------------------------------------------------------------ what we ask and teach


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_are_the_public_ones(kind):
    if kind == "direction":
        question = objects.direction(A, B)
    elif kind in objects.COMPARISONS:
        question = objects.comparison(kind, A, B)
    else:
        question = objects.length(kind, A, B if "distance" in kind else None)
    assert question.text == filled(QUESTIONS[kind])
    assert objects.grammar(question.text) is question.grammar


@pytest.mark.parametrize("kind", PREDICATES)
def test_answers_that_are_taught_are_the_public_ones(kind):
    for texts, is_true in zip(PREDICATES[kind], (True, False), strict=True):
        assert objects.comparison_answer(kind, A, B, is_true) in map(filled, texts.split("|"))


def test_lengths_and_directions_that_are_taught_are_the_public_ones():
    answers = [filled(text, "1.70 meters") for text in LENGTHS.split("|")]
    for kind in objects.LENGTHS:
        assert objects.length_answer(kind, 1.7, A, B if "distance" in kind else None) in answers
    assert objects.direction_answer(A, B, 7) in [filled(text, "7") for text in DIRECTIONS.split("|")]


def test_a_checkpoint_may_have_learned_other_words():
    asked = [objects.comparison("above", A, B), objects.comparison("behind", A, B), objects.direction(A, B)]
    for question, other in zip(asked, DIALECT.values(), strict=True):
        worded = objects.worded(question.text, DIALECT)
        assert worded == other.format(a=objects.name(A), b=objects.name(B))
        assert objects.worded(worded, DIALECT) == worded
        assert objects.grammar(worded) is question.grammar
        assert objects.worded(question.text, {}) == question.text
    free = "Is the chair behind the table?"
    assert objects.worded(free, DIALECT) == free
    assert objects.worded(objects.comparison("below", A, B).text, DIALECT) == objects.comparison("below", A, B).text
