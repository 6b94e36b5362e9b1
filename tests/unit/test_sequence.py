"""Confidence sequences, against known answers, against their definition, and by how often they miss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from serm.rollout.sequence import Interval, half_width, prior_variance, sample_ratio_p


@pytest.mark.parametrize(("users", "width"), [(100, 0.3763256346), (1000, 0.0959892433), (10_000, 0.0325536012)])
def test_the_sequence_of_waudby_smith_and_others_has_its_known_width(users: int, width: float) -> None:
    prior = prior_variance(1 / 1000, 0.05)
    assert prior == pytest.approx(0.0087818004, rel=1e-8)
    assert half_width(1 / users, prior, 0.05) == pytest.approx(width, abs=1e-10)


def test_the_width_at_a_known_variance_and_prior() -> None:
    assert half_width(2.5e-5, 4e-4, 0.05) == pytest.approx(0.0153103072, rel=1e-8)


@given(st.floats(1e-8, 1e2), st.floats(0.001, 0.3), st.floats(0.05, 20).filter(lambda x: abs(x - 1) > 0.01))
def test_no_other_prior_is_narrower_by_a_hundredth_at_the_planned_variance(
    variance: float, alpha: float, other: float
) -> None:
    best = prior_variance(variance, alpha)
    assert half_width(variance, best, alpha) <= half_width(variance, best * other, alpha) * 1.01


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_more_users_and_a_larger_alpha_narrow_it(variance: float, prior: float) -> None:
    assert half_width(variance / 2, prior, 0.05) < half_width(variance, prior, 0.05)
    assert half_width(variance, prior, 0.1) < half_width(variance, prior, 0.05)


def test_looks_at_every_hundredth_user_miss_the_truth_less_often_than_alpha() -> None:
    random, runs, users = np.random.default_rng(7), 2000, 20_000
    looks = np.arange(500, users + 1, 100)
    values = random.exponential(size=(runs, users)).astype(np.float32) - 1
    sums, squares = (
        values.cumsum(1, dtype=np.float64)[:, looks - 1],
        (values**2).cumsum(1, dtype=np.float64)[:, looks - 1],
    )
    means = sums / looks
    variance = (squares / looks - means**2) / looks
    missed = np.abs(means) > half_width(variance, prior_variance(1 / 10_000, 0.05), 0.05)
    assert 0.005 < missed.any(1).mean() < 0.05
    assert (np.abs(means) > 1.96 * np.sqrt(variance)).any(1).mean() > 0.2  # what a fixed-horizon test would have done


def test_nothing_known_is_the_whole_line() -> None:
    assert Interval.of(0.0, 0.0, 1.0, 0.05).low == -math.inf
    assert Interval.of(math.nan, 1.0, 1.0, 0.05).high == math.inf
    interval = Interval.of(0.02, 2.5e-5, 4e-4, 0.05)
    assert (interval.low, interval.high) == (pytest.approx(0.0046896928), pytest.approx(0.0353103072))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_sample_ratio_test_is_the_chi_squared_one(a: int, b: int, one: float, other: float) -> None:
    total = a + b
    expected = [total * one / (one + other), total * other / (one + other)]
    assert sample_ratio_p((a, b), (one, other)) == pytest.approx(chisquare([a, b], expected).pvalue, abs=1e-12)


def test_a_sample_ratio_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="needs users"):
        sample_ratio_p((0, 0), (1, 1))
    with pytest.raises(ValueError, match="above 0"):
        sample_ratio_p((5, 5), (0, 1))
