"""Relative camera pose: four questions about two images."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vlm3_ros.tasks.answers import FARTHEST_M, Grammar, Number, Question, Reason, Refusal, Words, last_said

FOCAL = 750.0  # px, the unified focal length of this task
MAX_TOKENS = 512  # as the published notebook

ROTATION = Question(
    "Given these two images captured from different viewpoints, what is the relative rotation angle (in degrees) "
    "between the two camera poses?",
    Grammar(("Rotation angle: ", Number(3, 1), " degrees")),
    MAX_TOKENS,
)
EULER = Question(
    "Treating the first image as the reference viewpoint, describe the camera's reorientation needed to reach the "
    "second image's viewpoint as yaw, pitch and roll about the first camera's local axes, applied intrinsically in "
    "the order yaw -> pitch -> roll.  Conventions: yaw is rotation about the vertical (down) axis, positive = turn "
    "right; pitch is about the lateral (right) axis after yaw, positive = look up; roll is about the optical "
    "(forward) axis after yaw and pitch, positive = bank to the right (image content rotates clockwise from the "
    "operator's POV).",
    Grammar(("Yaw=", Number(3, 1, True), "°, Pitch=", Number(3, 1, True), "°, Roll=", Number(3, 1, True), "°")),
    MAX_TOKENS,
)
DIRECTION = Question(
    "Where did the camera move, expressed in the first camera's local frame (X right, Y down, Z forward)?  Give a "
    "qualitative direction and the precise unit direction vector (x, y, z).",
    Grammar((Words(), "unit vector (", Number(1, 2, True), ", ", Number(1, 2, True), ", ", Number(1, 2, True), ")")),
    MAX_TOKENS,
)
DISTANCE = Question(
    "Estimate the magnitude of the camera translation between the two viewpoints.",
    Grammar(("Translation distance: ", Number(4, 2), " meters")),
    MAX_TOKENS,
)
QUESTIONS = (ROTATION, EULER, DIRECTION, DISTANCE)
MOTION = (EULER, DIRECTION)  # enough for the angles between two poses

_NUMBER = r"(?<![\w.])([+\-−]?[0-9]{1,6}(?:\.[0-9]{1,20})?)"
_FREE = {  # forms that the published notebook reads
    ROTATION: (rf"{_NUMBER}\s*(?:degrees|deg|°)",),
    EULER: tuple(rf"{angle}\s*[=:]?\s*{_NUMBER}" for angle in ("yaw", "pitch", "roll")),
    DIRECTION: (rf"{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}",),
    DISTANCE: (rf"{_NUMBER}\s*(?:met(?:er|re)s?|m)\b",),
}
_READ = {question: [re.compile(form, re.IGNORECASE) for form in forms] for question, forms in _FREE.items()}


@dataclass(frozen=True)
class PoseAnswer:
    """What the four answers say about camera 2 as seen from camera 1."""

    angle_deg: float  # angle of the whole rotation; redundant with the next line, kept as a check; NaN: not known
    yaw_pitch_roll_deg: tuple[float, float, float]
    direction: tuple[float, float, float]  # of camera 2's centre in camera 1's axes, not normalised
    distance_m: float  # NaN: not known


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


def read(question: Question, text: str) -> tuple[float, ...] | Refusal:
    """The numbers of an answer to one of QUESTIONS: in its own form, or as the published notebook finds them."""
    said = last_said(text)
    values = question.grammar.read(said)
    if not isinstance(values, Refusal):
        return values
    found = [form.search(said) for form in _READ[question]]
    numbers = [group for match in found if match for group in match.groups()]
    if len(numbers) != len(question.grammar.numbers):
        return Refusal(Reason.UNPARSED, text)
    return tuple(float(number.replace("−", "-")) for number in numbers)


def parse(texts: Sequence[str], needed: Collection[Question] = QUESTIONS) -> PoseAnswer | Refusal:
    """What the answers to QUESTIONS, in that order, say together: see `joined`."""
    values = [read(question, text) for question, text in zip(QUESTIONS, texts, strict=True)]
    return joined(values, " | ".join(texts), needed)


def joined(
    values: Sequence[tuple[float, ...] | Refusal], texts: str, needed: Collection[Question] = QUESTIONS
) -> PoseAnswer | Refusal:
    """The numbers of the answers to QUESTIONS together; a Refusal as soon as one that is ``needed`` has no value.

    The angle and the distance are NaN where they are not needed and not known. ``texts`` is what was said.
    """
    for question, value in zip(QUESTIONS, values, strict=True):
        if isinstance(value, Refusal) and question in (*needed, *MOTION):
            return value
    angle, euler, direction, distance = (None if isinstance(value, Refusal) else value for value in values)
    assert euler is not None  # it is of MOTION, as is the direction
    assert direction is not None
    (yaw, pitch, roll), (x, y, z) = euler, direction
    answer = PoseAnswer(
        angle[0] if angle else math.nan, (yaw, pitch, roll), (x, y, z), distance[0] if distance else math.nan
    )
    return answer if usable(answer) else Refusal(Reason.OUT_OF_RANGE, texts)


def usable(answer: PoseAnswer) -> bool:
    """Whether the numbers that are known can be those of a motion."""
    if answer.angle_deg < 0.0 or any(abs(a) > 180.0 for a in (answer.angle_deg, *answer.yaw_pitch_roll_deg)):
        return False
    if answer.distance_m < 0.0 or answer.distance_m > FARTHEST_M:
        return False
    # Two decimals a component: the length of a true unit vector stays within 1 % of one. (0, 0, 0) means "nowhere".
    length = math.hypot(*answer.direction)
    return 0.8 < length < 1.2 or (length == 0.0 and answer.distance_m == 0.0)
