"""The posterior of texts, users and LLM judges: known answers, invariances, recovery, users that the model misses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from click_logs import dbn_clicks, pages_from, pbm_clicks, rankings
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from serm.clicks.pbm import PositionBasedModel
from serm.clicks.sdbn import SimplifiedDynamicBayesianNetwork
from serm.judging.clues import Clues
from serm.judging.evidence.user_likelihood import Counts, UserLikelihood
from serm.judging.judge import ABSTAINED, GRADES, Votes
from serm.judging.posterior import Posterior, believed, measured, shifted
from serm.settings import ClickSettings

RATES = np.array([0.04, 0.12, 0.35, 0.7])


def counts_of(examined, clicks, disliked=None, dwells=None, log_dwell=None) -> Counts:
    nothing = np.zeros(len(examined))
    optional = (nothing if one is None else one for one in (disliked, dwells, log_dwell))
    return Counts(*(np.asarray(one, float) for one in (examined, examined, clicks, *optional)))


def simulated(grades: np.ndarray, rng: np.random.Generator, concentration: float = 8.0) -> Counts:
    """Draw what users did from the model itself."""
    examined = rng.integers(1, 60, len(grades))
    rate, dislike = RATES[grades], np.array([0.1, 0.05, 0.02, 0.01])[grades]
    clicks = rng.binomial(examined, rng.beta(rate * concentration, (1 - rate) * concentration))
    disliked = rng.binomial(examined, rng.beta(dislike * 50, (1 - dislike) * 50))
    own = np.log([6, 15, 40, 90])[grades] + rng.normal(0, 0.4, len(grades))
    log_dwell = clicks * own + rng.normal(0, 1.0, len(grades)) * np.sqrt(clicks)
    return counts_of(examined, clicks, disliked, clicks, log_dwell)


def text_of(grades: np.ndarray, rng: np.random.Generator, noise: float = 1.2) -> dict[str, np.ndarray]:
    return {"text": (grades + rng.normal(0, noise, len(grades)))[:, None]}


def votes_of(grades: np.ndarray) -> Votes:
    count = len(grades)
    silent = grades == ABSTAINED
    return Votes(grades, np.full((count, 4), 0.25), np.ones(count), [""] * count, grades[None], silent)


LIKELIHOOD = UserLikelihood(
    np.array([[0.4, 6], [1, 6], [2, 4], [5, 2.0]]),
    np.array([[0.5, 9], [0.3, 9], [0.2, 9], [0.1, 9.0]]),
    np.log([6, 15, 40, 90]),
    0.2,
    1.0,
)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_clicks_and_dislikes_weigh_as_a_beta_binomial_does(rest: int, clicks: int, disliked: int) -> None:
    examined = max(rest + clicks, disliked)
    found = LIKELIHOOD.log_likelihood(counts_of([examined], [clicks], [disliked]))[0]
    expected = betabinom.logpmf(clicks, examined, *LIKELIHOOD.clicks.T)
    expected += betabinom.logpmf(disliked, examined, *LIKELIHOOD.dislikes.T)
    assert found - found[0] == pytest.approx(expected - expected[0], abs=1e-8)


def test_long_visits_speak_for_the_grade_that_has_them_and_more_so_the_more_there_are() -> None:
    one, ten = (
        LIKELIHOOD.log_likelihood(counts_of([20], [10], dwells=[c], log_dwell=[c * np.log(90)]))[0] for c in (1, 10)
    )
    none = LIKELIHOOD.log_likelihood(counts_of([20], [10]))[0]
    assert 0 < (one - none)[3] - (one - none)[0] < (ten - none)[3] - (ten - none)[0]
    assert (ten - none)[3] - (ten - none)[0] == pytest.approx(np.log(90 / 6) ** 2 / (2 * (0.2 + 0.1)))


def test_what_nobody_saw_is_told_by_its_texts_alone() -> None:
    assert not LIKELIHOOD.log_likelihood(counts_of([0, 0], [0, 0])).any()
    rng = np.random.default_rng(1)
    grades = rng.integers(0, 4, 400)
    posterior = Posterior.fit(Clues(text_of(grades, rng), simulated(grades, rng), {}), grades, np.arange(400) < 100)
    text, nobody = text_of(grades, rng), counts_of(np.zeros(400), np.zeros(400))
    assert posterior.users is not None
    alone = Posterior.fit(Clues(text_of(grades, rng), nobody, {}), grades, np.arange(400) < 100)
    assert alone.left_out.startswith("users of the window saw 0 of the seed judgments")
    believed = posterior.belief(Clues(text, nobody, {}))
    expected = posterior.prior.unseen + posterior.text.log_ratio(text, 400)
    assert np.log(believed / believed[:, :1]) == pytest.approx(expected - expected[:, :1])


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_the_order_of_pairs_changes_no_belief(random) -> None:
    rng = np.random.default_rng(2)
    grades = rng.integers(0, 4, 300)
    clues, held_out = Clues(text_of(grades, rng), simulated(grades, rng), {}), np.arange(300) < 75
    order = np.array(random.sample(range(300), 300))
    turned = clues.take(order)
    first, second = Posterior.fit(clues, grades, held_out), Posterior.fit(turned, grades[order], held_out[order])
    assert second.belief(turned) == pytest.approx(first.belief(clues)[order], abs=5e-3)
    assert first.belief(turned) == pytest.approx(first.belief(clues)[order], abs=1e-12)


def test_what_the_model_drew_is_recovered_and_its_belief_is_calibrated() -> None:
    rng = np.random.default_rng(3)
    grades = rng.choice(4, 4000, p=[0.4, 0.3, 0.2, 0.1])
    clues = Clues(text_of(grades, rng), simulated(grades, rng), {})
    posterior = Posterior.fit(clues, grades, np.arange(4000) >= 1000)
    assert posterior.users is not None
    a, b = posterior.users.clicks.T
    assert a / (a + b) == pytest.approx(RATES, abs=0.04)
    assert np.exp(posterior.users.dwell) == pytest.approx([6, 15, 40, 90], rel=0.2)
    assert (posterior.users.tau2, posterior.users.sigma2) == pytest.approx((0.16, 1.0), rel=0.3)
    found = posterior.figures(clues.take(np.arange(1000, 4000)), grades[1000:])
    assert found["posterior"]["calibration_error"] < 0.03
    assert found["posterior"]["nll"] < min(found["text"]["nll"], found["users"]["nll"]) - 0.05
    accuracy = [of["posterior"]["accuracy"] for of in found["by_impressions"].values()]
    assert accuracy == sorted(accuracy)  # the more users saw it, the better it is known


def test_a_grade_without_seed_pairs_is_neither_sure_nor_impossible() -> None:
    rng = np.random.default_rng(4)
    grades = rng.integers(0, 3, 200)
    users = UserLikelihood.fit(simulated(grades, rng), grades)
    told = users.log_likelihood(simulated(np.full(50, 3), rng))
    assert np.isfinite(told).all()
    assert users.clicks[0].sum() > 0
    mean = (users.clicks[:, 0] / users.clicks.sum(axis=1)).tolist()
    assert min(mean[:3]) < mean[3] < max(mean[:3])


def test_em_finds_the_mix_of_grades_of_a_window() -> None:
    """Saerens et al. (2002): two normals, fitted with as many of each, met with one in ten."""
    rng = np.random.default_rng(5)
    grades = (rng.random(5000) < 0.1).astype(int) * 3
    seen = rng.normal(grades / 3 * 2, 1)
    likelihood = np.full((5000, GRADES), -50.0)
    likelihood[:, 0], likelihood[:, 3] = -(seen**2) / 2, -((seen - 2) ** 2) / 2
    moved = np.exp(shifted(np.log([0.5, 1e-6, 1e-6, 0.5]), likelihood, 20))
    assert moved[3] == pytest.approx((grades == 3).mean(), abs=0.02)
    assert shifted(np.log([0.1, 0.2, 0.3, 0.4]), likelihood[:0], 20) == pytest.approx(np.log([0.1, 0.2, 0.3, 0.4]))


def test_the_windows_mix_is_told_by_what_users_did_and_not_by_texts() -> None:
    """Seed judgments are of pools: what an engine serves has more in common with the query, whatever its grade."""
    rng = np.random.default_rng(8)
    seed = rng.choice(GRADES, 1000, p=[0.4, 0.2, 0.2, 0.2])
    window = rng.choice(GRADES, 4000, p=[0.74, 0.1, 0.07, 0.09])
    posterior = Posterior.fit(Clues(text_of(seed, rng), simulated(seed, rng), {}), seed, np.arange(1000) % 4 == 0)
    served = Clues({"text": text_of(window, rng)["text"] + 1.5}, simulated(window, rng), {})
    likelihood, true = posterior.log_likelihood(served), np.bincount(window) / len(window)
    moved = posterior.moved(served.counts, likelihood).prior

    def off(prior: np.ndarray) -> float:
        return float(np.abs(np.exp(prior) - true).sum() / 2)

    def right(prior: np.ndarray) -> float:
        return float((believed(prior, likelihood).argmax(axis=1) == window).mean())

    assert off(moved.shown) < off(posterior.prior.shown) / 2
    assert off(moved.unseen) > 2 * off(moved.shown)  # by all evidence, as for pairs of which only texts tell
    assert right(moved.shown) > max(right(posterior.prior.shown), right(moved.unseen)) + 0.02


def test_where_users_are_left_out_the_mix_of_shown_pairs_stays_the_seeds() -> None:
    rng = np.random.default_rng(9)
    grades, nobody = rng.choice(GRADES, 400), counts_of(np.zeros(400), np.zeros(400))
    posterior = Posterior.fit(Clues(text_of(grades, rng), nobody, {}), grades, np.zeros(400, bool))
    moved = posterior.moved(simulated(np.zeros(2000, int), rng), np.zeros((0, GRADES)))
    assert posterior.users is None
    assert moved.prior.shown == pytest.approx(posterior.prior.shown)


def test_users_that_make_the_belief_no_better_are_left_out_and_it_is_said() -> None:
    rng = np.random.default_rng(6)
    grades = rng.integers(0, 4, 600)
    held_out = np.arange(600) >= 400
    did = simulated(np.where(held_out, 3 - grades, grades), rng)  # on held-out pairs users did the contrary
    clues = Clues(text_of(grades, rng), did, {})
    posterior = Posterior.fit(clues, grades, held_out)
    assert "on 200 held-out seed judgments the negative log-likelihood is" in posterior.left_out
    assert posterior.summary()["users"].startswith("left out: on 200")
    found = posterior.figures(clues.take(np.flatnonzero(held_out)), grades[held_out])
    assert found["posterior"] == found["text"]
    assert "users" not in found


def test_judges_that_copy_each_other_count_for_less_than_judges_that_differ() -> None:
    rng = np.random.default_rng(7)
    grades = rng.integers(0, 4, 1200)
    nobody, held_out = counts_of(np.zeros(1200), np.zeros(1200)), np.arange(1200) >= 600

    def opinion() -> np.ndarray:
        return np.where(rng.random(1200) < 0.7, grades, rng.integers(0, 4, 1200))

    one, another, third = opinion(), opinion(), opinion()
    copies = Clues({}, nobody, {name: votes_of(one) for name in "abc"})
    apart = Clues({}, nobody, {"a": votes_of(one), "b": votes_of(another), "c": votes_of(third)})
    of_copies, of_apart = (Posterior.fit(clues, grades, held_out) for clues in (copies, apart))
    assert of_copies.votes_power < 0.5 < 0.8 < of_apart.votes_power
    checked = np.flatnonzero(held_out)
    figures = [
        p.figures(c.take(checked), grades[held_out])["posterior"] for p, c in ((of_copies, copies), (of_apart, apart))
    ]
    assert figures[0]["calibration_error"] < 0.05
    assert figures[1]["nll"] < figures[0]["nll"]
    silent = Clues({}, nobody.take(checked), {"a": votes_of(np.full(600, ABSTAINED))})
    assert of_apart.belief(silent) == pytest.approx(np.tile(np.exp(of_apart.prior.unseen), (600, 1)))


def test_measured_by_hand() -> None:
    belief = np.array([[0.95, 0.05, 0, 0], [0.95, 0.05, 0, 0], [0.2, 0.4, 0.2, 0.2], [0, 0, 0.1, 0.9]])
    found = measured(belief, np.array([0, 1, 1, 3]))
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-np.log([0.95, 0.05, 0.4, 0.9]).mean(), abs=1e-4)
    # 0.9 to 1: three pairs, belief 2.8, right 2; 0.4 to 0.5: one pair, belief 0.4, right 1.
    assert found["calibration_error"] == pytest.approx((0.8 + 0.6) / 4, abs=1e-4)


# Users that the click model does not describe


def _trusting(pair: np.ndarray, attracts: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Who trusts the engine clicks the first ranks though nothing attracts (Joachims et al., 2005)."""
    trusted = np.array([0.4, 0.25, 0.15, 0.05, 0, 0, 0, 0])
    return rng.random(pair.shape) < looks * (attracts[pair] + (1 - attracts[pair]) * trusted)


def _bots(pair: np.ndarray, attracts: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third of the pages are crawlers', which click anything."""
    clicked = pbm_clicks(pair, attracts, looks, rng)
    bots = rng.random(len(pair)) < 1 / 3
    clicked[bots] = rng.random((bots.sum(), pair.shape[1])) < 0.8
    return clicked


def _readers(pair: np.ndarray, attracts: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From the top until they are content: position and clicks above both count."""
    return dbn_clicks(pair, attracts, attracts, 0.8, rng)


def _indifferent(pair: np.ndarray, attracts: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each query's documents are clicked by how they look, whatever their grade."""
    return pbm_clicks(pair, rng.permutation(attracts), looks, rng)


def searched(users: Callable[..., np.ndarray], grades: np.ndarray, visits: int, rng: np.random.Generator) -> Counts:
    """What such users did with pairs, eight a query, of which the first stage puts what is good above."""
    count = len(grades)
    attracts = np.clip(RATES[grades] * rng.lognormal(0, 0.3, count), 0.01, 0.95)
    pair = rng.permutation(count)[rankings(count // 8, visits, 8, rng)]
    pair = np.take_along_axis(pair, np.argsort(-grades[pair] + rng.normal(0, 1.5, pair.shape), axis=1), axis=1)
    pages = pages_from(pair, users(pair, attracts, 0.8 ** np.arange(8), rng))
    model = PositionBasedModel.fit(pages, ClickSettings())
    clicks, impressions = (np.bincount(pages.pair, w, count) for w in (pages.weight * pages.clicked, pages.weight))
    return Counts(impressions, model.examined(pages), clicks, *np.zeros((3, count)))


@pytest.mark.parametrize("users", [_trusting, _bots, _readers, _indifferent])
def test_users_who_act_otherwise_than_the_model_make_no_belief_worse(users) -> None:
    rng = np.random.default_rng(8)
    grades = rng.choice(4, 640, p=[0.4, 0.3, 0.2, 0.1])
    clues, held_out = Clues(text_of(grades, rng), searched(users, grades, 25, rng), {}), np.arange(640) % 2 == 0
    posterior = Posterior.fit(clues, grades, held_out)
    found = posterior.figures(clues.take(np.flatnonzero(held_out)), grades[held_out])
    assert found["posterior"]["nll"] <= found["text"]["nll"]
    assert found["posterior"]["calibration_error"] < 0.1
    if users is _indifferent:
        assert posterior.left_out or posterior.users_power < 0.3
    else:
        assert found["posterior"]["nll"] < found["text"]["nll"] - 0.1


@pytest.mark.parametrize("users", [_trusting, _bots, _readers, _indifferent])
@pytest.mark.parametrize("visits", [6, 25])
def test_users_who_act_otherwise_than_the_model_move_no_mix_to_where_it_does_harm(users, visits: int) -> None:
    rng = np.random.default_rng(8)
    seed, window = rng.choice(4, 640, p=[0.4, 0.3, 0.2, 0.1]), rng.choice(4, 4000, p=[0.74, 0.1, 0.07, 0.09])
    grades, places = np.concatenate([seed, window]), np.arange(4640)
    clues = Clues(text_of(grades, rng), searched(users, grades, visits, rng), {})
    posterior = Posterior.fit(clues.take(places[:640]), seed, places[:640] % 2 == 0)
    served = clues.take(places[640:])
    likelihood = posterior.log_likelihood(served)
    losses = [
        -np.log(believed(one.prior.shown, likelihood)[np.arange(4000), window]).mean()
        for one in (posterior, posterior.moved(served.counts, likelihood[:0]))
    ]
    assert losses[1] <= losses[0] + 0.02


def test_examined_impressions_are_what_attractiveness_is_a_share_of() -> None:
    rng = np.random.default_rng(9)
    attracts, looks = rng.uniform(0.1, 0.8, 24), 0.7 ** np.arange(8)
    pair = rankings(3, 4000, 8, rng)
    pages = pages_from(pair, pbm_clicks(pair, attracts, looks, rng))
    found = PositionBasedModel.fit(pages, ClickSettings(prior_clicks=1e-6, prior_skips=1e-6)).examined(pages)
    expected = np.bincount(pair.ravel(), np.tile(looks, len(pair)), 24)
    assert found == pytest.approx(expected, rel=0.1)
    simple = SimplifiedDynamicBayesianNetwork.fit(pages, ClickSettings())
    rank, last = np.arange(8), np.where(pages.clicked.reshape(-1, 8), np.arange(8), -1).max(axis=1)
    surely = (rank <= last[:, None]) | (last[:, None] < 0)
    assert simple.examined(pages) == pytest.approx(np.bincount(pair.ravel(), surely.ravel(), 24))
