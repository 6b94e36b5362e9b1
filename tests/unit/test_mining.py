"""Each agent's rule on hand-made pairs, near-duplicates, and the fairness of the budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import ibis
import numpy as np
import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given, settings
from mining_thresholds import TAU

from serm.mining import click_model, disagreement, feedback, uncertainty
from serm.mining.agents import AGENTS, ask
from serm.mining.budget import allocate
from serm.mining.selection import select
from serm.settings import MiningSettings

DULL = {"clicks": 0, "impressions": 9, "engagement": 0.0, "attractiveness": 0.1, "standard_error": 0.05}
DULL |= {"relevance": 0.05, "score": 1.0, "disagreement": 0.1, "uncertainty": 0.2, "clicks_over_expected": 0.0}
DULL |= {"negatives": 0, "dislike_rate": 0.0, "novelty": 0.0, "rise": 0.0, "found_by": "nobody"}


def pairs(*changes: dict[str, Any]) -> ibis.Table:
    """Scored pairs that no agent would choose, but for the changes to each."""
    rows = [{**DULL, "pair": number, **change} for number, change in enumerate(changes)]
    return ibis.memtable(pa.Table.from_pylist(rows))


def chosen(table: ibis.Table, agent: str) -> list[int]:
    opinions = ask(table, TAU).to_pyarrow().to_pylist()
    return [opinion["pair"] for opinion in opinions if opinion["agent"] == agent]


def test_user_feedback_needs_clicks_beyond_chance_or_engagement_and_a_low_score() -> None:
    clicked, engaged = {"clicks": 9, "clicks_over_expected": 1.3}, {"engagement": 0.6}
    misclicked = {"clicks": 1, "clicks_over_expected": 0.0}
    table = pairs({}, clicked, engaged, {**clicked, "score": 1.5}, {**engaged, "score": 2.9}, misclicked)
    assert chosen(table, "user feedback") == [1, 2]


def test_user_feedback_as_published_takes_any_click() -> None:
    table = pairs({}, {"clicks": 1}, {"clicks": 1, "score": 1.5})
    assert table.filter(feedback.welcomed(table, replace(TAU, clicks=None))).pair.to_pyarrow().to_pylist() == [1, 2]


def test_user_rejection_needs_a_document_passed_by_or_disliked_and_a_high_score() -> None:
    skipped = {"attractiveness": 0.06, "standard_error": 0.03, "score": 2.5}
    barely_seen = {**skipped, "standard_error": 0.2}
    disliked = {"dislike_rate": 0.06, "score": 2.5}
    table = pairs({}, skipped, barely_seen, disliked, {**skipped, "score": 2.0}, {"score": 2.5})
    assert chosen(table, "user rejection") == [1, 3]


def test_novelty_takes_what_stands_first_for_new_or_rising_queries() -> None:
    new, rising = {"novelty": 0.6, "score": 2.5}, {"rise": 4.5, "score": 2.5}
    table = pairs({}, new, rising, {**new, "score": 1.9}, {"score": 2.5})
    assert chosen(table, "novelty") == [1, 2]


def test_click_model_counts_high_relevance_as_a_click() -> None:
    table = pairs({}, {"relevance": 0.41}, {"relevance": 0.4}, {"relevance": 0.9, "score": 1.6}, {"clicks": 5})
    assert chosen(table, "click model") == [1]


def test_disagreement_and_uncertainty_ask_for_no_click_and_no_low_score() -> None:
    table = pairs({}, {"disagreement": 0.31, "score": 2.5}, {"uncertainty": 1.01, "score": 2.5})
    assert chosen(table, "model disagreement") == [1]
    assert chosen(table, "model uncertainty") == [2]


def test_each_agent_says_why() -> None:
    change = {
        "clicks": 3,
        "engagement": 0.7,
        "clicks_over_expected": 1.5,
        "attractiveness": 0.8,
        "standard_error": 0.1,
        "relevance": 0.7,
    }
    table = pairs({**change, "disagreement": 0.625, "uncertainty": 1.25})
    reasons = {opinion["agent"]: opinion["reason"] for opinion in ask(table, TAU).to_pyarrow().to_pylist()}
    assert reasons == {
        "user feedback": "3 clicks in 9 impressions, engagement 0.7, yet the champion expects grade 1.0",
        "click model": "attractiveness 0.8 (standard error 0.1) without position bias, "
        "yet the champion expects grade 1.0",
        "model disagreement": "sampled scores lie 0.63 grades apart",
        "model uncertainty": "the grades' entropy is 1.25 nats of 1.39",
    }
    high = {"score": 2.5, "novelty": 1.0, "rise": 0.25, "attractiveness": 0.02, "standard_error": 0.01}
    reasons = {opinion["agent"]: opinion["reason"] for opinion in ask(pairs(high), TAU).to_pyarrow().to_pylist()}
    assert reasons == {
        "user rejection": "9 impressions, 0 dislikes, attractiveness 0.02 (standard error 0.01) without position "
        "bias, yet the champion expects grade 2.5",
        "novelty": "100 % of the searches for queries like this are new since the reference window, "
        "and the champion would show the document (grade 2.5)",
    }


def test_strength_orders_the_pairs_of_an_agent() -> None:
    table = pairs({"relevance": 0.5, "engagement": 0.6}, {"relevance": 0.6, "engagement": 0.7})
    for agent in (feedback, click_model):
        low, high = table.select("pair", strength=agent.opinion(table, TAU).strength).to_pyarrow()["strength"]
        assert low.as_py() < high.as_py()


def test_md_is_the_widest_gap_between_any_two_samples() -> None:
    assert disagreement.gap(np.array([[1.0, 0.5], [1.2, 0.5], [0.9, 0.5]])) == pytest.approx([0.3, 0.0])


def test_mu_is_the_entropy_in_nats() -> None:
    distribution = np.array([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert uncertainty.entropy(distribution) == pytest.approx([np.log(4), 0, np.log(2)])


@st.composite
def opinions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opinions of up to four agents on up to forty pairs; strengths tie often."""
    named = draw(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 3)), max_size=120, unique=True))
    strength = [draw(st.integers(0, 5)) for _ in named]
    pair, agent = np.array(named, dtype=np.int64).reshape(-1, 2).T
    return pair, agent, np.array(strength, dtype=np.float64)


@given(opinions(), st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=examples(300))
def test_no_agent_starves_and_no_place_is_wasted(
    named: tuple[np.ndarray, np.ndarray, np.ndarray], budget: int, seed: int
) -> None:
    pair, agent, strength = named
    taken, priority = allocate(pair, agent, strength, budget, seed)
    assert len(taken) == len(np.unique(taken)) == min(budget, len(np.unique(pair)))
    assert set(taken) <= set(pair)
    assert (priority > 0).all()
    assert (priority <= 1).all()
    is_taken = np.isin(pair, taken)
    share = budget // max(len(np.unique(agent)), 1)
    for one in np.unique(agent):
        mine = agent == one
        assert is_taken[mine].sum() >= min(share, mine.sum())
        # Whatever is stronger than the agent's weakest sure place is taken: it is among its `share` best.
        strongest = np.sort(strength[mine])[::-1]
        sure = strength[mine] > strongest[min(share, len(strongest) - 1)]
        assert is_taken[mine][sure].all()


def test_ties_are_drawn_with_the_seed() -> None:
    pair, agent, strength = np.arange(100), np.zeros(100, dtype=np.int64), np.ones(100)
    first, again, other = (allocate(pair, agent, strength, 10, seed)[0] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert first.tolist() != list(range(10))


def test_hard_negative_takes_what_nobody_was_shown() -> None:
    unseen = {"impressions": 0, "found_by": "BM25", "attractiveness": None, "relevance": None}
    table = pairs({}, unseen, {**unseen, "score": 2.5})
    assert chosen(table, "hard negative") == [1, 2]
    assert chosen(table, "user rejection") == []


def selected(budget: int, **columns: Any) -> list[int]:
    """Pairs that the user feedback agent names, the first the strongest, of which ``budget`` are chosen."""
    size = len(columns["query"])
    plain = {"locale": ["en"] * size, "doc_id": ["a"] * size, "impressions": [9] * size, "segment": ["head"] * size}
    plain |= {"novelty": [0.0] * size, "pair": list(range(size))}
    strength = np.linspace(1, 0, size)
    named = pa.table({"pair": range(size), "agent": ["user feedback"] * size, "strength": strength})
    return select(pa.table(plain | columns), named, 0.5, MiningSettings(budget=budget)).pair.tolist()


def test_the_most_shown_of_queries_that_say_the_same_is_kept() -> None:
    queries = ["birthday cake recipes", "Birthday  cake recipes", "birthday cake recipe", "wedding"]
    assert selected(9, query=queries, impressions=[5, 7, 3, 1]) == [1, 3]
    # Another document or another locale is another pair.
    assert selected(9, query=queries, doc_id=list("abcd")) == [0, 1, 2, 3]
    assert selected(9, query=queries, locale=["en", "fr", "de", "en"]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "starving", [{"locale": ["en"] * 90 + ["bn"] * 10}, {"segment": ["head"] * 90 + ["tail"] * 10}]
)
def test_no_slice_starves(starving: dict[str, list[str]]) -> None:
    query = [f"q{number}" for number in range(100)]
    chosen = selected(30, query=query, **starving)
    # Five claimants (the agent, two of this slice, one of each of the other two): six of the ten last are sure.
    assert sum(pair >= 90 for pair in chosen) >= 6
    assert chosen[:6] == list(range(6))


def test_new_queries_do_not_starve() -> None:
    query = [f"q{number}" for number in range(100)]
    assert sum(pair >= 90 for pair in selected(30, query=query, novelty=[0.0] * 90 + [1.0] * 10)) >= 6


def test_the_agents_are_the_four_published_ones_and_three_more() -> None:
    published = ["user feedback", "click model", "model disagreement", "model uncertainty"]
    assert sorted(AGENTS) == sorted([*published, "user rejection", "novelty", "hard negative"])
