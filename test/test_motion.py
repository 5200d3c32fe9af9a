"""Camera motion: the protocol's convention, its check value, and how uncertainty adds up along a path."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlm3_ros.config import PoseConfig
from vlm3_ros.geometry.motion import (
    LOST_VARIANCE,
    Odometry,
    Pose,
    compose,
    disagreement_deg,
    pose_answer,
    relative_pose,
    start,
)
from vlm3_ros.tasks import pose
from vlm3_ros.tasks.pose import PoseAnswer

RIGHT, DOWN, FORWARD = np.eye(3)  # camera axes


def answer(yaw=0.0, pitch=0.0, roll=0.0, direction=(0.0, 0.0, 0.0), distance=0.0, angle=0.0) -> PoseAnswer:
    return PoseAnswer(angle, (yaw, pitch, roll), direction, distance)


def motion(rotation_vector, translation) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(rotation_vector).as_matrix(), translation
    return T


def test_published_angles_give_the_published_rotation():
    T = relative_pose(answer(89.60077227075526, 2.598684372865458, 6.072327841623985))
    assert math.degrees(Rotation.from_matrix(T[:3, :3]).magnitude()) == pytest.approx(89.6547345694857, abs=1e-6)
    assert pose_answer(T).angle_deg == pytest.approx(89.6547345694857, abs=1e-6)


@pytest.mark.parametrize(
    ("angles", "axis", "goes_to"),
    [
        ({"yaw": 90.0}, FORWARD, RIGHT),  # positive: turn right
        ({"pitch": 90.0}, FORWARD, -DOWN),  # positive: look up
        ({"roll": 90.0}, RIGHT, DOWN),  # positive: bank to the right
        ({"yaw": 90.0, "pitch": 90.0}, FORWARD, -DOWN),  # intrinsic: the pitch is about the turned camera's own axis
        ({"yaw": 90.0, "pitch": 90.0}, RIGHT, -FORWARD),
        ({"pitch": 90.0, "roll": 90.0}, RIGHT, FORWARD),
    ],
)
def test_signs_and_order_of_the_angles(angles, axis, goes_to):
    np.testing.assert_allclose(relative_pose(answer(**angles))[:3, :3] @ axis, goes_to, atol=1e-12)


def test_translation_is_where_camera_2_is_in_camera_1():
    T = relative_pose(answer(yaw=90.0, direction=(-0.69, 0.02, 0.72), distance=2.0), scale=1.5)
    np.testing.assert_allclose(T @ [0, 0, 0, 1], [*(3.0 * np.array([-0.69, 0.02, 0.72]) / 0.99745), 1], rtol=1e-5)
    assert np.linalg.norm(T[:3, 3]) == pytest.approx(3.0)  # the direction's two decimals do not change the length


def test_no_direction_is_no_translation():
    np.testing.assert_array_equal(relative_pose(answer()), np.eye(4))


unit = st.floats(-1.0, 1.0)
any_motion = st.builds(
    lambda q, t: motion(Rotation.from_quat(q).as_rotvec(), t),
    st.tuples(unit, unit, unit, unit).filter(lambda q: np.linalg.norm(q) > 0.1),
    st.tuples(*[st.floats(-50, 50)] * 3),
)


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@given(any_motion)
def test_the_right_answer_to_a_pose_gives_the_pose(T):
    assume(abs(pose_answer(T).yaw_pitch_roll_deg[1]) < 89.9)  # beyond, yaw and roll are one
    np.testing.assert_allclose(relative_pose(pose_answer(T)), T, atol=1e-6)
    assert disagreement_deg(pose_answer(T)) < 1e-5


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@given(any_motion)
def test_through_the_text_a_pose_keeps_its_rounding_error(T):
    read = pose.parse(pose.answers(pose_answer(T)))
    back = np.linalg.inv(T) @ relative_pose(read)
    assert math.degrees(Rotation.from_matrix(back[:3, :3]).magnitude()) < 0.15
    assert np.linalg.norm(back[:3, 3]) < 0.01 + 0.01 * np.linalg.norm(T[:3, 3])


def test_disagreement_is_between_the_angle_and_the_angles():
    assert disagreement_deg(answer(yaw=30.0, angle=30.0)) == pytest.approx(0.0, abs=1e-9)
    assert disagreement_deg(answer(yaw=-30.0, angle=50.0)) == pytest.approx(20.0)
    assert disagreement_deg(answer(yaw=180.0, angle=0.0)) == pytest.approx(180.0)


# ------------------------------------------------------------------------------------------------------ uncertainty


def samples_of(covariance: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.multivariate_normal(np.zeros(6), covariance, count, method="eigh")


def test_covariance_of_a_path_is_that_of_many_noisy_paths(rng):
    """Three motions with every error drawn at random; errors are small, as first-order propagation wants them."""
    motions = [motion([0.1, 0.7, -0.2], [0.5, -0.1, 2.0]), motion([0, -1.2, 0.3], [1.0, 0.2, 0.1])]
    motions += [motion([0.2, 0.1, 0.9], [-0.3, 0.4, 1.5])]
    sigma_t, sigma_r, count = 0.02, 1.0, 4000
    expected = start()
    for T in motions:
        expected = compose(expected, T, sigma_t * float(np.linalg.norm(T[:3, 3])), sigma_r)
    ends = []
    for _ in range(count):
        T = np.eye(4)
        for step in motions:
            off = rng.normal(size=3) * sigma_t * np.linalg.norm(step[:3, 3])
            turned = Rotation.from_rotvec(rng.normal(size=3) * math.radians(sigma_r)).as_matrix()
            noisy = step.copy()
            noisy[:3, :3], noisy[:3, 3] = turned @ step[:3, :3], step[:3, 3] + off
            T = T @ noisy
        error = T[:3, :3] @ expected.T[:3, :3].T  # about the axes of odom
        ends.append([*(T[:3, 3] - expected.T[:3, 3]), *Rotation.from_matrix(error).as_rotvec()])
    measured = np.cov(np.array(ends).T)
    sigma = np.sqrt(np.diag(measured))
    np.testing.assert_allclose(np.sqrt(np.diag(expected.covariance)), sigma, rtol=0.06)
    np.testing.assert_allclose(
        expected.covariance / np.outer(sigma, sigma), measured / np.outer(sigma, sigma), atol=0.09
    )
    np.testing.assert_allclose(expected.T, motions[0] @ motions[1] @ motions[2])


def test_a_rotation_error_swings_what_comes_after():
    """90° off by one degree about the vertical, then 10 m forward: 17 cm aside, nothing along, 1:1 correlated."""
    sigma = math.radians(1.0)
    before = Pose(motion([0.0, math.pi / 2, 0.0], [0, 0, 0]), np.diag([0, 0, 0, 0, sigma**2, 0]))
    after = compose(before, motion([0, 0, 0], [0, 0, 10.0]), 0.0, 0.0)
    np.testing.assert_allclose(after.T[:3, 3], [10.0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(after.covariance))[:3], [0, 0, 10 * sigma], atol=1e-12)
    assert after.covariance[2, 4] == pytest.approx(-10 * sigma**2)


@given(st.lists(any_motion, max_size=6))
def test_covariance_stays_one_and_never_shrinks(motions):
    pose = start()
    for T in motions:
        last, pose = pose, compose(pose, T, 0.1, 3.0)
        np.testing.assert_allclose(pose.covariance, pose.covariance.T, rtol=1e-9, atol=1e-12)
        assert np.linalg.eigvalsh(pose.covariance).min() > -1e-9 * pose.covariance.max()
        assert (np.diag(pose.covariance)[3:] > np.diag(last.covariance)[3:]).all()


# --------------------------------------------------------------------------------------------------------- odometry

SETTINGS = PoseConfig(keyframe_translation_m=0.5, keyframe_rotation_deg=20.0)


@pytest.mark.parametrize(
    ("T", "is_keyframe"),
    [
        (motion([0, 0, 0], [0.3, 0.3, 0.2]), False),
        (motion([0, 0, 0], [0.3, 0.3, 0.3]), True),
        (motion([0, math.radians(19.9), 0], [0, 0, 0]), False),
        (motion([math.radians(-20.1), 0, 0], [0, 0, 0]), True),
    ],
)
def test_a_frame_far_from_the_keyframe_becomes_the_next(T, is_keyframe):
    odometry = Odometry()
    here, became = odometry.advance(T, SETTINGS)
    assert became == is_keyframe
    assert (odometry.keyframe is here) == is_keyframe
    np.testing.assert_allclose(here.T, T)


def test_errors_add_up_per_keyframe_and_not_per_frame(rng):
    path = [motion([0, 0.01 * i, 0], [0.1 * i, 0, 0.02 * i]) for i in range(30)]
    odometry, keyframe, variance = Odometry(), np.eye(4), []
    for T in path[1:]:
        here, became = odometry.advance(np.linalg.inv(keyframe) @ T, SETTINGS)
        np.testing.assert_allclose(here.T, T, atol=1e-9)
        variance.append(here.covariance[4, 4])
        if became:
            keyframe = T
    steps = np.round(np.array(variance) / math.radians(SETTINGS.sigma_rotation_deg) ** 2).astype(int)
    assert steps[0] == 1
    assert steps[-1] == pytest.approx(np.linalg.norm(path[-1][:3, 3]) / 0.5, abs=1)


@pytest.mark.parametrize(
    ("metres", "sigmas", "sigma_m", "sigma_deg"),
    [
        (0.0, (0.1, 3.0), 0.01 / math.sqrt(12), math.hypot(3.0, 0.1 / math.sqrt(12))),
        (0.03, (0.1, 0.0), math.hypot(0.003, 0.01 / math.sqrt(12)), 0.1 / math.sqrt(12)),
        (5.0, (0.0, 0.0), 0.01 / math.sqrt(12), 0.1 / math.sqrt(12)),
    ],
)
def test_an_answer_is_never_surer_than_its_last_digit(metres, sigmas, sigma_m, sigma_deg):
    settings = PoseConfig(sigma_translation=sigmas[0], sigma_rotation_deg=sigmas[1])
    odometry = Odometry()
    np.testing.assert_array_equal(odometry.keyframe.covariance, np.zeros((6, 6)))
    here, _ = odometry.advance(motion([0, 0, 0], [metres, 0, 0]), settings)
    expected = [sigma_m**2] * 3 + [math.radians(sigma_deg) ** 2] * 3
    np.testing.assert_allclose(here.covariance, np.diag(expected), rtol=1e-9)


def test_after_losing_track_the_path_goes_on_without_a_claim():
    odometry = Odometry()
    odometry.advance(motion([0, 0, 0], [1.0, 0, 0]), SETTINGS)
    odometry.lose()
    here, _ = odometry.advance(motion([0, 0, 0], [0, 0, 1.0]), SETTINGS)
    np.testing.assert_allclose(here.T[:3, 3], [1.0, 0, 1.0])
    assert (np.diag(here.covariance) >= LOST_VARIANCE).all()


def test_two_odometries_share_nothing():
    one, other = Odometry(), Odometry()
    one.advance(motion([0, 0, 0], [9.0, 0, 0]), SETTINGS)
    np.testing.assert_array_equal(other.keyframe.T, np.eye(4))
    np.testing.assert_array_equal(start().covariance, np.zeros((6, 6)))
