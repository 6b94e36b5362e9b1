"""A team's judgments become seed and test sets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from serm import contracts
from serm.founding import first, judged, lengths
from serm.pairs.test_sets import POOL, SERVED, SETS
from serm.pairs.text import fold
from serm.settings.training import TrainingSettings

queries = st.text("abcdeé ß", min_size=1, max_size=6).filter(str.strip)
pairs = st.dictionaries(st.tuples(queries, st.sampled_from(["d1", "d2", "d3"])), st.integers(0, 3), min_size=1)


def judgments(of: dict[tuple[str, str], int]) -> pa.Table:
    rows = len(of)
    values = {name: pa.nulls(rows, contracts.JUDGMENTS.field(name).type) for name in contracts.JUDGMENTS.names}
    values |= {"query": [query for query, _ in of], "doc_id": [doc for _, doc in of], "locale": ["en"] * rows}
    values |= {"grade": pa.array(of.values(), pa.int8()), "source": ["seed"] * rows}
    return pa.table(values | {"cycle": pa.array([0] * rows, pa.int32())}, contracts.JUDGMENTS)


def shown(*of: tuple[str, str]) -> pa.Table:
    columns = {"locale": ["en"] * len(of), "query": [q for q, _ in of], "doc_id": [d for _, d in of]}
    return pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))


def _pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["query"].to_pylist(), table["doc_id"].to_pylist(), strict=True))


@given(pairs, st.sets(st.tuples(queries, st.sampled_from(["d1", "d2", "d3"]))))
def test_each_pair_is_in_one_part_and_a_query_in_one_however_it_is_spelled(
    of: dict[tuple[str, str], int], seen: set[tuple[str, str]]
) -> None:
    found = judged.split(judgments(of), shown(*((fold(query), doc) for query, doc in seen)))
    parts = {"seed": found.seed} | {name: found.tests[name, POOL] for name in SETS}
    rows = [pair for table in parts.values() for pair in _pairs(table)]
    assert sorted(rows) == sorted(of)
    asked = [{fold(query) for query in table["query"].to_pylist()} for table in parts.values()]
    assert sum(map(len, asked)) == len(set.union(*asked))
    for name in SETS:
        served, pool = found.tests[name, SERVED], found.tests[name, POOL]
        assert {fold(query) for query in served["query"].to_pylist()} == {
            fold(query) for query in pool["query"].to_pylist()
        }
        assert served.num_rows <= pool.num_rows


def test_no_query_of_given_tests_is_trained_on_in_any_spelling() -> None:
    table = judgments({("Red  Lamp", "d1"): 3, ("rug", "d1"): 1, ("rug", "d2"): 2})
    asked = {("frozen", POOL): judgments({("red lamp", "d9"): 1})}
    assert _pairs(judged.seed_of(table, asked)) == [("rug", "d1"), ("rug", "d2")]
    assert judged.beside(table, asked, shown()).seed.equals(judged.seed_of(table, asked))


def test_what_the_log_shows_of_a_test_query_is_what_it_is_served() -> None:
    query = next(text for text in map(str, range(1000)) if judged.part_of(text) == "frozen")
    table = judgments({(query, "d1"): 3, (query, "d2"): 0})
    seen = judged.split(table, shown((query, "d2"), (query, "d9"), ("other", "d1")))
    assert seen.tests["frozen", SERVED]["doc_id"].to_pylist() == ["d2"]
    assert seen.tests["frozen", POOL]["doc_id"].to_pylist() == ["d1", "d2"]
    assert seen.assumed == 0
    unseen = judged.split(table, shown())
    assert unseen.tests["frozen", SERVED]["doc_id"].to_pylist() == ["d1", "d2"]
    assert unseen.assumed == 1


def test_shares_of_the_parts_are_as_said() -> None:
    parts = [judged.part_of(f"query {number}") for number in range(5000)]
    assert [round(parts.count(part) / 5000, 1) for part in ("seed", "frozen", "rolling")] == pytest.approx(
        [0.7, 0.15, 0.15], abs=0.051
    )


def test_so_many_queries_find_the_margin_four_times_in_five() -> None:
    random, margin, needed = np.random.default_rng(3), 0.05, judged.queries_needed(0.05, 0.05)
    differences = random.normal(margin, judged.DEVIATION, (5000, needed))
    z = differences.mean(1) / (judged.DEVIATION / np.sqrt(needed))
    assert (np.abs(z) > norm.isf(0.025)).mean() == pytest.approx(0.8, abs=0.02)
    assert judged.queries_needed(0.01, 0.05) == 1766


@given(st.integers(0, 10**6), st.sampled_from([16, 20, 64, 512]))
def test_longer_documents_are_never_read_less_of(characters: int, most: int) -> None:
    found = lengths.candidates(characters, most)
    assert found == sorted(set(found))
    assert min(32, most) <= found[0] <= found[-1] <= most
    assert all(tokens % 16 == 0 for tokens in found if tokens < most)
    assert found[-1] <= lengths.candidates(characters + 100, most)[-1]
    assert found[0] >= found[-1] / 2


def test_the_shortest_text_that_ranks_as_well_as_the_best_is_read() -> None:
    spread = np.linspace(-0.1, 0.1, 100)
    best = 0.8 + spread
    assert lengths.shortest_as_good({32: best - 0.1, 48: best - 0.001 * np.sign(spread), 64: best}) == 48
    assert lengths.shortest_as_good({32: best - 0.02, 64: best}) == 64
    assert lengths.shortest_as_good({32: best, 64: best}) == 32
    assert lengths.shortest_as_good({32: best, 64: best - 0.02}) == 32


@pytest.mark.parametrize(
    ("seed_pairs", "tokens", "less"),
    [
        (4_000, 24, {}),
        (4_000, 128, {"epochs": 1}),
        (40_000, 128, {"founding_epochs": 1, "epochs": 1}),
        (4_000, 512, {"founding_epochs": 1, "epochs": 1, "max_pairs": 11_494}),
    ],
)
def test_without_a_gpu_long_documents_are_passed_over_less_often_before_fewer_are(
    seed_pairs: int, tokens: int, less: dict[str, int]
) -> None:
    assert first.on_a_processor(TrainingSettings(), seed_pairs, tokens) == less
