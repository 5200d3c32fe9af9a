"""Camera pose: four questions about the last keyframe and this frame, chained into odometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlm3_ros.camera import metric_scale, unified
from vlm3_ros.config import Config
from vlm3_ros.geometry import motion
from vlm3_ros.geometry.motion import Odometry, Pose
from vlm3_ros.perception.scene import Frame
from vlm3_ros.perception.sight import Sight
from vlm3_ros.tasks import Reason, Refusal, pose
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm import Answer


@dataclass
class Track:
    """The path of one camera so far."""

    keyframe: Frame
    odometry: Odometry
    failures: int = 0  # refused frames in a row


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
            track.keyframe, track.failures = frame, 0
        return None, track
    track.failures = 0
    here, is_keyframe = track.odometry.advance(moved, settings)
    if is_keyframe:
        track.keyframe = frame
    return here, track


def ask_pose(sight: Sight, first: Frame, config: Config) -> np.ndarray | Refusal:
    """The pose of the frame's camera in that of an earlier frame [4, 4], if the four answers agree."""
    view, _, seen = sight.look_at_two(
        "pose", first, lambda c, scale: unified(c, pose.FOCAL, config.camera.max_tokens, scale)
    )
    answers = sight.ask(view, list(pose.QUESTIONS))
    texts = [answer.text for answer in answers if answer is not None]
    read = pose.parse(texts)
    if isinstance(read, Refusal):
        return read
    if config.pose.statistic == "median":
        read = _median(answers, read)
    if motion.disagreement_deg(read) > config.pose.max_disagreement_deg:
        return Refusal(Reason.INCONSISTENT, f"{texts[0]} but {texts[1]}")
    return motion.relative_pose(read, metric_scale(seen, pose.FOCAL * sight.image_scale("pose")))


def _median(answers: Sequence[Answer | None], greedy: PoseAnswer) -> PoseAnswer:
    """The medians of the numbers' distributions; the greedy numbers where a distribution is not known."""
    medians = [number.median() for answer in answers if answer is not None for number in answer.numbers]
    if len(medians) != 8 or not np.isfinite(medians).all():
        return greedy
    angle, yaw, pitch, roll, x, y, z, distance = medians
    return PoseAnswer(angle, (yaw, pitch, roll), (x, y, z), distance)
