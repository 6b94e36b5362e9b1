"""The position-based click model: known answers, recovery of its own parameters, and EM's promises."""

from __future__ import annotations

import ibis
import numpy as np
import pytest
from click_logs import WEAK_PRIOR, impressions, logs, pages_from, pages_of, pbm_clicks, rankings
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm.clicks import MODELS, ClickCounts, count
from serm.clicks.model import Tally
from serm.clicks.pages import Pages
from serm.clicks.prior import CLICKS, learn
from serm.errors import UserError
from serm.settings import ClickSettings

PBM = MODELS["pbm"]


def counted(*rows: tuple[int, int, int, int]) -> Pages:
    """Rows are (pair, position, impressions, clicks), each impression a page of its own."""
    halves = [
        (shown, pair, at, clicked)
        for pair, at, all_, hits in rows
        for shown, clicked in ((hits, True), (all_ - hits, False))
    ]
    return pages_of(*((shown, [(pair, at, clicked)]) for shown, pair, at, clicked in halves if shown))


def drawn(pairs: int, ranks: int, shown: int, seed: int) -> tuple[Pages, np.ndarray, np.ndarray]:
    """Every pair is shown ``shown`` times at each rank."""
    rng = np.random.default_rng(seed)
    attractiveness, examination = rng.beta(2, 4, pairs), 1 / np.arange(1, ranks + 1) ** 0.7
    cells = [(pair, rank) for pair in range(pairs) for rank in range(ranks)]
    rows = [(p, r + 1, shown, rng.binomial(shown, attractiveness[p] * examination[r])) for p, r in cells]
    return counted(*rows), attractiveness, examination


def test_pairs_that_are_all_shown_alike_give_the_ratios_of_the_click_rates() -> None:
    # Pair 0 is clicked 40 of 100 at position 1 and 20 of 100 at 2; pair 1 20 and 10. So the second position
    # is examined half the time, and the model fits exactly.
    pages = counted((0, 1, 100, 40), (0, 2, 100, 20), (1, 1, 100, 20), (1, 2, 100, 10))
    model = PBM.fit(pages, WEAK_PRIOR)
    tally = Tally.of(model, pages)
    # The prior on examination (one seen, one unseen) moves 0.5 by nothing: it is centred there.
    assert tally.examination == pytest.approx([1.0, 0.5], abs=1e-3)
    assert model.attractiveness == pytest.approx([0.4, 0.2], abs=1e-3)
    top = 40 * np.log(0.4) + 60 * np.log(0.6) + 20 * np.log(0.2) + 80 * np.log(0.8)
    below = 20 * np.log(0.2) + 80 * np.log(0.8) + 10 * np.log(0.1) + 90 * np.log(0.9)
    assert tally.log_likelihood == pytest.approx([top, below], abs=1e-3)


def test_at_the_first_position_alone_the_mode_and_its_error_are_the_beta_distributions() -> None:
    model = PBM.fit(counted((0, 1, 20, 5)), ClickSettings(prior_clicks=1, prior_skips=4))
    mode = (5 + 1) / (20 + 1 + 4)
    assert model.attractiveness == pytest.approx([mode])
    assert model.standard_error == pytest.approx([np.sqrt(mode * (1 - mode) / 25)])


@pytest.mark.parametrize("name", MODELS)
def test_three_clicks_do_not_look_like_three_thousand(name: str) -> None:
    model = MODELS[name].fit(counted((0, 1, 3, 3), (1, 1, 3000, 3000), (2, 1, 3, 0)), ClickSettings())
    rare, frequent, _ = model.attractiveness
    assert rare < 0.6 < 0.99 < frequent
    assert model.standard_error[0] > 20 * model.standard_error[1]


def test_perplexity_is_two_for_a_coin_and_nan_for_a_rank_unseen() -> None:
    pages = counted((0, 1, 1000, 500), (0, 3, 10, 1))
    tally = Tally.of(PBM.fit(pages, WEAK_PRIOR), pages)
    perplexity = tally.perplexity_by_rank
    assert perplexity[0] == pytest.approx(2.0, abs=1e-3)
    assert np.isnan(perplexity[1])
    assert 1 < perplexity[2] < 2
    assert tally.perplexity == pytest.approx((perplexity[0] ** 1000 * perplexity[2] ** 10) ** (1 / 1010))


def test_it_recovers_the_parameters_of_data_drawn_from_itself() -> None:
    shown = 400
    pages, attractiveness, examination = drawn(pairs=300, ranks=6, shown=shown, seed=5)
    model = PBM.fit(pages, ClickSettings(iterations=500, tolerance=1e-10))
    # Examination averages 300 pairs * 400 impressions at each rank: its binomial error is below 0.005.
    assert np.abs(Tally.of(model, pages).examination - examination).max() < 0.02
    # Each pair's error follows its own standard error: the scaled errors look like a standard normal's.
    scaled = (model.attractiveness - attractiveness) / model.standard_error
    assert abs(scaled.mean()) < 0.5
    assert 0.8 < scaled.std() < 1.2
    worst = 5 * np.sqrt(0.25 / (shown * examination.sum()))
    assert np.abs(model.attractiveness - attractiveness).max() < worst


def test_its_default_iterations_are_enough_to_undo_the_position_bias() -> None:
    pages, attractiveness, examination = drawn(pairs=300, ranks=6, shown=400, seed=7)
    model = PBM.fit(pages, ClickSettings())
    assert model.converged
    assert np.abs(Tally.of(model, pages).examination - examination).max() < 0.05
    assert np.corrcoef(model.attractiveness, attractiveness)[0, 1] > 0.98


def test_the_fit_explains_held_out_clicks_better_than_click_rates_by_rank() -> None:
    rng = np.random.default_rng(11)
    attractiveness, examination = rng.beta(2, 4, 200), 1 / np.arange(1, 6) ** 0.7
    pair = rankings(queries=40, pages=3000, ranks=5, rng=rng)
    clicked = pbm_clicks(pair, attractiveness, examination, rng)
    model = PBM.fit(pages_from(pair[::2], clicked[::2]), ClickSettings())
    rate = clicked[::2].mean(axis=0)
    by_rank = np.exp(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
    assert (Tally.of(model, pages_from(pair[1::2], clicked[1::2])).perplexity_by_rank < by_rank).all()


def test_the_prior_is_learnt_from_the_log() -> None:
    rng = np.random.default_rng(13)
    shown = rng.integers(1, 30, 4000)
    clicks = rng.binomial(shown, rng.beta(0.8, 2.4, 4000))
    prior = learn(clicks.astype(float), shown.astype(float), CLICKS)
    # 4,000 pairs tell the mean to 0.01 and the weight of the prior to about a tenth.
    assert prior.ones / sum(prior) == pytest.approx(0.25, abs=0.02)
    assert sum(prior) == pytest.approx(3.2, rel=0.25)


def test_a_few_pairs_teach_no_prior() -> None:
    assert learn(np.ones(29), np.ones(29), CLICKS) == CLICKS
    for ones in (np.zeros(500), np.full(500, 9.0)):
        prior = learn(ones, np.full(500, 9.0), CLICKS)
        assert 0 < min(prior) <= max(prior) < np.inf


def test_the_settings_prior_is_whole_and_comes_first() -> None:
    pages, *_ = drawn(pairs=40, ranks=2, shown=20, seed=3)
    assert PBM.fit(pages, ClickSettings(prior_clicks=2, prior_skips=7)).prior == (2, 7)
    assert PBM.fit(pages, ClickSettings()).prior != CLICKS
    with pytest.raises(ValueError, match="together"):
        ClickSettings(prior_clicks=2)


@pytest.mark.parametrize("name", MODELS)
@given(pages=logs(), clicks=st.floats(1e-3, 5), skips=st.floats(1e-3, 5))
@settings(max_examples=examples(60))
def test_no_iteration_lowers_the_posterior(name: str, pages: Pages, clicks: float, skips: float) -> None:
    chosen = ClickSettings(iterations=30, tolerance=1e-12, prior_clicks=clicks, prior_skips=skips)
    model = MODELS[name].fit(pages, chosen)
    for trace in model.traces:
        assert (np.diff(trace) >= -1e-9 * np.abs(trace[0])).all()
    probability = model.click_probability(pages)
    assert ((probability > 0) & (probability < 1)).all()
    for estimate, error in (
        (model.attractiveness, model.standard_error),
        (model.relevance, model.relevance_error),
    ):
        assert ((estimate > 0) & (estimate < 1)).all()
        assert (error > 0).all()
    assert len(model.attractiveness) == pages.pairs


def test_the_engine_counts_a_pair_in_each_locale_apart() -> None:
    shown = [("1", "cat", "en", "a", 1, True), ("2", "cat", "en", "a", 1, False), ("3", "cat", "en", "a", 2, False)]
    shown += [("4", "cat", "fr", "a", 1, True), ("5", "ant", "en", "b", 3, False)]
    counts = ClickCounts.read(count(impressions(shown)))
    rows = list(zip(counts.pair, counts.position, counts.impressions, counts.clicks, strict=True))
    assert rows == [(0, 3, 1, 0), (1, 1, 2, 1), (1, 2, 1, 0), (2, 1, 1, 1)]
    assert counts.pairs == 3


def test_a_window_without_rows_and_a_position_of_zero_are_errors() -> None:
    with pytest.raises(UserError, match="positions count from 1"):
        ClickCounts.read(count(impressions([("1", "cat", "en", "a", 0, True)])))
    shown: ibis.Table = impressions([("1", "cat", "en", "a", 1, True)])
    with pytest.raises(UserError, match="without a position"):
        ClickCounts.read(count(shown.mutate(position=ibis.null("int32"))))
    with pytest.raises(UserError, match="no rows in this window"):
        ClickCounts.read(count(shown.filter(shown.position > 1)))
