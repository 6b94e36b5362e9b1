"""The position-based click model: known answers, recovery of its own parameters, and EM's promises."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from serm import contracts
from serm.clicks import ClickCounts, count, fit
from serm.errors import UserError
from serm.settings import ClickSettings

WEAK_PRIOR = ClickSettings(iterations=2000, tolerance=1e-12, prior_clicks=1e-6, prior_skips=1e-6)


def counts_of(rows: list[tuple[int, int, int, int]]) -> ClickCounts:
    """Rows are (pair, position, impressions, clicks)."""
    return ClickCounts(*np.array(rows, dtype=np.int64).T)


def drawn(pairs: int, ranks: int, shown: int, seed: int) -> tuple[ClickCounts, np.ndarray, np.ndarray]:
    """Counts drawn from a position-based model in which every pair is shown ``shown`` times at each rank."""
    rng = np.random.default_rng(seed)
    attractiveness = rng.beta(2, 4, pairs)
    examination = 1 / np.arange(1, ranks + 1) ** 0.7
    pair, rank = (axis.ravel() for axis in np.mgrid[:pairs, :ranks])
    clicks = rng.binomial(shown, attractiveness[pair] * examination[rank])
    return ClickCounts(pair, rank + 1, np.full(pair.size, shown), clicks), attractiveness, examination


def test_pairs_that_are_all_shown_alike_give_the_ratios_of_the_click_rates() -> None:
    # Pair 0 is clicked 40 of 100 at position 1 and 20 of 100 at 2; pair 1 20 and 10. So the second position
    # is examined half the time, and the model fits exactly.
    counts = counts_of([(0, 1, 100, 40), (0, 2, 100, 20), (1, 1, 100, 20), (1, 2, 100, 10)])
    model = fit(counts, WEAK_PRIOR)
    # The prior on examination (one seen, one unseen) moves 0.5 by nothing: it is centred there.
    assert model.examination == pytest.approx([1.0, 0.5], abs=1e-3)
    assert model.attractiveness == pytest.approx([0.4, 0.2], abs=1e-3)
    expected = 40 * np.log(0.4) + 60 * np.log(0.6) + 2 * (20 * np.log(0.2) + 80 * np.log(0.8))
    expected += 10 * np.log(0.1) + 90 * np.log(0.9)
    assert model.log_likelihood(counts) == pytest.approx(expected, abs=1e-3)


def test_at_the_first_position_alone_the_mode_and_its_error_are_the_beta_distributions() -> None:
    model = fit(counts_of([(0, 1, 20, 5)]), ClickSettings(prior_clicks=1, prior_skips=4))
    mode = (5 + 1) / (20 + 1 + 4)
    assert model.attractiveness == pytest.approx([mode])
    assert model.standard_error == pytest.approx([np.sqrt(mode * (1 - mode) / 25)])


def test_three_clicks_do_not_look_like_three_thousand() -> None:
    model = fit(counts_of([(0, 1, 3, 3), (1, 1, 3000, 3000), (2, 1, 3, 0)]), ClickSettings())
    rare, frequent, _ = model.attractiveness
    assert rare < 0.6 < 0.99 < frequent
    assert model.standard_error[0] > 20 * model.standard_error[1]


def test_perplexity_is_two_for_a_coin_and_nan_for_a_rank_unseen() -> None:
    counts = counts_of([(0, 1, 1000, 500), (0, 3, 10, 1)])
    perplexity = fit(counts, WEAK_PRIOR).perplexity(counts)
    assert perplexity[0] == pytest.approx(2.0, abs=1e-3)
    assert np.isnan(perplexity[1])
    assert 1 < perplexity[2] < 2


def test_it_recovers_the_parameters_of_data_drawn_from_itself() -> None:
    shown = 400
    counts, attractiveness, examination = drawn(pairs=300, ranks=6, shown=shown, seed=5)
    model = fit(counts, ClickSettings(iterations=500, tolerance=1e-10))
    # Examination averages 300 pairs * 400 impressions at each rank: its binomial error is below 0.005.
    assert np.abs(model.examination - examination).max() < 0.02
    # Each pair's error follows its own standard error: the scaled errors look like a standard normal's.
    scaled = (model.attractiveness - attractiveness) / model.standard_error
    assert abs(scaled.mean()) < 0.5
    assert 0.8 < scaled.std() < 1.2
    worst = 5 * np.sqrt(0.25 / (shown * examination.sum()))
    assert np.abs(model.attractiveness - attractiveness).max() < worst


def test_its_default_iterations_are_enough_to_undo_the_position_bias() -> None:
    counts, attractiveness, examination = drawn(pairs=300, ranks=6, shown=400, seed=7)
    model = fit(counts, ClickSettings())
    assert model.converged
    assert np.abs(model.examination - examination).max() < 0.05
    assert np.corrcoef(model.attractiveness, attractiveness)[0, 1] > 0.98


def test_the_fit_explains_held_out_clicks_better_than_click_rates_by_rank() -> None:
    train, attractiveness, examination = drawn(pairs=200, ranks=5, shown=50, seed=11)
    probability = attractiveness[train.pair] * examination[train.position - 1]
    clicks = np.random.default_rng(12).binomial(50, probability)
    held_out = ClickCounts(train.pair, train.position, train.impressions, clicks)
    rate = np.bincount(train.position, train.clicks)[1:] / np.bincount(train.position, train.impressions)[1:]
    by_rank = np.exp(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
    assert (fit(train, ClickSettings()).perplexity(held_out) < by_rank).all()


@st.composite
def tables(draw: st.DrawFn) -> ClickCounts:
    cell = st.tuples(st.integers(0, 4), st.integers(1, 4))
    cells = draw(st.lists(cell, min_size=1, max_size=12, unique=True))
    shown = [draw(st.integers(1, 50)) for _ in cells]
    return counts_of([(p, k, n, draw(st.integers(0, n))) for (p, k), n in zip(cells, shown, strict=True)])


@given(counts=tables(), clicks=st.floats(1e-3, 5), skips=st.floats(1e-3, 5))
@settings(max_examples=100, deadline=None)
def test_no_iteration_lowers_the_posterior(counts: ClickCounts, clicks: float, skips: float) -> None:
    chosen = ClickSettings(iterations=30, tolerance=1e-12, prior_clicks=clicks, prior_skips=skips)
    model = fit(counts, chosen)
    for trace in model.traces:
        assert (np.diff(trace) >= -1e-9).all()
    assert ((model.attractiveness > 0) & (model.attractiveness < 1)).all()
    assert ((model.examination > 0) & (model.examination <= 1)).all()
    assert (model.standard_error > 0).all()


def impressions(rows: list[tuple[str, str, str, int, bool]]) -> ibis.Table:
    """Rows are (query, locale, doc_id, position, clicked)."""
    query, locale, doc_id, position, clicked = (list(column) for column in zip(*rows, strict=True))
    size = len(rows)
    columns = {
        "event_time": [datetime(2018, 1, 1, tzinfo=UTC)] * size,
        **{name: ["x"] * size for name in ("query_id", "session_id", "user_id")},
        **{"query": query, "locale": locale, "doc_id": doc_id, "position": position, "clicked": clicked},
        "dwell_seconds": [None] * size,
        "negative_feedback": [False] * size,
        **{name: [None] * size for name in ("score", "model_version", "variant")},
    }
    return ibis.memtable(pa.table(columns, schema=contracts.IMPRESSIONS))


def test_the_engine_counts_a_pair_in_each_locale_apart() -> None:
    shown = [("cat", "en", "a", 1, True), ("cat", "en", "a", 1, False), ("cat", "en", "a", 2, False)]
    shown += [("cat", "fr", "a", 1, True), ("ant", "en", "b", 3, False)]
    counts = ClickCounts.read(count(impressions(shown)))
    rows = list(zip(counts.pair, counts.position, counts.impressions, counts.clicks, strict=True))
    assert rows == [(0, 3, 1, 0), (1, 1, 2, 1), (1, 2, 1, 0), (2, 1, 1, 1)]
    assert counts.pairs == 3


def test_a_window_without_rows_and_a_position_of_zero_are_errors() -> None:
    with pytest.raises(UserError, match="positions count from 1"):
        ClickCounts.read(count(impressions([("cat", "en", "a", 0, True)])))
    shown = impressions([("cat", "en", "a", 1, True)])
    with pytest.raises(UserError, match="no rows in this window"):
        ClickCounts.read(count(shown.filter(shown.position > 1)))
