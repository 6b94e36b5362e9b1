"""A catalogue as a team has it becomes documents, whatever its form; each one is kept or set aside with a reason."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from serm import catalogue, contracts
from serm.cli import app
from serm.errors import UserError
from serm.settings import Settings

MakeSettings = Callable[..., Settings]
LAMP = {
    "id": 7,
    "title": "Red  lamp",
    "description": "A lamp.",
    "text": ["It is red.", "", "It glows."],
    "lang": "de",
    "created_at": "2017-05-06T07:08:09+02:00",
    "price": 9.5,
    "size": {"w": 1, "h": [2, 3]},
    "tags": ["a", "b c"],
    "gone": None,
}
RUG = {"id": "r/1", "title": "Rug", "lang": "en", "created_at": 1493000000000}
KEPT = {
    "7": ("de", "Red  lamp", "A lamp.\nIt is red.\nIt glows.", datetime(2017, 5, 6, 5, 8, 9, tzinfo=UTC)),
    "r/1": ("en", "Rug", "", datetime(2017, 4, 24, 2, 13, 20, tzinfo=UTC)),
}
ATTRIBUTES = {"price": "9.5", "size": '{"w":1,"h":[2,3]}', "tags": '["a","b c"]', "gone": None}


@pytest.fixture(scope="module")
def params(make_settings: MakeSettings) -> Settings:
    return make_settings(engine={"threads": 1})


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


def taken(path: Path, params: Settings, **asked: Any) -> tuple[catalogue.Taken, dict[str, dict[str, Any]], list[Any]]:
    """Import ``path``: what became of it, the documents by id, and what is set aside."""
    out, bad = path.parent / "out/documents", path.parent / "out/bad.jsonl"
    found = catalogue.import_documents(path, out, bad, catalogue.Asked(**asked), params)
    rows = contracts.read(out, contracts.DOCUMENTS).to_pylist()
    aside = [json.loads(line) for line in bad.read_text().splitlines()] if bad.exists() else []
    assert (len(rows), len(aside)) == (found.figures["kept"], found.figures["quarantined"])
    assert found.figures["rows"] == len(rows) + len(aside)
    return found, {row["doc_id"]: row for row in rows}, aside


def plain(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["locale"], row["title"], row["body"], row["published_at"]


def bulk(*records: dict[str, Any]) -> bytes:
    pairs = [({"index": {"_index": "shop", "_id": str(one["id"])}}, one) for one in records]
    return lines(*(each for pair in pairs for each in pair))


def dumped(*records: dict[str, Any]) -> bytes:
    return lines(*({"_index": "shop", "_id": str(one["id"]), "_score": 1, "_source": one} for one in records))


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", lines(LAMP, RUG)),
        ("a.json", b"\xef\xbb\xbf" + json.dumps([LAMP, RUG], indent=1).encode()),
        ("bulk.ndjson", bulk(LAMP, RUG)),
        ("elasticdump.json", dumped(LAMP, RUG)),
        ("packed.gz", gzip.compress(lines(LAMP)) + gzip.compress(lines(RUG))),
        ("packed.zst", zstd(lines(LAMP, RUG))),
        ("hits.json", json.dumps([json.loads(line) for line in dumped(LAMP, RUG).splitlines()]).encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",  # a packed file holds the time
)
def test_json_in_each_of_its_forms_gives_the_same_documents(
    name: str, data: bytes, params: Settings, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    found, rows, _ = taken(tmp_path / name, params)
    assert {doc_id: plain(row) for doc_id, row in rows.items()} == KEPT
    assert {key: value for key, value in rows["7"]["attributes"] if key != "id"} == ATTRIBUTES
    told = found.fields.told()
    assert {told["id"], told["body"], told["locale"]} <= {"id", "_id", "description, text", "lang"}


def test_only_blanks_are_cut_off_the_ends_of_a_text(params: Settings, tmp_path: Path) -> None:
    path = tmp_path / "products.jsonl"
    path.write_bytes(lines({"id": "v7v", "title": "\t\x0bvivid tv\f", "body": " vvv\r\n", "locale": "sv"}))
    assert taken(path, params)[1].keys() == {"v7v"}
    (row,) = taken(path, params)[1].values()
    assert (row["title"], row["body"], row["locale"]) == ("vivid tv", "vvv", "sv")


def test_tables_and_parquet_give_documents_too(params: Settings, tmp_path: Path) -> None:
    lamp = {**LAMP, "text": 'It is "red";\n\nit\tglows, 27" high.'}
    for name, separator in (("a.csv", ","), ("a.tsv", "\t"), ("semicolons.csv", ";")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([list(lamp), list(lamp.values()), [RUG.get(key, "") for key in lamp]])
        _, rows, _ = taken(tmp_path / name, params)
        assert rows["7"]["body"] == f"A lamp.\n{lamp['text']}"
        assert plain(rows["r/1"]) == KEPT["r/1"]
    table = pa.Table.from_pylist([{**LAMP, "id": 7.0}, {**RUG, "id": 8.0, "created_at": None}])
    pq.write_table(table, tmp_path / "a.parquet")
    _, rows, _ = taken(tmp_path / "a.parquet", params)
    assert plain(rows["7"]) == KEPT["7"]
    assert dict(rows["7"]["attributes"]) == ATTRIBUTES
    assert rows["8"]["published_at"] == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_directory_is_read_whole_and_a_quote_in_a_table_swallows_no_row(params: Settings, tmp_path: Path) -> None:
    (tmp_path / "shop/sub").mkdir(parents=True)
    (tmp_path / "shop/a.tsv").write_text('id\ttitle\n1\t27" screen\n2\t"Best" phone\n3\t"no end\n4\tx\ty\n\n5\tlast\n')
    (tmp_path / "shop/sub/b.tsv.gz").write_bytes(gzip.compress(b"id\ttitle\n6\tsix\n1\tagain\n"))
    _, rows, aside = taken(tmp_path / "shop", params)
    titles = {doc_id: row["title"] for doc_id, row in rows.items()}
    assert titles == {"1": '27" screen', "2": '"Best" phone', "3": '"no end', "5": "last", "6": "six"}
    assert aside == [
        {"file": "a.tsv", "line": 5, "reason": "it has 3 fields, and the header 2"},
        {"file": "sub/b.tsv.gz", "line": 3, "reason": "it has the id of line 2 of a.tsv"},
    ]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'{"title": "x"}', "it has no id"),
        (b'{"id": "", "title": "x"}', "it has no id"),
        (b'{"id": true, "title": "x"}', "its id is neither a text nor a number"),
        (b'{"id": {"a": 1}, "title": "x"}', "its id is neither a text nor a number"),
        (b'{"id": "%s", "title": "x"}' % (b"i" * 513), "its id is longer than 512 bytes"),
        (b'{"id": "a\\u0007b", "title": "x"}', "its id has control characters"),
        (b'{"id": 1, "title": " "}', "it has no text"),
        (b'{"id": 1, "title": {"en": "x"}}', "its title is no text"),
        (b'{"id": 1, "title": "x", "body": [{"a": 1}]}', "its body is no text"),
        (b'{"id": 1, "title": "%s"}' % (b"t" * 10_001), "its title is longer than 10000 characters"),
        (b'{"id": 1, "title": "x", "body": "a\\u0000b"}', "its text has control characters"),
        (b'{"id": 1, "title": "x", "published_at": "soon"}', "its date is none"),
        (b'{"id": 1, "title": "x", "published_at": "infinity"}', "its date is none"),
        (b'{"id": 1, "title": "x", "title": "y"}', "it has a field twice"),
        (b'{"id": 1, "title": "x"', "not a whole JSON object on one line"),
        (b"[1]", "not a JSON object"),
        (b'{"id": 1, "title": "\xff"}', "not UTF-8"),
        (b'{"id": "good", "title": "again"}', "it has the id of line 1 of a.jsonl"),
        (b'{"delete": {"_id": "3"}}', "it deletes a document; name its id in a file for --gone"),
        (b'{"index": {"_id": "3"}}', "a bulk action that no document follows"),
    ],
)
def test_a_bad_document_is_set_aside_with_file_line_and_reason(
    record: bytes, reason: str, params: Settings, tmp_path: Path
) -> None:
    good = b'{"id": "good", "title": "lamp", "body": "", "published_at": "2017"}\n\n'
    (tmp_path / "a.jsonl").write_bytes(good + record + b"\n")
    _, rows, aside = taken(tmp_path / "a.jsonl", params, id="id")
    assert list(rows) == ["good"]
    assert aside == [{"file": "a.jsonl", "line": 3, "reason": reason}]


@pytest.mark.parametrize(
    ("name", "data", "asked", "words"),
    [
        (
            "a.jsonl",
            lines({"title": "x"}),
            {},
            "called as an id is; name it with --id; they have title",
        ),
        ("a.jsonl", lines({"id": 1}), {}, "called as a text is; name it with --title or --body; they have id"),
        ("a.jsonl", lines(RUG), {"title": "nme"}, r"no field 'nme' \(--title\); its documents have id, title"),
        ("a.jsonl", lines(RUG), {"locale": "langauge"}, "--locale 'langauge' is neither a field .* nor a locale"),
        ("a.jsonl", lines({"id": 1, "doc_id": 2, "title": "x"}), {}, "'id' and 'doc_id' may each be the id; .* --id"),
        ("a.jsonl", lines({"id": None, "title": "x"}), {}, "none of its 1 documents can be kept, with id from id"),
        ("a.json", b'{\n "id": 1\n}', {}, "its JSON goes over several lines; .* jq -c . "),
        ("a.json", json.dumps({"products": [LAMP]}, indent=1).encode(), {}, r"in 'products'; .* jq -c '.products\[\]'"),
        ("a.json", json.dumps({"total": 1, "products": [LAMP]}).encode(), {}, r"jq -c '.products\[\]'"),
        ("a.json", json.dumps({"took": 1, "hits": {"hits": [{"_id": "1"}]}}).encode(), {}, r"jq -c '.hits.hits\[\]'"),
        ("a.json", json.dumps({"hits": {"hits": [{"_id": "1"}]}}, indent=2).encode(), {}, r"jq -c '.hits.hits\[\]'"),
        ("a.json", b'[{"id": 1, "title": "x"}, {"id": ', {}, "the JSON array breaks off after its element 1"),
        ("a.json", b'[{"id": 1, "title": "x"}] {}', {}, "breaks off after its element 1 .*'{' where 'the end'"),
        ("a.json", b"[" * 100_000, {}, "nested too deep"),
        ("a.csv", b"id,title,title\n1,a,b\n", {}, "its header names 'title' 2 times"),
        ("a.csv", b"one column\n1\n", {}, "neither JSON .* by its first line"),
        ("a.csv", "id,title\n1,é\n".encode("utf-16"), {}, "it is UTF-16; write it as UTF-8"),
        ("a.gz", gzip.compress(lines(*[RUG] * 99))[:-9], {}, "the gzip stream breaks off here"),
        ("a.zst", zstd(lines(*[RUG] * 99))[:-9], {}, "the zstd stream breaks off here"),
        ("a.bz2", bz2.compress(b"x"), {}, "neither JSON"),
        ("a.parquet", b"PAR1 and so on", {}, "not readable as Parquet"),
        ("a.jsonl", b"\n \n", {}, "it holds no documents"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_a_catalogue_that_cannot_be_read_is_one_sentence_with_the_fix(
    name: str, data: bytes, asked: dict[str, Any], words: str, params: Settings, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
        catalogue.import_documents(tmp_path / name, tmp_path / "out", None, catalogue.Asked(**asked), params)
    assert not (tmp_path / "out").exists()
    for nowhere in (tmp_path / "nowhere", tmp_path):
        (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"no such file or directory|no file in it ends with"):
            catalogue.import_documents(nowhere, None, None, catalogue.Asked(), params)


def test_fields_are_named_nested_ones_too(params: Settings, tmp_path: Path) -> None:
    record = {"sku": "s1", "id": "i1", "product": {"name": "Lamp", "note": "red"}, "a.b": "first", "c": "last"}
    (tmp_path / "a.jsonl").write_bytes(lines(record))
    asked = {"id": "sku", "title": "product.name", "body": ["c", "a.b", "product.note"], "locale": "pt-BR"}
    _, rows, _ = taken(tmp_path / "a.jsonl", params, **asked)
    assert plain(rows["s1"])[:3] == ("pt-BR", "Lamp", "last\nfirst\nred")
    (tmp_path / "b.jsonl").write_bytes(lines({"_id": "p1", "text": "A passage.\nIt goes on."}))
    found, rows, _ = taken(tmp_path / "b.jsonl", params)
    assert plain(rows["p1"])[:3] == ("en", "A passage.", "A passage.\nIt goes on.")
    assert found.figures["titled_by_body"] == 1


def test_a_dry_run_writes_nothing_and_two_imports_write_the_same_bytes(params: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*({"id": n, "title": f"t{n}"} for n in range(50)), {"id": 1}))
    found = catalogue.import_documents(tmp_path / "a.jsonl", None, None, catalogue.Asked(), params)
    assert [row["doc_id"] for row in found.examples] == ["0", "1", "10"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    taken(tmp_path / "a.jsonl", params)
    first = (tmp_path / "out/documents/part-0.parquet").read_bytes()
    taken(tmp_path / "a.jsonl", params)
    assert (tmp_path / "out/documents/part-0.parquet").read_bytes() == first


def test_an_update_adds_changes_and_removes_by_id_and_counts_what_it_retires(
    params: Settings, tmp_path: Path, make_judgments: Callable[[], pa.Table]
) -> None:
    def update(records: list[dict[str, Any]], **how: Any) -> dict[str, Any]:
        (tmp_path / "new.jsonl").write_bytes(lines(*records))
        out, bad = tmp_path / "out/documents", tmp_path / "bad.jsonl"
        how = {"judgments": [tmp_path / "judgments"], **how}
        found = catalogue.update_documents(tmp_path / "new.jsonl", out, bad, catalogue.Asked(), params, **how)
        names = ("added", "changed", "unchanged", "removed", "documents")
        rows = contracts.read(out, contracts.DOCUMENTS).to_pylist()
        titles = {row["doc_id"]: row["title"] for row in rows}
        return {"counts": [found.figures[name] for name in names], "titles": titles, **found.figures}

    docs = [{"id": f"d{n}", "title": f"t{n}", "x": n} for n in range(4)]
    (tmp_path / "a.jsonl").write_bytes(lines(*docs))
    taken(tmp_path / "a.jsonl", params)
    contracts.write(make_judgments(), tmp_path / "judgments", contracts.JUDGMENTS)
    of_d3 = sum(doc_id == "d3" for doc_id in make_judgments()["doc_id"].to_pylist())
    changed = [{**docs[0], "title": "new"}, {**docs[1], "x": "other"}, docs[2], {"id": "d9", "title": "t9", "x": 9}]
    assert update(changed)["counts"] == [1, 2, 1, 0, 5]
    (tmp_path / "gone.txt").write_text("d3\nnever there\n")
    done = update(changed, gone=tmp_path / "gone.txt", dry_run=True)
    assert (done["counts"], done["gone_unknown"]) == ([0, 0, 4, 1, 4], 1)
    assert done["retired"] == {str(tmp_path / "judgments"): of_d3}
    assert of_d3 > 0
    assert "d3" in done["titles"]
    assert update(changed, gone=tmp_path / "gone.txt")["titles"] == {"d0": "new", "d1": "t1", "d2": "t2", "d9": "t9"}
    assert removed(tmp_path) == {"d3"}
    assert update([docs[3]])["titles"].keys() == {"d0", "d1", "d2", "d3", "d9"}
    assert removed(tmp_path) == set()
    assert update(changed, gone=tmp_path / "gone.txt")["counts"] == [0, 0, 4, 1, 4]
    # d0 is bad in the snapshot: that does not say that it is gone.
    done = update([{"id": "d0", "title": ""}, docs[2]], snapshot=True)
    assert (done["counts"], done["titles"]) == ([0, 0, 1, 2, 2], {"d0": "new", "d2": "t2"})
    assert removed(tmp_path) == {"d1", "d3", "d9"}
    (tmp_path / "gone.txt").write_text("d2\n")
    with pytest.raises(UserError, match="it names 'd2', which the new documents have"):
        update([docs[2]], gone=tmp_path / "gone.txt")


def removed(folder: Path) -> set[str]:
    path = folder / "out/documents/_removed"
    return set(contracts.read(path, contracts.REMOVED)["doc_id"].to_pylist()) if path.exists() else set()


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
RECORD = st.dictionaries(st.sampled_from(["id", "title", "body", "published_at", "_source", "a~/b", ""]), VALUE)


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(RECORD | VALUE, max_size=6),
    noise=st.binary(max_size=20) | st.just(b'{"index": {"_id": "1"}}\n'),
    form=st.sampled_from(["lines", "array", "table", "noise"]),
    packed=st.sampled_from([bytes, gzip.compress, zstd]),
)
def test_whatever_a_catalogue_holds_each_record_is_kept_or_set_aside_or_one_sentence_says_why_not(
    records: list[Any], noise: bytes, form: str, packed: Callable[[bytes], bytes], params: Settings, tmp_path: Path
) -> None:
    good = {"id": "good", "title": "Lamp"}
    head = lines(good) if form in ("lines", "noise") else b""
    match form:
        case "lines":
            data = head + lines(*records)
        case "array":
            data = json.dumps([good, *records]).encode()
        case "table":
            data = b"id,title\ngood,Lamp\n" + noise
        case _:
            data = noise + b"\n" + head
    (tmp_path / "a.file").write_bytes(packed(data))
    try:
        found, rows, _ = taken(tmp_path / "a.file", params)
    except UserError as error:
        known = form == "noise" or "may each be" in str(error)
        assert known, error  # noqa: PT017 (either is right)
        return
    assert "good" in rows
    if form in ("lines", "array"):
        assert found.figures["rows"] == 1 + len(records)


def test_a_field_within_is_found_however_deep_and_whichever_document_has_it(params: Settings, tmp_path: Path) -> None:
    path = tmp_path / "products.jsonl"
    first = {"id": 1, "product": {"sku": "x"}, "a": {"b": {}}, "title": "t"}
    second = {"id": 2, "product": {"name": "Lamp"}, "a": {"b": {"title": "Rug", "x/y": {"z": "deep"}}}, "a.b": "own"}
    path.write_bytes(lines(first, second))
    for name, title in (("product.name", "Lamp"), ("a.b.title", "Rug"), ("a.b.x/y.z", "deep"), ("a.b", "own")):
        _, rows, aside = taken(path, params, title=name, body=["title"])
        assert rows["2"]["title"] == title
        assert (set(rows), aside) == ({"1", "2"}, [])


def test_documents_go_without_any_that_come(params: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*({"id": f"d{n}", "title": f"t{n}"} for n in range(3))))
    taken(tmp_path / "a.jsonl", params)
    (tmp_path / "gone.txt").write_text("d1\nd7\n")
    arguments = ["documents", "update", f"--documents={tmp_path / 'out/documents'}"]
    done = CliRunner().invoke(app, [*arguments, f"--gone={tmp_path / 'gone.txt'}", "--json"])
    told = json.loads(done.stdout)
    assert [told[name] for name in ("added", "removed", "documents", "gone_unknown", "rows")] == [0, 1, 2, 1, 0]
    assert CliRunner().invoke(app, [*arguments, f"--gone={tmp_path / 'gone.txt'}"]).exit_code == 0
    for wrong in ([], ["--snapshot", f"--gone={tmp_path / 'gone.txt'}"]):
        assert "no PATH: give the files" in str(CliRunner().invoke(app, [*arguments, *wrong]).exception)
