"""What heads read off a model's layers, measured as answers are."""

from __future__ import annotations

from dataclasses import replace

import checkpoints
import lessons
import pytest
import torch

from vlm3_ros.learn.auxiliary import Auxiliary
from vlm3_ros.learn.curriculum import Look
from vlm3_ros.learn.data.sample import Exchange, Facts
from vlm3_ros.learn.looks import SharedPrefix
from vlm3_ros.learn.seen import seen
from vlm3_ros.learn.targets import (
    LARGEST_DEG,
    LARGEST_M,
    MOTION_BINS,
    depths_answered,
    motion_answered,
    motion_over_bins,
    motion_read,
    places_answered,
    places_asked,
)
from vlm3_ros.tasks import pose
from vlm3_ros.tasks.pose import PoseAnswer

TINY = replace(checkpoints.TINY, layers=5)


class Knowing:
    """Heads that read the truth, or so much beside it."""

    def __init__(self, facts: Facts, beside: float = 0.0):
        self._facts, self._beside = facts, beside

    def log_depths(self, picture, scale, places):
        assert scale == 1.0
        asked = [exchange for exchange in self._facts.alone[0] if exchange.task == "depth"]
        assert torch.equal(places, places_asked(asked))
        return depths_answered(asked).log() + self._beside

    def origins(self, prefix, places):
        asked = self._facts.of_both("matching")
        assert torch.equal(places, places_answered(asked))
        return places_asked(asked) + torch.tensor([self._beside, 0.0])

    def moved(self, prefix):
        motion = motion_answered(self._facts.of_both("pose"))
        return motion[None] + torch.tensor([self._beside, 0.0, 0.0, 0.0, 0.0, 0.0])


def look(pictures: int) -> Look:
    sample = lessons.sample(pictures=pictures)
    return Look(sample, lessons.facts(sample), is_brief=False)


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (
            0.0,
            {"depth delta1": 1.0, "depth abs_rel": 0.0, "matching epe_percent": 0.0, "pose rotation_deg_median": 0.0},
        ),
        # e^0.3 = 1.35; 0.3 of the width; 3°
        (
            0.3,
            {
                "depth delta1": 0.0,
                "depth abs_rel": 0.35,
                "matching epe_percent": 30.0,
                "pose rotation_deg_median": 3.0,
            },
        ),
    ],
)
def test_what_is_read_is_measured_as_if_it_had_been_answered(beside, expected):
    run = SharedPrefix(checkpoints.loaded(TINY))
    found: dict[str, float] = {}
    for pictures in (1, 2):
        one = look(pictures)
        found |= seen(run, Knowing(one.facts, beside), [one])
    for name, value in expected.items():
        assert found[f"seen {name}"] == pytest.approx(value, abs=0.02)


def test_all_looks_count_and_those_without_a_task_do_not():
    run = SharedPrefix(checkpoints.loaded(TINY))
    looks = [look(1), look(2), look(2)]
    heads = Auxiliary(TINY.hidden).pictures
    found = seen(run, heads, looks)
    assert found["seen pose pairs"] == 2
    assert 0.0 <= found["seen depth delta1"] <= 1.0
    assert not any(
        "matching" in name or "pose" in name for name in seen(run, Auxiliary(TINY.hidden).pictures, looks[:1])
    )


SAID = PoseAnswer(12.3, (-10.0, 3.3, 0.4), (0.6, 0.0, -0.8), 0.45)
MOTION = [Exchange("pose", q.text, a) for q, a in zip(pose.QUESTIONS, pose.answers(SAID), strict=True)]


def test_a_motion_comes_back_from_its_numbers():
    read = motion_read(motion_answered(MOTION))
    assert read.yaw_pitch_roll_deg == pytest.approx(SAID.yaw_pitch_roll_deg, abs=0.05)
    assert read.distance_m == pytest.approx(SAID.distance_m, abs=0.005)
    assert [x / read.distance_m for x in read.direction] == pytest.approx(SAID.direction, abs=0.01)


def test_the_numbers_of_a_motion_are_spread_over_bins_around_them():
    places = motion_over_bins(MOTION) @ torch.linspace(-1.0, 1.0, MOTION_BINS)
    angles, direction, distance = (places * places.abs())[:4] * LARGEST_DEG, places[4:7], places[7] ** 2 * LARGEST_M
    assert angles.tolist() == pytest.approx([12.3, -10.0, 3.3, 0.4], rel=0.01)
    assert direction.tolist() == pytest.approx([0.6, 0.0, -0.8], abs=0.01)
    assert distance.item() == pytest.approx(0.45, rel=0.01)
