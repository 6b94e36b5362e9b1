"""The rolling test set lives: new queries of each window are drawn, judged and held out; old ones retire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serm import contracts, layout, settings
from serm import engine as engines
from serm.judging.review import Reviews
from serm.pairs import test_sets
from serm.pairs.test_sets import POOL, SERVED, datasets
from serm.pooling import rolling
from serm.settings import Settings
from serm.workspace.mending import correct, retire

PARAMS = """
cycle: {{number: {number}, start: "2026-03-{day:02d}T00:00:00Z", end: "2026-03-{end:02d}T00:00:00Z"}}
tests: {{draw: 6, keep_cycles: 1, sample: 2}}
evaluation: {{gate: {{min_queries: 3}}}}
"""


class Letters:
    """An encoder of a text's letters."""

    def embed(self, texts: list[str], kind: str) -> Any:
        found = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefgh"] for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class Champion:
    encoder = Letters()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with four new queries in each of two windows, of which 'lamp a' is in the seed judgments."""
    monkeypatch.setenv("SERM_USER_KEY", "0123456789abcdef0123456789abcdef")
    monkeypatch.setattr("serm.relevance.load", lambda *_: Champion())
    records: list[dict[str, Any]] = []
    windows = {2: ("lamp a", "lamp b", "lamp c", "old"), 4: ("LAMP B", "lamp d", "lamp e", "lamp f")}
    for day, queries in (windows | {6: ("lamp a",), 8: ("lamp  a",)}).items():
        for n, query in enumerate(queries):
            head = {"query_id": f"{day}-{n}", "client_id": "u", "timestamp": f"2026-03-{day:02d}T10:00:00Z"}
            records.append({**head, "user_query": query})
            for place in range(4):
                where = {"object": {"object_id": f"d{(n + place) % 8}"}, "position": {"ordinal": place}}
                records.append({**head, "action_name": "impression", "event_attributes": where})
    (tmp_path / layout.LOG).mkdir()
    (tmp_path / layout.LOG / "log.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    documents = [
        {"doc_id": f"d{n}", "locale": "en", "title": f"lamp {letter}", "body": "", "published_at": 0, "attributes": []}
        for n, letter in enumerate("abcdefgh")
    ]
    contracts.write(
        pa.Table.from_pylist(documents, contracts.DOCUMENTS), tmp_path / layout.DOCUMENTS, contracts.DOCUMENTS
    )
    contracts.write(contracts.KNOWLEDGE.empty_table(), tmp_path / layout.KNOWLEDGE, contracts.KNOWLEDGE)
    reference = contracts.IMPRESSIONS.empty_table()
    contracts.write(reference, tmp_path / layout.REFERENCE, contracts.IMPRESSIONS)
    contracts.write(judged("Lamp  A", "d1", source="seed"), tmp_path / layout.JUDGMENTS, contracts.JUDGMENTS)
    for (_, documents_of), path in datasets(tmp_path / layout.TESTS).items():
        rows = pa.concat_tables([judged("founding", doc) for doc in ("d1", "d2", "d3")])
        contracts.write(rows.slice(0, 3 if documents_of == POOL else 2), path, contracts.JUDGMENTS)
    (tmp_path / ".serm").mkdir()
    return tmp_path


def judged(query: str, doc_id: str, source: str = "human") -> pa.Table:
    row = dict.fromkeys(contracts.JUDGMENTS.names)
    row |= {"query": query, "locale": "en", "doc_id": doc_id, "grade": 1, "source": source, "cycle": 0}
    return pa.Table.from_pylist([row], contracts.JUDGMENTS)


def of_cycle(number: int) -> Settings:
    return settings.parse(PARAMS.format(number=number, day=2 * number, end=2 * number + 1))


def queries(root: Path, documents: str = SERVED) -> set[str]:
    table = contracts.read(datasets(root / layout.TESTS)["rolling", documents], contracts.JUDGMENTS)
    return set(table["query"].to_pylist())


def held_out(root: Path) -> set[str]:
    with engines.connect(of_cycle(1).engine) as engine:
        return set(engine.to_pyarrow(test_sets.held_out(engine, root / layout.TESTS))["query"].to_pylist())


def grade_all(root: Path) -> int:
    """Let a person grade what waits; return how many pairs that were."""
    review = root / layout.TESTS / "review"
    reviews = Reviews(review / "annotate", review / "validate", root / layout.TEST_REVIEWED)
    left = reviews.left
    for number, item in enumerate(left):
        reviews.grade(item.key, number % 4)
    return len(left)


def test_queries_are_held_out_at_once_and_tested_on_once_people_graded_them(shop: Path) -> None:
    told = rolling.renew(shop, of_cycle(1))
    assert told["drawn"] == 3  # not 'lamp a', which is judged in another spelling
    assert queries(shop) == {"founding"}
    assert held_out(shop) == {"founding", "lamp b", "lamp c", "old"}
    assert grade_all(shop) == told["to_review"] > 3 * 4  # what was served, and what searches find beside it
    told = rolling.renew(shop, of_cycle(2))
    assert told["drawn"] == 3  # not LAMP B, which was drawn before
    assert queries(shop) == {"lamp b", "lamp c", "old"}
    assert held_out(shop) >= {"lamp b", "lamp d", "lamp e", "lamp f"}
    served, pool = (
        contracts.read(datasets(shop / layout.TESTS)["rolling", name], contracts.JUDGMENTS) for name in (SERVED, POOL)
    )
    assert served.num_rows == 3 * 4 < pool.num_rows
    assert set(served["source"].to_pylist()) == {"human"}


def test_what_a_person_mends_in_the_rolling_set_outlives_its_renewal(shop: Path) -> None:
    rolling.renew(shop, of_cycle(1))
    grade_all(shop)
    rolling.renew(shop, of_cycle(2))
    served = datasets(shop / layout.TESTS)["rolling", SERVED]
    (one, other) = contracts.read(served, contracts.JUDGMENTS).slice(0, 2).to_pylist()
    correct(served, (one["query"], "en", one["doc_id"]), 3 - one["grade"], "Ada", "so", 2)
    retire(served, (other["query"], "en", other["doc_id"]), "Ada", "sold out")
    rolling.renew(
        shop, of_cycle(3).model_copy(update={"tests": of_cycle(3).tests.model_copy(update={"keep_cycles": 9})})
    )
    rows = {
        (row["query"], row["doc_id"]): row["grade"] for row in contracts.read(served, contracts.JUDGMENTS).to_pylist()
    }
    assert rows[one["query"], one["doc_id"]] == 3 - one["grade"]
    assert (other["query"], other["doc_id"]) not in rows


def test_old_queries_retire_as_long_as_enough_are_left_and_stay_held_out(shop: Path) -> None:
    for number, retired in ((1, 0), (2, 1)):  # 'founding'
        assert rolling.renew(shop, of_cycle(number))["retired_queries"] == retired
        grade_all(shop)
    told = rolling.renew(shop, of_cycle(3))
    assert (told["retired_queries"], told["rolling_queries"]) == (3, 3)  # those of cycle 1
    assert queries(shop) == queries(shop, POOL) == {"lamp d", "lamp e", "lamp f"}
    assert {"lamp b", "lamp c"} <= held_out(shop)
    assert rolling.renew(shop, of_cycle(4))["retired_queries"] == 0  # fewer than min_queries would be left


def test_a_cycle_that_is_run_again_draws_nothing_anew(shop: Path) -> None:
    first = rolling.renew(shop, of_cycle(1))
    before = {path: path.read_bytes() for path in (shop / layout.TESTS).rglob("*.parquet")}
    grade_all(shop)
    again = rolling.renew(shop, of_cycle(1))
    assert {name: again[name] for name in ("drawn", "to_review")} == {
        name: first[name] for name in ("drawn", "to_review")
    }
    assert {path: path.read_bytes() for path in (shop / layout.TESTS).rglob("*.parquet")} == before


def test_a_set_that_is_not_to_live_stays_as_it_is(shop: Path) -> None:
    still = of_cycle(1).model_copy(update={"tests": of_cycle(1).tests.model_copy(update={"draw": 0})})
    assert "drawn" not in rolling.renew(shop, still)
    assert not (shop / layout.TESTS / "drawn").exists()


def test_of_a_log_of_another_catalogue_nothing_is_drawn(shop: Path) -> None:
    other = {"doc_id": "x", "locale": "en", "title": "lamp", "body": "", "published_at": 0, "attributes": []}
    contracts.write(pa.Table.from_pylist([other], contracts.DOCUMENTS), shop / layout.DOCUMENTS, contracts.DOCUMENTS)
    told = rolling.renew(shop, of_cycle(1))
    assert (told["drawn"], told["to_review"], told["rolling_queries"]) == (0, 0, 1)
    assert held_out(shop) == {"founding"}
