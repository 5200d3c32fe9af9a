"""Answers of every task that are none, however near they come, and the leniency there is."""

from __future__ import annotations

import json
import math

import pytest

from vlm3_ros.tasks import (
    Grammar,
    Number,
    Reason,
    Refusal,
    Words,
    depth,
    describe,
    grounding,
    matching,
    objects,
    pose,
)
from vlm3_ros.tasks.answers import without_think
from vlm3_ros.tasks.grounding import Box2D
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm import Answer

A, B = (0, 39, 652, 999), (6, 380, 228, 562)
POSE = (
    "Rotation angle: 89.7 degrees",
    "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°",
    "The camera moves left, forward, unit vector (-0.69, +0.02, +0.72).",
    "Translation distance: 1.98 meters",
)


# --------------------------------------------------------------------------------------------- wrong answers, by task


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer> 0 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> 0.00 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> -3.2 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> −3.2 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> - 3.2 </answer>", Reason.UNPARSED),
        ("<answer> nan </answer>", Reason.UNPARSED),
        ("<answer> inf </answer>", Reason.UNPARSED),
        ("<answer> 1e400 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> 1e99 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> 1e5 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> " + "9" * 400 + " </answer>", Reason.UNPARSED),
        ("<answer> >80 </answer>", Reason.UNPARSED),
        ("<answer> 1/2 </answer>", Reason.UNPARSED),
        ("<answer> 5 seconds </answer>", Reason.UNPARSED),
        ("<answer> 2.00 meters or 3.00 meters </answer>", Reason.UNPARSED),
        ("<answer> 1,234 </answer>", Reason.UNPARSED),
        ("<answer> ٣ </answer>", Reason.UNPARSED),
        ("<answer> 12345 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> 3 4 </answer>", Reason.UNPARSED),
        ("<answer> 3.2", Reason.UNPARSED),
        ("3.2", Reason.UNPARSED),
        ("", Reason.UNPARSED),
    ],
)
def test_depths_that_are_none(text, reason):
    assert depth.parse(text) == Refusal(reason, text)


@pytest.mark.parametrize(
    ("said", "metres"),
    [
        (".85", 0.85),
        ("+8.49", 8.49),
        ("1e1", 10.0),
        ("1E+1", 10.0),
        ("2.00 meters", 2.0),
        ("about 2.00 m.", 2.0),
        ("200 cm", 2.0),
        ("6 feet", 1.8288),
        ("**2.00**", 2.0),
        ("$2.00$ m", 2.0),
        ("2.", 2.0),
        ("2,00", 2.0),
        ("0,850", 0.85),
        ("1,234.5", 1234.5),
        ("1234.5", 1234.5),
        ("8.491234567", 8.491234567),
    ],
)
def test_depths_in_other_forms(said, metres):
    assert depth.parse(f"<think> The point (367, 883) is near. </think><answer> {said} </answer>") == pytest.approx(
        metres, rel=1e-15
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(1051, 2)", Reason.OUT_OF_RANGE),
        ("(2, -50.5)", Reason.OUT_OF_RANGE),
        ("(99999, 2)", Reason.OUT_OF_RANGE),
        ("12345678, 2", Reason.UNPARSED),
        ("(1; 2)", Reason.UNPARSED),
        ("(1, 2, 3)", Reason.UNPARSED),
        ("<think> The pixel is at the edge of", Reason.UNPARSED),  # cut before it answered
        ("<think> It moves to (338, 52). </think>", Reason.UNPARSED),
    ],
)
def test_matches_that_are_none(text, reason):
    assert matching.parse(text) == Refusal(reason, text)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("338, 52", (338, 52)),
        ("( 338 , 52 )", (338, 52)),
        ("[338, 52]", (338, 52)),
        ("338.5,52.25", (338.5, 52.25)),
        ("The pixel is **(338, 52)**.", (338, 52)),
        ("x=338, y=52", (338, 52)),
        ('{"x": 338, "y": 52}', (338, 52)),
        ("(-3, 52)", (-3, 52)),
        ("(1003, 52)", (1003, 52)),
        ("(−3, +52)", (-3, 52)),
        ("<think> Left of it. </think> 338, 52", (338, 52)),
        ("<think> Pixel (7, 1000) is at (338, 52) in the", (338, 52)),  # cut before it answered
        ("<think> It is at [338, 52], which", (338, 52)),
    ],
)
def test_matches_in_other_forms(text, there):
    assert matching.parse(text) == there


@pytest.mark.parametrize(
    ("which", "text", "reason"),
    [
        (0, "Rotation angle: 181.0 degrees", Reason.OUT_OF_RANGE),
        (0, "Rotation angle: -9.0 degrees", Reason.OUT_OF_RANGE),
        (0, "It turns by a few degrees.", Reason.UNPARSED),
        (1, "Yaw=+0.0°, Pitch=-190.5°, Roll=+0.0°", Reason.OUT_OF_RANGE),
        (1, "Yaw=+0.0°, Pitch=+0.5°", Reason.UNPARSED),
        (2, "The camera moves left, unit vector (+0.10, +0.02, +0.10).", Reason.OUT_OF_RANGE),
        (2, "The camera moves, unit vector (+1.00, +1.00, +1.00).", Reason.OUT_OF_RANGE),
        (2, "The camera moves, unit vector (+0.00, +0.00, +0.00).", Reason.OUT_OF_RANGE),  # 1.98 m, but nowhere
        (3, "Translation distance: -1.98 meters", Reason.OUT_OF_RANGE),
        (3, "Translation distance: 99999 meters", Reason.OUT_OF_RANGE),
        (3, "Translation distance: inf meters", Reason.UNPARSED),
    ],
)
def test_poses_that_are_none(which, text, reason):
    texts = [text if i == which else right for i, right in enumerate(POSE)]
    assert isinstance(pose.parse(POSE), PoseAnswer)
    refused = pose.parse(texts)
    assert isinstance(refused, Refusal)
    assert refused.reason == reason
    assert text in refused.text


@pytest.mark.parametrize(
    ("which", "text"),
    [
        (0, "The angle is 89.7°."),
        (0, "89.7 deg"),
        (0, "<think> 12 degrees? </think> Rotation angle: 89.7 degrees"),
        (1, "Yaw: 89.6, pitch 2.6, roll = 6.1"),
        (2, "(-0.69, 0.02, 0.72)"),
        (2, "-0.69 , +0.02,0.72"),
        (3, "It moved 1.98 m."),
        (3, "1.98 metres"),
    ],
)
def test_poses_in_other_forms(which, text):
    texts = [text if i == which else right for i, right in enumerate(POSE)]
    assert pose.parse(texts) == pose.parse(POSE)


def test_rotation_and_direction_are_enough_where_no_more_is_needed():
    read = pose.parse(("no", *POSE[1:3], "far"), pose.MOTION)
    assert isinstance(read, PoseAnswer)
    assert (read.yaw_pitch_roll_deg, read.direction) == ((89.6, 2.6, 6.1), (-0.69, 0.02, 0.72))
    assert math.isnan(read.angle_deg)
    assert math.isnan(read.distance_m)
    assert pose.parse(("no", *POSE[1:])) == Refusal(Reason.UNPARSED, "no")
    assert pose.parse((*POSE[:2], "no", POSE[3]), pose.MOTION) == Refusal(Reason.UNPARSED, "no")


CHAIR = '{"bbox_2d": [10, 20, 300, 400], "label": "chair"}'
READ = [Box2D("chair", 10, 20, 300, 400)]


@pytest.mark.parametrize(
    "text",
    [
        f"[{CHAIR}]",
        CHAIR,
        f"```json\n[\n\t{CHAIR}\n]\n```",
        f"Here [as asked] they are: [{CHAIR}] and {{that}} is all.",
        f"<think> [] [{CHAIR.replace('10', '11')}] </think> [{CHAIR}]",
        f'[{CHAIR}, {{"bbox_2d": [10, 20, 3',
        f'[{CHAIR}, {{"bbox_2d": [1, 2, 3, 4], "label": "ch',
        f"[{CHAIR}, {CHAIR}, {CHAIR.replace('10', '12')}]",
        f'{{"objects": {{"all": [[{CHAIR}]]}}}}',
        f'[{CHAIR}, {{"bbox_2d": [NaN, 1, Infinity, 3], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": [1, 2, {"9" * 5000}, 3], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": [1, 2, 1{"0" * 400}, 3], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": {"[" * 100000}, "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": [true, 1, 5, 6], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": ["1", 2, 3, 4], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": [300, 20, 10, 400], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": [5, 5, 5, 9], "label": "chair"}}]',
        f'[{CHAIR}, {{"bbox_2d": [1, 2, 3], "label": "chair"}}, {{"label": "chair"}}, {{"bbox_2d": [1, 2]}}]',
        f'[{CHAIR}, {{"bbox_2d": [1, 2, 3, 4], "label": "sofa"}}, {{"bbox_2d": [1, 2, 3, 4], "label": ["chair"]}}]',
        f'[{CHAIR}, {{"bbox_2d": [1200, 20, 1900, 400], "label": "chair"}}]',
        f"[{CHAIR.replace('chair', ' CHAIR ')}, 7, null, [], {{}}]",
    ],
)
def test_boxes_are_read_from_whatever_surrounds_them(text):
    assert grounding.parse(text, "chair") == READ


@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": [10, 20, 300, 400]}',
        '{"bbox_2d": [10, 20, 300, 400], "label": null}',
        "[{'bbox_2d': [10, 20, 300, 400], 'label': 'chair'}]",
        '[{"bbox_2d": [10, 20, 300, 400,], "label": "chair",},]',
        "```json\n[10, 20, 300, 400]\n```",
        "[[10, 20, 300, 400]]",
        "[[10, 20], [300, 400]]",
        "(10, 20, 300, 400)",
        "[10.0, 20.0, 300.0, 400.0]",
        "The chair is at [10, 20, 300, 400].",
        "<|object_ref_start|>chair<|object_ref_end|><|box_start|>(10,20),(300,400)<|box_end|>",
        "chair(10,20),(300,400)",
        "a chair(10,20),(300,400)\nsofa(1,2),(3,4)",
        "<|box_start|>(10,20),(300,400)<|box_end|>",
        *(
            CHAIR.replace('"chair"', f'"{said}"')
            for said in ("chairs", "a chair", "office chair", "Chair 1", "chair_2")
        ),
        CHAIR.replace('"label"', '"category"'),
    ],
)
def test_boxes_in_other_forms(text):
    assert grounding.parse(text, "chair") == READ


@pytest.mark.parametrize(
    ("said", "asked", "is_meant"),
    [
        ("people", "person", True),
        ("boxes", "box", True),
        ("box", "boxes", True),
        ("benches", "bench", True),
        ("batteries", "battery", True),
        ("glass", "glass", True),
        ("dining tables", "dining table", True),
        ("table", "dining table", False),
        ("chair leg", "chair", False),
        ("armchair", "chair", False),
        ("椅", "椅", True),
        ("椅子", "椅", False),
    ],
)
def test_labels_that_mean_the_one_asked(said, asked, is_meant):
    text = json.dumps({"bbox_2d": [10, 20, 300, 400], "label": said})
    assert (grounding.parse(text, asked) == [Box2D(asked, 10, 20, 300, 400)]) is is_meant


def test_boxes_are_cut_at_the_border():
    text = '[{"bbox_2d": [-20, 5.5, 1010, 2000], "label": "table"}]'
    assert grounding.parse(text, "table") == [Box2D("table", 0, 5.5, 1000, 1000)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        ("```json\n[ ]\n```", []),
        ("```[[]]```", []),
        ("null", []),
        ("None", []),
        ("No.", []),
        ("There is none.", []),
        ("There are no chairs.", []),
        ("There are no chairs in this image. []", []),
        ("No instances of the category were found.", []),
        ("I don't see any chairs here.", []),
        ("The image does not contain a chair.", []),
        ("I cannot tell whether there are chairs, sorry.", Reason.UNPARSED),
        ("I cannot see the image, so no idea.", Reason.UNPARSED),
        ("There are no sofas.", Reason.UNPARSED),
        ("There is a chair.", Reason.UNPARSED),
        ("There are no chairs but 3", Reason.UNPARSED),
        ("", Reason.UNPARSED),
        ('[{"bbox_2d": [1, 2, 3', Reason.UNPARSED),
        ("[" * 100000, Reason.UNPARSED),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "sofa"}]', Reason.OUT_OF_RANGE),
        ('[{"bbox_2d": [1, 2, 1e999, 4], "label": "chair"}]', Reason.OUT_OF_RANGE),
        ("<think> [] ", Reason.UNPARSED),
    ],
)
def test_nothing_there_is_another_thing_than_no_answer(text, expected):
    read = grounding.parse(text, "chair")
    assert (read.reason if isinstance(read, Refusal) else read) == expected


def test_iou_of_two_boxes():
    a, b = Box2D("a", 0, 0, 10, 10), Box2D("b", 5, 0, 15, 10)
    assert a.iou(b) == b.iou(a) == pytest.approx(1 / 3)
    assert a.iou(a) == 1.0
    assert a.iou(Box2D("c", 20, 20, 30, 30)) == 0.0


def test_the_grounding_question_is_valid_json_in_its_example():
    text = grounding.question("potted {plant}").text
    assert "potted {plant}" in text
    example_text = text[text.index("[{") :].rstrip(".")
    assert json.loads(example_text.replace("x1, y1, x2, y2", "1, 2, 3, 4")) == [
        {"bbox_2d": [1, 2, 3, 4], "label": "category"}
    ]


# ------------------------------------------------------------------------------------------------ spatial questions


def test_every_kind_asks_about_its_regions():
    for kind in objects.COMPARISONS:
        text = objects.comparison(kind, A, B).text
        assert objects.name(A) in text
        assert objects.name(B) in text
    two = [kind for kind in objects.LENGTHS if "distance" in kind]
    assert len({objects.length(kind, A, B if kind in two else None).text for kind in objects.LENGTHS}) == 5
    assert objects.direction(A, B).text.index(objects.name(A)) < objects.direction(A, B).text.index(objects.name(B))


@pytest.mark.parametrize(("kind", "b", "needed"), [("distance", None, "two regions"), ("width", B, "one region")])
def test_a_length_of_too_few_or_too_many_regions_is_refused(kind, b, needed):
    with pytest.raises(ValueError, match=f"{kind}.*{needed}"):
        objects.length(kind, A, b)


def test_regions_are_filled_into_free_questions():
    question = objects.free("Is <region 2> on <region 1>? {not a field}", [A, B])
    assert question.text == (
        "Is bounding box region (6, 380, 228, 562) on bounding box region (0, 39, 652, 999)? {not a field}"
    )


@pytest.mark.parametrize("text", ["<region 0>", "<region 3>", "<region 99999999>"])
def test_a_region_that_is_not_there_is_named(text):
    with pytest.raises(ValueError, match=f"{text}.*2 regions"):
        objects.free(f"What is {text}?", [A, B])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, it is.", True),
        (" indeed", True),
        ("Correct, region 1 is above.", True),
        ("No, it is not.", False),
        ("Incorrect, that is right.", False),
        ("False", False),
        ("Nothing is known.", Reason.UNPARSED),
        ("Yesterday", Reason.UNPARSED),
        ("It depends. Yes.", Reason.UNPARSED),
        ("In fact, region 1 is to the right of region 2.", False),
        ("Actually, region 1 is below region 2.", False),
        ("In fact, yes, it is.", True),
        ("That is True.", True),
        ("That is False.", False),
        ("That's correct.", True),
        ("That is not true.", False),
        ("The answer is no.", False),
        ("**Yes**, it is.", True),
        ("In factories", Reason.UNPARSED),
    ],
)
def test_yes_and_no(text, expected):
    read = objects.parse_yes_no(text)
    assert (read.reason if isinstance(read, Refusal) else read) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.5 meters", 1.5),
        ("1.5 metres.", 1.5),
        ("about 150cm wide", 1.5),
        ("1500 Millimetres", 1.5),
        ("5 feet", 1.524),
        ("1 foot", 0.3048),
        ("60 inches", 1.524),
        ("1 inch", 0.0254),
        ("region (0, 39, 652, 999) is 3 m tall", 3.0),
        ("2 of them are 4 m apart", 4.0),
        ("0.00 meters", Reason.OUT_OF_RANGE),
        (".85 m", 0.85),
        ("12,5 m", 12.5),
        ("0,850 m", 0.85),
        ("1,234.5 mm", 1.2345),
        ("1 yard", 0.9144),
        ("-3 meters", Reason.OUT_OF_RANGE),
        ("−3 meters", Reason.OUT_OF_RANGE),
        ("2-3 meters", Reason.UNPARSED),
        ("1,234 meters", Reason.UNPARSED),
        ("1e5 m", Reason.OUT_OF_RANGE),
        ("12345 m", Reason.OUT_OF_RANGE),
        ("3 minutes", Reason.UNPARSED),
        ("5", Reason.UNPARSED),
    ],
)
def test_lengths_in_any_unit(text, expected):
    read = objects.parse_length(text)
    assert (read.reason if isinstance(read, Refusal) else read) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"at your {hour} o'clock.", hour) for hour in range(1, 13)),
        ("12 o’clock", 12),
        ("3 oclock", 3),
        ("13 o'clock", Reason.UNPARSED),
        ("0 o'clock", Reason.UNPARSED),
        ("10.5 o'clock", Reason.UNPARSED),
        ("twelve", Reason.UNPARSED),
    ],
)
def test_clock_directions(text, expected):
    read = objects.parse_clock(text)
    assert (read.reason if isinstance(read, Refusal) else read) == expected


# ------------------------------------------------------------------------------------------------------- the grammar


def test_a_grammar_is_lenient_about_blanks_only():
    grammar = Grammar(("at ", Number(2, 1, signed=True), " and ", Number(3)))
    for text in ("at -1.5 and 20", "AT-1.5and20", "so at\n−1.5  and\t20 ..."):
        assert grammar.read(text) == (-1.5, 20.0)
    for text in ("at 1.5 20", "at 123 and 20", "at --1 and 20", "at . and 20", "a t 1 and 2"):
        assert grammar.read(text) == Refusal(Reason.UNPARSED, text)
    assert grammar.numbers == (Number(2, 1, signed=True), Number(3))


def test_blanks_between_number_and_words():
    grammar = Grammar((Words(), Number(4, 2), " ", Words()))
    assert grammar.read("about 3.5 meters") == (3.5,)
    assert grammar.spans("about 3.5 meters") == ((6, 9),)
    assert grammar.spans("no number") == ()
    assert Grammar((Number(1), " ", Number(1))).read("1 2") == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a", "a"),
        ("<think>a</think>b", "b"),
        ("<think>a</think>b</think>c", "c"),
        ("<think>a", ""),
        ("a</think>", ""),
    ],
)
def test_what_is_left_without_thinking(text, left):
    assert without_think(text) == left


# ----------------------------------------------------------------------------------- what people are told of refusals


def test_answers_without_a_value_are_described():
    said = describe(50, {Reason.CUT_OFF: 2, Reason.UNPARSED: 1, Reason.OUT_OF_RANGE: 0}, "<think> The\n\n point is")
    assert said == "3 of 50 answers gave no value (2 cut off, 1 unparsed), such as '<think> The point is'"
    assert describe(50, {"cut_off": 50}) == "50 of 50 answers gave no value (50 cut off)"  # as a file has it
    assert describe(50, {}) == describe(0, {}, "none") == ""
    assert len(describe(1, {Reason.UNPARSED: 1}, "word " * 10_000)) < 250


# ------------------------------------------------------------------------------------------- what the limit has ended


@pytest.mark.parametrize(
    ("text", "parse", "expected"),
    [
        ("<think> The point is around", depth.parse, Reason.CUT_OFF),
        ("<think> near </think> <answer> -2 </answer> and", depth.parse, Reason.OUT_OF_RANGE),
        ("<think> near </think> <answer> 2.5 </answer> and", depth.parse, 2.5),
        ("<think> It moved to (338, 5", matching.parse, Reason.CUT_OFF),
        ("The place is 338, 5", matching.parse, Reason.CUT_OFF),
        ("It is 1.5 meters wi", objects.parse_length, 1.5),
        ("No, it is", objects.parse_yes_no, False),
    ],
)
def test_cut_answers(text, parse, expected):
    read = Answer(text, 1.0, is_cut=True).read(parse)
    assert read == (Refusal(expected, text) if isinstance(expected, Reason) else expected)
    whole = Answer(text, 1.0).read(parse)
    assert not isinstance(whole, Refusal) or whole.reason is not Reason.CUT_OFF


def test_limits_are_those_of_the_published_notebook_and_enough():
    assert [q.max_tokens for q in depth.questions([(1, 2)])] == [256]
    assert {q.max_tokens for q in pose.QUESTIONS} == {512}
    assert [q.max_tokens for think in (False, True) for q in matching.questions([(1, 2)], think)] == [256, 2048]
    assert objects.free("What?").max_tokens == objects.comparison("left", A, B).max_tokens == 512
    assert grounding.question("chair").max_tokens == 512
