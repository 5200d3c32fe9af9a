"""Measures of poses and paths on examples worked out by hand, and trajectories against the evo library."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from evo.core import metrics
from evo.core.trajectory import PosePath3D
from hypothesis import given
from hypothesis import strategies as st
from moments import moment, pose
from scipy.spatial.transform import Rotation

from vlm3_ros.metrics import poses
from vlm3_ros.offline.sources import Truth
from vlm3_ros.offline.tum import read_trajectory


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
    assert errors["coverage"] == 0.75
    assert errors["rotation_deg_median"] == pytest.approx(3.0)  # of 2, 0, 4 and 180
    assert errors["direction_deg_median"] == pytest.approx(90.0)  # of 0, 90 and 180; the third did not move
    assert errors["length_rel_median"] == pytest.approx(1.0)  # of 0.1, 1 and 1
    assert errors["rotation_deg_median_answered"] == pytest.approx(2.0)
    assert errors["direction_deg_median_answered"] == pytest.approx(45.0)
    assert errors["length_rel_median_answered"] == pytest.approx((0.1 + 1.0) / 2)
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
    complete = poses.complete_trajectory_errors(path, true)
    assert complete == pytest.approx(
        {"frames": 3, "poses": 3, "coverage": 1.0, "length_m": 2.0, **errors}
        | {f"{name}_answered": value for name, value in errors.items()}
    )


def test_a_pose_that_is_not_known_is_off_by_the_length_of_the_path():
    true, path = [pose(x=x) for x in (0.0, 1.0, 2.0, 5.0)], [pose(x=0.0), pose(x=1.0), None, pose(x=5.0)]
    errors = poses.complete_trajectory_errors(path, true)
    assert (errors["poses"], errors["frames"], errors["coverage"]) == (3, 4, pytest.approx(2 / 3))
    assert (errors["ate_m"], errors["ate_max_m"]) == pytest.approx((math.sqrt(5**2 / 4), 5.0))
    # Steps of 0 m off, and two that are not known: of 1 m, so two, and of 3 m, so six.
    assert errors["rpe_m"] == pytest.approx(math.sqrt((0 + 4 + 36) / 3))
    assert errors["rpe_deg"] == pytest.approx(math.sqrt(2 * 180**2 / 3))
    assert errors["ate_m_answered"] == pytest.approx(0.0, abs=1e-9)
    assert errors["rpe_m_answered"] == pytest.approx(0.0, abs=1e-9)
    nothing = poses.complete_trajectory_errors([None] * 4, true)
    assert (nothing["poses"], nothing["ate_m"], nothing["rpe_deg"]) == (0, 5.0, 180.0)
    assert math.isnan(nothing["ate_m_answered"])


def test_steps_are_those_between_neighbours():
    # Steps of 1, 1 and 2 m where the truth has 1 m, the second one over a frame without a pose.
    path = [0.0, 1.0, None, 2.0, 4.0]
    group, pairs, found = poses.Trajectory(), poses.Pairs(), []
    for x, true in zip(path, [0.0, 1.0, 1.5, 2.0, 3.0], strict=True):
        seen = moment(pose=None if x is None else pose(x=x), truth=Truth(T_world_camera=pose(x=true)))
        found.append((group.add(seen).get("step_m"), pairs.add(seen).get("length_rel")))
    assert found == [(None, None), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]
    assert group.result()["rpe_m"] == pytest.approx(math.sqrt(3 / 4))
    assert group.result()["rpe_m_answered"] == pytest.approx(math.sqrt(1 / 3))
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
