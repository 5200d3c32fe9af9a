"""What questions and answers say, as numbers that a model can be held to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.tasks import depth, matching
from vlm3_ros.tasks.pose import PoseAnswer

DEPTHS_M = (0.25, 16.0)  # where bins of depth, equal in its logarithm, begin and end
DEPTH_BINS = 72
MOTION_BINS = 40
MOTION_QUESTIONS = (0, 1, 1, 1, 2, 2, 2, 3)  # which of the pose questions asks for each of the eight numbers
LARGEST_DEG, LARGEST_M = 60.0, 3.0  # of a motion, in the last bins
SPREAD = 1.0  # in bins: standard deviation of the distribution that stands for a number


def places_asked(exchanges: Sequence[Exchange]) -> Tensor:
    """Places [N, 2] in [0, 1) that questions are about."""
    bins = depth.BINS if exchanges[0].task == "depth" else matching.BINS
    return torch.tensor([reading.pixel(exchange) for exchange in exchanges]) / bins


def places_answered(exchanges: Sequence[Exchange]) -> Tensor:
    """Places [N, 2] in [0, 1] that answers name."""
    return torch.tensor([reading.match(exchange) for exchange in exchanges]) / matching.BINS


def depths_answered(exchanges: Sequence[Exchange]) -> Tensor:
    """Depths [N] in answers."""
    return torch.tensor([reading.metres(exchange) for exchange in exchanges])


def spread_over_bins(metres: Tensor) -> Tensor:
    """Depths [N] as distributions over bins [N, DEPTH_BINS]."""
    nearest, farthest = torch.tensor(DEPTHS_M).log()
    return _spread((metres.log() - nearest) / (farthest - nearest) * DEPTH_BINS - 0.5, DEPTH_BINS)


def motion_over_bins(exchanges: Sequence[Exchange]) -> Tensor:
    """The numbers of the pose answers, in their order, as distributions over bins [8, MOTION_BINS] from -1 to 1:
    square roots of angles and of the distance, which are finer near 0, and the direction."""
    said = reading.motion(exchanges)
    angles = torch.tensor([said.angle_deg, *said.yaw_pitch_roll_deg]) / LARGEST_DEG
    distance = torch.tensor([said.distance_m]) / LARGEST_M
    roots = [part.sign() * part.abs().sqrt() for part in (angles, distance)]
    places = torch.cat([roots[0], torch.tensor(said.direction), roots[1]]).clamp(-1.0, 1.0)
    return _spread((1.0 + places) / 2.0 * (MOTION_BINS - 1), MOTION_BINS)


def _spread(at: Tensor, bins: int) -> Tensor:
    """Places [N], 0 in the middle of the first bin, as distributions over bins [N, bins].

    A bin for every value is easier to turn into digits than one number, and neighbours are nearly right.
    """
    return (-0.5 * ((torch.arange(bins) - at[:, None]) / SPREAD) ** 2).softmax(dim=1)


def motion_answered(exchanges: Sequence[Exchange]) -> Tensor:
    """Yaw, pitch and roll in tens of degrees, and the way of the camera's centre in metres, from pose answers [6]."""
    said = reading.motion(exchanges)
    way = said.distance_m * torch.tensor(said.direction)
    return torch.cat([torch.tensor(said.yaw_pitch_roll_deg) / 10.0, way])


def motion_read(motion: Tensor) -> PoseAnswer:
    """What `motion_answered` [6] stands for; the angle of the whole rotation is not in there."""
    yaw, pitch, roll = (10.0 * motion[:3]).tolist()
    x, y, z = motion[3:].tolist()
    return PoseAnswer(math.nan, (yaw, pitch, roll), (x, y, z), math.hypot(x, y, z))
