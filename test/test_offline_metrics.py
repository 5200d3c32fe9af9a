"""Measures of depth, matches and frames in time on examples worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from moments import moment, pose

from vlm3_ros.camera import Camera
from vlm3_ros.metrics import boxes
from vlm3_ros.metrics.confidence import Reliability
from vlm3_ros.metrics.depth import DepthScore, depth_errors
from vlm3_ros.metrics.frames import Frames, live_ages
from vlm3_ros.metrics.matches import asked_pixels, match_errors, true_pixels, with_unanswered
from vlm3_ros.offline.moments import Moment
from vlm3_ros.offline.sources import Truth

LN2 = math.log(2.0)


# ------------------------------------------------------------------------------------------------------- depth


def test_true_depth_of_a_smaller_output_is_that_at_the_centres_of_its_pixels():
    # Centres of the 2x2 pixels lie on the corners of four of 4x4: the lower right one of these is taken.
    true = np.arange(1.0, 17.0, dtype=np.float32).reshape(4, 4)
    true[0, 0] = np.nan
    smaller = Moment({"stamp": "1.0", "error": ""}, {}, {}, None)
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
    # Two pixels, half right, then one right and one unknown: both 0.5, and half of the pixels.
    score.add(np.array([[2.0, 9.0]]), np.array([[0.9, 0.1]]), np.array([[2.0, 3.0]]))
    score.add(np.array([[3.3, nan, 1.0]]), np.array([[0.15, 0.0, 0.5]]), np.array([[3.0, 5.0, nan]]))
    assert score.add(np.array([[nan]]), None, np.array([[nan]])) == {}
    result = score.result()
    assert (result["frames"], result["answered"], result["pixels"]) == (2, 2, 4)
    assert result["coverage"] == pytest.approx(3 / 4)
    assert result["delta1"] == pytest.approx(0.5)
    assert result["abs_rel"] == pytest.approx((1.0 / 2 + 1.1 / 2) / 2)  # 9 m for 3 counts 1, not 2, as unknown does
    assert result["rmse"] == pytest.approx((math.sqrt(9 / 2) + math.sqrt((0.09 + 25) / 2)) / 2)
    assert result["abs_rel_answered"] == pytest.approx((1.0 + 0.1) / 2)
    near, far = result["by_range_m"]
    assert (near["from"], near["to"], near["pixels"], near["coverage"]) == (2.0, 4.0, 3, 1.0)
    assert near["delta1"] == pytest.approx(2 / 3)
    assert near["abs_rel"] == pytest.approx((0.0 + 1.0 + 0.1) / 3)
    assert near["rmse"] == pytest.approx(math.sqrt((9.0 + 0.09) / 3))
    assert (far["pixels"], far["coverage"], far["delta1"], far["abs_rel"], far["rmse"]) == (1, 0.0, 0.0, 1.0, 5.0)
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
    reliability.miss(3)
    missed = reliability.result()
    assert (missed["pixels"], missed["coverage"]) == (6, 0.5)
    assert missed["ece"] == pytest.approx((result["ece"] + 1.0) / 2)
    assert missed["brier"] == pytest.approx((result["brier"] + 1.0) / 2)
    assert (missed["ece_answered"], missed["brier_answered"]) == (result["ece"], result["brier"])


def test_honest_confidence_is_calibrated(rng):
    reliability, confidence = Reliability(), rng.uniform(0.0, 1.0, 200_000)
    reliability.add(confidence, rng.uniform(0.0, 1.0, 200_000) < confidence)
    assert reliability.result()["ece"] < 0.01


# ----------------------------------------------------------------------------------------------------- matches


def test_match_errors():
    # Distances 0, 5 and 10; the longer side has 100 pixels.
    found = np.array([[10.0, 10.0], [13.0, 14.0], [10.0, 20.0]])
    errors = match_errors(found, np.full((3, 2), 10.0), (100, 50))
    shares = {"coverage": 1.0, "pck1": 1 / 3, "pck3": 1 / 3, "pck5": 2 / 3}
    distances = {"epe": 5, "epe_median": 5, "epe_answered": 5, "epe_median_answered": 5}
    assert errors == pytest.approx({"matches": 3, **distances, **shares})


def test_an_unanswered_match_is_off_by_the_diagonal():
    found = np.array([[10.0, 10.0], [np.nan, np.nan]])
    errors = match_errors(found, np.full((2, 2), 10.0), (300, 400))
    assert (errors["matches"], errors["coverage"], errors["pck5"]) == (2, 0.5, 0.5)
    assert (errors["epe"], errors["epe_median"], errors["epe_answered"]) == (250.0, 250.0, 0.0)


def test_pixels_that_were_asked_and_not_answered_are_known_from_the_settings():
    camera = Camera(101, 76, 100.0, 100.0, 50.0, 37.5)
    asked = asked_pixels(camera, 12, None)
    answered = asked[[7, 2]] + 0.2  # as rounded to reference numbers
    first, found = with_unanswered(asked, answered, np.ones((2, 2)))
    np.testing.assert_array_equal(first[:2], answered)
    np.testing.assert_array_equal(first[2:], np.delete(asked, [2, 7], axis=0))
    np.testing.assert_array_equal(np.isfinite(found).all(axis=1), [True] * 2 + [False] * (len(asked) - 2))
    valid = np.ones((76, 101), bool)
    valid[:, 50:] = False
    assert set(asked_pixels(camera, 12, valid)[:, 0]) == {u for u in asked[:, 0] if u < 50}


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


# ------------------------------------------------------------------------------------------------ frames in time


def test_counts_and_times_of_frames():
    group, second = Frames(), 10**9
    row = {"asked": "10", "refused": "2"}
    shown = [group.add(moment(i * second, row=row, seconds={"depth": 0.1 * i})) for i in range(1, 5)]
    assert shown[0] == {"seconds": 0.1, "questions": 10.0, "answers_without_value": 0.2}
    assert group.add(moment(5 * second, "no image")) == {"answers_without_value": 1.0}
    result = group.result()
    assert (result["frames"], result["perceived"], result["questions"]) == (5, 4, 40)
    assert result["answers_without_value"] == pytest.approx((4 * 0.2 + 1.0) / 5)
    assert result["coverage"] == 0.8
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
