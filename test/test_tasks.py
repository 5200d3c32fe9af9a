"""The protocol's texts byte for byte, right answers read back, and any other text refused."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlm3_ros.tasks import Refusal, depth, grounding, matching, objects, pose
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
    lambda x, y: (*x[:1], *y[:1], *x[1:], *y[1:]),
    st.lists(corner, min_size=2, max_size=2, unique=True).map(sorted),
    st.lists(corner, min_size=2, max_size=2, unique=True).map(sorted),
)


@given(label, st.lists(box, max_size=8))
@example('a "quoted" }name{ \\', [(1, 2, 3, 4)])
def test_boxes_come_back(name, corners):
    boxes = [Box2D(name, *four) for four in corners]
    kept: list[Box2D] = []
    for b in boxes:
        if not any(b.iou(k) > 0.9 for k in kept):
            kept.append(b)
    assert grounding.parse(grounding.answer(boxes), name) == kept


# ------------------------------------------------------------------------------------- any text: a value or a Refusal

READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "depth": (depth.parse, depth.answer(12.34)),
    "matching": (matching.parse, "<think> (1, 2) </think>\n\n(338, 52)"),
    "grounding": (
        lambda text: grounding.parse(text, "chair"),
        "```json\n" + grounding.answer([Box2D("chair", 1, 2, 300, 400), Box2D("chair", 5, 6, 700, 800)]) + "\n```",
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
            return -50 <= x <= 1050 and -50 <= y <= 1050
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
            "e400",
            "**",
            "','",
            "no chairs",
            "In fact, ",
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
    "1, ",
    "1,1",
    "1e",
    "x=1, y=",
    "[1, 2, ",
    "(1,2),(3,4) ",
    "chair(1,2),(",
    "{'",
    "<|box_start|>",
    "yaw ",
    "in fact, ",
    "**",
    "a ",
    "-",
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
    boxes = grounding.parse(text, "chair")
    assert time.process_time() - start < 0.5
    assert len(boxes) == grounding.MAX_BOXES
