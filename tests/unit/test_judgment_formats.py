"""Judgment lists and qrels: a round trip through either loses nothing, and what they cannot hold is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import Serm
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from serm import contracts
from serm.errors import UserError
from serm.stream import judgments

ESCI_RATINGS = (0.0, 1.0, 10.0, 100.0)
ESCI_SCALE = judgments.scale("0,1,10,100")
FORMATS = ("list.json", "judged.qrels")
QUERY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1, max_size=12)
QUERY = QUERY.filter(lambda text: text == text.strip(" \f\v"))  # blanks around a text are none of it
DOC_ID = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def esci(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The judgments of ESCI's sample, as published."""
    path = tmp_path_factory.mktemp("esci") / "judgments.json"
    packed = Path(__file__).parents[1] / "data/esci-us/judgments.json.gz"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


def table(pairs: dict[tuple[str, str], int]) -> pa.Table:
    head = {"locale": "en", "source": "seed", "cycle": 0, "rationale": None, "panel_version": None, "agreement": None}
    rows = [
        {"query": query, "doc_id": doc_id, "grade": pairs[query, doc_id], **head} for query, doc_id in sorted(pairs)
    ]
    return pa.Table.from_pylist(rows, contracts.JUDGMENTS)


@pytest.mark.parametrize("form", judgments.FORMATS)
@settings(max_examples=examples(30))
@given(pairs=st.dictionaries(st.tuples(QUERY, DOC_ID), st.integers(0, 3), min_size=1, max_size=8))
def test_a_round_trip_loses_nothing(
    form: judgments.Format, pairs: dict[tuple[str, str], int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("judged") / "judged"
    judgments.write(table(pairs), path, form=form)
    read = judgments.read(path, "en")
    assert (read.judgments, read.quarantined) == (table(pairs), [])


@pytest.mark.parametrize("form", judgments.FORMATS)
def test_a_round_trip_keeps_what_looks_like_something_else(form: judgments.Format, tmp_path: Path) -> None:
    queries = ("requests", "hits", "judgmentRatings", "query", "rating", "doc_id", "# 1 dad", '5" pipe', "a,b;c", "0x1")
    pairs = {(query, doc): place % 4 for place, query in enumerate(queries) for doc in ("hits", "7", "rating")}
    judgments.write(table(pairs), tmp_path / "judged", form=form)
    read = judgments.read(tmp_path / "judged", "en")
    assert (read.judgments, read.quarantined) == (table(pairs), [])


def test_beir_finds_queries_and_qrels_where_it_looks(tmp_path: Path) -> None:
    other = tmp_path / "set" / "queries.jsonl"
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    judgments.write(table({("red lamp", "d1"): 3}), tmp_path / "set/qrels/test.tsv", form="beir")
    assert (tmp_path / "set/qrels/test.tsv").read_text().splitlines()[0] == "query-id\tcorpus-id\tscore"
    assert json.loads(other.read_text())["text"] == "red lamp"
    other.write_text('{"_id": "7", "text": "somebody else\'s"}\n')
    with pytest.raises(UserError, match="holds other queries"):
        judgments.write(table({("red lamp", "d1"): 3}), tmp_path / "set/qrels/test.tsv", form="beir")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.sampled_from(["lamp", "d1", "", "3"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["judgmentRatings", "requests", "ratings", "hits", "_source", "query", "id", "docId", "_id", "rating"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=examples(150))
@given(content=JSON)
def test_no_json_gives_a_traceback_and_every_row_is_accounted_for(
    content: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "file.json"
    path.write_text(json.dumps(content))
    try:
        read = judgments.read(path, "en")
    except UserError:
        return
    assert read.rows == read.judgments.num_rows + len(read.quarantined)


def test_qrels_are_trecs_and_their_queries_stand_beside(tmp_path: Path) -> None:
    judgments.write(table({("red lamp", "d1"): 3, ("a rug", "d2"): 0}), tmp_path / "x.qrels")
    # A query's id follows from its text: a list and texts of two moments never name another query.
    assert (tmp_path / "x.qrels").read_text() == "q626f0e3d316e6ec5 0 d2 0\nqfeb5946b649eace8 0 d1 3\n"
    assert (tmp_path / "x.qrels.queries.tsv").read_text() == "q626f0e3d316e6ec5\ta rug\nqfeb5946b649eace8\tred lamp\n"


@pytest.mark.parametrize("name", FORMATS)
def test_esci_comes_back_whole(name: str, esci: Path, tmp_path: Path) -> None:
    read = judgments.read(esci, "en", ESCI_SCALE).judgments
    assert [read["grade"].to_pylist().count(grade) for grade in range(4)] == [1086, 305, 1898, 3389]
    judgments.write(read, tmp_path / name, ESCI_RATINGS)
    assert judgments.read(tmp_path / name, "en", ESCI_SCALE).judgments == read
    if name == "list.json":
        lists = [json.loads(path.read_text())["judgmentRatings"] for path in (esci, tmp_path / name)]
        before, after = (
            {(one["query"], each["docId"]): each["rating"] for one in many for each in one["ratings"]} for many in lists
        )
        assert before == after


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "not an OpenSearch judgment list"),
        (
            '{"judgmentRatings": [{"query": "a", "ratings": [{"docId": "d", "rating": "7"}]}]}',
            "its ratings are 7; say which are grade 0, 1, 2 and 3",
        ),
        (
            '{"judgmentRatings": [{"query": "a", "ratings": [{"docId": "d", "rating": 1}, '
            '{"docId": "d", "rating": 2}]}]}',
            "'d' is rated twice for 'a'",
        ),
    ],
)
def test_a_wrong_list_is_explained(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(UserError, match=words):
        judgments.read(tmp_path / "list.json", "en")


@pytest.mark.parametrize(
    ("qrels", "queries", "words"),
    [
        ("q1 0\n", "q1\ta\n", "its first line, 'q1 0', is neither one of TREC's qrels"),
        ("q2 0 d1 2\n", "q1\ta\n", "line 1: its query 'q2' is not in the queries' file"),
        ("q1 0 d1 good\n", "q1\ta\n", "its ratings are 'GOOD'; .* --ratings '0=GOOD'"),
        ("q1 0 d1 2\n", "q1 a\n", "line 1 is neither id, tab, text"),
        ("q1 0 d1 2\n", "q1\ta\nq1\tb\n", "line 2 gives the query 'q1' a second text"),
        ("# nothing\n\n", "q1\ta\n", "it holds no judgments"),
    ],
)
def test_wrong_qrels_are_explained(qrels: str, queries: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.qrels").write_text(qrels)
    (tmp_path / "x.qrels.queries.tsv").write_text(queries)
    with pytest.raises(UserError, match=words):
        judgments.read(tmp_path / "x.qrels", "en")


def test_what_the_formats_cannot_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="white space"):
        judgments.write(table({("a", "d 1"): 1}), tmp_path / "x.qrels")
    one = table({("a", "d"): 1}).to_pylist()[0]
    with pytest.raises(UserError, match="have de, en"):
        judgments.write(pa.Table.from_pylist([one, {**one, "locale": "de"}], contracts.JUDGMENTS), tmp_path / "x.json")


def test_the_command_line_adds_judgments_and_gives_the_newest_back(tmp_path: Path, serm: Serm) -> None:
    contracts.write(table({("lamp", "d1"): 3}), tmp_path / "state/judgments", contracts.JUDGMENTS)
    judgments.write(table({("lamp", "d1"): 0, ("rug", "d2"): 2}), tmp_path / "new.json")
    done = serm("judgments", "import", "new.json", "--locale", "en", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"rows": 2, "quarantined": 0, "of_other_locales": 0} | {
        "read_as": "an OpenSearch judgment list",
        "read": 2,
        "added": 1,
        "judged_before": 1,
        "judgments": 2,
    }
    german = serm("judgments", "import", "new.json", "--locale", "de", "--json", cwd=tmp_path)
    assert json.loads(german.stdout)["judgments"] == 4
    done = serm("judgments", "export", "out.qrels", "--locale", "en", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"written": 2, "queries": 2, "of_other_locales": 2}
    assert judgments.read(tmp_path / "out.qrels", "en").judgments == table({("lamp", "d1"): 0, ("rug", "d2"): 2})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "nowhere.json", "--locale", "en"), "nowhere.json: cannot be read (No such file or directory)"),
        (("import", "nowhere.json", "--locale", "en", "--ratings", "1,2"), "expected four different numbers"),
        (("export", "x.json", "--locale", "en"), "state/judgments: no Parquet files"),
    ],
)
def test_the_command_line_explains_a_mistake(
    arguments: tuple[str, ...], words: str, tmp_path: Path, serm: Serm
) -> None:
    done = serm("judgments", *arguments, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert words in done.stderr


def test_a_locale_without_judgments_is_told(tmp_path: Path, serm: Serm) -> None:
    contracts.write(table({("lamp", "d1"): 3}), tmp_path / "state/judgments", contracts.JUDGMENTS)
    done = serm("judgments", "export", "x.json", "--locale", "fr", cwd=tmp_path)
    assert "no judgments of locale 'fr'; it has en." in done.stderr


def test_esci_is_imported_from_the_command_line(esci: Path, tmp_path: Path, serm: Serm) -> None:
    done = serm("judgments", "import", str(esci), "--locale", "en", "--ratings", "0,1,10,100", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["added"] == 1086 + 305 + 1898 + 3389
    assert contracts.read(tmp_path / "state/judgments", contracts.JUDGMENTS) == (
        judgments.read(esci, "en", ESCI_SCALE).judgments
    )


@pytest.mark.parametrize(
    "content",
    [
        {"lamp": {"d1": 3, "d2": 0}, "rug": {"d1": 1}},
        {
            "requests": [
                {"id": "lamp", "request": {}, "ratings": [{"_id": "d1", "rating": 3}, {"_id": "d2", "rating": 0}]},
                {"id": "rug", "request": {}, "ratings": [{"_index": "shop", "_id": "d1", "rating": 1}]},
            ]
        },
    ],
)
def test_pytrecs_and_rank_evals_json_are_read(content: dict[str, object], tmp_path: Path) -> None:
    wanted = {("lamp", "d1"): 3, ("lamp", "d2"): 0, ("rug", "d1"): 1}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert judgments.read(tmp_path / "a.json", "en").judgments.select(["query", "doc_id", "grade"]).to_pylist() == [
        {"query": query, "doc_id": doc_id, "grade": grade} for (query, doc_id), grade in sorted(wanted.items())
    ]
    (tmp_path / "a.json.queries.tsv").write_text("lamp\tred lamp\nrug\ta rug\n")  # then they are ids
    assert set(judgments.read(tmp_path / "a.json", "en").judgments["query"].to_pylist()) == {"red lamp", "a rug"}
