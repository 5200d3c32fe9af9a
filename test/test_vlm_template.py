"""Templates: what they learn of answers and what they propose next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm3_ros.vlm.template import Digits, Learner, Plan, Slot, Template, Text

NUMBERS = Digits(frozenset(map(ord, "0123456789")), ord("."))
DEPTH = "<think> around {0} meters. </think> <answer> {0} </answer>$"


def tokens(text):
    """One token a character."""
    return [ord(character) for character in text]


def learn(*answers):
    return Template.learn([tokens(answer) for answer in answers], NUMBERS)


def shown(template):
    return "".join(
        chr(part.token) if isinstance(part, Text) else f"[{part.longest},{part.decimals},{part.copy_of}]"
        for part in template.parts
    )


def plan(template, answer):
    found = template.plan(tokens(answer))
    return found and ("".join(map(chr, found.draft)) or found.free)


def test_fixed_text_numbers_and_copies_are_learned():
    template = learn(*(DEPTH.format(number) for number in ("8.49", "12.34", "1.05", "8.50")))
    assert shown(template) == "<think> around [5,2,None] meters. </think> <answer> [5,2,0] </answer>$"
    assert template.copies == {1: 0}


def test_two_numbers_are_no_copies_for_being_equal_once():
    template = learn("(8, 8)$", "(17, 3)$", "(5, 100)$", "(0, 0)$")
    assert shown(template) == "([2,0,None], [3,0,None])$"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("", "<think> around "),
        ("<think> ar", "ound "),
        ("<think> around ", 5),
        ("<think> around 8", 4),
        ("<think> around 8.", 3),
        ("<think> around 8.4", 2),
        ("<think> around 8.49", " meters. </think> <answer> 8.49 </answer>$"),
        ("<think> around 123.45", " meters. </think> <answer> 123.45 </answer>$"),
        ("<think> around 8 m", "eters. </think> <answer> 8 </answer>$"),
        ("<think> around 8.49 meters. </think> <answer> 8.", "49 </answer>$"),
        ("<think> around 8.49 meters. </think> <answer> 9", 4),
        ("<think> around 8.49 meters. </think> <answer> 9.11 <", "/answer>$"),
        ("<think> near ", None),
        ("<think> around x", None),
        ("<think> around 8.49 feet", None),
        (DEPTH.format("8.49"), None),
    ],
)
def test_what_comes_next(known, expected):
    template = learn(*(DEPTH.format(number) for number in ("8.49", "12.34", "1.05", "8.50")))
    assert plan(template, known) == expected


def test_a_word_that_differs_is_guessed_where_the_rest_lines_up():
    template = learn("Yaw=+8.1$", "Yaw=-2.0$", "Yaw=+3.3$", "Yaw=-1.1$", "Yaw=+1.2$")
    assert template.parts[4] == Text(ord("+"), is_fixed=False)
    assert plan(template, "") == "Yaw=+"
    assert plan(template, "Yaw=-2.0") == "$"


def test_free_text_ends_the_template():
    template = learn("I see a wall 3 m away$", "I see no floor at 5 m$", "I see two chairs, 1.0$", "I see nothing$")
    assert shown(template) == "I see "
    assert plan(template, "I see a") is None


def test_an_answer_that_went_astray_does_not_spoil_it():
    good = [DEPTH.format(number) for number in ("8.49", "12.34", "1.05", "8.50", "3.33")]
    template = learn(*good, "<think> around 5.5.5.5")
    assert shown(template) == "<think> around [5,2,None] meters. </think> <answer> [5,2,0] </answer>$"


@given(st.lists(st.text("ab 1.9", max_size=12), min_size=4, max_size=8), st.text("ab 1.9", max_size=14))
def test_any_answers_give_a_template_and_any_text_a_plan(answers, known):
    template = learn(*answers)
    found = template.plan(tokens(known))
    assert found is None or isinstance(found, Plan)
    assert all(isinstance(part, Text | Slot) for part in template.parts)


def test_learning_takes_a_few_answers_and_wrong_templates_are_dropped():
    learner = Learner(NUMBERS)
    learner.add([tokens("a 1$"), tokens("a 2$")])
    assert learner.needs_samples
    learner.add([tokens("a 1.5$"), tokens("a 1.0$")])
    assert shown(learner.template) == "a [3,None,None]$"
    learner.count(tried=31, failed=20)
    assert not learner.needs_samples
    learner.count(tried=1, failed=0)
    assert learner.needs_samples
    learner.add([tokens("b 1$")] * 4)
    assert shown(learner.template) == "b [1,0,None]$"


def test_a_template_of_unlike_answers_is_learned_anew_each_time_later():
    learner = Learner(NUMBERS)
    after = []
    for _ in range(3):
        learner.add([tokens(answer) for answer in ("a b 1$", "c d 2$", "e 3$", "no$")])
        assert shown(learner.template) == ""
        tried = 0
        while not learner.needs_samples:
            learner.count(tried=8, failed=0)
            tried += 8
        after.append(tried)
    assert after == [32, 64, 128]
    learner.add([tokens("a 1$")] * 4)
    for _ in range(100):
        learner.count(tried=8, failed=0)
    assert shown(learner.template) == "a [1,0,None]$"


def test_a_good_template_stays():
    learner = Learner(NUMBERS)
    learner.add([tokens("a 1$")] * 4)
    for _ in range(10):
        learner.count(tried=20, failed=5)
    assert not learner.needs_samples
