"""Pairs beside their documents: one join, and one policy for documents that are gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends import BaseBackend

from serm import contracts
from serm import engine as engines
from serm.errors import UserError
from serm.pairs.documents import join, with_documents
from serm.settings import EngineSettings


@pytest.fixture
def engine() -> Iterator[BaseBackend]:
    with engines.connect(EngineSettings(threads=1)) as opened:
        yield opened


@pytest.fixture
def documents(tmp_path: Path, make_documents: Callable[[], pa.Table]) -> Path:
    contracts.write(make_documents(), tmp_path / "documents", contracts.DOCUMENTS)
    return tmp_path / "documents"


def pairs(*doc_ids: str) -> pa.Table:
    return pa.table({"query": [f"q{n}" for n in range(len(doc_ids))], "doc_id": pa.array(doc_ids, pa.string())})


def test_pairs_keep_their_order_and_repeats_and_get_their_documents_columns(
    engine: BaseBackend, documents: Path, tmp_path: Path
) -> None:
    given = pairs("d7", "d3", "d7", "d0")
    found = join(engine, given, tmp_path, documents, ("title", "published_at"))
    assert found.pairs.column_names == ["query", "doc_id", "title", "published_at"]
    assert found.pairs["title"].to_pylist() == ["title 7", "title 3", "title 7", "title 0"]
    assert found.pairs.schema.field("published_at").type == contracts.DOCUMENTS.field("published_at").type
    assert found.retired.num_rows == 0


def test_pairs_of_documents_that_are_gone_are_retired_and_told(
    engine: BaseBackend, documents: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = pairs("x9", "d3", "x1", "x9")
    with caplog.at_level(logging.WARNING):
        found = join(engine, given, tmp_path / "judgments", documents, ("body",))
    assert found.pairs["query"].to_pylist() == ["q1"]
    assert found.retired.equals(given.take([0, 2, 3]))
    (told,) = caplog.messages
    assert "judgments: 3 of 4 pairs are retired" in told
    assert "such as doc_id 'x1'" in told


def test_that_all_are_gone_is_one_sentence_and_no_pairs_at_all_is_none(
    engine: BaseBackend, documents: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"judgments: none of the documents of its 2 pairs is in .*documents, .*'x1'"):
        join(engine, pairs("x2", "x1"), tmp_path / "judgments", documents, ("title",))
    found = join(engine, pairs(), tmp_path, documents, ("title",))
    assert (found.pairs.num_rows, found.retired.num_rows, found.pairs.column_names[-1]) == (0, 0, "title")


def test_a_catalogue_that_was_not_validated_gives_the_same_row_whatever_its_order(
    engine: BaseBackend, documents: Path, tmp_path: Path
) -> None:
    rows = contracts.read(documents, contracts.DOCUMENTS).slice(0, 3).to_pylist()
    rows += [rows[0] | {"title": "another"}, rows[1] | {"doc_id": None}]
    rows[2]["title"] = None
    titles = set()
    for order in (rows, rows[::-1]):
        schema = pa.schema([field.with_nullable(True) for field in contracts.DOCUMENTS])
        pq.write_table(pa.Table.from_pylist(order, schema), documents / "part-0.parquet")
        found = join(engine, pairs("d0", "d1", "d2"), tmp_path, documents, ("title",))
        titles.add(tuple(found.pairs["title"].to_pylist()))
        assert found.retired["doc_id"].to_pylist() == ["d2"]  # without a title it is no document
    assert titles == {("another", "title 1")}


def test_in_the_engine_the_policy_is_the_same(engine: BaseBackend, documents: Path) -> None:
    catalogue = contracts.scan(engine, documents, contracts.DOCUMENTS)
    given = ibis.memtable(pairs("x9", "d3"))
    bare, beside = (with_documents(given, catalogue, columns) for columns in ((), ("title",)))
    assert engine.to_pyarrow(bare).to_pylist() == [{"query": "q1", "doc_id": "d3"}]
    assert engine.to_pyarrow(beside)["title"].to_pylist() == ["title 3"]
