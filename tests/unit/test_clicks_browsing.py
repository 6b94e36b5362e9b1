"""The click models that read a page as a whole: known answers, recovery, and agreement with brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click_logs import WEAK_PRIOR, dbn_clicks, logs, pages_from, pages_of, rankings, ubm_clicks
from examples import examples
from hypothesis import given, settings

from serm.clicks import MODELS
from serm.clicks.chains import Chains
from serm.clicks.dbn import DynamicBayesianNetwork as DBN
from serm.clicks.model import Tally
from serm.clicks.pages import Pages
from serm.clicks.sdbn import SimplifiedDynamicBayesianNetwork as SDBN
from serm.settings import ClickSettings

UBM = MODELS["ubm"]


def test_ubm_finds_the_one_answer_that_explains_all_counts() -> None:
    # Attractiveness 0.5 and 0.4; the second position is examined by half, after a click above it by nine in ten.
    pages = pages_of(
        (1800, [(0, 1, True), (1, 2, True)]),
        (3200, [(0, 1, True), (1, 2, False)]),
        (1000, [(0, 1, False), (1, 2, True)]),
        (4000, [(0, 1, False), (1, 2, False)]),
        (1800, [(1, 1, True), (0, 2, True)]),
        (2200, [(1, 1, True), (0, 2, False)]),
        (1500, [(1, 1, False), (0, 2, True)]),
        (4500, [(1, 1, False), (0, 2, False)]),
    )
    model = UBM.fit(pages, WEAK_PRIOR)
    assert model.attractiveness == pytest.approx([0.5, 0.4], abs=0.005)
    assert model.examination_of(pages)[1::2] == pytest.approx([0.9, 0.9, 0.5, 0.5] * 2, abs=0.005)


def test_ubm_recovers_the_parameters_of_data_drawn_from_itself() -> None:
    rng = np.random.default_rng(21)
    ranks = 5
    examination = rng.uniform(0.3, 0.9, (ranks, ranks + 1))
    examination[0, 0] = 1.0
    pair = rankings(queries=40, pages=2500, ranks=ranks, rng=rng)
    attractiveness = rng.beta(2, 3, 40 * ranks)
    pages = pages_from(pair, ubm_clicks(pair, attractiveness, examination, rng))
    model = UBM.fit(pages, ClickSettings(iterations=500, tolerance=1e-9))
    wanted = examination[pages.position - 1, pages.clicked_before]
    # The rarest cell is seen a few thousand times, at a click rate of about a fifth: its error is below 0.015.
    assert np.abs(model.examination_of(pages) - wanted).max() < 0.06
    scaled = (model.attractiveness - attractiveness) / model.standard_error
    assert abs(scaled.mean()) < 0.5
    assert 0.8 < scaled.std() < 1.25


def test_dbn_recovers_the_parameters_of_data_drawn_from_itself() -> None:
    rng = np.random.default_rng(22)
    pair = rankings(queries=40, pages=2500, ranks=6, rng=rng)
    attractiveness, satisfaction = rng.beta(2, 3, 240), rng.beta(2, 2, 240)
    pages = pages_from(pair, dbn_clicks(pair, attractiveness, satisfaction, 0.85, rng))
    model = DBN.fit(pages, ClickSettings(iterations=500, tolerance=1e-9))
    # 100,000 pages: half a million steps, most of them unseen; the error of their share is below 0.003.
    assert model.continuation == pytest.approx(0.85, abs=0.01)
    for found, error, true in (
        (model.attractiveness, model.standard_error, attractiveness),
        (model.satisfaction, model.satisfaction_error, satisfaction),
        (model.relevance, model.relevance_error, attractiveness * satisfaction),
    ):
        scaled = (found - true) / error
        assert abs(scaled.mean()) < 0.5
        assert 0.8 < scaled.std() < 1.25
        assert np.corrcoef(found, true)[0, 1] > 0.95


def test_dbn_learns_continuation_from_rare_pairs_too() -> None:
    """The pairs' priors, which pull the attractive ones down, must not make users look patient."""
    rng = np.random.default_rng(23)
    pair = rankings(queries=2000, pages=20, ranks=8, rng=rng)
    attractiveness, satisfaction = rng.beta(1, 4, 16000), rng.beta(2, 2, 16000)
    pages = pages_from(pair, dbn_clicks(pair, attractiveness, satisfaction, 0.85, rng))
    model = DBN.fit(pages, ClickSettings())
    assert model.converged
    assert model.continuation == pytest.approx(0.85, abs=0.05)


def test_sdbn_counts() -> None:
    # Pair 0: 100 clicks of 150 impressions examined (50 on pages without a click), 60 of them the last.
    # Pair 1: examined where it stands above the last click or nothing was clicked: 40 + 50; clicked 40, always last.
    pages = pages_of(
        (60, [(0, 1, True), (1, 2, False)]),
        (40, [(0, 1, True), (1, 2, True)]),
        (50, [(0, 1, False), (1, 2, False)]),
    )
    model = SDBN.fit(pages, ClickSettings(prior_clicks=2, prior_skips=3))
    assert isinstance(model, DBN)
    assert model.attractiveness == pytest.approx([(100 + 2) / (150 + 5), (40 + 2) / (90 + 5)])
    assert model.satisfaction == pytest.approx([(60 + 1) / (100 + 2), (40 + 1) / (40 + 2)])
    assert model.relevance == pytest.approx(model.attractiveness * model.satisfaction)
    mode = (100 + 2) / (150 + 5)
    assert model.standard_error[0] == pytest.approx(np.sqrt(mode * (1 - mode) / 155))


def test_sdbn_recovers_the_parameters_where_its_assumptions_hold() -> None:
    rng = np.random.default_rng(24)
    pair = rankings(queries=20, pages=2000, ranks=6, rng=rng)
    attractiveness, satisfaction = rng.beta(2, 5, 120), np.ones(120)
    pages = pages_from(pair, dbn_clicks(pair, attractiveness, satisfaction, 1.0, rng))
    model = SDBN.fit(pages, ClickSettings())
    scaled = (model.attractiveness - attractiveness) / model.standard_error
    assert abs(scaled.mean()) < 0.5
    assert 0.8 < scaled.std() < 1.25
    assert (model.satisfaction > 0.95).all()


def brute_force(model: DBN, pages: Pages, page: int) -> float:
    """Return the likelihood of a page, summed over all that users may have done unseen.

    A user goes on or stops at each position; a click contents or not. What was never reached was not clicked.
    """
    rows = range(pages.start[page], pages.start[page + 1])
    by_position = [[row for row in rows if pages.position[row] == at] for at in range(pages.first, pages.last + 1)]
    total = 0.0
    for stop in range(len(by_position)):
        reached = [row for place in by_position[: stop + 1] for row in place]
        goes_on = model.continuation**stop * (1.0 if stop == len(by_position) - 1 else 1 - model.continuation)
        for content in [None, *reached]:
            # ``content``: the row whose click contented the user, who then reads on no more.
            read = reached if content is None else reached[: reached.index(content) + 1]
            if any(pages.clicked[row] and row not in read for row in rows):
                continue
            if content is not None and not pages.clicked[content]:
                continue
            chance = goes_on
            if content is not None:
                # Stopping below is of no account: count each contented user once, at the position of the click.
                if stop != pages.position[content] - pages.first:
                    continue
                chance = model.continuation**stop
            for row in read:
                a, s = model.attractiveness[pages.pair[row]], model.satisfaction[pages.pair[row]]
                if not pages.clicked[row]:
                    chance *= 1 - a
                else:
                    chance *= a * (s if row == content else 1 - s)
            total += chance
    return total


@given(pages=logs())
@settings(max_examples=examples(60))
def test_dbn_gives_a_page_the_likelihood_of_all_that_users_may_have_done(pages: Pages) -> None:
    model = DBN.fit(pages, ClickSettings(iterations=5))
    assert isinstance(model, DBN)
    probability = model.click_probability(pages)
    each = np.where(pages.clicked, probability, 1 - probability)
    for page in range(len(pages.seen)):
        likelihood = each[pages.start[page] : pages.start[page + 1]].prod()
        assert likelihood == pytest.approx(brute_force(model, pages, page), rel=1e-9)


@given(pages=logs())
@settings(max_examples=examples(60))
def test_dbn_climbs_the_posterior_that_it_says(pages: Pages) -> None:
    """EM reads chains from below, the foretelling reads pages from above: they agree."""
    chosen = ClickSettings(iterations=7)
    model = DBN.fit(pages, chosen)
    assert isinstance(model, DBN)
    a, s = model.attractiveness, model.satisfaction
    prior = np.log(a).sum() + 4 * np.log1p(-a).sum() + np.log(s).sum() + np.log1p(-s).sum()
    prior += np.log(model.continuation) + np.log1p(-model.continuation)
    assert model.traces[-1][-1] == pytest.approx(Tally.of(model, pages).log_likelihood.sum() + prior, rel=1e-9)


@given(pages=logs())
@settings(max_examples=examples(20))
def test_dbn_ends_where_the_posterior_is_flat(pages: Pages) -> None:
    """A numerical check of EM's update and of the errors: no small step of a parameter gains."""
    chosen = ClickSettings(iterations=4000, tolerance=1e-15)
    model = DBN.fit(pages, chosen)
    assert isinstance(model, DBN)

    def posterior(pair: int, a: float, s: float) -> float:
        at, content = model.attractiveness.copy(), model.satisfaction.copy()
        at[pair], content[pair] = a, s
        moved = DBN(**{**vars(model), "attractiveness": at, "satisfaction": content})
        prior = np.log(at).sum() + 4 * np.log1p(-at).sum() + np.log(content * (1 - content)).sum()
        return float(Tally.of(moved, pages).log_likelihood.sum() + prior)

    for pair in range(pages.pairs):
        a, s = model.attractiveness[pair], model.satisfaction[pair]
        step = 1e-4 * min(a, 1 - a, s, 1 - s)
        for up, down, error in (
            (posterior(pair, a + step, s), posterior(pair, a - step, s), model.standard_error[pair]),
            (posterior(pair, a, s + step), posterior(pair, a, s - step), model.satisfaction_error[pair]),
        ):
            assert (up - down) / (2 * step) * error == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("name", ["pbm", "ubm", "dbn"])
def test_the_standard_error_is_the_posteriors_curvature(name: str) -> None:
    rng = np.random.default_rng(26)
    pair = rankings(queries=2, pages=60, ranks=4, rng=rng)
    pages = pages_from(pair, dbn_clicks(pair, rng.beta(2, 2, 8), rng.beta(2, 2, 8), 0.8, rng))
    model = MODELS[name].fit(pages, ClickSettings(prior_clicks=1, prior_skips=4, iterations=2000, tolerance=1e-12))

    def posterior(pair: int, a: float) -> float:
        attractiveness = model.attractiveness.copy()
        attractiveness[pair] = a
        likelihood = Tally.of(replace(model, attractiveness=attractiveness), pages).log_likelihood.sum()
        return float(likelihood + np.log(a) + 4 * np.log1p(-a))

    for one, (a, error) in enumerate(zip(model.attractiveness, model.standard_error, strict=True)):
        step = 0.02 * error
        curvature = (2 * posterior(one, a) - posterior(one, a - step) - posterior(one, a + step)) / step**2
        assert error == pytest.approx(1 / np.sqrt(curvature), rel=1e-3)


def test_a_step_over_a_gap_costs_patience_once_a_position() -> None:
    # The same documents; the second log lacks the row at position 2. A click below it is as hard to reach.
    whole = pages_of(
        (50, [(0, 1, True), (2, 2, False), (1, 3, False)]), (50, [(0, 1, True), (2, 2, False), (1, 3, True)])
    )
    gap = pages_of((50, [(0, 1, True), (1, 3, False)]), (50, [(0, 1, True), (1, 3, True)]))
    one, two = (DBN.fit(pages, ClickSettings(iterations=3)) for pages in (whole, gap))
    assert isinstance(one, DBN)
    moved = DBN(**{**vars(one), "attractiveness": np.array([0.5, 0.5, 1e-12])})
    looked = moved.examination_of(whole)[2]
    assert looked == pytest.approx(moved.continuation**2 * (1 - one.satisfaction[0]))
    assert moved.examination_of(gap)[1] == pytest.approx(looked)
    assert two.attractiveness[1] > 0.3


def test_a_page_that_begins_below_the_first_position_may_never_have_been_examined() -> None:
    pages = pages_of((10, [(0, 1, True)]), (10, [(1, 3, False)]))
    model = DBN.fit(pages, ClickSettings(iterations=3))
    assert isinstance(model, DBN)
    assert model.examination_of(pages) == pytest.approx([1, model.continuation**2])


def test_equal_remainders_of_pages_are_computed_once() -> None:
    # The pages end alike below position 1, and below position 2 all three do.
    pages = pages_of(
        (3, [(0, 1, False), (1, 2, False), (2, 3, False)]),
        (4, [(3, 1, True), (1, 2, False), (2, 3, False)]),
        (5, [(3, 1, False), (0, 2, True), (2, 3, False)]),
    )
    chains = Chains.of(pages)
    assert np.diff(chains.level).tolist() == [1, 2, 2]
    assert chains.clicked.sum() == 9
    assert chains.start[2].sum() == 3


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_pages_and_how_they_are_counted_change_nothing(name: str) -> None:
    rng = np.random.default_rng(25)
    pair = rankings(queries=5, pages=40, ranks=4, rng=rng)
    clicked = dbn_clicks(pair, rng.beta(2, 3, 20), rng.beta(2, 2, 20), 0.8, rng)
    order = rng.permutation(len(pair))
    one = MODELS[name].fit(pages_from(pair, clicked), ClickSettings())
    two = MODELS[name].fit(pages_from(pair[order], clicked[order]), ClickSettings())
    twice = pages_from(np.concatenate([pair, pair]), np.concatenate([clicked, clicked]))
    counted = pages_from(pair, clicked)
    counted = Pages(
        counted.pair, counted.position, counted.clicked, counted.start, counted.seen * 2, counted.pairs, 1, 4
    )
    three, four = (MODELS[name].fit(pages, ClickSettings()) for pages in (twice, counted))
    assert one.attractiveness == pytest.approx(two.attractiveness, rel=1e-9)
    assert three.attractiveness == pytest.approx(four.attractiveness, rel=1e-9)
    assert (MODELS[name].fit(pages_from(pair, clicked), ClickSettings()).relevance == one.relevance).all()
