"""Every measure on an example worked out by hand, and trajectories against the evo library."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evo.core import metrics
from evo.core.trajectory import PosePath3D
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.metrics import answers, boxes, poses
from vlm3_ros.offline.metrics.confidence import Reliability
from vlm3_ros.offline.metrics.depth import DepthScore, depth_errors
from vlm3_ros.offline.metrics.frames import Frames, live_ages
from vlm3_ros.offline.metrics.matches import match_errors, true_pixels
from vlm3_ros.offline.moments import Moment
from vlm3_ros.offline.sources import Truth
from vlm3_ros.offline.tum import read_trajectory

LN2 = math.log(2.0)


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    """A pose turned about its y axis."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", turn_deg, degrees=True).as_matrix()
    T[:3, 3] = x, y, z
    return T


def moment(stamp: int = 0, error: str = "", **found: Any) -> Any:
    """What a group sees of a frame."""
    return SimpleNamespace(stamp=stamp, error=error, **found)


# ------------------------------------------------------------------------------------------------------- depth


def test_true_depth_of_a_smaller_output_is_that_at_the_centres_of_its_pixels():
    # Centres of the 2x2 pixels lie on the corners of four of 4x4: the lower right one of these is taken.
    true = np.arange(1.0, 17.0, dtype=np.float32).reshape(4, 4)
    true[0, 0] = np.nan
    smaller = Moment({"stamp": "1.0", "error": ""}, {}, None)
    smaller.depth, smaller.truth = np.ones((2, 2), np.float32), Truth(true)
    np.testing.assert_array_equal(smaller.true_depth, [[6.0, 8.0], [14.0, 16.0]])


def test_depth_errors():
    # Ratios 1, 2, 2; differences 0, 1, 2; differences of logarithms 0, ln 2, ln 2.
    assert depth_errors(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])) == pytest.approx(
        {
            "delta1": 1 / 3,
            "delta2": 1 / 3,
            "delta3": 1 / 3,
            "abs_rel": (0 + 1 / 1 + 2 / 2) / 3,
            "sq_rel": (0 + 1 / 1 + 4 / 2) / 3,
            "rmse": math.sqrt((0 + 1 + 4) / 3),
            "rmse_log": LN2 * math.sqrt(2 / 3),
            "silog": 100 * LN2 * math.sqrt(2 / 3 - (2 / 3) ** 2),
        },
        abs=1e-9,
    )


@pytest.mark.parametrize(
    ("ratio", "shares"), [(1.24, (1, 1, 1)), (1.26, (0, 1, 1)), (1.6, (0, 0, 1)), (2.0, (0, 0, 0))]
)
def test_delta_counts_both_directions(ratio, shares):
    for predicted, true in ((ratio, 1.0), (1.0, ratio)):
        errors = depth_errors(np.array([predicted]), np.array([true]))
        assert (errors["delta1"], errors["delta2"], errors["delta3"]) == shares


def test_a_wrong_scale_alone_is_no_scale_invariant_error(rng):
    true = rng.uniform(1.0, 9.0, 50)
    assert depth_errors(true * 1.7, true)["silog"] == pytest.approx(0.0, abs=1e-9)


def test_depth_score_averages_frames_and_pools_bins():
    score, nan = DepthScore(), np.nan
    # One frame of two pixels, half right, and one frame of one pixel, right: 0.75 by frames, 2/3 by pixels.
    score.add(np.array([[2.0, 9.0]]), np.array([[0.9, 0.1]]), np.array([[2.0, 3.0]]))
    score.add(np.array([[3.3, nan, 1.0]]), np.array([[0.15, 0.0, 0.5]]), np.array([[3.0, 5.0, nan]]))
    assert score.add(np.array([[nan]]), None, np.array([[nan]])) == {}
    result = score.result()
    assert (result["frames"], result["pixels"]) == (2, 3)
    assert result["coverage"] == pytest.approx(3 / 4)
    assert result["delta1"] == pytest.approx(0.75)
    assert result["abs_rel"] == pytest.approx((1.0 + 0.1) / 2)
    (row,) = result["by_range_m"]
    assert (row["from"], row["to"], row["pixels"]) == (2.0, 4.0, 3)
    assert row["delta1"] == pytest.approx(2 / 3)
    assert row["abs_rel"] == pytest.approx((0.0 + 2.0 + 0.1) / 3)
    assert row["rmse"] == pytest.approx(math.sqrt((36.0 + 0.09) / 3))
    low, high = result["by_confidence"]
    assert (low["pixels"], low["delta1"], high["pixels"], high["delta1"]) == (2, 0.5, 1, 1.0)


def test_nothing_to_compare_is_no_result():
    assert DepthScore().result() == {}
    assert Reliability().result() == {}
    assert boxes.BoxScore().result() == {}


def test_calibration_of_confidence():
    reliability = Reliability()
    reliability.add(np.array([0.95, 0.95]), np.array([True, False]))
    reliability.add(np.array([0.25]), np.array([False]))
    result = reliability.result()
    assert result["ece"] == pytest.approx(2 / 3 * abs(0.5 - 0.95) + 1 / 3 * abs(0.0 - 0.25))
    assert result["brier"] == pytest.approx((0.05**2 + 0.95**2 + 0.25**2) / 3)
    assert [row["count"] for row in result["bins"]] == [1, 2]


def test_honest_confidence_is_calibrated(rng):
    reliability, confidence = Reliability(), rng.uniform(0.0, 1.0, 200_000)
    reliability.add(confidence, rng.uniform(0.0, 1.0, 200_000) < confidence)
    assert reliability.result()["ece"] < 0.01


# ----------------------------------------------------------------------------------------------------- matches


def test_match_errors():
    # Distances 0, 5 and 10; the longer side has 100 pixels.
    found = np.array([[10.0, 10.0], [13.0, 14.0], [10.0, 20.0]])
    errors = match_errors(found, np.full((3, 2), 10.0), (100, 50))
    assert errors == pytest.approx(
        {"matches": 3, "epe": 5, "epe_median": 5, "pck1": 1 / 3, "pck3": 1 / 3, "pck5": 2 / 3}
    )


def test_true_pixels_move_by_disparity_and_vanish_behind_things():
    camera = Camera(101, 101, 100.0, 100.0, 50.0, 50.0)
    first = Truth(np.full((101, 101), 2.0, np.float32), pose())
    pixels = np.array([[50.0, 50.0], [5.0, 50.0], [60.0, 50.0]])
    hidden = np.full((101, 101), 2.0, np.float32)
    hidden[:, 48:52] = 1.0
    second = Truth(hidden, pose(x=0.2))  # 0.2 m to the right: 0.2 / 2 * 100 = 10 px to the left
    expected = [[40.0, 50.0], [np.nan, np.nan], [np.nan, np.nan]]  # seen, out of the image, behind something
    np.testing.assert_allclose(true_pixels(pixels, first, second, camera), expected, atol=1e-9)
    of_other_size = Truth(np.full((50, 50), 2.0, np.float32), pose())
    for unknown in (Truth(), of_other_size):
        assert np.isnan(true_pixels(pixels, unknown, second, camera)).all()


# ------------------------------------------------------------------------------------------------------- poses


@pytest.mark.parametrize("angle", [0.0, 1e-4, 30.0, 90.0, 180.0])
def test_angles(angle):
    assert poses.rotation_error_deg(pose(turn_deg=20.0), pose(turn_deg=20.0 + angle)) == pytest.approx(
        angle, abs=1e-6
    )
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    assert poses.direction_error_deg(pose(x=3.0), pose(x=c, y=s)) == pytest.approx(angle, abs=1e-6)


def test_direction_of_no_motion():
    assert poses.direction_error_deg(pose(), pose()) == 0.0
    assert poses.direction_error_deg(pose(), pose(x=1.0)) == 180.0


def test_area_under_the_recall_curve():
    # (0, 0), (2, 1/3), (8, 2/3), level to 10: 1/3 + 3 + 4/3 of 10; up to 5 it is level from 2: 1/3 + 1 of 5.
    assert poses.auc([8.0, math.inf, 2.0], 10.0) == pytest.approx((1 / 3 + 3 + 4 / 3) / 10)
    assert poses.auc([8.0, math.inf, 2.0], 5.0) == pytest.approx((1 / 3 + 1) / 5)
    assert poses.auc([], 5.0) == 0.0


@given(st.lists(st.floats(0.0, 180.0), min_size=1), st.sampled_from(poses.AUC_DEG))
def test_area_is_a_share_and_better_errors_enlarge_it(errors, threshold):
    area = poses.auc(errors, threshold)
    assert 0.0 <= area <= 1.0
    assert poses.auc([error / 2 for error in errors], threshold) >= area - 1e-12
    assert poses.auc([0.0] * len(errors), threshold) == pytest.approx(1.0)


def test_pairs():
    true = [pose(x=1.0), pose(x=1.0), pose(x=0.001, turn_deg=4.0), pose(x=1.0)]
    perceived = [pose(x=1.1, turn_deg=2.0), pose(y=2.0), pose(y=1.0), None]
    errors = poses.pair_errors(perceived, true)
    assert (errors["pairs"], errors["answered"]) == (4, 3)
    assert errors["rotation_deg_median"] == pytest.approx(2.0)  # of 2, 0 and 4
    assert errors["direction_deg_median"] == pytest.approx(45.0)  # of 0 and 90; the third did not move
    assert errors["length_rel_median"] == pytest.approx((0.1 + 1.0) / 2)
    # Larger errors 2, 90, 4 and a failure; up to 5: (0, 0), (2, 1/4), (4, 1/2), level to 5.
    assert errors["auc5"] == pytest.approx((0.25 + 0.75 + 0.5) / 5)


def test_trajectory():
    # After the middles lie on each other the third is 2/3 too far, the others 1/3 too near; steps are 0 and 1 off.
    true, path = [pose(x=x) for x in (0.0, 1.0, 2.0)], [pose(x=x) for x in (0.0, 1.0, 3.0)]
    errors = poses.trajectory_errors(path, true)
    assert errors["ate_m"] == pytest.approx(math.sqrt((1 / 9 + 1 / 9 + 4 / 9) / 3))
    assert errors["ate_max_m"] == pytest.approx(2 / 3)
    assert errors["rpe_m"] == pytest.approx(math.sqrt(1 / 2))
    assert errors["rpe_deg"] == pytest.approx(0.0, abs=1e-6)
    assert errors["length_m"] == 2.0


def test_steps_are_those_between_neighbours():
    # Steps of 1, 1 and 2 m where the truth has 1 m, the second one over a frame without a pose.
    path = [0.0, 1.0, None, 2.0, 4.0]
    group, pairs, found = poses.Trajectory(), poses.Pairs(), []
    for x, true in zip(path, [0.0, 1.0, 1.5, 2.0, 3.0], strict=True):
        seen = moment(pose=None if x is None else pose(x=x), truth=Truth(T_world_camera=pose(x=true)))
        found.append((group.add(seen).get("step_m"), pairs.add(seen).get("length_rel")))
    assert found == [(None, None), (0.0, 0.0), (None, None), (0.0, None), (1.0, 1.0)]
    assert group.result()["rpe_m"] == pytest.approx(math.sqrt(1 / 3))
    assert (pairs.result()["pairs"], pairs.result()["answered"]) == (4, 2)


def test_where_a_trajectory_starts_does_not_count(rng):
    true = random_path(rng, 30)
    errors = poses.trajectory_errors([pose(3.0, -2.0, 1.0, 70.0) @ T for T in true], true)
    assert max(errors["ate_m"], errors["rpe_m"], errors["rpe_deg"]) < 1e-6


def random_path(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    path = [np.eye(4)]
    for _ in range(count - 1):
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(rng.normal(0.0, 0.2, 3)).as_matrix()
        step[:3, 3] = rng.normal(0.0, 0.3, 3)
        path.append(path[-1] @ step)
    return path


def assert_as_evo(path: list[np.ndarray], true: list[np.ndarray]) -> None:
    errors = poses.trajectory_errors(path, true)
    theirs, reference = PosePath3D(poses_se3=list(path)), PosePath3D(poses_se3=list(true))
    for name, relation in (
        ("rpe_m", metrics.PoseRelation.translation_part),
        ("rpe_deg", metrics.PoseRelation.rotation_angle_deg),
    ):
        rpe = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames, all_pairs=False)
        rpe.process_data((reference, theirs))
        assert errors[name] == pytest.approx(rpe.get_statistic(metrics.StatisticsType.rmse), abs=1e-6)
    theirs.align(reference)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, theirs))
    assert errors["ate_m"] == pytest.approx(ape.get_statistic(metrics.StatisticsType.rmse), abs=1e-6)
    assert errors["ate_max_m"] == pytest.approx(ape.get_statistic(metrics.StatisticsType.max), abs=1e-6)


@pytest.mark.parametrize("count", [3, 4, 20, 200])
def test_trajectories_as_evo(rng, count):
    true = random_path(rng, count)
    noisy = [T @ pose(*rng.normal(0.0, 0.1, 3), rng.normal(0.0, 5.0)) for T in true]
    assert_as_evo([pose(1.0, 2.0, 3.0, 100.0) @ T for T in noisy], true)


def test_recorded_trajectory_as_evo(data: Path, rng):
    true = [T for _, T in read_trajectory(data / "tum_fr3_cabinet" / "groundtruth.txt")]
    assert_as_evo([T @ pose(*rng.normal(0.0, 0.05, 3), rng.normal(0.0, 3.0)) for T in true], true)


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
    assert result["iou_median"] == pytest.approx((1 / 3 + 1) / 2)
    assert result["center_m_median"] == pytest.approx(0.25)


def test_numbers_of_one_frame_of_boxes():
    # One of three is overlapped by 1/3, half a metre off; one is missed, and one is of a kind that was not found.
    means = boxes.BoxScore().add([cube(0.5)], [cube(0.0), cube(9.0), cube(label="cat")])
    assert means == pytest.approx({"iou": 1 / 9, "center_m": 0.5, "size_rel": 0.0, "yaw_deg": 0.0})
    assert boxes.BoxScore().add([], [cube()]) == {"iou": 0.0}
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
    assert math.isnan(missed.result()["iou_median"])


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
    assert result["quantitative"] == pytest.approx(2 / 4)
    assert result["length_rel"] == pytest.approx((0.5 + 0.1) / 2)
    assert result["clock_deg"] == pytest.approx(30.0)
    width = next(row for row in result["by_category"] if row["category"] == "width")
    assert (width["questions"], width["accuracy"]) == (3, pytest.approx(1 / 3))


# ------------------------------------------------------------------------------------------------ frames in time


def test_counts_and_times_of_frames():
    group, second = Frames(), 10**9
    row = {"asked": "10", "refused": "2"}
    shown = [group.add(moment(i * second, row=row, seconds={"depth": 0.1 * i})) for i in range(1, 5)]
    assert shown[0] == {"seconds": 0.1, "questions": 10.0, "answers_without_value": 0.2}
    assert group.add(moment(5 * second, "no image")) == {}
    result = group.result()
    assert (result["frames"], result["perceived"], result["questions"]) == (5, 4, 40)
    assert result["answers_without_value"] == 0.2
    # Of 0.1, 0.2, 0.3 and 0.4 s, 95 % of the way from first to last: 0.4 - 0.15 * 0.1.
    assert (result["seconds_median"], result["seconds_p95"]) == pytest.approx((0.25, 0.385))
    assert result["live_dropped"] == 0.0
    assert result["left_out"] == [{"frames": 1, "because": "no image"}]


def test_what_a_node_would_drop():
    # Frames each second that take 1.5 s. From 0 to 1.5, when the newest is that of 1; to 3.0, when 3 has come: 2 is
    # dropped; to 4.5 on, the newest is 4, to 6.0, and 5 is the last one but waits for nobody: 5 is taken from 6.0.
    stamps = [i * 10**9 for i in range(6)]
    assert live_ages(stamps, [1.5] * 6) == pytest.approx([1.5, 3.0 - 1, 4.5 - 3, 6.0 - 4, 7.5 - 5])
    assert live_ages(stamps, [0.5] * 6) == pytest.approx([0.5] * 6)
    assert live_ages(stamps, [100.0] * 6) == pytest.approx([100.0, 200.0 - 5])
    assert live_ages([], []) == []
