"""The protocol's texts byte for byte, right answers read back, and any other text refused."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlm3_ros.tasks import Grammar, Number, Reason, Refusal, Words, depth, grounding, matching, objects, pose
from vlm3_ros.tasks.answers import without_think
from vlm3_ros.tasks.grounding import Box2D
from vlm3_ros.tasks.pose import PoseAnswer

# ------------------------------------------------------------------------------------------------- question texts

DEPTH = (
    "Given this image, how far is the point at coordinates (367, 883) from the camera? The coordinates are in "
    "normalised [0, 2000] format relative to image width and height. Output the thinking process in <think> "
    "</think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)
MATCH = (
    "Given these two images, what pixel in the second image corresponds to pixel (7, 1000) in the first image? "
    "Report the answer as (x, y)."
)
MATCH_THINK = ' Please think step by step and follow the format: "<think> [think process] </think>\n\n[answer]".'
POSE = (
    "Given these two images captured from different viewpoints, what is the relative rotation angle (in degrees) "
    "between the two camera poses?",
    "Treating the first image as the reference viewpoint, describe the camera's reorientation needed to reach "
    "the second image's viewpoint as yaw, pitch and roll about the first camera's local axes, applied "
    "intrinsically in the order yaw -> pitch -> roll.  Conventions: yaw is rotation about the vertical (down) "
    "axis, positive = turn right; pitch is about the lateral (right) axis after yaw, positive = look up; roll is "
    "about the optical (forward) axis after yaw and pitch, positive = bank to the right (image content rotates "
    "clockwise from the operator's POV).",
    "Where did the camera move, expressed in the first camera's local frame (X right, Y down, Z forward)?  Give "
    "a qualitative direction and the precise unit direction vector (x, y, z).",
    "Estimate the magnitude of the camera translation between the two viewpoints.",
)
SMALLER = (
    "Can you confirm if bounding box region (0, 39, 652, 999) is smaller than bounding box region (6, 380, 228, 562)?"
)
A, B = (0, 39, 652, 999), (6, 380, 228, 562)


def test_questions_are_the_published_ones_byte_for_byte():
    pixels = np.array([[367, 883]])
    assert [q.text for q in depth.questions(pixels)] == [DEPTH]
    assert [q.text for q in matching.questions([(7, 1000)])] == [MATCH]
    assert [q.text for q in matching.questions([(7, 1000)], think=True)] == [MATCH + MATCH_THINK]
    assert tuple(q.text for q in pose.QUESTIONS) == POSE
    assert objects.comparison("smaller", A, B).text == SMALLER


def test_published_answers_are_read():
    assert depth.parse("<think> Some thought. </think><answer> 8.49 </answer>") == 8.49
    assert depth.parse("<think>x</think>\n\n<answer>8.49</answer>") == 8.49
    assert matching.parse("(338, 52)") == (338, 52)
    assert matching.parse("<think> The pixel (1, 2) moves. </think>\n\n(338, 52)") == (338, 52)
    assert pose.parse(
        (
            "Rotation angle: 89.7 degrees",
            "Yaw=+89.6°, Pitch=+2.6°, Roll=+6.1°",
            "The camera moves left, forward, unit vector (-0.69, +0.02, +0.72).",
            "Translation distance: 1.98 meters",
        )
    ) == PoseAnswer(89.7, (89.6, 2.6, 6.1), (-0.69, 0.02, 0.72), 1.98)
    smaller = f"Incorrect, {objects.name(A)} is not smaller in size than {objects.name(B)}."
    assert objects.parse_yes_no(smaller) is False


# ------------------------------------------------------------------------------------------------- right answers


@given(st.floats(0.01, 999.99))
def test_depth_comes_back(metres):
    text = depth.answer(metres)
    assert depth.parse(text) == round(metres, 2)
    assert depth.questions([(0, 0)])[0].grammar.read(text) == (round(metres, 2),)
    ((start, end),) = depth.GRAMMAR.spans(text)
    assert text[start:end] == f"{metres:.2f}"
    assert start > text.index("<answer>")


@given(st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_a_match_comes_back(x, y, think):
    text = ("<think> from (3, 4) </think>\n\n" if think else "") + matching.answer(x, y)
    assert matching.parse(text) == (x, y)


angle = st.floats(-180, 180)


@given(st.floats(0, 180), st.tuples(angle, angle, angle), st.floats(-1, 1), angle, st.floats(0, 9000))
def test_a_pose_comes_back_to_the_last_digit_written(rotation, euler, z, around, distance):
    flat = math.sqrt(1 - z * z)
    direction = (flat * math.cos(math.radians(around)), flat * math.sin(math.radians(around)), z)
    read = pose.parse(pose.answers(PoseAnswer(rotation, euler, direction, distance)))
    assert isinstance(read, PoseAnswer)
    assert read.angle_deg == pytest.approx(rotation, abs=0.0501)
    assert read.yaw_pitch_roll_deg == pytest.approx(euler, abs=0.0501)
    assert read.direction == pytest.approx(direction, abs=0.00501)
    assert read.distance_m == pytest.approx(distance, abs=0.00501)


def test_a_camera_that_did_not_move_has_no_direction():
    still = PoseAnswer(0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0)
    assert pose.parse(pose.answers(still)) == still


corner = st.integers(0, 1000)
label = st.text('abc{}[]"\\,: é椅', min_size=1, max_size=8).filter(lambda text: text.strip() == text)
box = st.builds(
    lambda name, x, y: Box2D(name, *x[:1], *y[:1], *x[1:], *y[1:]),
    label,
    st.lists(corner, min_size=2, max_size=2, unique=True).map(sorted),
    st.lists(corner, min_size=2, max_size=2, unique=True).map(sorted),
)


@given(st.lists(box, max_size=8))
@example([Box2D('a "quoted" }name{ \\', 1, 2, 3, 4)])
def test_boxes_come_back(boxes):
    read = grounding.parse(grounding.answer(boxes), [b.label for b in boxes])
    kept: list[Box2D] = []
    for b in boxes:
        if not any(b.label == k.label and b.iou(k) > 0.9 for k in kept):
            kept.append(b)
    assert read == kept


# ------------------------------------------------------------------------------------- any text: a value or a Refusal

READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "depth": (depth.parse, depth.answer(12.34)),
    "matching": (matching.parse, "<think> (1, 2) </think>\n\n(338, 52)"),
    "grounding": (
        lambda text: grounding.parse(text, ["chair", "table"]),
        "```json\n" + grounding.answer([Box2D("chair", 1, 2, 300, 400), Box2D("table", 5, 6, 700, 800)]) + "\n```",
    ),
    "yes or no": (objects.parse_yes_no, "Yes, it is smaller."),
    "length": (objects.parse_length, "They are 12.34 meters apart."),
    "clock": (objects.parse_clock, "You will find it at your 11 o'clock."),
    "pose 0": (lambda text: pose.parse((text, *pose_texts[1:])), "Rotation angle: 89.7 degrees"),
    "pose 1": (
        lambda text: pose.parse((pose_texts[0], text, *pose_texts[2:])),
        "Yaw=+89.6°, Pitch=+2.6°, Roll=−6.1°",
    ),
    "pose 2": (
        lambda text: pose.parse((*pose_texts[:2], text, pose_texts[3])),
        "The camera moves left, forward, unit vector (-0.69, +0.02, +0.72).",
    ),
    "pose 3": (lambda text: pose.parse((*pose_texts[:3], text)), "Translation distance: 1.98 meters"),
}
pose_texts = tuple(READERS[f"pose {i}"][1] for i in range(4))


def holds(value: Any) -> bool:
    """Whether a reader's value is one that a robot may use."""
    match value:
        case bool():
            return True
        case int():
            return 1 <= value <= 12
        case float():
            return 0.0 < value < 1e5
        case tuple((x, y)):
            return 0 <= x <= 1000 and 0 <= y <= 1000
        case [*boxes]:
            return all(0 <= b.x1 < b.x2 <= 1000 and 0 <= b.y1 < b.y2 <= 1000 for b in boxes)
        case PoseAnswer(angle, euler, direction, distance):
            turned = 0 <= angle <= 180 and all(abs(e) <= 180 for e in euler)
            length = math.hypot(*direction)
            return turned and 0 <= distance < 1e5 and (0.8 < length < 1.2 or length == distance == 0)
    return False


@st.composite
def near(draw: st.DrawFn, text: str) -> str:
    """A text a few edits away from a right answer."""
    junk = st.text(alphabet="0123456789.,+-−()[]{}<>/\\\"'°eEn \n\x00०٣", max_size=6) | st.sampled_from(
        [
            "NaN",
            "Infinity",
            "-1e999",
            "1e400",
            "9" * 400,
            "</think>",
            "<think>",
            "<answer>",
            "meters",
            "0",
            "-",
            "null",
        ]
    )
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        end = min(end, start + 8)
        text = draw(
            st.sampled_from([text[:start] + draw(junk) + text[end:], text[:start] + text[end:], text[:start] + text])
        )
    return text


@pytest.mark.parametrize("task", READERS)
@given(data=st.data())
def test_any_text_gives_a_value_or_a_refusal(task, data):
    read, right = READERS[task]
    text = data.draw(st.text() | near(right))
    value = read(text)
    assert isinstance(value, Refusal) or holds(value), (text, value)


@pytest.mark.parametrize("task", READERS)
def test_readers_read_at_all(task):
    read, right = READERS[task]
    assert holds(read(right))
    assert read("I cannot tell.") == read("I cannot tell.")
    assert isinstance(read("I cannot tell."), Refusal)


UNITS = [
    "<answer> ",
    "<answer> 1.",
    "(1, ",
    "(",
    "9",
    " ",
    "{",
    '{"',
    '{"\\"',
    '{\\"',
    "[",
    "[]",
    '[{"a":',
    "}{",
    "1 m",
    "1 ",
    "<think>",
]
UNITS += [
    "Yaw=+1.0°, Pitch=",
    "unit vector (1, ",
    "Rotation angle: ",
    '{"bbox_2d": [1, 2, 3, 4], "label": "chair"}, ',
    "no ",
    "1 o",
    "o'",
]


@pytest.mark.parametrize("unit", [*UNITS, *(u + " " * 50 for u in UNITS[:6]), *(u + "9" * 50 for u in UNITS[:6])])
def test_long_texts_are_read_in_linear_time(unit):
    text = (unit * (100_000 // len(unit) + 1))[:100_000]
    for task, (read, right) in READERS.items():
        for long in (text, right[:-2] + text, text + right):
            start = time.process_time()
            value = read(long)
            assert time.process_time() - start < 0.5, task
            assert isinstance(value, Refusal) or holds(value)


def test_many_different_boxes_are_read_in_linear_time():
    text = grounding.answer(
        [Box2D("chair", i % 990, i // 990 * 4, i % 990 + 5, i // 990 * 4 + 5) for i in range(5000)]
    )
    start = time.process_time()
    boxes = grounding.parse(text, ["chair"])
    assert time.process_time() - start < 0.5
    assert len(boxes) == grounding.MAX_BOXES


# --------------------------------------------------------------------------------------------- wrong answers, by task


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer> 0 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> 0.00 </answer>", Reason.OUT_OF_RANGE),
        ("<answer> -3.2 </answer>", Reason.UNPARSED),
        ("<answer> nan </answer>", Reason.UNPARSED),
        ("<answer> 1e3 </answer>", Reason.UNPARSED),
        ("<answer> 1,234 </answer>", Reason.UNPARSED),
        ("<answer> ٣ </answer>", Reason.UNPARSED),
        ("<answer> 12345 </answer>", Reason.UNPARSED),
        ("<answer> 3 4 </answer>", Reason.UNPARSED),
        ("<answer> 3.2", Reason.UNPARSED),
        ("3.2", Reason.UNPARSED),
        ("", Reason.UNPARSED),
    ],
)
def test_depths_that_are_none(text, reason):
    assert depth.parse(text) == Refusal(reason, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(1001, 2)", Reason.OUT_OF_RANGE),
        ("(2, 1000.5)", Reason.OUT_OF_RANGE),
        ("(-1, 2)", Reason.UNPARSED),
        ("(1, 2, 3)", Reason.UNPARSED),
        ("<think> Pixel (338, 52) is at the edge of", Reason.UNPARSED),  # cut before it answered
        ("<think> It moves to (338, 52). </think>", Reason.UNPARSED),
    ],
)
def test_matches_that_are_none(text, reason):
    assert matching.parse(text) == Refusal(reason, text)


@pytest.mark.parametrize(
    ("which", "text", "reason"),
    [
        (0, "Rotation angle: 181.0 degrees", Reason.OUT_OF_RANGE),
        (0, "Rotation angle: -9.0 degrees", Reason.UNPARSED),
        (1, "Yaw=+0.0°, Pitch=-190.5°, Roll=+0.0°", Reason.OUT_OF_RANGE),
        (1, "Yaw=+0.0°, Pitch=+0.5°", Reason.UNPARSED),
        (2, "The camera moves left, unit vector (+0.10, +0.02, +0.10).", Reason.OUT_OF_RANGE),
        (2, "The camera moves, unit vector (+1.00, +1.00, +1.00).", Reason.OUT_OF_RANGE),
        (2, "The camera moves, unit vector (+0.00, +0.00, +0.00).", Reason.OUT_OF_RANGE),  # 1.98 m, but nowhere
        (3, "Translation distance: -1.98 meters", Reason.UNPARSED),
        (3, "Translation distance: inf meters", Reason.UNPARSED),
    ],
)
def test_poses_that_are_none(which, text, reason):
    texts = [text if i == which else right for i, right in enumerate(pose_texts)]
    assert isinstance(pose.parse(pose_texts), PoseAnswer)
    refused = pose.parse(texts)
    assert isinstance(refused, Refusal)
    assert refused.reason == reason
    assert text in refused.text


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
        f'[{CHAIR}, {{"bbox_2d": [1, 2, 3], "label": "chair"}}, {{"label": "chair"}}, {{"bbox_2d": [1, 2, 3, 4]}}]',
        f'[{CHAIR}, {{"bbox_2d": [1, 2, 3, 4], "label": "sofa"}}, {{"bbox_2d": [1, 2, 3, 4], "label": ["chair"]}}]',
        f'[{CHAIR}, {{"bbox_2d": [1200, 20, 1900, 400], "label": "chair"}}]',
        f"[{CHAIR.replace('chair', ' CHAIR ')}, 7, null, [], {{}}]",
    ],
)
def test_boxes_are_read_from_whatever_surrounds_them(text):
    assert grounding.parse(text, ["chair", "table"]) == READ


def test_boxes_are_cut_at_the_border():
    text = '[{"bbox_2d": [-20, 5.5, 1010, 2000], "label": "table"}]'
    assert grounding.parse(text, ["chair", "table"]) == [Box2D("table", 0, 5.5, 1000, 1000)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        ("```json\n[ ]\n```", []),
        ("There is none.", Reason.UNPARSED),
        ("", Reason.UNPARSED),
        ('[{"bbox_2d": [1, 2, 3', Reason.UNPARSED),
        ("[" * 100000, Reason.UNPARSED),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "sofa"}]', Reason.OUT_OF_RANGE),
        ('[{"bbox_2d": [1, 2, 1e999, 4], "label": "chair"}]', Reason.OUT_OF_RANGE),
        ("<think> [] ", Reason.UNPARSED),
    ],
)
def test_nothing_there_is_another_thing_than_no_answer(text, expected):
    read = grounding.parse(text, ["chair"])
    assert (read.reason if isinstance(read, Refusal) else read) == expected


def test_two_names_may_share_a_place():
    boxes = [Box2D("chair", 0, 0, 10, 10), Box2D("armchair", 0, 0, 10, 10)]
    assert grounding.parse(grounding.answer(boxes), ["chair", "armchair"]) == boxes


def test_iou_of_two_boxes():
    a, b = Box2D("a", 0, 0, 10, 10), Box2D("b", 5, 0, 15, 10)
    assert a.iou(b) == b.iou(a) == pytest.approx(1 / 3)
    assert a.iou(a) == 1.0
    assert a.iou(Box2D("c", 20, 20, 30, 30)) == 0.0


def test_the_grounding_question_is_valid_json_in_its_example():
    text = grounding.question(["potted plant", "{braces}"]).text
    assert "potted plant, {braces}" in text
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
        ("-3 meters", Reason.UNPARSED),
        ("−3 meters", Reason.UNPARSED),
        ("1,234 meters", Reason.UNPARSED),
        ("12,5 m", Reason.UNPARSED),
        ("1e5 m", Reason.UNPARSED),
        ("12345 m", Reason.UNPARSED),
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
