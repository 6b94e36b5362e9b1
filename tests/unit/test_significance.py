"""The paired randomisation test and the bootstrap, against exact answers, a peer and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from scipy.stats import permutation_test

from serm.evaluation.significance import (
    LARGE,
    POWER,
    bootstrap_counts,
    bootstrap_interval,
    detectable_effect,
    holm,
    randomisation_p,
)


@runs(max_examples=examples(25))
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_p_is_that_of_all_sign_vectors(whole: list[int]) -> None:
    differences = np.array(whole) / 4
    signs = np.array(list(itertools.product([-1, 1], repeat=len(whole))))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    found = randomisation_p(differences[:, None], 20000, seed=1)[0]
    assert found == pytest.approx(exact, abs=0.02)


def test_p_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    champion, challenger = rng.random(12), rng.random(12) + 0.15
    peer = permutation_test(
        (challenger, champion),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    found = randomisation_p((challenger - champion)[:, None], 50000, seed=3)[0]
    assert found == pytest.approx(peer.pvalue, abs=0.01)


def test_p_is_uniform_when_both_systems_are_alike() -> None:
    rng = np.random.default_rng(4)
    differences = rng.normal(size=(60, 2000))  # 2,000 worlds, a column each
    p = randomisation_p(differences, 999, seed=5)
    for level in (0.01, 0.05, 0.25, 0.5, 0.9):
        spread = 4 * np.sqrt(level * (1 - level) / p.size)
        assert np.mean(p <= level) == pytest.approx(level, abs=spread)


def test_a_shift_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 0.1, 400)
    noise -= noise.mean()
    p = randomisation_p(np.stack([noise + 0.02, noise + 0.0005, noise - 0.02], axis=1), 5000, seed=7)
    assert p[0] < 0.005
    assert p[1] > 0.5
    assert p[2] == pytest.approx(p[0], abs=0.005)


def test_no_difference_has_p_one_and_p_is_never_zero() -> None:
    p = randomisation_p(np.stack([np.zeros(200), np.ones(200)], axis=1), 1000, seed=8)
    assert p.tolist() == [1.0, 1 / 1001]


def test_chunks_do_not_change_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(9).normal(0.1, 1, (100, 1))
    whole = randomisation_p(differences, 4000, seed=10)[0]
    monkeypatch.setattr("serm.evaluation.significance._CELLS", 700)
    assert randomisation_p(differences, 4000, seed=10)[0] == pytest.approx(whole, abs=0.03)


def test_bootstrap_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(11)
    trials, mean = 400, 0.25
    covered = 0
    for trial in range(trials):
        values = rng.exponential(mean, (80, 1))
        low, high = bootstrap_interval(values, 600, 0.9, seed=trial)
        covered += bool(low[0] <= mean <= high[0])
    # The percentile method is a little short on skewed samples of 80: 88 % of nominal 90 % is known to be usual.
    assert 0.84 <= covered / trials <= 0.94


def test_bootstrap_interval_is_the_normal_one_for_many_queries() -> None:
    values = np.random.default_rng(12).normal(1, 2, (4000, 1))
    low, high = bootstrap_interval(values, 4000, 0.95, seed=13)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low[0] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_keeps_columns_paired() -> None:
    champion = np.random.default_rng(14).random(300)
    values = np.stack([champion, champion + 0.1, np.full(300, 0.1)], axis=1)
    low, high = bootstrap_interval(values, 500, 0.95, seed=15)
    assert low[1] - low[0] == pytest.approx(0.1)
    assert low[2] == pytest.approx(0.1)
    assert high[2] == pytest.approx(0.1)


def test_the_computed_bootstrap_is_the_drawn_one() -> None:
    """From ``LARGE`` queries on nothing is drawn; on skewed and on lattice values it must be as if it were."""
    rng = np.random.default_rng(16)
    n = LARGE
    values = np.column_stack([rng.exponential(1, n), (rng.random(n) < 0.02).astype(float), rng.integers(0, 4, n) / 3])
    low, high = bootstrap_interval(values, 100, 0.95, seed=1)
    means = np.concatenate([counts @ values / n for counts in bootstrap_counts(n, 10000, seed=17)])
    spread = means.std(axis=0)
    # A 2.5 % quantile of 10,000 draws is off by 0.027 standard errors, and a lattice has steps of 1 / n.
    for found, wanted in ((low, 0.025), (high, 0.975)):
        assert (np.abs(found - np.quantile(means, wanted, axis=0)) < 0.1 * spread + 1 / n).all()


def test_a_sample_of_one_value_has_a_point_for_an_interval() -> None:
    low, high = bootstrap_interval(np.full((LARGE, 1), 0.3), 100, 0.95, seed=1)
    assert (low[0], high[0]) == (pytest.approx(0.3), pytest.approx(0.3))


@runs(max_examples=examples(25))
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_one_sided_p_is_that_of_all_sign_vectors(whole: list[int]) -> None:
    differences = np.array(whole) / 4
    signs = np.array(list(itertools.product([-1, 1], repeat=len(whole))))
    exact = np.mean(signs @ np.abs(differences) <= differences.sum() + 1e-12)
    found = randomisation_p(differences[:, None], 20000, seed=1, alternative="less")[0]
    assert found == pytest.approx(exact, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(p: list[float]) -> None:
    """A hypothesis is rejected at alpha exactly when Holm's step-down procedure rejects it."""
    adjusted = holm(np.array(p))
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for step, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[place] * (len(p) - step) > alpha:
                break
            rejected.add(place)
        assert {place for place, value in enumerate(adjusted) if value <= alpha} == rejected


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_detectable_effect_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(18)
    trials, n = 400, 100
    noise = rng.normal(0, 0.2, (n, trials))
    effect = (1.959964 + 0.841621) * 0.2 / n**0.5
    assert detectable_effect(noise, 0.05).mean() == pytest.approx(effect, rel=0.02)
    found = randomisation_p(noise + effect, 999, seed=19) <= 0.05
    assert found.mean() == pytest.approx(POWER, abs=4 * (0.8 * 0.2 / trials) ** 0.5)
    assert detectable_effect(noise[:1], 0.05).tolist() == [np.inf] * trials
