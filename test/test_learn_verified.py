"""Every answer of data sets made from real recordings, against what the recordings' own files say."""

from __future__ import annotations

import pytest

from benchmarks.data import RECORDINGS, verified
from vlm3_ros.learn.data.compose import Amounts

MEDIAN_PX = 1.5  # what the errors of depth and motion capture may amount to, and the rounding of answers


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
def test_answers_are_right(data, tmp_path, name):
    found = verified(data / name, data / RECORDINGS[name], tmp_path, Amounts(depth=40, matching=24, objects=8))
    assert found["questions"]["depth"] > 0
    assert found["questions"]["matching"] > 0
    assert found["questions"]["pose"] > 0
    errors = found["errors"]
    assert errors["own"]["median"] < 0.4  # a thousandth of 640 px is rounded away: 0.25 px on average
    assert errors["depth"]["median"] < 0.5  # percent: a centimetre is rounded away
    for name in ("other", "pose", "round"):
        if name in errors:
            assert errors[name]["median"] <= MEDIAN_PX, name
