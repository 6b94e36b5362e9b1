"""``serm export --judgments``: what is known of pairs, as the transformer looks it up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import Serm
from hypothesis import given
from hypothesis import strategies as st

from serm import contracts
from serm.pairs.text import fold
from serm.serving import judgments

GRADES = st.integers(0, 3)
SPREADS = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any).map(lambda one: np.array(one) / sum(one))
PAIRS = st.tuples(
    st.sampled_from(["cat", "Cat", " cat", "ＣＡＴ", "dog", "straße"]), st.sampled_from(["d1", "d2", "d%_"])
)


def _table(known: list[tuple[tuple[str, str], int | np.ndarray]]) -> pa.Table:
    rows = []
    for (query, doc_id), told in known:
        sure = isinstance(told, int)
        grade = told if sure else int(np.argmax(told))
        row = {"query": query, "locale": "en", "doc_id": doc_id, "grade": grade, "cycle": 0, "source": "panel"}
        rows.append(row | {"distribution": None if sure else [float(share) for share in told]})
    return pa.Table.from_pylist(rows, contracts.JUDGMENTS)


@given(known=st.lists(st.tuples(PAIRS, GRADES | SPREADS), max_size=12, unique_by=lambda one: one[0]))
def test_a_pair_has_the_mean_of_what_its_respelled_queries_expect_of_it(
    known: list[tuple[tuple[str, str], int | np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    contracts.write(_table(known), folder / "judgments", contracts.JUDGMENTS)
    figures = judgments.write(folder / "judgments", folder / "store.sqlite")
    grades: dict[tuple[str, str], list[float]] = {}
    for (query, doc_id), told in known:
        expected = float(told) if isinstance(told, int) else float(told @ np.arange(4))
        grades.setdefault((fold(query), doc_id), []).append(expected)
    assert figures["pairs"] == len(grades)
    store = judgments.JudgmentStore(folder / "store.sqlite")
    for query in ("cat", "CAT\u200b", "dog", "STRASSE", "other"):
        found = store.grades(query, ["d1", "d2", "d%_", "d3"])
        wanted = {doc_id: np.mean(of) for (asked, doc_id), of in grades.items() if asked == fold(query)}
        assert found == pytest.approx(wanted, abs=1e-6)
        assert all(0 <= grade <= 3 for grade in found.values())
    store.close()


def test_a_store_that_is_damaged_while_it_is_open_judges_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known: list[tuple[tuple[str, str], int | np.ndarray]] = [((f"query {n}", "d1"), n % 4) for n in range(5000)]
    contracts.write(_table(known), tmp_path / "judgments", contracts.JUDGMENTS)
    judgments.write(tmp_path / "judgments", tmp_path / "store.sqlite")
    store = judgments.JudgmentStore(tmp_path / "store.sqlite")
    assert store.grades("query 3", ["d1"]) == {"d1": 3}
    with (tmp_path / "store.sqlite").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    assert store.grades("query 4999", ["d1"]) == {}
    assert "nothing counts as judged" in caplog.text


def test_the_command_writes_it_and_says_how_much_it_holds(
    serm: Serm, tmp_path: Path, make_judgments: Callable[[], pa.Table]
) -> None:
    contracts.write(make_judgments(), tmp_path / "state/judgments", contracts.JUDGMENTS)
    told = json.loads(serm("export", "--judgments", "state/judgments", "--json", cwd=tmp_path).stdout)
    table = make_judgments()
    assert told["pairs"] == table.num_rows
    assert told["queries"] == len(set(table["query"].to_pylist()))
    store = judgments.JudgmentStore(tmp_path / "cycle/judgments.sqlite")
    row = table.slice(5, 1).to_pylist()[0]
    assert store.grades(row["query"], [row["doc_id"]]) == {row["doc_id"]: row["grade"]}


def test_judgments_that_are_not_there_or_two_files_at_once_are_one_sentence(serm: Serm, tmp_path: Path) -> None:
    done = serm("export", "--judgments", "state/judgments", cwd=tmp_path)
    assert "state/judgments" in done.stderr
    done = serm("export", "--judgments", "a", "--documents", "b", cwd=tmp_path)
    assert "export the one, then the other" in done.stderr
