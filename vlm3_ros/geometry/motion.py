"""Camera motion: from the four pose answers to a transform, and chained over keyframes to odometry.

``T_a_b`` [4, 4] maps points of frame b to frame a, so it is also the pose of b in a. Angles are degrees where a name
says so, else radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.config import PoseConfig
from vlm3_ros.tasks.pose import PoseAnswer

LOST_VARIANCE = 9999.0  # on the diagonal while nothing is known: REP 103 units squared, as rtabmap_ros does

# The protocol's answers end at hundredths of a metre and tenths of a degree, so even right ones are off by up to half
# of that, evenly spread: a standard deviation of the step / √12, also where the answer is 0.
ROUNDING_M = 0.01 / math.sqrt(12.0)
ROUNDING_DEG = 0.1 / math.sqrt(12.0)


def relative_pose(answer: PoseAnswer, scale: float = 1.0) -> np.ndarray:
    """T_1_2: the pose of camera 2 in camera 1, its translation times ``scale``.

    The protocol's angles are intrinsic: R = Ry(yaw) · Rx(pitch) · Rz(roll) on axes X right, Y down, Z forward.
    """
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("YXZ", answer.yaw_pitch_roll_deg, degrees=True).as_matrix()
    length = math.hypot(*answer.direction)
    if length > 0.0:
        T[:3, 3] = np.array(answer.direction) / length * answer.distance_m * scale
    return T


def pose_answer(T_1_2: np.ndarray) -> PoseAnswer:
    """The right answer for a relative pose; inverse of `relative_pose` (pitch in [-90, 90])."""
    rotation = Rotation.from_matrix(T_1_2[:3, :3])
    distance = float(np.linalg.norm(T_1_2[:3, 3]))
    x, y, z = (T_1_2[:3, 3] / distance if distance > 0.0 else np.zeros(3)).tolist()
    yaw, pitch, roll = rotation.as_euler("YXZ", degrees=True).tolist()
    return PoseAnswer(math.degrees(rotation.magnitude()), (yaw, pitch, roll), (x, y, z), distance)


def disagreement_deg(answer: PoseAnswer) -> float:
    """Difference between the answered rotation angle and that of the answered Euler angles, in degrees."""
    rotation = Rotation.from_euler("YXZ", answer.yaw_pitch_roll_deg, degrees=True)
    return abs(math.degrees(rotation.magnitude()) - answer.angle_deg)


@dataclass(frozen=True, eq=False)
class Pose:
    """A pose with its uncertainty."""

    T: np.ndarray  # [4, 4] odom ← camera
    covariance: np.ndarray  # [6, 6], order x y z then rotation about x y z, all in odom axes (m², rad²)


def start() -> Pose:
    """Where odometry begins: the first camera is the odom frame, by definition and so without error."""
    return Pose(np.eye(4), np.zeros((6, 6)))


def compose(pose: Pose, T: np.ndarray, sigma_m: float, sigma_rotation_deg: float) -> Pose:
    """``pose`` followed by the relative motion ``T``, with first-order propagation of both uncertainties.

    The motion's error is isotropic: ``sigma_m`` along and ``sigma_rotation_deg`` about each axis; a rotation error of
    ``pose`` swings the new translation along.
    """
    swing = np.eye(6)
    swing[:3, 3:] = -_cross(pose.T[:3, :3] @ T[:3, 3])
    own = np.diag([sigma_m**2] * 3 + [math.radians(sigma_rotation_deg) ** 2] * 3)
    return Pose(pose.T @ T, swing @ pose.covariance @ swing.T + own)


@dataclass
class Odometry:
    """The camera's path as a chain of keyframes.

    Every frame is measured against the last keyframe; it becomes the next one when it is far enough away, so errors
    add up per keyframe and not per frame.
    """

    keyframe: Pose = field(default_factory=start)

    def advance(self, T_keyframe_camera: np.ndarray, settings: PoseConfig) -> tuple[Pose, bool]:
        """The pose of the camera in odom, and whether this frame is the next keyframe."""
        moved = float(np.linalg.norm(T_keyframe_camera[:3, 3]))
        sigma_m = math.hypot(settings.sigma_translation * moved, ROUNDING_M)
        sigma_deg = math.hypot(settings.sigma_rotation_deg, ROUNDING_DEG)
        pose = compose(self.keyframe, T_keyframe_camera, sigma_m, sigma_deg)
        turned = math.degrees(Rotation.from_matrix(T_keyframe_camera[:3, :3]).magnitude())
        far = moved >= settings.keyframe_translation_m or turned >= settings.keyframe_rotation_deg
        if far:
            self.keyframe = pose
        return pose, far

    def lose(self) -> None:
        """Go on from the last keyframe's pose, which now says nothing about where the camera is."""
        self.keyframe = Pose(self.keyframe.T, np.eye(6) * LOST_VARIANCE)


def _cross(v: np.ndarray) -> np.ndarray:
    """[v]× with [v]× w = v × w."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
