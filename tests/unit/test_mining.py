"""Each agent's rule on hand-made pairs, the cascade's features and sample, and the fairness of the budget."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from serm import clicks, contracts
from serm.mining import candidates, click_model, disagreement, feedback, uncertainty
from serm.mining.agents import AGENTS, ask
from serm.mining.budget import allocate
from serm.mining.opinion import Thresholds
from serm.mining.scoring import score, with_model_thresholds
from serm.settings import ClickSettings, MiningSettings

TAU = Thresholds(1.5, engagement=0.5, relevance=0.4, disagreement=0.3, uncertainty=1.0)
DULL = {"clicks": 0, "impressions": 9, "engagement": 0.0, "attractiveness": 0.1, "standard_error": 0.05}
DULL |= {"relevance": 0.05, "score": 1.0, "disagreement": 0.1, "uncertainty": 0.2}


def pairs(*changes: dict[str, Any]) -> ibis.Table:
    """Scored pairs that no agent would choose, but for the changes to each."""
    rows = [{**DULL, "pair": number, **change} for number, change in enumerate(changes)]
    return ibis.memtable(pa.Table.from_pylist(rows))


def chosen(table: ibis.Table, agent: str) -> list[int]:
    opinions = ask(table, TAU).to_pyarrow().to_pylist()
    return [opinion["pair"] for opinion in opinions if opinion["agent"] == agent]


def test_user_feedback_needs_a_click_or_engagement_and_a_low_score() -> None:
    clicked, engaged = {"clicks": 1}, {"engagement": 0.6}
    table = pairs({}, clicked, engaged, {**clicked, "score": 1.5}, {**engaged, "score": 2.9}, {"engagement": 0.5})
    assert chosen(table, "user feedback") == [1, 2]


def test_click_model_counts_high_relevance_as_a_click() -> None:
    table = pairs({}, {"relevance": 0.41}, {"relevance": 0.4}, {"relevance": 0.9, "score": 1.6}, {"clicks": 5})
    assert chosen(table, "click model") == [1]


def test_disagreement_and_uncertainty_ask_for_no_click_and_no_low_score() -> None:
    table = pairs({}, {"disagreement": 0.31, "score": 2.5}, {"uncertainty": 1.01, "score": 2.5})
    assert chosen(table, "model disagreement") == [1]
    assert chosen(table, "model uncertainty") == [2]


def test_each_agent_says_why() -> None:
    change = {"clicks": 3, "engagement": 0.7, "attractiveness": 0.8, "standard_error": 0.1, "relevance": 0.7}
    table = pairs({**change, "disagreement": 0.625, "uncertainty": 1.25})
    reasons = {opinion["agent"]: opinion["reason"] for opinion in ask(table, TAU).to_pyarrow().to_pylist()}
    assert reasons == {
        "user feedback": "3 clicks in 9 impressions, engagement 0.7, yet the champion expects grade 1.0",
        "click model": "attractiveness 0.8 (standard error 0.1) without position bias, "
        "yet the champion expects grade 1.0",
        "model disagreement": "sampled scores lie 0.63 grades apart",
        "model uncertainty": "the grades' entropy is 1.25 nats of 1.39",
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
@settings(max_examples=300, deadline=None)
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


def impressions(*rows: dict[str, Any]) -> ibis.Table:
    """An impression for each row, whose fields replace the defaults; ``times`` repeats it."""
    plain = {"event_time": datetime(2018, 1, 1, tzinfo=UTC), "query": "cat", "locale": "en", "doc_id": "a"}
    plain |= dict.fromkeys(("query_id", "session_id", "user_id"), "x")
    plain |= {"position": 1, "clicked": False, "negative_feedback": False}
    repeated = [{**plain, **row} for row in rows for _ in range(row.get("times", 1))]
    return ibis.memtable(pa.Table.from_pylist(repeated, schema=contracts.IMPRESSIONS))


def judgments(*keys: tuple[str, str, str]) -> ibis.Table:
    rows = [
        {"query": query, "locale": locale, "doc_id": doc_id, "grade": 2, "source": "seed", "cycle": 0}
        for query, locale, doc_id in keys
    ]
    return ibis.memtable(pa.Table.from_pylist(rows, schema=contracts.JUDGMENTS))


def described(shown: ibis.Table, judged: ibis.Table) -> dict[tuple[str, str, str], dict[str, Any]]:
    counts = candidates.count(shown, "v1")
    model = clicks.fit(clicks.ClickCounts.read(counts), ClickSettings())
    rows = candidates.describe(counts, model, judged).to_pyarrow().to_pylist()
    return {(row["query"], row["locale"], row["doc_id"]): row for row in rows}


def test_engagement_weighs_dwell_and_counts_dislikes_as_none() -> None:
    half, most = {"clicked": True, "dwell_seconds": 30.0}, {"clicked": True, "dwell_seconds": 270.0}
    rows = described(
        impressions(half, most, {}, {"doc_id": "b", **half}, {"doc_id": "b", "negative_feedback": True}),
        judgments(),
    )
    assert rows["cat", "en", "a"]["engagement"] == pytest.approx((0.5 + 0.9) / 3)
    assert rows["cat", "en", "b"]["engagement"] == pytest.approx(0.5 / 3)
    assert (rows["cat", "en", "a"]["clicks"], rows["cat", "en", "a"]["impressions"]) == (2, 3)


def test_f_is_taken_from_the_log_only_where_the_champion_served() -> None:
    served = {"score": 0.7, "model_version": "v1"}
    rows = described(
        impressions(served, {"score": 2.9, "model_version": "v0"}, {"doc_id": "b", "score": 2.9}), judgments()
    )
    assert rows["cat", "en", "a"]["logged"] == 0.7
    assert rows["cat", "en", "b"]["logged"] is None


def test_novelty_is_the_share_of_the_querys_impressions_not_judged_for_it() -> None:
    shown = impressions({"times": 3}, {"doc_id": "b"}, {"locale": "fr", "times": 2}, {"query": "ant"})
    rows = described(shown, judgments(("cat", "en", "a"), ("ant", "fr", "a")))
    assert rows["cat", "en", "a"]["novelty"] == rows["cat", "en", "b"]["novelty"] == pytest.approx(0.25)
    assert rows["cat", "fr", "a"]["novelty"] == rows["ant", "en", "a"]["novelty"] == 1.0
    assert [key for key, row in rows.items() if row["judged"]] == [("cat", "en", "a")]


def candidate_table(suspects: int, others: int) -> ibis.Table:
    """Candidates: the first ``suspects`` are clicked, the first of all the most; two thirds are English."""
    numbers = np.arange(suspects + others)
    evidence = np.where(numbers < suspects, 0.4 / (1 + numbers), 0)
    columns = {
        "pair": numbers,
        "query": pa.array([f"q{number}" for number in numbers], pa.string()),
        "locale": pa.array(["fr" if number % 3 == 0 else "en" for number in numbers], pa.string()),
        "doc_id": pa.array([f"d{number}" for number in numbers], pa.string()),
        "clicks": (numbers < suspects).astype(int),
        "engagement": evidence,
        "relevance": evidence,
        "logged": pa.nulls(len(numbers), pa.float64()),
    }
    return ibis.memtable(pa.table(columns))


@pytest.mark.parametrize(
    ("suspects", "others", "expected"),
    [(10, 90, (10, 20)), (50, 50, (15, 15)), (95, 5, (25, 5)), (10, 5, (10, 5)), (0, 90, (0, 30)), (0, 0, (0, 0))],
)
def test_suspects_come_first_but_leave_half_for_the_sample(
    suspects: int, others: int, expected: tuple[int, int]
) -> None:
    chosen = MiningSettings(max_scored=30)
    table, kinds = candidates.to_score(candidate_table(suspects, others), TAU, chosen)
    rows = table.to_pyarrow().to_pylist()
    assert (kinds["suspects"], kinds["sampled"]) == expected
    assert sum(row["suspect"] for row in rows) == expected[0]
    assert len(rows) == sum(expected)
    # The strongest suspects are taken, and the scored pairs stand for all candidates together.
    assert sorted(row["pair"] for row in rows if row["suspect"]) == list(range(expected[0]))
    assert sum(row["weight"] for row in rows) == pytest.approx(suspects + others)


def test_the_sample_keeps_the_locales_proportions_and_follows_the_seed() -> None:
    def drawn(seed: int) -> list[dict[str, Any]]:
        chosen = MiningSettings(max_scored=60, seed=seed)
        return candidates.to_score(candidate_table(0, 600), TAU, chosen)[0].to_pyarrow().to_pylist()

    assert Counter(row["locale"] for row in drawn(1)) == {"en": 40, "fr": 20}
    one, again, other = ({row["pair"] for row in drawn(seed)} for seed in (1, 1, 2))
    assert one == again != other


def test_a_pair_that_the_log_shows_well_scored_is_no_suspect() -> None:
    table = candidate_table(4, 0).mutate(logged=ibis.cases((ibis._.pair < 2, 2.0), else_=1.0))
    rows = candidates.to_score(table, TAU, MiningSettings())[0].to_pyarrow().to_pylist()
    assert {row["pair"] for row in rows if row["suspect"]} == {2, 3}


class Stub:
    """A champion that expects grade 2 of everything, with less belief in longer texts."""

    version = "v1"

    def score(self, queries: list[str], documents: list[str]) -> Any:
        doubt = np.array([len(document) for document in documents]) / 100
        self.distribution = np.stack([doubt / 3, doubt / 3, 1 - doubt, doubt / 3], axis=1)
        self.expected = np.full(len(documents), 2.0)
        return self

    def sample(self, queries: list[str], documents: list[str], samples: int, seed: int) -> np.ndarray:
        return np.outer(np.arange(samples), [len(document) for document in documents]) / 100


def test_the_champion_scores_the_text_and_the_logs_own_score_stands() -> None:
    table = pa.table({"query": ["q", "q"], "title": ["ab", "cdef"], "body": ["", ""], "logged": [None, 0.5]})
    scored = score(table, Stub(), lambda title, body: title, MiningSettings(dropout_samples=3))
    assert scored["score"].to_pylist() == [2.0, 0.5]
    assert scored["disagreement"].to_pylist() == pytest.approx([0.04, 0.08])
    assert scored["uncertainty"][0].as_py() < scored["uncertainty"][1].as_py()


def test_model_thresholds_are_quantiles_over_the_candidates_that_the_scored_stand_for() -> None:
    # One suspect of high MD, and nine others that stand for a hundred: the suspect must not move the quantile.
    scored = pa.table({"disagreement": [9.0, *range(9)], "uncertainty": [0.0] * 10, "weight": [1.0] + [100.0] * 9})
    tau = with_model_thresholds(scored, TAU, MiningSettings(disagreement_quantile=0.5))
    assert tau.disagreement == 4.0
    assert with_model_thresholds(scored.slice(0, 0), TAU, MiningSettings()) == TAU


def test_the_agents_are_the_four_published_ones() -> None:
    assert list(AGENTS) == ["user feedback", "click model", "model disagreement", "model uncertainty"]
