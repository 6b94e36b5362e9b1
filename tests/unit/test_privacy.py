"""Privacy: users' hashes are HMAC, no personal number is left in a query, rare queries are withheld."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serm import contracts, stream
from serm.settings import Settings
from serm.stream.privacy import keyed_hash, masked

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
QUICK = settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])


@pytest.fixture(scope="module")
def engine() -> ibis.BaseBackend:
    return ibis.duckdb.connect()


def each(engine: ibis.BaseBackend, function: Callable[[ibis.ir.StringValue], ibis.Value], texts: list[str]) -> list:
    table = ibis.memtable(pa.table({"n": range(len(texts)), "text": texts}))
    found = engine.to_pyarrow(table.select("n", found=function(table.text)).order_by("n"))
    return found["found"].to_pylist()


@QUICK
@given(key=st.binary(min_size=16, max_size=100), users=st.lists(TEXT, min_size=1, max_size=5))
def test_the_keyed_hash_is_hmac_sha256(engine: ibis.BaseBackend, key: bytes, users: list[str]) -> None:
    expected = [hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:32] for user in users]
    assert each(engine, lambda text: keyed_hash(text, key), users) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("write to ann.b+x@mail.example.com now", "write to <email> now"),
        ("4111 1111 1111 1111", "<card>"),
        ("card 5500-0000-0000-0004 lost", "card <card> lost"),
        ("378282246310005", "<card>"),
        ("4111 1111 1111 1112", "<phone>"),
        ("4111111111111112", "<number>"),
        ("call +1 (555) 123-4567", "call <phone>"),
        ("06.12.34.56.78", "<phone>"),
        ("isbn 9780306406157 x", "isbn <number> x"),
        ("٠١٢٣٤٥٦٧", "<number>"),
        ("iphone 14 pro 128gb", "iphone 14 pro 128gb"),
        ("year 2019 or 2020 films", "year 2019 or 2020 films"),
        ("a@b", "a@b"),
        ("", ""),
    ],
)
def test_what_is_masked(engine: ibis.BaseBackend, query: str, expected: str) -> None:
    assert each(engine, masked, [query]) == [expected]


def luhn_digit(digits: str) -> str:
    total = sum(sum(divmod(int(d) * (2 - n % 2), 10)) for n, d in enumerate(reversed(digits)))
    return str(-total % 10)


@QUICK
@given(digits=st.text("0123456789", min_size=12, max_size=18), separator=st.sampled_from(["", " ", "-"]))
def test_luhn_tells_cards_from_numbers(engine: ibis.BaseBackend, digits: str, separator: str) -> None:
    valid = digits + luhn_digit(digits)
    wrong = digits + str((int(valid[-1]) + 1) % 10)
    found = each(engine, masked, [separator.join(valid), separator.join(wrong)])
    assert found == ["<card>", "<phone>" if separator else "<number>"]


@QUICK
@given(
    words=st.lists(st.one_of(TEXT, st.from_regex(r"\+?[0-9]{3,5}([ .-]?[0-9]{2,4}){2,4}", fullmatch=True)), max_size=5)
)
def test_no_seven_digits_in_a_row_are_left_and_masking_again_changes_nothing(
    engine: ibis.BaseBackend, words: list[str]
) -> None:
    (once,) = each(engine, masked, ["a" + "a".join(words)])
    run = 0
    for character in once:
        run = run + 1 if character.isdecimal() else 0
        assert run < 7
    assert each(engine, masked, [once]) == [once]


def ingested(log: pa.Table, folder: Path, params: Settings) -> tuple[dict, pa.Table]:
    pq.write_table(log, folder / "log.parquet")
    stream.ingest(folder / "log.parquet", folder / "out", params)
    summary = json.loads((folder / "out/ingest.json").read_text())
    return summary, contracts.read(folder / "out/impressions", contracts.IMPRESSIONS)


def test_masked_rows_are_counted_by_kind(
    make_impressions: Callable[..., pa.Table], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    table = make_impressions()
    queries = table["query"].to_pylist()
    queries[:3] = ["me@example.org", "4111111111111111", "4111111111111111"]
    log = table.set_column(5, "query", pa.array(queries))
    summary, kept = ingested(log, tmp_path, make_settings())
    assert summary["masked"] == {"email": 1, "card": 2, "phone": 0, "number": 0}
    assert not {"me@example.org", "4111111111111111"} & set(kept["query"].to_pylist())


def test_queries_of_fewer_than_k_users_are_withheld_and_counted(
    make_impressions: Callable[..., pa.Table], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    table = make_impressions()
    users: dict[tuple[str, str], set[str]] = {}
    rows = table.to_pylist()
    for row in rows:
        users.setdefault((row["locale"], row["query"]), set()).add(row["user_id"])
    rare = [row for row in rows if len(users[row["locale"], row["query"]]) < 4]
    summary, kept = ingested(table, tmp_path, make_settings(stream={"min_query_users": 4}))
    assert 0 < len(rare) < len(rows)
    assert summary["rows_withheld"] == len(rare)
    assert kept.num_rows == summary["rows_kept"] == len(rows) - len(rare)
    assert not {(row["locale"], row["query"]) for row in rare} & set(
        zip(kept["locale"].to_pylist(), kept["query"].to_pylist(), strict=True)
    )
