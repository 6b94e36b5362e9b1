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
from examples import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from personal_queries import MISSED, ORDINARY, PERSONAL, TAKEN_FOR_TELEPHONES

from serm import contracts, stream
from serm.settings import Settings, StreamSettings
from serm.stream.masking import CANDIDATE, KINDS, mask
from serm.stream.privacy import keyed_hash

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
QUICK = settings(max_examples=examples(40), phases=[Phase.explicit, Phase.generate])


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


def luhn_digit(digits: str) -> str:
    total = sum(sum(divmod(int(d) * (2 - n % 2), 10)) for n, d in enumerate(reversed(digits)))
    return str(-total % 10)


def test_what_is_masked_and_what_stays() -> None:
    """The table of docs/bring-your-logs.md: its figures are counted here."""
    regions = StreamSettings().phone_regions
    missed = {
        query for kind, queries in PERSONAL.items() for query in queries if mask(query, KINDS, regions)[1] != {kind}
    }
    wrong = {query for query in ORDINARY if mask(query, KINDS, regions)[1]}
    assert (missed, wrong) == (set(), set())
    found = {query for query in MISSED if mask(query, KINDS, regions)[1]}
    assert found == set(), "docs/bring-your-logs.md says that these are missed"
    assert {query for query in TAKEN_FOR_TELEPHONES if not mask(query, KINDS, regions)[1]} == set()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("write to ann.b+x@mail.example.com now", "write to <email> now"),
        ("card 5500-0000-0000-0004 lost", "card <card> lost"),
        ("visa 4111 1111 1111 1111 12/27", "visa <card> 12/27"),
        ("iban DE89 3704 0044 0532 0130 00 danke", "iban <iban> danke"),
        ("4111 1111 1111 1112", "<number>"),
        ("call +1 (555) 123-4567 or 0170/1234567", "call <phone> or <phone>"),
        ("isbn 9780306406157 x", "isbn <number> x"),
        ("\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "<number>"),
        ("123-45-6789", "<number>"),
        ("\uff43\uff41\uff46\u00e9\u200b", "\uff43\uff41\uff46\u00e9\u200b"),
        ("", ""),
    ],
)
def test_only_the_personal_part_of_a_query_changes(query: str, expected: str) -> None:
    assert mask(query)[0] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_left_out(kind: str) -> None:
    for query in PERSONAL[kind]:
        assert kind not in mask(query, set(KINDS) - {kind})[1]


@QUICK
@given(
    digits=st.text("0123456789", min_size=12, max_size=18),
    separator=st.sampled_from(["", " ", "-", "\u00a0", "\u200b"]),
)
def test_luhn_tells_cards_from_numbers(digits: str, separator: str) -> None:
    valid = "4" + digits[1:] + luhn_digit("4" + digits[1:])
    wrong = valid[:-1] + str((int(valid[-1]) + 1) % 10)
    groups = [separator.join(text[n : n + 4] for n in range(0, len(text), 4)) for text in (valid, wrong)]
    assert mask(groups[0]) == ("<card>", {"card"})
    assert mask(groups[1])[0] != "<card>"  # a part of it may be one


@QUICK
@given(
    words=st.lists(st.one_of(TEXT, st.from_regex(r"\+?[0-9]{3,5}([ .-]?[0-9]{2,4}){2,4}", fullmatch=True)), max_size=5)
)
def test_no_seven_digits_in_a_row_are_left_and_masking_again_changes_nothing(words: list[str]) -> None:
    once, found = mask("a" + "a".join(words))
    run = 0
    for character in once:
        run = run + 1 if character.isdecimal() else 0
        assert run < 7
    assert mask(once) == (once, frozenset()), found


@QUICK
@given(text=TEXT, personal=st.sampled_from([query for queries in PERSONAL.values() for query in queries]))
def test_the_engine_hands_over_every_query_that_masking_would_change(
    engine: ibis.BaseBackend, text: str, personal: str
) -> None:
    query = f"{text} {personal}"
    if mask(query)[1]:
        assert each(engine, lambda column: column.re_search(CANDIDATE), [query]) == [True]


@pytest.mark.timeout(60)  # a blow-up takes hours
@pytest.mark.parametrize("piece", ["1 ", "+", "(", "a@", "GB29 ", "at)", "0.", "1" * 50 + " ", "\u200b"])
def test_a_hostile_query_costs_no_more_than_its_length(piece: str) -> None:
    query = piece * (20_000 // len(piece))
    assert len(mask(query, KINDS, StreamSettings().phone_regions)[0]) <= len(query)


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
    assert summary["masked"] == {"email": 1, "iban": 0, "card": 2, "phone": 0, "number": 0}
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
