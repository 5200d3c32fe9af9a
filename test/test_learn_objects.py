"""Questions about regions: answers worked by hand, and what holds for any boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.objects import COMPARE, about_regions
from vlm3_ros.learn.data.sample import Exchange, Region
from vlm3_ros.tasks import objects

SIZE = (640, 480)
UPRIGHT = np.column_stack([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # x right, y away, z up
A = (64.0, 48.0, 128.0, 96.0)
B = (320.0, 240.0, 640.0, 480.0)
NAME_A, NAME_B = (100, 100, 200, 200), (500, 500, 999, 999)


def region(corners, center, size=(1.0, 1.0, 1.0), rotation=UPRIGHT) -> Region:
    return Region("thing", corners, 1.0, Box3D("thing", 1.0, np.array(center, float), np.array(size), rotation))


def asked(*regions: Region, scale: float = 1.0, count: int = 10_000) -> list[Exchange]:
    return about_regions(regions, SIZE, scale, count, np.random.default_rng(0))


def answers(a: Region, b: Region, scale: float = 1.0) -> dict[str, object]:
    """What is answered, by kind, to questions about a and b in this order or about a alone."""
    return {
        reading.kind(e): reading.object_answer(e) for e in asked(a, b, scale=scale) if reading.regions(e)[0] == NAME_A
    }


def test_by_hand():
    """b is 3 m to the right of a, 1 m higher and 4 m behind it, half as tall and twice as wide."""
    a, b = region(A, (0, 0, 2), (0.4, 0.8, 1.0)), region(B, (3, -1, 6), (1.6, 0.2, 0.5))
    assert answers(a, b) == {
        "above": False,
        "below": True,
        "left": True,
        "right": False,
        "bigger": True,
        "smaller": False,
        "taller": True,
        "shorter": False,
        "wider": False,
        "thinner": True,
        "behind": False,
        "front": True,
        "distance": 5.10,  # √26
        "horizontal distance": 5.00,
        "vertical distance": 1.00,
        "width": 0.80,
        "height": 1.00,
        "direction": 1,  # 37° to the right of straight away
    }


def test_lengths_are_those_that_are_seen():
    """A picture with a focal length 4 % too small is taken for one of larger things, farther away."""
    found = answers(region(A, (0, 0, 2), (1, 1, 1)), region(B, (3, 0, 6)), scale=0.96)
    assert found["distance"] == 5.21
    assert found["height"] == 1.04


@pytest.mark.parametrize(
    ("offset", "hour"),
    [((0, 0, 2), 12), ((2, 0, 0), 3), ((0, 0, -2), 6), ((-2, 0, 0), 9), ((-1, 0, 1.8), 11), ((1, 0, 1.8), 1)],
)
@pytest.mark.parametrize("pitch_deg", [0.0, 40.0])
def test_clock(offset, hour, pitch_deg):
    """12 is away from the camera along the floor, wherever it looks down or up to."""
    tilt = Rotation.from_euler("x", pitch_deg, degrees=True).as_matrix()
    ahead = np.array([0.0, 0.0, 5.0])
    a, b = (region(c, tilt @ at, rotation=tilt @ UPRIGHT) for c, at in ((A, ahead), (B, ahead + offset)))
    assert answers(a, b)["direction"] == hour


def test_unclear_questions_are_not_asked():
    near = answers(region(A, (0, 0, 3)), region(B, (0.1, 0.1, 3.1), (1.05, 1.05, 1.05)))
    assert near.keys() == {"distance", "horizontal distance", "vertical distance", "width", "height"}


def test_what_is_right_in_metres_and_left_in_the_image_is_not_asked():
    """a at x = 1 is 45° to the right, b at x = 2 only 18°."""
    found = answers(region(A, (1, 0, 1)), region(B, (2, 0, 6)))
    assert "left" not in found
    assert "right" not in found
    assert found["front"] is True


def test_looking_straight_down_there_is_no_clock():
    down = np.column_stack([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
    found = answers(region(A, (0, 0, 3), rotation=down), region(B, (1, 1, 3), rotation=down))
    assert "direction" not in found
    assert found["horizontal distance"] == 1.41


def test_regions_that_are_written_the_same_are_not_asked_about():
    same = (64.2, 48.1, 128.2, 96.1)
    assert asked(region(A, (0, 0, 2)), region(same, (1, 0, 4))) == []
    only = asked(region(A, (0, 0, 2)), region(same, (1, 0, 4)), region(B, (2, 0, 5)))
    assert {r for e in only for r in reading.regions(e)} == {NAME_B}


def test_kinds_are_drawn_equally_often_and_no_question_twice():
    regions = [
        region((x, 10.0, x + 50.0, 100.0), (x / 100, x / 200 - 1, 2 + x / 100), (0.1 + x / 200, 0.1, 0.2 + x / 300))
        for x in range(0, 600, 60)
    ]
    found = asked(*regions, count=360)
    counts = {kind: sum(reading.kind(e) == kind for e in found) for kind in {reading.kind(e) for e in found}}
    assert len(counts) == 18
    assert len({e.question for e in found}) == 360
    assert all(value >= 8 for value in counts.values()), counts


place = st.tuples(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.5, 9))
extent = st.tuples(*[st.floats(0.05, 3)] * 3)


@given(place, extent, place, extent, st.floats(-40, 40), st.floats(-math.pi, math.pi), st.floats(0.9, 1.1))
def test_answers_contradict_neither_each_other_nor_their_parsers(at_a, size_a, at_b, size_b, pitch, yaw, scale):
    rotation = Rotation.from_euler("x", pitch, degrees=True).as_matrix() @ UPRIGHT
    turned = rotation @ Rotation.from_euler("z", yaw).as_matrix()
    a, b = region(A, at_a, size_a, rotation), region(B, at_b, size_b, turned)
    one, other = (
        answers(a, b, scale),
        answers(region(A, at_b, size_b, turned), region(B, at_a, size_a, rotation), scale),
    )
    for kind, opposite in zip(list(COMPARE)[::2], list(COMPARE)[1::2], strict=True):
        assert one.get(kind) == other.get(opposite)
        if kind in one:
            assert one[opposite] is not one[kind]
    if "direction" in one:
        assert (one["direction"] - other["direction"]) % 12 in (5, 6, 7)  # one from the other, both rounded
    for kind in ("distance", "horizontal distance", "vertical distance"):
        assert one.get(kind) == other.get(kind)
    assert one["height"] == pytest.approx(size_a[2] / scale, abs=0.0051)
    for exchange in asked(a, b):
        kind = reading.kind(exchange)
        of = 1 if kind in ("width", "height") else 2
        assert len(reading.regions(exchange)) == of
        if kind in objects.COMPARISONS:
            assert exchange.question == objects.comparison(kind, *reading.regions(exchange)).text
