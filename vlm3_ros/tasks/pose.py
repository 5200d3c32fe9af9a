"""Relative camera pose: four questions about two images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlm3_ros.tasks.answers import Grammar, Number, Question, Reason, Refusal, Words

FOCAL = 750.0  # px, the unified focal length of this task

ROTATION = Question(
    "Given these two images captured from different viewpoints, what is the relative rotation angle (in degrees) "
    "between the two camera poses?",
    Grammar(("Rotation angle: ", Number(3, 1), " degrees")),
)
EULER = Question(
    "Treating the first image as the reference viewpoint, describe the camera's reorientation needed to reach the "
    "second image's viewpoint as yaw, pitch and roll about the first camera's local axes, applied intrinsically in "
    "the order yaw -> pitch -> roll.  Conventions: yaw is rotation about the vertical (down) axis, positive = turn "
    "right; pitch is about the lateral (right) axis after yaw, positive = look up; roll is about the optical "
    "(forward) axis after yaw and pitch, positive = bank to the right (image content rotates clockwise from the "
    "operator's POV).",
    Grammar(("Yaw=", Number(3, 1, True), "°, Pitch=", Number(3, 1, True), "°, Roll=", Number(3, 1, True), "°")),
)
DIRECTION = Question(
    "Where did the camera move, expressed in the first camera's local frame (X right, Y down, Z forward)?  Give a "
    "qualitative direction and the precise unit direction vector (x, y, z).",
    Grammar((Words(), "unit vector (", Number(1, 2, True), ", ", Number(1, 2, True), ", ", Number(1, 2, True), ")")),
)
DISTANCE = Question(
    "Estimate the magnitude of the camera translation between the two viewpoints.",
    Grammar(("Translation distance: ", Number(4, 2), " meters")),
)
QUESTIONS = (ROTATION, EULER, DIRECTION, DISTANCE)


@dataclass(frozen=True)
class PoseAnswer:
    """What the four answers say about camera 2 as seen from camera 1."""

    angle_deg: float  # angle of the whole rotation; redundant with the next line, kept as a check
    yaw_pitch_roll_deg: tuple[float, float, float]
    direction: tuple[float, float, float]  # of camera 2's centre in camera 1's axes, not normalised
    distance_m: float


def answers(pose: PoseAnswer) -> tuple[str, str, str, str]:
    """The texts of right answers to QUESTIONS."""
    yaw, pitch, roll = pose.yaw_pitch_roll_deg
    x, y, z = pose.direction
    axes = (("left", "right", x), ("up", "down", y), ("backward", "forward", z))
    words = [(low if value < 0 else high) for low, high, value in axes if abs(value) > 0.3]
    return (
        f"Rotation angle: {pose.angle_deg:.1f} degrees",
        f"Yaw={yaw:+.1f}°, Pitch={pitch:+.1f}°, Roll={roll:+.1f}°",
        f"The camera moves {', '.join(words)}, unit vector ({x:+.2f}, {y:+.2f}, {z:+.2f}).",
        f"Translation distance: {pose.distance_m:.2f} meters",
    )


def parse(texts: Sequence[str]) -> PoseAnswer | Refusal:
    """Read the answers to QUESTIONS, in that order; a Refusal as soon as one has no usable value."""
    values = []
    for question, text in zip(QUESTIONS, texts, strict=True):
        read = question.grammar.read(text)
        if isinstance(read, Refusal):
            return read
        values.append(read)
    (angle,), (yaw, pitch, roll), (x, y, z), (distance,) = values
    answer = PoseAnswer(angle, (yaw, pitch, roll), (x, y, z), distance)
    return answer if usable(answer) else Refusal(Reason.OUT_OF_RANGE, " | ".join(texts))


def usable(answer: PoseAnswer) -> bool:
    """Whether the numbers can be those of a motion."""
    if not max(answer.angle_deg, *map(abs, answer.yaw_pitch_roll_deg)) <= 180.0:
        return False
    # Two decimals a component: the length of a true unit vector stays within 1 % of one. (0, 0, 0) means "nowhere".
    length = math.hypot(*answer.direction)
    return 0.8 < length < 1.2 or (length == 0.0 and answer.distance_m == 0.0)
