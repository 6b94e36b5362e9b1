"""Each agent's rule on hand-made pairs, the cascade's features and sample, and the fairness of the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from serm import clicks, contracts
from serm.mining import candidates, click_model, clusters, disagreement, feedback, hard_negative, scoring, uncertainty
from serm.mining.agents import AGENTS, ask
from serm.mining.budget import allocate
from serm.mining.opinion import Thresholds
from serm.mining.scoring import score, with_model_thresholds
from serm.mining.selection import select
from serm.settings import ClickSettings, MiningSettings, Threshold

TAU = Thresholds(
    under_scored_below=1.5,
    over_scored_above=2.0,
    clicks=1.2,
    engagement=0.5,
    relevance=0.4,
    skipped_below=0.1,
    dislike_rate=0.05,
    novelty=0.5,
    rise=4.0,
    disagreement=0.3,
    uncertainty=1.0,
)
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


MIDDLE = datetime(2018, 1, 1, tzinfo=UTC)
EMERGING = pa.schema([("query", pa.string()), ("locale", pa.string()), ("novelty", pa.float64())])


def impressions(*rows: dict[str, Any]) -> ibis.Table:
    """An impression for each row, whose fields replace the defaults; ``times`` repeats it."""
    plain = {"event_time": MIDDLE - timedelta(days=1), "query": "cat", "locale": "en", "doc_id": "a"}
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


def described(
    shown: ibis.Table, judged: ibis.Table, emerging: dict[tuple[str, str], float] | None = None
) -> dict[tuple[str, str, str], dict[str, Any]]:
    counts = candidates.count(shown, "v1", MIDDLE)
    numbers = clicks.ClickCounts.read(counts)
    model = clicks.fit(clicks.number(shown, counts), numbers, ClickSettings())
    new = [(*query, novelty) for query, novelty in (emerging or {}).items()]
    known = pa.Table.from_pylist([dict(zip(EMERGING.names, row, strict=True)) for row in new], EMERGING)
    rows = candidates.describe(counts, model, numbers.expected_clicks(), judged, known).to_pyarrow().to_pylist()
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


def test_clicks_over_expected_takes_misclicks_and_position_out() -> None:
    # At position 1 half of all impressions are clicked, at 2 a tenth: 16 clicks are 1.2 times what 10 expect.
    a, b = {"doc_id": "a"}, {"doc_id": "b"}
    shown = [{**a, "clicked": True, "times": 16}, {**a, "times": 4}, {**b, "clicked": True, "times": 4}]
    shown += [{**b, "times": 16}, {"doc_id": "c", "position": 2, "clicked": True}, {"position": 2, "times": 9, **b}]
    rows = described(impressions(*shown), judgments())
    assert rows["cat", "en", "a"]["clicks_over_expected"] == pytest.approx((16 - 4) / 10)
    assert rows["cat", "en", "b"]["clicks_over_expected"] == pytest.approx((4 - 2) / (10 + 0.9))
    assert rows["cat", "en", "c"]["clicks_over_expected"] == 0  # one click is no evidence


def test_the_dislike_rate_needs_more_than_one_dislike() -> None:
    disliked = {"negative_feedback": True}
    rows = described(impressions(disliked, {"times": 9}, {"doc_id": "b", **disliked, "times": 4}), judgments())
    assert rows["cat", "en", "a"]["dislike_rate"] == 0
    assert rows["cat", "en", "b"]["dislike_rate"] == pytest.approx((4 - 2) / 4)


def test_a_pair_is_known_as_judged_and_its_query_as_new() -> None:
    shown = impressions({}, {"doc_id": "b"}, {"query": "dog"}, {"locale": "fr"})
    rows = described(shown, judgments(("cat", "en", "a")), {("cat", "en"): 0.25, ("cat", "fr"): 1.0})
    assert [key for key, row in rows.items() if row["judged"]] == [("cat", "en", "a")]
    novelty = {key[:2]: row["novelty"] for key, row in rows.items()}
    assert novelty == {("cat", "en"): 0.25, ("dog", "en"): 0, ("cat", "fr"): 1}


def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of letters: texts with the same letters mean the same."""
    vectors = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], np.float32).reshape(-1, 8)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def shown_queries(*rows: tuple[str, str, int]) -> ibis.Table:
    schema = pa.schema([("query", pa.string()), ("locale", pa.string()), ("shown", pa.int64())])
    return ibis.memtable(pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema))


def new_queries(now: ibis.Table, before: ibis.Table, **options: Any) -> dict[tuple[str, str], float]:
    table = clusters.emerging(now, before, embed, MiningSettings(queries_a_cluster=1, **options))
    return {(row["query"], row["locale"]): row["novelty"] for row in table.to_pylist()}


def test_a_cluster_is_new_as_far_as_the_reference_lacks_its_impressions() -> None:
    # The windows are as large, so each cluster should have had as many impressions in the reference.
    now = shown_queries(("aaa", "en", 50), ("bbb", "en", 100), ("ccc", "en", 50), ("aaa", "fr", 100))
    before = shown_queries(("aa", "en", 200), ("bb", "en", 49), ("eee", "en", 51))
    assert new_queries(now, before, clustered_queries=9) == {
        ("aaa", "en"): 0,  # known under other words
        ("bbb", "en"): 0.5,  # 1 - (49 + 1) / 100
        ("ccc", "en"): pytest.approx(1 - 1 / 50),
        ("aaa", "fr"): pytest.approx(1 - 1 / 100),  # the locale is new, whatever the words
    }


def test_too_few_impressions_and_queries_beyond_the_limit_are_not_called_new() -> None:
    now = shown_queries(("aaa", "en", 99), ("bbb", "en", 1))
    before = shown_queries(("aaa", "en", 100))
    assert new_queries(now, before) == {("aaa", "en"): 0, ("bbb", "en"): 0}
    assert new_queries(now, before, clustered_queries=1) == {("aaa", "en"): 0}
    assert new_queries(shown_queries(), before) == {}
    assert new_queries(now, shown_queries()) == {("aaa", "en"): 0, ("bbb", "en"): 0}


def test_hard_negatives_are_what_a_search_finds_and_nobody_was_shown() -> None:
    texts = {"d1": "abc abd", "d2": "abc", "d3": "abd", "d4": "ggg", "d5": "abc abc"}
    rows = [{"doc_id": doc, "locale": "en", "title": text, "body": ""} for doc, text in texts.items()]
    rows.append({"doc_id": "fr1", "locale": "fr", "title": "abc", "body": ""})
    queries = pa.Table.from_pylist([{"query": "abc", "locale": "en"}, {"query": "xyz", "locale": "de"}])
    known = pa.Table.from_pylist([{"query": "abc", "locale": "en", "doc_id": "d2"}])

    class Champion:
        class encoder:
            @staticmethod
            def embed(texts: Sequence[str], kind: str) -> np.ndarray:
                return embed(texts)

    def found(**options: Any) -> list[tuple[str, str]]:
        settings = MiningSettings(**options)
        table = hard_negative.unseen(queries, known, pa.Table.from_pylist(rows), Champion(), settings)
        assert set(zip(table["query"].to_pylist(), table["locale"].to_pylist(), strict=True)) <= {("abc", "en")}
        return [(row["doc_id"], row["found_by"]) for row in table.to_pylist()]

    assert found() == [("d5", "BM25"), ("d1", "encoder")]
    assert found(hard_negatives=2, hard_negatives_by=["BM25"]) == [("d5", "BM25"), ("d1", "BM25")]
    # What shares no letter is not found by words; meaning always ranks all.
    assert found(hard_negatives=9, hard_negatives_by=["BM25"])[-1] == ("d3", "BM25")
    assert found(hard_negatives=9, hard_negatives_by=["encoder"])[-1] == ("d4", "encoder")


def test_hard_negative_takes_what_nobody_was_shown() -> None:
    unseen = {"impressions": 0, "found_by": "BM25", "attractiveness": None, "relevance": None}
    table = pairs({}, unseen, {**unseen, "score": 2.5})
    assert chosen(table, "hard negative") == [1, 2]
    assert chosen(table, "user rejection") == []


def test_a_query_rises_by_standard_errors_above_the_windows_own_growth() -> None:
    late = {"event_time": MIDDLE}
    shown = impressions({"query": "old", "times": 100}, {"query": "new", **late, "times": 100})
    rows = described(shown, judgments())
    assert rows["new", "en", "a"]["rise"] == pytest.approx((100 - 50) / 5)
    assert rows["old", "en", "a"]["rise"] == pytest.approx(-10)


def test_segments_are_thirds_of_the_impressions() -> None:
    shown = impressions({"query": "a", "times": 4}, {"query": "b", "times": 3}, *({"query": q} for q in "cdefg"))
    segments = {key[0]: row["segment"] for key, row in described(shown, judgments()).items()}
    assert segments == {"a": "head", "b": "torso", "c": "torso", "d": "tail", "e": "tail", "f": "tail", "g": "tail"}


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
        "clicks_over_expected": np.where(numbers < suspects, 2.0, 0.0),
        "dislike_rate": np.zeros(len(numbers)),
        "attractiveness": 0.3 + numbers / 1000,
        "standard_error": np.full(len(numbers), 0.1),
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


def test_the_champion_scores_the_text_and_the_logs_own_score_stands(tmp_path: Path) -> None:
    table = pa.table({"query": ["q", "q"], "title": ["ab", "cdef"], "body": ["", ""], "logged": [None, 0.5]})
    scored = score(table, Stub(), lambda title, body: title, MiningSettings(dropout_samples=3), tmp_path)
    assert scored["score"].to_pylist() == [2.0, 0.5]
    assert scored["disagreement"].to_pylist() == pytest.approx([0.04, 0.08])
    assert scored["uncertainty"][0].as_py() < scored["uncertainty"][1].as_py()


def test_killed_while_it_scores_it_asks_the_champion_only_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PART", 2)
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    table = pa.table({"query": ["q"] * 5, "title": texts, "body": [""] * 5, "logged": pa.nulls(5, pa.float64())})
    settings = MiningSettings(dropout_samples=2)

    class Dies(Stub):
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.lives = 2

        def score(self, queries: list[str], documents: list[str]) -> Any:
            if self.lives == 0:
                raise KeyboardInterrupt
            self.lives -= 1
            self.asked.extend(documents)
            return super().score(queries, documents)

    model = Dies()
    with pytest.raises(KeyboardInterrupt):
        score(table, model, lambda title, body: title, settings, tmp_path)
    model.lives = 9
    scored = score(table, model, lambda title, body: title, settings, tmp_path)
    assert model.asked == texts
    assert scored.equals(score(table, Stub(), lambda title, body: title, settings, tmp_path / "whole"))
    # Another model or another seed does not take what this one left behind.
    model.version = "v2"
    score(table, model, lambda title, body: title, settings, tmp_path)
    assert model.asked == texts * 2


def test_model_thresholds_are_quantiles_over_the_candidates_that_the_scored_stand_for() -> None:
    # One suspect of high MD, and nine others that stand for a hundred: the suspect must not move the quantile.
    columns = {"disagreement": [9.0, *range(9)], "uncertainty": [0.0] * 10, "score": [3.0] + [1.0] * 9}
    scored = pa.table({**columns, "weight": [1.0] + [100.0] * 9})
    tau = with_model_thresholds(scored, TAU, MiningSettings(disagreement=Threshold(quantile=0.5)))
    assert tau.disagreement == 4.0
    assert tau.over_scored_above == 1.0
    assert with_model_thresholds(scored.slice(0, 0), TAU, MiningSettings()) == TAU
    absolute = with_model_thresholds(scored, TAU, MiningSettings(disagreement=Threshold(value=0.25)))
    assert absolute.disagreement == 0.25


@pytest.mark.parametrize("wrong", [{}, {"quantile": 0.5, "value": 1.0}, {"quantile": 1.5}])
def test_a_threshold_is_a_quantile_or_a_value(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Threshold.model_validate(wrong)


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
