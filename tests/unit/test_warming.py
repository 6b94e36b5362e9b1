"""Documents that are computed before they are asked for: each model's, after a swap too, within its room."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("kserve", reason="pip install 'serm[serve]'")

from serm import contracts
from serm.errors import UserError
from serm.relevance.known import KnownText, KnownTexts
from serm.serving import documents, warming
from serm.serving.batching import Batcher
from serm.serving.warming import FULL, Warming
from serm.settings.serving import PredictorSettings


class Model:
    def __init__(self, version: str, known: KnownTexts) -> None:
        self.version, self.known = version, known
        self.frozen = version
        self.computed = Counter[str]()

    def prepare(self, texts: Sequence[str]) -> None:
        if "word 13" in texts:
            raise RuntimeError("a document that the model cannot take")
        self.computed.update(texts)
        for text in texts:
            self.known.put((self.version, text), KnownText(np.zeros(2), np.zeros((1, 2)), False))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalogue")
    _write(path, path / "store.sqlite", [f"word {n}" for n in range(100)])
    return path / "store.sqlite"


def _write(folder: Path, store: Path, titles: Sequence[str]) -> None:
    rows = [
        {"doc_id": f"d{n}", "locale": "en", "title": title, "body": "", "published_at": 0, "attributes": []}
        for n, title in enumerate(titles)
    ]
    contracts.write(pa.Table.from_pylist(rows, contracts.DOCUMENTS), folder / "documents", contracts.DOCUMENTS)
    documents.write(folder / "documents", store)


def _run(
    store: Path, served: dict[str, Any], known: KnownTexts, batcher: Batcher, meanwhile: Callable[[], Any]
) -> None:
    async def run() -> None:
        stop = False
        task = asyncio.create_task(Warming(store, served, batcher, known).run(lambda: stop))
        await meanwhile()
        stop = True
        await task

    asyncio.run(asyncio.wait_for(run(), 60))


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_each_models_documents_are_computed_once_and_a_new_models_too(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warming, "LOOK_SECONDS", 0.001)
    known, batcher = KnownTexts(10_000_000), Batcher(PredictorSettings())
    first, second, third = (Model(version, known) for version in "abc")
    served: dict[str, Any] = {"champion": SimpleNamespace(model=first), "challenger": SimpleNamespace(model=second)}

    async def meanwhile() -> None:
        batcher.waiting = 1
        await asyncio.sleep(0.05)
        assert not first.computed  # somebody waits
        batcher.waiting = 0
        await _until(lambda: len(second.computed) == 92)
        served["champion"].model = third
        await _until(lambda: len(third.computed) == 92)

    _run(store, served, known, batcher, meanwhile)
    for model in (first, second, third):
        assert set(model.computed.values()) == {1}
        assert len(model.computed) == 92  # but for the eight with one that fails
        assert "word 13" not in model.computed


def test_a_full_cache_ends_it_and_nothing_is_put_out(store: Path) -> None:
    known, batcher = KnownTexts(80_000), Batcher(PredictorSettings())
    model = Model("a", known)
    _run(
        store, {"champion": SimpleNamespace(model=model)}, known, batcher, lambda: _until(lambda: known.bytes > 72_000)
    )
    assert FULL * 80_000 < known.bytes <= 80_000
    assert len(known) == len(model.computed) < 92


def test_a_new_model_finds_the_room_that_the_one_before_it_had(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "LOOK_SECONDS", 0.001)
    known, batcher = KnownTexts(80_000), Batcher(PredictorSettings())
    first, other, second = (Model(version, known) for version in "abc")
    served: dict[str, Any] = {"champion": SimpleNamespace(model=first)}

    async def meanwhile() -> None:
        await _until(lambda: known.bytes > 72_000)
        served["champion"].model = second
        served["challenger"] = SimpleNamespace(model=other)
        await _until(lambda: len(second.computed) > 64)
        assert known.peek(("a", "word 1")) is None

    _run(store, served, known, batcher, meanwhile)


def test_a_store_that_is_replaced_is_gone_through_again_and_one_that_is_none_is_left(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warming, "LOOK_SECONDS", 0.001)
    known, batcher = KnownTexts(10_000_000), Batcher(PredictorSettings())
    model, mine, beside = Model("a", known), tmp_path / "store.sqlite", tmp_path / "beside"
    _write(tmp_path, mine, ["word 1", "word 2"])

    async def meanwhile() -> None:
        await _until(lambda: len(model.computed) == 2)
        beside.write_bytes(b"no store")
        beside.replace(mine)
        await _until(lambda: "stay as they were" in caplog.text)
        _write(tmp_path, mine, ["word 2", "word 3"])
        await _until(lambda: len(model.computed) == 3)

    _run(mine, {"champion": SimpleNamespace(model=model)}, known, batcher, meanwhile)
    assert caplog.text.count("stay as they were") == 1


def test_a_store_without_its_table_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, tmp_path / "store.sqlite", ["word 1"])
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as file:
        file.execute("ALTER TABLE documents RENAME TO others")
    with pytest.raises(UserError, match="no document store"):
        documents.DocumentStore(tmp_path / "store.sqlite")
