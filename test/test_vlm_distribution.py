"""Distributions of numbers: medians, groups, and never a mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm3_ros.vlm import Distribution

EDGE = Distribution(np.array([2.0, 2.1, 2.2, 4.5, 4.6]), np.array([0.2, 0.2, 0.1, 0.35, 0.1]))  # 2.1 m or 4.5 m


def test_at_an_edge_the_mode_is_one_side_and_nothing_lies_between():
    assert EDGE.mass == pytest.approx(0.95)
    assert [group.values.tolist() for group in EDGE.groups(ratio=0.1)] == [[2.0, 2.1, 2.2], [4.5, 4.6]]
    heavier = EDGE.mode(ratio=0.1)
    assert heavier.median() == 2.1
    assert heavier.mass == pytest.approx(0.5)
    assert heavier.spread() < 0.2 < 1.0 < EDGE.spread()
    assert not hasattr(EDGE, "mean")


def test_a_gap_is_absolute_a_ratio_relative():
    assert len(EDGE.groups(gap=0.15)) == 2
    assert len(EDGE.groups(gap=2.5)) == 1
    assert len(EDGE.groups()) == 5
    negative = Distribution(np.array([-4.0, -3.9]), np.array([0.5, 0.5]))
    assert len(negative.groups(ratio=0.05)) == 1


def test_nothing_is_known_of_an_empty_distribution():
    empty = Distribution(np.empty(0), np.empty(0))
    assert empty.mass == 0.0
    assert np.isnan(empty.median())
    assert np.isnan(empty.spread())
    assert empty.mode() is empty
    assert empty.groups() == []


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1.0)), min_size=1, max_size=20, unique_by=lambda x: x[0])
)
def test_quantiles_rise_and_are_values(pairs):
    values, weights = map(np.array, zip(*sorted(pairs), strict=True))
    d = Distribution(values, weights / weights.sum())
    quantiles = [d.quantile(q) for q in (0.0, 0.16, 0.5, 0.84, 1.0)]
    assert quantiles == sorted(quantiles)
    assert set(quantiles) <= set(values.tolist())
    assert d.between(-np.inf, d.median()) >= 0.5 - 1e-9
    assert d.between(d.median(), np.inf) >= 0.5 - 1e-9
    assert sum(group.mass for group in d.groups(gap=10.0)) == pytest.approx(1.0)
