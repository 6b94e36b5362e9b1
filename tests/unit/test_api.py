"""The way in for programmers: the examples of its docstrings run, and tables come back as they came."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny_models
from workspace_world import impressions

import serm
from serm import api, contracts, layout, relevance
from serm.errors import UserError
from serm.steps import TABLE

CLICKS = pa.table({"query_id": ["p"], "query": ["a"], "doc_id": ["d"], "position": [1], "clicked": [True]})
JUDGED = pa.table({"query": ["a", "a"], "grade": [1, 2], "champion": [0.0, 1.0], "challenger": [0.0, 1.0]})
HEAVY = {"torch", "kfp", "pandas", "duckdb", "ibis", "pyarrow", "numpy"}


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    tiny_models.save(folder / "model", folder / "base", seed=1)
    return folder / "model"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As little of a workspace as ingest needs."""
    (tmp_path / layout.DVC).mkdir()
    (tmp_path / layout.PARAMS).write_text(
        'cycle:\n  number: 1\n  start: "2017-05-01T00:00:00Z"\n  end: "2017-06-01T00:00:00Z"\n'
    )
    contracts.write(impressions("fox"), tmp_path / layout.LOG, contracts.IMPRESSIONS)
    return tmp_path


@pytest.mark.parametrize("name", serm.__all__)
def test_the_examples_run(name: str, champion: Path, directory: Path) -> None:
    (test,) = (
        one for one in doctest.DocTestFinder(recurse=False).find(getattr(serm, name), name, module=api, extraglobs={})
    )
    test.globs |= {"champion": champion, "directory": directory, name: getattr(serm, name)}
    assert len(test.examples) > 2
    assert doctest.DocTestRunner().run(test).failed == 0


def test_a_workspace_has_a_method_for_each_step(directory: Path) -> None:
    shop = serm.Workspace(directory / "log")
    assert shop.path == directory
    for step in TABLE:
        assert getattr(shop, step.name).__doc__ == step.help
    assert shop.ingest().keys() >= {"rows_kept", "seconds"}
    assert (directory / layout.CYCLE / "ingest" / "ingest.json").is_file()


def test_a_directory_of_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no workspace, which holds"):
        serm.Workspace(tmp_path)


def test_import_serm_imports_nothing_heavy() -> None:
    script = "import sys, serm; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_scores_are_the_models_own_beside_the_rows_that_were_given(champion: Path) -> None:
    pairs = pa.table({"query": ["cat", "dog"], "title": ["red cat", "heart"], "body": [None, "face"], "mine": [1, 2]})
    scored = serm.score(champion, pairs)
    own = relevance.load(champion).score(["cat", "dog"], ["red cat", "heart face"])
    assert scored.column_names[:4] == pairs.column_names
    np.testing.assert_allclose(scored["expected_grade"].to_numpy(), own.expected)
    np.testing.assert_allclose(sum(scored[f"pr_{grade}"].to_numpy() for grade in range(4)), 1, rtol=1e-6)


def test_a_comparison_of_equals_finds_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = [(locale, f"q{n}", grade) for locale in ("de", "en") for n in range(30) for grade in range(4)]
    judged = pd.DataFrame(rows, columns=["locale", "query", "grade"])
    judged["champion"] = judged["challenger"] = rng.random(len(judged))
    found = serm.compare(judged).set_index("measure")
    assert isinstance(found, pd.DataFrame)
    assert {"NDCG@1", "NDCG@10"} <= set(found.index)
    assert (found["queries"] == 60).all()
    assert (found["difference"] == 0).all()
    assert (found["p"] == 1).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: serm.compare(pa.table({"query": ["a"], "grade": [1]})), "champion, challenger is missing"),
        (
            lambda: serm.compare(pa.table({"query": ["a"], "grade": [1], "champion": [0.0], "challenger": [0.0]})),
            "no query has documents of different grades",
        ),
        (lambda: serm.fit_clicks(pd.DataFrame({"query": ["a"]})), "query_id, doc_id, position, clicked is missing"),
        (lambda: serm.fit_clicks(CLICKS, "pmb"), "model 'pmb' is none of auto, pbm"),
        (lambda: serm.compare(JUDGED, cutoffs=[0]), "greater than or equal to 1"),
        (lambda: serm.score("nowhere", pa.table({"title": ["a"]})), "query is missing"),
    ],
)
def test_a_table_that_will_not_do_is_one_sentence(call: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        call()
