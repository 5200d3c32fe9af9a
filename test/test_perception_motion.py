"""What takes two frames: matches and the pose, with models that answer from ground truth or as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scripted import CAMERA, Scripted, frame, metres, perception, shifted, world

from vlm3_ros.camera import unified
from vlm3_ros.geometry.motion import LOST_VARIANCE
from vlm3_ros.perception import Scene
from vlm3_ros.tasks import Question, Reason, matching, pose
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm import Answer, Distribution

# --------------------------------------------------------------------------------------------------------- matches


def test_matches_are_with_the_frame_before_of_the_same_camera():
    model = world(poses=[shifted(0.1 * i, 0, 0) for i in range(4)])
    eyes = perception(model, {"matches.points": 30})
    first = frame(0, "left")
    assert eyes.perceive(first, {"matches"}).matches is None
    assert eyes.perceive(frame(1, "right"), {"matches"}).matches is None
    found = eyes.perceive(frame(2, "left"), {"matches"}).matches
    assert found.first is first
    moved = found.pixels_first - found.pixels
    assert len(moved) > 20
    bin_px = 2 * 160 / 1000
    np.testing.assert_allclose(moved[:, 0], 0.2 / 4.0 * CAMERA.fx, atol=bin_px)
    np.testing.assert_allclose(moved[:, 1], 0.0, atol=bin_px)
    assert len(found.confidence) == len(moved)
    again = eyes.perceive(frame(3, "left"), {"matches"}).matches
    assert again.first.stamp == 2


def test_only_what_the_frame_before_really_shows_is_matched():
    valid = np.ones((120, 160), bool)
    valid[60:] = False
    eyes = perception(world(poses=[np.eye(4)] * 2))
    eyes.perceive(frame(valid=valid), {"matches"})
    found = eyes.perceive(frame(1), {"matches"}).matches
    assert 10 < len(found.pixels_first) < 40
    assert (found.pixels_first[:, 1] < 60).all()


def test_a_match_at_the_far_border_is_a_pixel_of_the_image():
    eyes = perception(Scripted(lambda question: Answer(matching.answer(1000, 0), 0.5)))
    eyes.perceive(frame(), {"matches"})
    found = eyes.perceive(frame(1), {"matches"}).matches
    assert (np.rint(found.pixels) < CAMERA.size).all()
    assert (found.pixels >= 0).all()
    assert found.pixels[:, 0] == pytest.approx(159, abs=0.5)


def test_matches_that_are_refused_are_counted():
    eyes = perception(Scripted(lambda question: Answer("nowhere", 0.5)))
    eyes.perceive(frame(), {"matches"})
    scene = eyes.perceive(frame(1), {"matches"})
    assert scene.matches.pixels.shape == scene.matches.pixels_first.shape == (0, 2)
    assert scene.tally.refused == {Reason.UNPARSED: scene.tally.asked}


# ------------------------------------------------------------------------------------------------------------ pose

PATH = [np.eye(4)]
for _ in range(12):
    PATH.append(PATH[-1] @ shifted(0.05, 0.0, 0.1))


@pytest.mark.parametrize("max_tokens", [80, 1600])
def test_the_pose_follows_the_path(max_tokens):
    eyes = perception(world(poses=PATH), {"camera.max_tokens": max_tokens})
    scenes = [eyes.perceive(frame(level), {"pose"}) for level in range(len(PATH))]
    for scene, T in zip(scenes, PATH, strict=True):
        np.testing.assert_allclose(scene.pose.T, T, atol=0.03)
    assert not scenes[0].tally.asked  # nothing to compare with: the origin, without error
    assert (scenes[0].pose.covariance == 0).all()
    sizes = [np.trace(scene.pose.covariance) for scene in scenes]
    assert sizes[1] < sizes[-1]


def scripted_poses(answers: dict[int, Sequence[str]]) -> Scripted:
    """Answers to the four questions by the number of the second picture; for all others, the same place."""
    still = pose.answers(PoseAnswer(0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0))
    texts = [question.text for question in pose.QUESTIONS]
    model = Scripted(lambda question: None)

    def reply(question: Question) -> Answer:
        if question.text not in texts:
            return Answer(matching.answer(500, 500), 1.0)
        level = int(model.looks[-1][1].pixels[0, 0, 0])
        return Answer(answers.get(level, still)[texts.index(question.text)], 1.0)

    model.reply = reply
    return model


def one_metre(yaw: float = 0.0, angle: float = 0.0) -> tuple[str, ...]:
    return pose.answers(PoseAnswer(angle, (yaw, 0.0, 0.0), (0.0, 0.0, 1.0), 1.0))


def test_refused_answers_give_no_pose_and_leave_the_keyframe():
    model = scripted_poses({1: ("?",) * 4, 2: one_metre()})
    eyes = perception(model)
    scenes = [eyes.perceive(frame(level), {"pose"}) for level in range(4)]
    assert scenes[1].pose is None
    assert scenes[1].tally.refused == {Reason.UNPARSED: 1}
    focal = unified(CAMERA, 750.0, 1600).focal / 750.0
    np.testing.assert_allclose(scenes[2].pose.T[:3, 3], [0, 0, focal])
    assert [int(pictures[0].pixels[0, 0, 0]) for pictures in model.looks] == [0, 0, 2]


KNOWN = [[0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [2.0]]  # the numbers of the four answers


@pytest.mark.parametrize(
    ("statistic", "numbers", "metres"),
    [
        ("greedy", KNOWN, 1.0),
        ("median", KNOWN, 2.0),
        ("median", [[]] * 4, 1.0),  # a model that gives no distributions
        ("median", [*KNOWN[:3], [np.nan]], 1.0),  # one that was lost on the way
        ("median", [*KNOWN[:2], [0.0, 0.0, 0.1], [2.0]], 1.0),  # torn between a direction and its opposite
    ],
)
def test_the_motion_is_that_of_the_text_or_of_medians_where_all_are_known(statistic, numbers, metres):
    model = scripted_poses({1: one_metre()})
    reply, of_each = model.reply, iter(numbers)
    model.reply = lambda question: replace(reply(question), numbers=tuple(map(surely, next(of_each))))
    eyes = perception(model, {"pose.statistic": statistic})
    eyes.perceive(frame(), {"pose"})
    T = eyes.perceive(frame(1), {"pose"}).pose.T
    np.testing.assert_allclose(T[:3, 3], [0, 0, metres * unified(CAMERA, 750.0, 1600).focal / 750.0])


def surely(value: float) -> Distribution:
    """One value, or none at all for NaN."""
    values = np.array([value])[np.isfinite([value])]
    return Distribution(values, np.ones_like(values))


@pytest.mark.parametrize(("angle", "agrees"), [(30.0, True), (21.0, True), (19.0, False), (41.0, False)])
def test_answers_that_contradict_each_other_are_refused(angle, agrees):
    eyes = perception(scripted_poses({1: one_metre(yaw=30.0, angle=angle)}), {"pose.max_disagreement_deg": 10.0})
    eyes.perceive(frame(), {"pose"})
    scene = eyes.perceive(frame(1), {"pose"})
    assert (scene.pose is not None) == agrees
    assert scene.tally.refused == ({} if agrees else {Reason.INCONSISTENT: 1})
    if agrees:
        turned = Rotation.from_matrix(scene.pose.T[:3, :3]).as_rotvec(degrees=True)
        np.testing.assert_allclose(turned, [0, 30.0, 0], atol=1e-6)


def test_lost_tracking_starts_anew_from_the_frame_at_hand():
    model = scripted_poses(dict.fromkeys((2, 3, 4), ("?",) * 4) | {1: one_metre(), 5: one_metre()})
    eyes = perception(model, {"pose.lost_after": 3})
    scenes, lost = [], []
    for level in range(6):
        scenes.append(eyes.perceive(frame(level), {"pose"}))
        lost.append(eyes.memory("").track.lost)
    assert [scene.pose is None for scene in scenes] == [False, False, True, True, True, False]
    assert lost == [False, False, False, False, True, False]
    keyframes = [int(pictures[0].pixels[0, 0, 0]) for pictures in model.looks]
    assert keyframes == [0, 1, 1, 1, 4]
    focal = unified(CAMERA, 750.0, 1600).focal / 750.0
    np.testing.assert_allclose(scenes[5].pose.T[:3, 3], [0, 0, 2 * focal])  # no jump to the origin
    assert (np.diag(scenes[5].pose.covariance) >= LOST_VARIANCE).all()
    assert np.diag(scenes[1].pose.covariance).max() < 1.0


def test_a_good_frame_in_between_is_no_loss():
    model = scripted_poses(dict.fromkeys((1, 2, 4, 5), ("?",) * 4))
    eyes = perception(model, {"pose.lost_after": 3})
    for level in range(7):
        last = eyes.perceive(frame(level), {"pose"})
    assert {int(pictures[0].pixels[0, 0, 0]) for pictures in model.looks} == {0}
    assert np.diag(last.pose.covariance).max() < 1.0


def test_cameras_do_not_mix():
    eyes = perception(scripted_poses({2: one_metre(), 3: one_metre()}))
    for level, source in enumerate(["left", "right"]):
        assert (np.eye(4) == eyes.perceive(frame(level, source), {"pose"}).pose.T).all()
    focal = unified(CAMERA, 750.0, 1600).focal / 750.0
    for level, source in ((2, "left"), (3, "right")):
        here = eyes.perceive(frame(level, source), {"pose", "matches"})
        np.testing.assert_allclose(here.pose.T[:3, 3], [0, 0, focal])
        assert here.matches.first.source == source


def test_forgetting_a_camera_starts_it_anew_and_no_other():
    eyes = perception(scripted_poses(dict.fromkeys(range(2, 9), one_metre())))
    for level, source in enumerate(["left", "right", "left", "right"]):
        eyes.perceive(frame(level, source), {"pose"})
    eyes.forget("left")
    eyes.forget("never seen")
    left, right = (eyes.perceive(frame(4, source), {"pose", "matches"}) for source in ("left", "right"))
    np.testing.assert_array_equal(left.pose.T, np.eye(4))
    assert left.matches is None
    assert right.pose.T[2, 3] > 1.0
    assert right.matches is not None


def test_a_chain_with_a_gap_is_no_odometry():
    eyes = perception(scripted_poses(dict.fromkeys(range(1, 9), one_metre())))
    for level, wanted in enumerate([{"pose"}, {"pose"}, set()]):
        eyes.perceive(frame(level), wanted)
    np.testing.assert_array_equal(eyes.perceive(frame(4), {"pose"}).pose.T, np.eye(4))


def test_settings_may_change_between_frames():
    eyes = perception(Scripted(metres(2.0)))
    before = eyes.perceive(frame(), {"depth"})
    eyes.config = eyes.config.updated({"depth.points": 40})
    after = eyes.perceive(frame(1), {"depth"})
    assert after.tally.asked == pytest.approx(40, rel=0.2)
    assert before.tally.asked > 300


def test_the_time_of_every_stage_is_told():
    eyes = perception(world(poses=PATH[:2]))
    eyes.perceive(frame(), {"pose", "matches"})
    scene = eyes.perceive(frame(1), {"depth", "pose", "matches", "objects"})
    assert scene.tally.seconds.keys() == {"depth", "pose", "matches", "objects"}
    assert all(seconds > 0 for seconds in scene.tally.seconds.values())
    assert isinstance(scene, Scene)
