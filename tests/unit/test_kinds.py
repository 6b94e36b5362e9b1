"""`make quick` leaves out what loads a model, starts a server, a JVM or a browser, without anyone marking it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kinds import HERE, KINDS, kinds


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import json\nfrom serm import contracts", set()),
        ("import torch.nn.functional as F", {"model"}),
        ("def test():\n    from serm import relevance", {"model"}),
        ("from serm.relevance.ordinal import grades", {"model"}),
        ("import torchless", set()),
        ('import pytest\npytest.importorskip("pyspark", reason="")', {"jvm"}),
        ("from browser import Tab", {"browser"}),
        ("import tiny_models", {"model"}),
        ("from kserve import Model", {"server"}),
        ("from fake_llm import FakeLLM", {"server"}),
        ('import pytest\nllama = pytest.importorskip("xllamacpp")', {"local_llm", "model", "server"}),
    ],
)
def test_a_file_is_of_the_kinds_of_what_it_imports_itself_or_through_a_helper(
    code: str, found: set[str], tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(code)
    assert kinds(tmp_path / "test_it.py") == found


def test_every_kind_is_that_of_a_file_and_most_of_the_unit_tests_are_of_none() -> None:
    files = sorted(HERE.glob("*/test_*.py"))
    assert set().union(*map(kinds, files)) == {*KINDS, "e2e"}
    unit = [path for path in files if path.parent.name == "unit"]
    assert sum(not kinds(path) for path in unit) > len(unit) / 2


def test_a_test_bears_its_kinds_as_markers(request: pytest.FixtureRequest) -> None:
    assert all(f"{kind}:" in " ".join(request.config.getini("markers")) for kind in (*KINDS, "e2e"))
    for item in request.session.items:
        if item.path.suffix == ".py":
            assert kinds(item.path) <= {marker.name for marker in item.iter_markers()}, item.nodeid
