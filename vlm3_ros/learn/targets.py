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
SPREAD = 1.0  # in bins: standard deviation of the distribution that stands for a depth


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
    """Depths [N] as distributions over bins [N, DEPTH_BINS].

    A bin for every depth is easier to turn into digits than one number, and neighbours are nearly right.
    """
    nearest, farthest = torch.tensor(DEPTHS_M).log()
    at = (metres.log() - nearest) / (farthest - nearest) * DEPTH_BINS - 0.5
    return (-0.5 * ((torch.arange(DEPTH_BINS) - at[:, None]) / SPREAD) ** 2).softmax(dim=1)


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
