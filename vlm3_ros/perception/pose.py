"""Camera pose: four questions about the last keyframe and this frame, chained into odometry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vlm3_ros.camera import metric_scale, unified
from vlm3_ros.config import Config, PoseConfig
from vlm3_ros.geometry import motion
from vlm3_ros.geometry.motion import Odometry, Pose
from vlm3_ros.perception.scene import Frame
from vlm3_ros.perception.sight import Sight
from vlm3_ros.tasks import Question, Reason, Refusal, pose
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm import Answer


@dataclass
class Track:
    """The path of one camera so far."""

    keyframe: Frame
    odometry: Odometry
    failures: int = 0  # refused frames in a row
    lost: bool = False  # no pose since tracking was lost


def perceive_pose(sight: Sight, track: Track | None, config: Config) -> tuple[Pose | None, Track]:
    """The camera's pose in the odometry frame and the track that goes on; no pose where the answers are refused."""
    frame, settings = sight.frame, config.pose
    if track is None:
        track = Track(frame, Odometry())
        return track.odometry.keyframe, track
    moved = ask_pose(sight, track.keyframe, config)
    if isinstance(moved, Refusal):
        sight.tally.refuse(moved)
        track.failures += 1
        if track.failures >= settings.lost_after:
            track.odometry.lose()
            track.keyframe, track.failures, track.lost = frame, 0, True
        return None, track
    track.failures, track.lost = 0, False
    here, is_keyframe = track.odometry.advance(moved, settings)
    if is_keyframe:
        track.keyframe = frame
    return here, track


def ask_pose(sight: Sight, first: Frame, config: Config) -> np.ndarray | Refusal:
    """The pose of the frame's camera in that of an earlier frame [4, 4], if the four answers agree."""
    moved = ask_motion(sight, first, config)
    return moved if isinstance(moved, Refusal) else motion.relative_pose(moved)


def ask_motion(
    sight: Sight, first: Frame, config: Config, needed: Collection[Question] = pose.QUESTIONS
) -> PoseAnswer | Refusal:
    """How the frame's camera stands to that of an earlier frame; what is not ``needed`` may be NaN."""
    view, _, seen = sight.look_at_two(
        "pose", first, lambda c, scale: unified(c, pose.FOCAL, config.camera.max_tokens, scale)
    )
    read = read_pose(sight.ask(view, list(pose.QUESTIONS)), config.pose, needed)
    if isinstance(read, Refusal):
        return read
    return replace(read, distance_m=read.distance_m * metric_scale(seen, pose.FOCAL * sight.image_scale("pose")))


def read_pose(
    answers: Sequence[Answer | None], settings: PoseConfig, needed: Collection[Question] = pose.QUESTIONS
) -> PoseAnswer | Refusal:
    """What the answers to `pose.QUESTIONS` say, if they agree; lengths are not yet corrected for the focal length."""
    given = [answer for answer in answers if answer is not None]
    values = [a.read(partial(pose.read, question)) for question, a in zip(pose.QUESTIONS, given, strict=True)]
    read = pose.joined(values, " | ".join(answer.text for answer in given), needed)
    if isinstance(read, Refusal):
        return read
    if settings.statistic == "median":
        read = _medians(answers) or read
    if motion.disagreement_deg(read) > settings.max_disagreement_deg:
        return Refusal(Reason.INCONSISTENT, f"{read.angle_deg:.1f}° but yaw, pitch, roll {read.yaw_pitch_roll_deg}")
    return read


def _medians(answers: Sequence[Answer | None]) -> PoseAnswer | None:
    """The medians of the numbers' distributions; None where one is not known, or where together they are no motion:
    of a direction that may be one or its opposite each number is in between."""
    medians = [number.median() for answer in answers if answer is not None for number in answer.numbers]
    if len(medians) != 8 or not np.isfinite(medians).all():
        return None
    angle, yaw, pitch, roll, x, y, z, distance = medians
    read = PoseAnswer(angle, (yaw, pitch, roll), (x, y, z), distance)
    return read if pose.usable(read) else None
