"""Quartiles by linear interpolation at p·(n−1), outliers outside 1.5 interquartile ranges."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.harness.statistics import percentile, summary

samples = st.lists(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False), min_size=2, max_size=50)


def test_known_sample() -> None:
    found = summary([4.0, 1.0, 3.0, 2.0])
    assert (found.min, found.q1, found.median, found.q3, found.max) == (1.0, 1.75, 2.5, 3.25, 4.0)
    assert found.outliers == ()
    assert found.samples == (4.0, 1.0, 3.0, 2.0)


def test_outliers_are_left_out_of_min_and_max() -> None:
    found = summary([10.0, 11.0, 12.0, 13.0, 14.0, 100.0, -50.0])
    assert found.outliers == (-50.0, 100.0)
    assert (found.min, found.max) == (10.0, 14.0)


def test_a_single_value_is_all_five() -> None:
    found = summary([7.0])
    assert {found.min, found.q1, found.median, found.q3, found.max} == {7.0}


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        summary([])


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_percentiles_are_between_0_and_1(p: float) -> None:
    with pytest.raises(ValueError, match="between"):
        percentile([1.0], p)


@given(samples)
def test_quartiles_agree_with_the_standard_library(values: list[float]) -> None:
    found = summary(values)
    expected = statistics.quantiles(values, n=4, method="inclusive")
    assert [found.q1, found.median, found.q3] == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(samples)
def test_every_value_is_inside_or_an_outlier(values: list[float]) -> None:
    found = summary(values)
    inside = [value for value in values if found.min <= value <= found.max]
    assert len(inside) + len(found.outliers) == len(values)
    assert found.min <= found.q1 <= found.median <= found.q3 <= found.max or found.outliers
