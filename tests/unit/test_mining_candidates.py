"""What the cascade knows of a pair and its query, what it adds that nobody was shown, and what it scores first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mining_thresholds import TAU

from serm import clicks, contracts
from serm.mining import candidates, clusters, hard_negative
from serm.settings import ClickSettings, MiningSettings

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
    counts = candidates.count(shown, "v1", MIDDLE, 30.0)
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


def test_a_site_says_how_long_its_users_stay_where_they_are_satisfied() -> None:
    long, short = {"clicked": True, "dwell_seconds": 270.0}, {"doc_id": "b", "clicked": True, "dwell_seconds": 30.0}
    counts = candidates.count(impressions(long, short), "v1", MIDDLE, 270.0).to_pyarrow().to_pylist()
    assert {row["doc_id"]: (row["satisfied"], row["engaged"]) for row in counts} == {
        "a": (1, 500_000),
        "b": (0, 100_000),
    }


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


@hypothesis_settings(max_examples=examples(15))
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([None, 0.0, 1e9])
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_the_log_each_statistic_is_a_number(
    shown: list[tuple[str, int, bool, bool, float | None]],
) -> None:
    names = ("doc_id", "position", "clicked", "negative_feedback", "dwell_seconds")
    log = [dict(zip(names, row, strict=True)) for row in shown]
    for row in log:
        row["dwell_seconds"] = row["dwell_seconds"] if row["clicked"] else None
    statistics = ["engagement", "clicks_over_expected", "dislike_rate", "attractiveness", "standard_error"]
    statistics += ["relevance", "novelty", "rise"]
    for row in described(impressions(*log), judgments()).values():
        assert all(np.isfinite(row[name]) for name in statistics), row


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
