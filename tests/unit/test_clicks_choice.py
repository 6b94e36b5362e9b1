"""From a log to the click model that suits it: what the engine aggregates, what is held out, and what is chosen."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from click_logs import dbn_clicks, impressions, pages_from, pages_of, pbm_clicks, rankings, ubm_clicks

from serm import clicks
from serm.clicks.chains import _groups
from serm.clicks.choice import choose, compare
from serm.clicks.dbn import DynamicBayesianNetwork
from serm.clicks.model import Tally
from serm.clicks.pages import DEEPEST, LONGEST, aggregate, read_pages
from serm.clicks.prior import CLICKS
from serm.settings import ClickSettings

RANKS = 8


def log(pages: int = 400, seed: int = 0) -> list[tuple[str, str, str, str, int, bool]]:
    """Pages of four documents of three queries; every seventh page lacks its second row."""
    rng = np.random.default_rng(seed)
    rows = []
    for page in range(pages):
        query = int(rng.integers(3))
        for position, document in enumerate(rng.permutation(4), start=1):
            if page % 7 or position != 2:
                name = f"{query}-{document}"
                rows.append((f"q{page}", f"word {query}", "en", name, position, bool(rng.random() < 0.5 / position)))
    return rows


def fit(rows: list, settings: ClickSettings) -> clicks.Estimates:
    shown = impressions(rows)
    counts = clicks.count(shown)
    return clicks.fit(clicks.number(shown, counts), clicks.ClickCounts.read(counts), settings)


def test_the_engine_gives_each_page_with_its_gaps_and_how_often_it_was_seen() -> None:
    same = [("cat", "en", "a", 1, True), ("cat", "en", "b", 3, False)]
    rows = [(query_id, *row) for query_id in ("1", "2", "3") for row in same]
    rows += [("4", "cat", "en", "b", 3, False), ("4", "cat", "en", "a", 1, False)]
    shown = impressions(rows)
    pages, held_out, log_pair = read_pages(aggregate(clicks.number(shown, clicks.count(shown))), 1, 3)
    seen = {}
    for page, count in enumerate(pages.seen):
        row = slice(pages.start[page], pages.start[page + 1])
        key = tuple(zip(log_pair[pages.pair[row]], pages.position[row], pages.clicked[row], strict=True))
        seen[key] = seen.get(key, 0) + count
    assert seen == {((0, 1, True), (1, 3, False)): 3, ((0, 1, False), (1, 3, False)): 1}
    assert len(held_out) == len(pages.seen)
    assert pages.clicked_before.tolist() == [
        at * clicked
        for at, clicked in zip(np.where(pages.position == 3, 1, 0), pages.clicked[pages.start[pages.page]], strict=True)
    ]


def test_a_page_is_held_out_by_its_id_alone() -> None:
    rows = log()
    counts = []
    for part in (rows, [row for row in rows if row[4] == 1], [(*row[:5], not row[5]) for row in rows]):
        shown = impressions(part)
        pages, held_out, _ = read_pages(aggregate(clicks.number(shown, clicks.count(shown))), 1, 4)
        counts.append(pages.seen[held_out].sum())
    assert counts == [counts[0]] * 3
    assert counts[0] == pytest.approx(400 * 3 / 16, abs=5 * np.sqrt(400 * 3 / 16 * 13 / 16))


@pytest.mark.parametrize("name", ["pbm", "ubm", "dbn", "sdbn"])
def test_a_log_in_parts_gives_the_pairs_of_the_whole(name: str) -> None:
    rows = log()
    whole, parts = (fit(rows, ClickSettings(model=name, max_impressions=most)) for most in (10_000, 600))
    # How users browse is learnt from a part of the queries, so it differs a little; sdbn assumes it.
    tolerance = {"rel": 1e-9} if name == "sdbn" else {"abs": 0.1}
    assert parts.relevance == pytest.approx(whole.relevance, **tolerance)
    assert parts.summary["log_likelihood"] == pytest.approx(whole.summary["log_likelihood"], rel=0.02)
    assert len(parts.summary["examination"]) == 4


def test_the_summary_has_the_held_out_figures_of_every_model_and_is_json() -> None:
    summary = json.loads(json.dumps(fit(log(), ClickSettings()).summary, allow_nan=False))
    held_out = summary["held_out"]
    assert held_out.keys() == {"pbm", "ubm", "sdbn", "dbn"}
    assert summary["model"] == min(held_out, key=lambda name: held_out[name]["perplexity"])
    for figures in held_out.values():
        assert figures["impressions"] == pytest.approx(75 * 4, abs=20)
        assert len(figures["perplexity_by_rank"]) == 4
        mean = figures["log_likelihood"] / figures["impressions"]
        assert figures["perplexity"] == pytest.approx(np.exp(-mean))
    assert fit(log(), ClickSettings(model="ubm")).summary["held_out"].keys() == {"ubm"}


def test_one_page_is_enough_for_an_answer() -> None:
    estimates = fit([("1", "cat", "en", "a", 2, True)], ClickSettings())
    assert estimates.summary["model"] == "pbm"
    assert estimates.summary["held_out"]["dbn"]["perplexity"] is None
    assert estimates.summary["examination"] == [None, 1.0]
    assert estimates.attractiveness == pytest.approx([(1 + 1) / (1 + 5)])


def test_the_same_log_gives_the_same_bits_whatever_its_order() -> None:
    rows = log()
    one, two = fit(rows, ClickSettings()), fit(rows[::-1], ClickSettings())
    assert one.summary == two.summary
    assert (one.relevance == two.relevance).all()


def _pbm(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return pbm_clicks(pair, rng.beta(2, 3, pair.max() + 1), 1 / np.arange(1, RANKS + 1), rng)


def _ubm(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Users who clicked look at the next two documents, and hardly further."""
    distance = np.arange(RANKS)[:, None] + 1 - np.arange(RANKS + 1)
    examination = np.where(distance <= 2, 0.9, 0.15)
    examination[:, 0] = 1 / np.arange(1, RANKS + 1)
    return ubm_clicks(pair, rng.beta(2, 3, pair.max() + 1), examination, rng)


def _dbn(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pairs = pair.max() + 1
    return dbn_clicks(pair, rng.beta(2, 3, pairs), rng.beta(2, 2, pairs), 0.8, rng)


def _sdbn(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pairs = pair.max() + 1
    return dbn_clicks(pair, rng.beta(1, 6, pairs), rng.beta(2, 2, pairs), 1.0, rng)


@pytest.mark.parametrize(
    ("draw", "expected"),
    [(_pbm, {"pbm", "ubm"}), (_ubm, {"ubm"}), (_dbn, {"dbn"}), (_sdbn, {"dbn", "sdbn"})],
)
def test_the_model_that_made_the_clicks_is_chosen(draw: Callable[..., np.ndarray], expected: set[str]) -> None:
    rng = np.random.default_rng(31)
    pair = rankings(queries=50, pages=400, ranks=RANKS, rng=rng)
    pages = pages_from(pair, draw(pair, rng))
    held_out = np.arange(len(pair)) % 5 == 0
    candidates = compare(pages, held_out, ClickSettings())
    chosen = choose(candidates)
    assert chosen in expected
    assert all(candidates[chosen].perplexity <= other.perplexity for other in candidates.values())


@pytest.mark.parametrize("model", ["auto", "pbm", "ubm", "sdbn", "dbn"])
@pytest.mark.parametrize("deepest", [20_000_000, 2**31 - 1])
def test_a_row_however_deep_costs_no_memory_and_leaves_all_figures_finite(model: str, deepest: int) -> None:
    rows = [*log(200), *((f"deep{n}", "word 1", "en", "1-1", deepest - n, n % 2 == 0) for n in range(30))]
    tracemalloc.start()
    try:
        found = fit(rows, ClickSettings(model=model, iterations=5))
        expected = clicks.ClickCounts.read(clicks.count(impressions(rows))).expected_clicks()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    json.dumps(found.summary, allow_nan=False)
    assert np.isfinite([found.attractiveness, found.standard_error, found.relevance, found.relevance_error]).all()
    assert np.isfinite(expected).all()
    assert len(found.summary["examination"]) == DEEPEST


def test_rows_below_the_deepest_rank_count_as_on_it() -> None:
    def at(position: int) -> list:
        return [*log(), *((f"deep{n}", "word 1", "en", "1-1", position, n % 2 == 0) for n in range(30))]

    deep, deeper = (fit(at(position), ClickSettings(iterations=5)) for position in (DEEPEST, 3 * DEEPEST))
    assert (deep.attractiveness == deeper.attractiveness).all()
    assert deep.summary == deeper.summary


def test_a_click_where_nobody_is_believed_to_look_leaves_perplexity_a_number() -> None:
    half = np.full(2, 0.5)
    model = DynamicBayesianNetwork(
        attractiveness=half,
        standard_error=half,
        satisfaction=half,
        satisfaction_error=half,
        continuation=0.1,
        traces=(),
        converged=True,
        prior=CLICKS,
        satisfaction_prior=CLICKS,
    )
    pages = pages_of((1, [(0, 1, False), (1, 900, True)]))
    assert model.click_probability(pages)[1] == 0  # no float holds 0.1 to the power of 899
    assert np.isfinite(Tally.of(model, pages).perplexity)


def test_a_page_of_more_rows_than_a_page_can_have_is_read_as_several() -> None:
    rows = [("all", "w", "en", f"d{n}", 1 + n % 7, n % 3 == 0) for n in range(2 * LONGEST + 5)]
    shown = impressions([*rows, ("other", "w", "en", "d1", 1, True)])
    pages, held_out, log_pair = read_pages(aggregate(clicks.number(shown, clicks.count(shown))), 1, 7)
    assert sorted(np.diff(pages.start)) == [1, 5, LONGEST, LONGEST]
    assert len(held_out) == len(pages.seen) == 4
    assert (pages.impressions, pages.clicked.sum()) == (len(rows) + 1, sum(row[-1] for row in rows) + 1)
    assert len(log_pair) == len(rows)
    assert np.isfinite(fit(rows, ClickSettings(iterations=3)).relevance).all()


def test_remainders_are_numbered_apart_even_where_their_key_is_beyond_64_bits() -> None:
    # 2**32 * 2**32 is 0 in 64 bits.
    keys = [np.array([0, 2**32, 2**32, 0, 1]), np.array([7, 7, 2**32 - 1, 7, 0]), np.array([1, 1, 2**29, 1, 5])]
    first, group = _groups(*keys)
    rows = list(zip(*keys, strict=True))
    assert [rows[row] for row in first] == sorted(set(rows))
    assert [sorted(set(rows))[number] for number in group] == rows
