"""Judgment files as others keep them: told by content, every row kept or set aside with its reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from judgment_trees import LAMPS
from typer.testing import CliRunner

from serm import contracts
from serm.cli import app
from serm.errors import UserError
from serm.stream import judgments

TEXTS = "19335\tanthropological definition of environment\n47923\taxon terminals\n"
ENVIRONMENT, AXON = "anthropological definition of environment", "axon terminals"


def kept(read: judgments.Imported) -> dict[tuple[str, str], int]:
    return {(row["query"], row["doc_id"]): row["grade"] for row in read.judgments.to_pylist()}


def write(path: Path, text: str, queries: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")
    if queries is not None:
        judgments.queries_path(path).write_text(queries)
    return path


QRELS = {
    "TREC DL": "19335 Q0 1017759 0\n19335 Q0 1082489 3\n47923 Q0 1017759 1\n",
    "MS MARCO": "19335\t0\t1017759\t0\n19335\t0\t1082489\t3\n47923\t0\t1017759\t1\n",
    "BEIR": "query-id\tcorpus-id\tscore\n19335\t1017759\t0\n19335\t1082489\t3\n47923\t1017759\t1\n",
    "NTCIR": "19335 1017759 L0\n19335 1082489 L3\n47923 1017759 L1\n",
    "three columns": "19335\t1017759\t0\n19335\t1082489\t3\n47923\t1017759\t1\n",
    "mixed space": "19335 \t 0  1017759 0\r\n\r\n19335 0 1082489\t3 \r\n# one\r\n// two\r\n47923 0 1017759 1\r\n",
}


@pytest.mark.parametrize("name", QRELS)
def test_public_qrels_are_read(name: str, tmp_path: Path) -> None:
    read = judgments.read(write(tmp_path / "x.qrels", "\ufeff" + QRELS[name], TEXTS), "en")
    assert kept(read) == {(ENVIRONMENT, "1017759"): 0, (ENVIRONMENT, "1082489"): 3, (AXON, "1017759"): 1}
    assert (read.rows, read.quarantined) == (3, [])


def test_beirs_queries_are_found_where_it_puts_them(tmp_path: Path) -> None:
    write(tmp_path / "queries.jsonl", '{"_id": "19335", "text": "environment"}\n{"_id": 47923, "text": "axon"}\n')
    read = judgments.read(write(tmp_path / "qrels" / "test.tsv", QRELS["BEIR"]), "en")
    assert {query for query, _ in kept(read)} == {"environment", "axon"}


def test_queries_by_id_need_their_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.qrels", QRELS["TREC DL"])
    with pytest.raises(UserError, match=r"it names queries by ids; give their texts with --queries FILE"):
        judgments.read(path, "en")
    given = write(tmp_path / "topics.tsv", TEXTS)
    assert judgments.read(path, "en", queries=given).rows == 3


TABLES = {
    "quepid": 'query,docid,rating\nred lamp,d1,3\n"lamp, red",d2,0\n',
    "quepid's export": 'Case,Query Text,Doc ID,Title,Rating\n1,red lamp,d1,"A\nlamp",3\n1,"lamp, red",d2,x,0\n',
    "tab": "query\tdoc_id\tgrade\nred lamp\td1\t3\nlamp, red\td2\t0.0\n",
    "semicolon": "Query;Document ID;Relevance\nred lamp;d1;3\nlamp, red;d2;0\n",
    "no header": 'red lamp,d1,3\n"lamp, red",d2,0\n',
    "esci": "example_id,query,query_id,product_id,product_locale,esci_label\n"
    '0,red lamp,7,d1,en,E\n1,"lamp, red",8,d2,,I\n',
    "other names": 'Search Term,SKU,Points\nred lamp,d1,3\n"lamp, red",d2,0\n',
    "other order": 'item,search,points\nd1,red lamp,3\nd2,"lamp, red",0\n',
    "blanks": 'query , docid,rating\n red lamp , d1 ,3\n" lamp, red",d2\t, 0\n',
    "judges": 'query,docid,Ada,Ben,Cy\nred lamp,d1,3,,\n"lamp, red",d2,0,0,2\n',
    "json": '[{"query": "red lamp", "docId": "d1", "rating": "3"}, {"query": "lamp, red", "docId": "d2", "rating": 0}]',
    "json lines": '# made by hand\n{"query": "red lamp", "doc_id": "d1", "rating": 3.0}\n\n'
    '{"query": "lamp, red", "doc_id": "d2", "rating": 0}\n',
}

TABLES |= {name: json.dumps(tree) for name, tree in LAMPS.items()}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_whatever_their_separator(name: str, tmp_path: Path) -> None:
    read = judgments.read(write(tmp_path / "judged", "\ufeff" + TABLES[name].replace("\n", "\r\n")), "en")
    assert (kept(read), read.quarantined) == ({("red lamp", "d1"): 3, ("lamp, red", "d2"): 0}, [])
    assert (read.form, read.notes) != ("", [])


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zstd(data)])
def test_a_packed_file_is_read(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    for name in ("quepid", "json", "quepid's book"):
        (tmp_path / "judged").write_bytes(pack(TABLES[name].encode()))
        assert kept(judgments.read(tmp_path / "judged", "en")) == {("red lamp", "d1"): 3, ("lamp, red", "d2"): 0}
    (tmp_path / "judged").write_bytes(pack(TABLES["quepid"].encode())[:-9])
    with pytest.raises(UserError, match="breaks off"):
        judgments.read(tmp_path / "judged", "en")


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


def test_judges_that_differ_evenly_and_pairs_that_nobody_rated_are_set_aside(tmp_path: Path) -> None:
    read = judgments.read(write(tmp_path / "t.csv", "query,docid,Ada,Ben\na,d1,3,1\nb,d1,,\nc,d1,2,2\n"), "en")
    assert kept(read) == {("c", "d1"): 2}
    assert [one.reason for one in read.quarantined] == ["its judges differ evenly (3, 1)", "nobody rated it"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "article,what,stars\nd1,lamp,3\n",
            r"its line 1, 'article,what,stars', has no rating as the others do: .*header",
        ),
        ("query,docid,remark\nlamp,d1,fine\n", r"its header \(query, docid, remark\) has no column .* as a rating is"),
        (
            '{"id": 7, "title": "lamp"}\n{"id": 8, "title": "rug"}\n',
            r"JSON of no known format; its first line is '\{.*An object a line has query,",
        ),
        ("a,b\n1,2\n", r"its first line, 'a,b', is neither .* nor a header with query, doc_id and rating"),
        ("query;rating\nlamp;3\n", r"its header .* as a doc_id is; call it doc_id, docid, docno or the like"),
    ],
)
def test_a_header_without_a_known_name_is_no_judgment_and_no_guess(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        judgments.read(write(tmp_path / "t.csv", text), "en")


def test_rows_of_one_other_locale_are_not_made_the_locale_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "query,docid,rating,locale\na,d,1,de\nb,d,2,de\n")
    with pytest.raises(UserError, match="it has rows of de, and none of --locale en; name one of them"):
        judgments.read(path, "en")
    assert set(judgments.read(path, "en", all_locales=True).judgments["locale"].to_pylist()) == {"de"}
    write(path, "query,docid,rating,locale\na,d,1,de\nb,d,2,\n")
    read = judgments.read(path, "en")
    assert (kept(read), read.of_other_locales) == ({("b", "d"): 2}, 1)


def test_ids_in_the_place_of_queries_are_told(tmp_path: Path) -> None:
    eval_ = {"requests": [{"id": "q1", "ratings": [{"_id": "d", "rating": 1}]}]}
    for tree, words in ((eval_, "1 do not tell what they search for"), ({"q17": {"d": 1}}, "look like ids")):
        path = write(tmp_path / "t.json", json.dumps(tree))
        (note,) = judgments.read(path, "en").notes
        assert words in note
        assert "give their texts with --queries" in note
    given = write(tmp_path / "texts.tsv", "q17\tred lamp\n")
    read = judgments.read(path, "en", queries=given)
    assert (kept(read), read.notes) == ({("red lamp", "d"): 1}, [])


def test_escis_own_parquet_is_read_one_locale_at_a_time(tmp_path: Path) -> None:
    labels = {"query": ["a", "a", "b", "c"], "query_id": [1, 1, 2, 3], "product_id": ["p", "q", "p", "p"]}
    labels |= {"product_locale": ["us", "us", "us", "jp"], "esci_label": ["E", "S", "C", "I"]}
    pq.write_table(pa.table(labels), tmp_path / "examples.parquet")
    read = judgments.read(tmp_path / "examples.parquet", "us")
    assert kept(read) == {("a", "p"): 3, ("a", "q"): 2, ("b", "p"): 1}
    assert (read.rows, read.of_other_locales) == (4, 1)
    with pytest.raises(UserError, match="it has rows of jp, us, and none of --locale en"):
        judgments.read(tmp_path / "examples.parquet", "en")


def ratings_of(*pairs: tuple[object, object, object]) -> str:
    lists = [{"query": query, "ratings": [{"docId": doc_id, "rating": rating}]} for query, doc_id, rating in pairs]
    return json.dumps({"judgmentRatings": lists})


def test_a_document_is_the_same_as_number_and_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "list.json", ratings_of(("a", 17, 1), ("a", "18", "2"), ("b", "17", 3), ("a", "17", 1)))
    read = judgments.read(path, "en")
    assert kept(read) == {("a", "17"): 1, ("a", "18"): 2, ("b", "17"): 3}
    assert [(one.where, one.reason) for one in read.quarantined] == [("rating 4", "it repeats rating 1")]


def test_a_list_as_opensearchs_api_gives_it_back_is_read(tmp_path: Path) -> None:
    text = json.dumps({"hits": {"hits": [{"_id": "1", "_source": json.loads(ratings_of(("a", "d", 2)))}]}})
    assert kept(judgments.read(write(tmp_path / "list.json", text), "en")) == {("a", "d"): 2}


@pytest.mark.parametrize(
    ("query", "doc_id", "rating", "reason"),
    [
        (None, "d", 1, "it has no query"),
        ("", "d", 1, "it has no query"),
        (["a"], "d", 1, "it has no query"),
        ("a", None, 1, "it has no document"),
        ("a", True, 1, "it has no document"),
        ("a", "d", None, "it has no rating"),
        ("a", "d", "", "it has no rating"),
        ("a", "d", "good", "its rating 'good' has no grade"),
        ("a", "d", True, "its rating 'True' has no grade"),
        ("a", "d", "nan", "its rating 'nan' has no grade"),
        ("half \ud800", "d", 1, "it is not UTF-8"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(
    query: object, doc_id: object, rating: object, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "list.json", ratings_of(("fine", "d", 2), (query, doc_id, rating)))
    read = judgments.read(path, "en")
    assert kept(read) == {("fine", "d"): 2}
    assert [(one.where, one.reason) for one in read.quarantined] == [("rating 2", reason)]
    with pytest.raises(UserError, match="none of 1 rows can be kept; rating 1: " if reason[-5:] != "grade" else "."):
        judgments.read(write(tmp_path / "list.json", ratings_of((query, doc_id, rating))), "en")


def test_grades_that_contradict_each_other_are_both_set_aside(tmp_path: Path) -> None:
    read = judgments.read(write(tmp_path / "t.csv", "query,docid,rating\na,d,1\na,d,2\na,e,3\n"), "en")
    assert kept(read) == {("a", "e"): 3}
    assert [one.where for one in read.quarantined] == ["line 2", "line 3"]
    assert "'d' is rated twice for 'a', with different grades; keep one" in read.quarantined[0].reason


def test_quotes_hide_a_comment_and_a_stray_quote_takes_no_other_row(tmp_path: Path) -> None:
    text = 'query,docid,rating\n"#1 dad",d1,3\n5" pipe,d2,2\n"odd,d3,1\n"two\n#lines",d4,0\n"exact" words,d5,1\nx,y\n'
    read = judgments.read(write(tmp_path / "t.csv", text), "en")
    assert kept(read) == {
        ("#1 dad", "d1"): 3,
        ('5" pipe', "d2"): 2,
        ('"odd', "d3"): 1,
        ("two\n#lines", "d4"): 0,
        ('"exact" words', "d5"): 1,
    }
    assert [(one.where, one.reason) for one in read.quarantined] == [("line 8", "it has 2 fields, not 3")]


def test_bytes_that_are_no_utf_8_cost_their_row_only(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("query,docid,rating\nb\u00fccher,d1,3\n".encode() + b"b\xfccher,d2,3\n")
    read = judgments.read(tmp_path / "t.csv", "de")
    assert kept(read) == {("b\u00fccher", "d1"): 3}
    assert [(one.where, one.reason) for one in read.quarantined] == [("line 3", "it is not UTF-8")]
    (tmp_path / "t.csv").write_bytes("query\tdocid\trating\nb\u00fccher\td1\t3\n".encode("utf-16"))
    assert kept(judgments.read(tmp_path / "t.csv", "de")) == {("b\u00fccher", "d1"): 3}


@pytest.mark.parametrize(
    ("ratings", "option", "grades"),
    [
        ((-1, 0, 1, 2, 3, 4), "0=-1,0;1=1;2=2;3=3,4", [0, 0, 1, 2, 3, 3]),
        ((0.0, 0.249, 0.25, 0.5, 0.75, 1.0), "0.25,0.5,0.75", [0, 0, 1, 2, 3, 3]),
        ((0, 1, 10, 100), "0,1,10,100", [0, 1, 2, 3]),
        (("bad", "ok", "Great"), "0=bad;2=ok;3=great", [0, 2, 3]),
    ],
)
def test_ratings_become_grades_by_a_map_or_by_bands(
    ratings: tuple[object, ...], option: str, grades: list[int], tmp_path: Path
) -> None:
    rows = "".join(f"q{number},d,{rating}\n" for number, rating in enumerate(ratings))
    read = judgments.read(write(tmp_path / "t.csv", "query,docid,rating\n" + rows), "en", judgments.scale(option))
    assert (read.judgments["grade"].to_pylist(), read.quarantined) == (grades, [])


@pytest.mark.parametrize(
    ("ratings", "words"),
    [
        ((-1, 0, 1, 2, 3, 4), "its ratings are -1, 0, 1, 2, 3, 4; .* --ratings '0=-1,0;1=1;2=2;3=3,4'"),
        (tuple(n / 40 for n in range(41)), "its ratings are 41 numbers from 0 to 1; .* --ratings '0.25,0.5,0.75'"),
        ((0, 0.5, 1), "its ratings are 0, 0.5, 1; .* --ratings '0.25,0.5,0.75'"),
        (("bad", "good"), "its ratings are 'BAD', 'GOOD'; .* --ratings '0=BAD;1=GOOD'"),
    ],
)
def test_without_a_map_one_sentence_names_the_ratings_and_an_option_that_reads_them(
    ratings: tuple[object, ...], words: str, tmp_path: Path
) -> None:
    rows = "".join(f"q{number},d,{rating}\n" for number, rating in enumerate(ratings))
    path = write(tmp_path / "t.csv", "query,docid,rating\n" + rows)
    with pytest.raises(UserError, match=words) as raised:
        judgments.read(path, "en")
    option = str(raised.value).split("--ratings '")[1].split("'")[0]
    assert judgments.read(path, "en", judgments.scale(option)).judgments.num_rows == len(ratings)


@pytest.mark.parametrize(
    "option", ["", "1,2", "1,1,2,3", "0.5,0.5,0.7", "3,2,1", "4=1", "0=1;1=1", "0=;1=2", "a,b,c,d", "0"]
)
def test_an_option_of_no_known_form_is_explained(option: str) -> None:
    with pytest.raises(UserError, match="expected four different numbers"):
        judgments.scale(option)


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), min_size=1, max_size=6)
FIELD = FIELD.filter(lambda text: text == text.strip(" \t\n\f\v"))  # blanks around a text are none of it


@given(
    rows=st.dictionaries(st.tuples(FIELD, st.text('ab"#,;1', min_size=1, max_size=5)), st.integers(0, 3), min_size=1),
    separator=st.sampled_from([",", "\t", ";"]),
)
@settings(max_examples=examples(200))
def test_what_is_quoted_comes_back_whatever_it_holds(
    rows: dict[tuple[str, str], int], separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [separator.join([quoted(query), quoted(doc), str(grade)]) for (query, doc), grade in rows.items()]
    path = tmp_path_factory.mktemp("table") / "t"
    read = judgments.read(write(path, separator.join(["query", "docid", "rating"]) + "\n" + "\n".join(lines)), "en")
    assert (kept(read), read.quarantined) == (rows, [])


@given(content=st.binary(max_size=80) | st.text('ab01 \t,;"#/\n\r{}[]:', max_size=80).map(str.encode))
@settings(max_examples=examples(400))
def test_no_file_gives_a_traceback_and_every_row_is_accounted_for(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    judgments.queries_path(path).write_text("a\tred lamp\n1\trug\n")
    try:
        read = judgments.read(path, "en")
    except UserError:
        return
    assert read.rows == read.judgments.num_rows + len(read.quarantined) + read.of_other_locales


def test_the_command_line_sets_bad_rows_aside_and_says_where(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "query,docid,rating\na,d,4\na,,1\nb,d,-1\nb\n")
    out = ["--judgments", str(tmp_path / "state"), "--locale", "en", "--json"]
    refused = CliRunner().invoke(app, ["judgments", "import", str(file), *out])
    assert "its ratings are -1, 1, 4" in str(refused.exception)
    done = CliRunner().invoke(app, ["judgments", "import", str(file), *out, "--ratings", "0=-1,0;1=1;2=2;3=3,4"])
    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["read"], figures["quarantined"]) == (4, 2, 2)
    assert "2 of 4 rows are no judgments" in done.stderr
    aside = [json.loads(line) for line in (tmp_path / "t.csv.quarantine.jsonl").read_text().splitlines()]
    assert aside == [
        {"where": "line 3", "reason": "it has no document", "row": "a,,1"},
        {"where": "line 5", "reason": "it has 1 fields, not 3", "row": "b"},
    ]
    assert contracts.read(tmp_path / "state", contracts.JUDGMENTS)["grade"].to_pylist() == [3, 0]
    write(file, "query,docid,rating\na,d,3\n")
    assert CliRunner().invoke(app, ["judgments", "import", str(file), *out]).exit_code == 0
    assert not (tmp_path / "t.csv.quarantine.jsonl").exists()


def test_the_file_itself_is_never_its_quarantine(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "query,docid,rating\na,d,1\n")
    refused = CliRunner().invoke(app, ["judgments", "import", str(file), "--locale", "en", "--quarantine", str(file)])
    assert "is FILE itself" in str(refused.exception)
    assert file.read_text().endswith("a,d,1\n")
