"""Measures of boxes and of answers in words on examples worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.metrics import answers, boxes

# ------------------------------------------------------------------------------------------------------- boxes


def cube(x: float = 0.0, score: float = 1.0, label: str = "box", yaw_deg: float = 0.0, size: float = 1.0) -> Box3D:
    rotation = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    return Box3D(label, score, np.array([x, 0.0, 5.0]), np.full(3, size), rotation)


def test_average_precision():
    # Precision 1, 1/2, 2/3 where the hits are the first and the third; the hull lifts nothing at the hits.
    assert boxes.average_precision([True, False, True], 2) == pytest.approx((1 + 2 / 3) / 2)
    # Precision at the hits 1/2 and 2/3: the hull lifts the first one to 2/3.
    assert boxes.average_precision([False, True, True], 4) == pytest.approx((2 / 3 + 2 / 3) / 4)
    assert boxes.average_precision([], 3) == 0.0


def test_box_score():
    score = boxes.BoxScore()
    score.add([cube(0.5, 0.9), cube(4.0, 0.5)], [cube(0.0)])  # IoU 0.5 / 1.5 = 1/3, and a ghost
    score.add([cube(0.0, 0.8), cube(0.0, 0.7)], [cube(0.0), cube(3.0)])  # right, the same again, and one missed
    result = score.result()
    # Scores in order: 1/3 right at 15 and 25 %, right, double, ghost; three true boxes.
    assert result["ap15"] == result["ap25"] == pytest.approx(2 / 3)
    assert result["ap50"] == pytest.approx(1 / 2 / 3)
    assert (result["true"], result["found"], result["overlapping"]) == (3, 4, 2)
    assert result["iou_median"] == pytest.approx(1 / 3)
    assert result["iou_median_overlapping"] == pytest.approx((1 / 3 + 1) / 2)
    assert result["center_m_median_overlapping"] == pytest.approx(0.25)
    row = {"true": 3, "found": 4, "coverage": 1.0, **{f"ap{p}": result[f"ap{p}"] for p in (15, 25, 50)}}
    assert result["by_label"] == {"box": row}


def test_a_refused_list_counts_as_one_that_is_wrong_for_each_thing_and_at_least_once():
    score = boxes.BoxScore()
    score.add([cube(0.0, 0.9)], [cube(0.0)])
    assert score.add(None, [cube(0.0), cube(3.0)]) == {"coverage": 0.0, "iou": 0.0}
    assert score.add(None, []) == {}
    result = score.result()
    # Three wrong ones in front of the only right one, of three that are there.
    assert result["ap25"] == pytest.approx(1 / 4 / 3)
    assert (result["frames"], result["answered"], result["true"], result["found"]) == (3, 1, 3, 1)
    assert (result["coverage"], result["iou_median"]) == (pytest.approx(1 / 3), 0.0)


def test_a_name_that_was_not_asked_for_is_not_covered():
    score = boxes.BoxScore()
    score.add([cube()], [cube(), cube(label="cat")], asked=["box"])
    result = score.result()
    assert (result["coverage"], result["ap25"]) == (0.5, 0.5)
    assert result["by_label"]["cat"]["coverage"] == 0.0


def test_numbers_of_one_frame_of_boxes():
    # One of three is overlapped by 1/3, half a metre off; one is missed, and one is of a kind that was not found.
    means = boxes.BoxScore().add([cube(0.5)], [cube(0.0), cube(9.0), cube(label="cat")])
    overlapping = {"center_m_overlapping": 0.5, "size_rel_overlapping": 0.0, "yaw_deg_overlapping": 0.0}
    assert means == pytest.approx({"coverage": 1.0, "iou": 1 / 9, **overlapping})
    assert boxes.BoxScore().add([], [cube()]) == {"coverage": 1.0, "iou": 0.0}
    assert boxes.BoxScore().add([cube()], []) == {}


def test_a_later_box_takes_the_best_true_one_that_is_left():
    # Both fit the first true box best (IoU 1 and 0.55 / 1.45); the less sure one has 0.45 / 1.55 of the second, too.
    score = boxes.BoxScore()
    score.add([cube(0.0, 0.9), cube(0.45, 0.5)], [cube(0.0), cube(1.0)])
    assert score.result()["ap25"] == pytest.approx(1.0)
    assert score.result()["ap50"] == pytest.approx(0.5)
    # The other way round the surer one takes the first true box, and nothing is left that the other one fits.
    score = boxes.BoxScore()
    score.add([cube(0.0, 0.5), cube(0.45, 0.9)], [cube(0.0), cube(1.0)])
    assert score.result()["ap25"] == pytest.approx(0.5)


def test_boxes_of_other_labels_and_of_ignored_things_count_for_nothing():
    score = boxes.BoxScore()
    score.add([cube(0.0), cube(0.0, label="cat"), cube(9.0)], [cube(0.0)], ignored=[cube(9.1)])
    assert score.result()["ap50"] == 1.0
    assert score.result()["by_label"].keys() == {"box"}
    missed = boxes.BoxScore()
    missed.add([], [cube()])
    assert missed.result()["ap15"] == 0.0
    assert missed.result()["iou_median"] == 0.0
    assert math.isnan(missed.result()["iou_median_overlapping"])


@pytest.mark.parametrize(("yaw", "error"), [(0.0, 0.0), (30.0, 30.0), (80.0, 10.0), (180.0, 0.0), (-45.0, 45.0)])
def test_yaw_error(yaw, error):
    assert boxes.yaw_error_deg(cube(yaw_deg=yaw), cube()) == pytest.approx(error, abs=1e-5)


def test_size_error_does_not_care_which_side_is_the_length():
    a = Box3D("", 1.0, np.zeros(3), np.array([1.1, 2.0, 0.5]), np.eye(3))
    b = Box3D("", 1.0, np.zeros(3), np.array([2.0, 1.0, 0.5]), np.eye(3))
    assert boxes.size_error(a, b) == pytest.approx(0.1 / 3)


@pytest.mark.parametrize(
    ("z", "x", "seen"), [(5.0, 0.0, True), (5.0, 3.0, False), (0.4, 0.0, False), (-5.0, 0.0, False)]
)
def test_in_view(z, x, seen):
    box = Box3D("", 1.0, np.array([x, 0.0, z]), np.ones(3), np.eye(3))
    assert boxes.in_view(box, Camera(101, 101, 100.0, 100.0, 50.0, 50.0)) is seen


# ---------------------------------------------------------------------------------------------- answers in words

A, B = "bounding box region (0, 39, 652, 999)", "bounding box region (6, 380, 228, 562)"


@pytest.mark.parametrize(
    ("given", "right", "kind", "is_right", "error"),
    [
        (
            f"Correct, {A} is smaller than {B}.",
            f"Incorrect, {A} is not smaller in size than {B}.",
            "yes_no",
            False,
            None,
        ),
        (f"No, {A} is not.", f"Incorrect, {A} is not smaller in size than {B}.", "yes_no", True, None),
        ("I cannot tell.", f"Yes, {A} is above {B}.", "yes_no", False, None),
        (f"{A} is taller.", f"With more height is {A}.", "which", True, None),
        (f"{B} is taller.", f"With more height is {A}.", "which", False, None),
        (f"{A} is 1.25 meters wide.", f"The width of {A} is 1.0 meters.", "length", True, 0.25),
        (f"{A} is 1.3 m wide.", f"The width of {A} is 100 centimeters.", "length", False, 0.3),
        ("It is wide.", f"The width of {A} is 1.0 meters.", "length", False, None),
        ("At 1 o'clock.", f"{B} is at 11 o'clock from {A}.", "clock", False, 60.0),
        ("At 12 o'clock.", f"{B} is at 11 o'clock from {A}.", "clock", True, 30.0),
        ("Left.", f"{B} is at 11 o'clock from {A}.", "clock", False, None),
    ],
)
def test_answers_in_words(given, right, kind, is_right, error):
    found = answers.answer_errors(given, right)
    assert found[:2] == (kind, is_right)
    assert math.isnan(found[2]) if error is None else found[2] == pytest.approx(error)


def test_answer_score():
    score = answers.AnswerScore()
    score.add("small", "Yes.", "Yes, it is.")
    score.add("small", "Yes.", "No, it is not.")
    score.add("width", "1.5 meters", "1.0 meters")  # half too much: wrong
    score.add("width", "0.9 meters", "1.0 meters")
    score.add("width", "wide", "1.0 meters")
    score.add("direction", "6 o'clock", "7 o'clock")
    score.add("free", "a chair", "a table")
    result = score.result()
    assert (result["questions"], score.unknown) == (6, 1)
    assert result["qualitative"] == pytest.approx(1 / 2)
    assert result["quantitative"] == pytest.approx((1 / 3 + 1) / 2)  # each category with the same weight
    assert result["quantitative_questions"] == pytest.approx(2 / 4)
    assert result["coverage"] == pytest.approx(5 / 6)
    assert result["length_rel_questions"] == pytest.approx((0.5 + 0.1 + 1.0) / 3)
    assert result["length_rel_questions_answered"] == pytest.approx((0.5 + 0.1) / 2)
    assert result["clock_deg"] == pytest.approx(30.0)
    width = next(row for row in result["by_category"] if row["category"] == "width")
    assert (width["questions"], width["accuracy"]) == (3, pytest.approx(1 / 3))
    assert width["coverage"] == pytest.approx(2 / 3)
