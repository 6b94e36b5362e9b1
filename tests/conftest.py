"""Builders of small logs and catalogues that several tests use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from browser import tab  # noqa: F401  (a fixture)
from command_line import serm  # noqa: F401  (a fixture)
from examples import Share
from forked_dvc import forked_dvc  # noqa: F401  (a fixture)
from kinds import kinds
from wheel import installed, wheel  # noqa: F401  (fixtures)
from worlds import (  # noqa: F401  (fixtures)
    annotated,
    champion,
    cluster,
    cluster_server,
    continual,
    stored,
    template,
    upstream,
    variants,
    workspace,
)

from serm.contracts import DOCUMENTS, IMPRESSIONS, JUDGMENTS
from serm.settings import Settings

#: No deadline: a test's first example loads libraries. Where CI is set, the same examples each time.
hypothesis.settings.register_profile("serm", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("serm"), max_examples=20)
hypothesis.settings.load_profile("serm")

#: A JVM of the tests lives for a minute: Java's optimising compiler would work longer than what it compiles runs.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

START, END = datetime(2018, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)
LOCALES = ("de", "en", "fr")
DOCUMENT_COUNT, PAGE = 60, 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the files of a slow kind, and do not import them")


def pytest_configure(config: pytest.Config) -> None:
    Share.quick = bool(config.getoption("quick"))
    if Share.quick:
        hypothesis.settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass a slow file by before it is imported: torch and KServe alone take longer than most quick files."""
    slow = config.getoption("quick") and collection_path.name.startswith("test_") and kinds(collection_path)
    return True if slow else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the slow kinds that it is of, so that ``-m`` can leave them out; slow kinds come first.

    Workers take a file at a time (``--no-loadscope-reorder``: in this order): at the end none waits for a long one.
    """
    order = ("e2e", "jvm", "model", "server", "browser")
    of = {path: kinds(path) if path.suffix == ".py" else frozenset() for path in {item.path for item in items}}
    items.sort(key=lambda item: next((at for at, kind in enumerate(order) if kind in of[item.path]), len(order)))
    for item in items:
        for kind in of[item.path]:
            item.add_marker(kind)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and collected tests stay until the end: the garbage collector need not walk them again in every test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """No test cuts the power: what a process wrote before it was killed, the kernel has. A disk takes 4 ms a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    """Settings for the window 2018, with the sections given."""

    def make(**sections: object) -> Settings:
        cycle = {"number": 1, "start": START.isoformat(), "end": END.isoformat()}
        return Settings.model_validate({"cycle": cycle, **sections})

    return make


@pytest.fixture(scope="session")
def make_documents() -> Callable[[], pa.Table]:
    """A catalogue of ``d0`` to ``d59`` in three locales, published before the window."""

    def make() -> pa.Table:
        numbers = range(DOCUMENT_COUNT)
        columns = {
            "doc_id": [f"d{n}" for n in numbers],
            "locale": [LOCALES[n % len(LOCALES)] for n in numbers],
            "title": [f"title {n}" for n in numbers],
            "body": [""] * DOCUMENT_COUNT,
            "published_at": [datetime(2017, 12, 31, tzinfo=UTC)] * DOCUMENT_COUNT,
            "attributes": [[("emoji", str(n))] for n in numbers],
        }
        return pa.table(columns, schema=DOCUMENTS)

    return make


@pytest.fixture(scope="session")
def make_judgments() -> Callable[[], pa.Table]:
    """Seed judgments of the catalogue's documents, which break no rule."""

    def make() -> pa.Table:
        rows = [
            {"query": f"word{n % 7}", "locale": LOCALES[n % len(LOCALES)], "doc_id": f"d{n}", "grade": n % 4}
            | {"rationale": None, "source": "seed", "cycle": 0, "panel_version": None, "agreement": None}
            for n in range(DOCUMENT_COUNT)
        ]
        return pa.Table.from_pylist(rows, JUDGMENTS)

    return make


@pytest.fixture(scope="session")
def make_impressions() -> Callable[..., pa.Table]:
    """A log that breaks no rule: ``searches`` pages of five documents, spread over the window, Zipf queries."""

    def make(searches: int = 300, seed: int = 0, queries: int = 40) -> pa.Table:
        rng = np.random.default_rng(seed)
        size = searches * PAGE
        search = np.repeat(np.arange(searches), PAGE)
        position = np.tile(np.arange(1, PAGE + 1), searches)
        popularity = 1 / np.arange(1, queries + 1)
        query = rng.choice(queries, searches, p=popularity / popularity.sum())
        locale = rng.integers(len(LOCALES), size=searches)
        clicked = rng.random(size) < 0.3 / position
        seconds = np.sort(rng.integers(int((END - START).total_seconds()), size=searches))
        columns = {
            "event_time": [datetime.fromtimestamp(START.timestamp() + int(seconds[s]), UTC) for s in search],
            "query_id": [f"q{seed}-{s}" for s in search],
            "session_id": [f"s{seed}-{s // 3}" for s in search],
            "user_id": [f"u{s % 50}" for s in search],
            "locale": [LOCALES[locale[s]] for s in search],
            "query": [f"word{query[s]}" for s in search],
            "doc_id": [f"d{(query[s] + p) % DOCUMENT_COUNT}" for s, p in zip(search, position, strict=True)],
            "position": position,
            "clicked": clicked,
            "dwell_seconds": pa.array(rng.exponential(20, size), mask=~clicked),
            "click_seconds": pa.array(np.full(size, 2.5), mask=~clicked),
            "negative_feedback": np.zeros(size, dtype=bool),
            "score": np.clip(3 - position / 2 + rng.normal(0, 0.3, size), 0, 3),
            "model_version": ["abc"] * size,
            "variant": pa.nulls(size, pa.string()),
        }
        return pa.table(columns).cast(IMPRESSIONS)

    return make
