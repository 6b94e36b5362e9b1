"""Which rows may share their key with another: none that do may be told to stand alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import ibis
import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from ibis.backends import BaseBackend

from serm import engine as engines
from serm.settings import EngineSettings

KEY = ("query_id", "doc_id", "position")
ROW = st.tuples(
    st.sampled_from(["q1", "q2", "q3", "q4", None]),
    st.sampled_from(["d1", "d2", None]),
    st.one_of(st.none(), st.integers(-2, 4), st.sampled_from([31, 61, 62, 63, 66, -(2**31), 2**31 - 1])),
)
Rows = list[tuple[str | None, str | None, int | None]]


@pytest.fixture(scope="module")
def engine() -> Iterator[BaseBackend]:
    with engines.duckdb(EngineSettings(threads=1, memory_gb=1)) as engine:
        yield engine


def split(engine: BaseBackend, rows: Rows, **page: str) -> tuple[Rows, Rows]:
    types = (pa.string(), pa.string(), pa.int32())
    columns = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(types)]
    parts = engines.split_repeated(engine, ibis.memtable(pa.table(dict(zip(KEY, columns, strict=True)))), KEY, **page)
    single, several = ([tuple(row.values()) for row in engine.to_pyarrow(part).to_pylist()] for part in parts)
    return single, several


@settings(max_examples=examples(60))
@given(st.lists(ROW, max_size=30))
def test_no_row_is_lost_and_rows_of_one_key_stay_together(engine: BaseBackend, rows: Rows) -> None:
    for page in ({}, {"page": "query_id", "place": "position"}):
        single, several = split(engine, rows, **page)
        assert Counter(single) + Counter(several) == Counter(rows)
        assert max(Counter(single).values(), default=1) == 1
        assert not set(single) & set(several)


def test_pages_without_a_repeated_place_are_told_without_their_keys(engine: BaseBackend) -> None:
    rows: Rows = [(f"q{page}", f"d{place}", place) for page in range(7) for place in range(1, 62)]
    single, several = split(engine, [*rows, rows[-1]], page="query_id", place="position")
    assert len(single) == 6 * 61
    assert several.count(rows[-1]) == 2


def test_where_most_pages_are_crowded_only_keys_that_are_repeated_are_several(engine: BaseBackend) -> None:
    rows: Rows = [(f"q{page}", f"d{place}", place % 5) for page in range(40) for place in range(10)]
    single, several = split(engine, [*rows, rows[0]], page="query_id", place="position")
    assert len(single) == len(rows) - 1
    assert several == [rows[0], rows[0]]
