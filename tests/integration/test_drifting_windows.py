"""The drift step with Evidently: two halves of one window are quiet, an injected change evolves and is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from serm import contracts, drift
from serm.errors import UserError
from serm.settings import Settings

Make = Callable[..., pa.Table]
MakeSettings = Callable[..., Settings]


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


def run(folder: Path, reference: pa.Table, window: pa.Table, params: Settings) -> dict[str, Any]:
    contracts.write(reference, folder / "reference", contracts.IMPRESSIONS)
    contracts.write(window, folder / "validated/impressions", contracts.IMPRESSIONS)
    figures = drift.detect(folder / "reference", folder / "validated", folder / "out", params)
    report = json.loads((folder / "out/drift.json").read_text())
    assert figures["decision"] == report["decision"]
    return report


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_halves_of_one_window_are_quiet(
    seed: int, make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    # A long tail, so that each half has queries the other lacks: chance, not news.
    table = make_impressions(searches=6000, seed=seed, queries=3000)
    report = run(tmp_path, *halves(table), make_settings(drift={"sample_searches": 2000}))
    assert report["new_query_share"] > 0.1
    assert abs(report["new_query_share"] - report["expected_new_query_share"]) < 1.5 * report["new_query_margin"]
    assert report["new_query_margin"] < 0.05
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
        (new_locale, "locale sv is new: 10.0% of searches"),
        (new_queries, "10.0% of searches are for queries that the reference lacks"),
        (other_scores, "score drifted: wasserstein is"),
        (other_clicks, "clicked drifted: jensenshannon is"),
        (other_words, "query_length drifted: wasserstein is"),
    ],
)
def test_an_injected_change_evolves_and_is_named(
    inject: Callable[[pa.Table], pa.Table],
    reason: str,
    make_impressions: Make,
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    reference, window = make_impressions(searches=2000, seed=1), make_impressions(searches=2000, seed=2)
    report = run(tmp_path, reference, inject(window), make_settings(drift={"sample_searches": 1000}))
    assert report["decision"] == "evolve"
    assert any(given.startswith(reason) for given in report["reasons"]), report["reasons"]


def test_a_log_without_scores_is_compared_on_the_rest(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = make_impressions()
    bare = replaced(table, score=pa.nulls(table.num_rows, pa.float64()))
    assert "score" not in run(tmp_path, table, bare, make_settings())["columns"]


def test_two_runs_write_the_same_bytes_and_a_page_that_needs_no_network(
    make_impressions: Make, make_settings: MakeSettings, tmp_path: Path
) -> None:
    reference, window = make_impressions(seed=1), new_locale(make_impressions(seed=2))
    for name in ("one", "two"):
        run(tmp_path / name, reference, window, make_settings())
    for file in ("drift.json", "report.json", "report.html"):
        assert (tmp_path / "one/out" / file).read_bytes() == (tmp_path / "two/out" / file).read_bytes()
    head = (tmp_path / "one/out/report.html").read_text().partition("var global = globalThis")[0]
    assert not re.search(r"""(src|href)=|@import|url\((?!data:)""", head)


def test_an_empty_reference_is_explained(make_impressions: Make, make_settings: MakeSettings, tmp_path: Path) -> None:
    table = make_impressions(searches=10)
    with pytest.raises(UserError, match=r"reference: no impressions to compare"):
        run(tmp_path, table[:0], table, make_settings())
