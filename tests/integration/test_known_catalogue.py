"""A catalogue whose documents a model has computed beforehand: a server reads them, and scores as if it had not."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from command_line import Serm
from prometheus_client import REGISTRY
from serving_here import answering
from transforming import TITLES, write_catalogue

from serm import relevance
from serm.errors import UserError
from serm.relevance.encodings import Encoded
from serm.serving import predictor, states
from serm.serving.application import Application
from serm.serving.states import StateStore
from serm.settings.serving import PredictorSettings

SETTINGS = PredictorSettings(document_cache_mb=1)
DOCUMENTS = list(TITLES.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two models on one encoder, one on another, and a catalogue; without bf16, whose sums move with the batch."""
    root = tmp_path_factory.mktemp("catalogue")
    for seed, name in enumerate(("champion", "challenger")):
        tiny_models.save(root / name, root / "base", seed, [*tiny_models.WORDS, "stored"])
    tiny_models.save(root / "other", root / "base", 0, ["passage", "query", "dog"])
    write_catalogue(root / "documents", TITLES | {"d5": TITLES["d1"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        yield root


@pytest.fixture(scope="module")
def store(root: Path) -> Path:
    figures = states.write(root / "documents", root / "champion", root / "states.sqlite")
    assert {name: figures[name] for name in ("documents", "texts", "computed")} == dict(
        documents=5, texts=4, computed=4
    )
    return root / "states.sqlite"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The texts that each run of an encoder computed."""
    counts: list[int] = []
    run = relevance.Encoder.run

    def counted(encoder: relevance.Encoder, ids: list[list[int]], *how: Any) -> Encoded:
        counts.append(len(ids))
        return run(encoder, ids, *how)

    monkeypatch.setattr(relevance.Encoder, "run", counted)
    return counts


def _scores(models: dict[str, Path | str], stores: list[Path], documents: list[str]) -> dict[str, list[float]]:
    """Return what a server of the models answers for a query with the documents."""
    return _asked(predictor.application(models, SETTINGS, states=stores), documents)


def _asked(application: Application, documents: list[str]) -> dict[str, list[float]]:
    with answering(application) as client:
        found = {}
        for name in application.models:
            asked = {"instances": [{"query": "cat", "document": text} for text in documents]}
            answer = client.post(f"/v1/models/{name}:predict", json=asked).json()
            found[name] = [one["score"] for one in answer["predictions"]]
        return found


def test_a_server_computes_no_document_that_the_file_holds_for_either_model_and_scores_alike(
    root: Path, store: Path, computed: list[int]
) -> None:
    models: dict[str, Path | str] = {name: root / name for name in ("champion", "challenger")}
    without = _scores(models, [], DOCUMENTS)
    application = predictor.application(models, SETTINGS, states=[store])
    computed.clear()
    found = _asked(application, DOCUMENTS)
    assert [count for count in computed if count] == [1]  # the query, once for both
    assert REGISTRY.get_sample_value("serm_document_cache_stored") == len(DOCUMENTS)
    # A document that the file has not, for its text has changed, is computed as it comes.
    changed = _scores(models, [], ["another cat"]), _scores(models, [store], ["another cat"])
    for name in models:
        assert found[name] == pytest.approx(without[name], abs=1e-5)
        assert changed[0][name] == pytest.approx(changed[1][name], abs=1e-5)


def test_states_of_another_model_are_not_taken_and_it_is_said(
    root: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other: dict[str, Path | str] = {"other": root / "other"}
    assert _scores(other, [store], DOCUMENTS)["other"] == pytest.approx(_scores(other, [], DOCUMENTS)["other"])
    assert REGISTRY.get_sample_value("serm_document_cache_stored") == 0
    assert "states of none of these models" in caplog.text


def test_only_what_changed_is_computed_again_and_an_ended_call_goes_on(
    root: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copy(store, tmp_path / "states.sqlite"))
    titles = {"d1": TITLES["d1"], "d2": "a dog", "d6": "heart", "d7": "red cat"}
    write_catalogue(tmp_path / "documents", titles)
    before = out.read_bytes()
    monkeypatch.setattr(states, "_AT_ONCE", 1)
    prepare, left = relevance.RelevanceModel.prepare, [2]

    def ends(model: relevance.RelevanceModel, documents: list[str]) -> None:
        if documents and not left[0]:
            raise KeyboardInterrupt
        left[0] -= len(documents)
        prepare(model, documents)

    monkeypatch.setattr(relevance.RelevanceModel, "prepare", ends)
    with pytest.raises(KeyboardInterrupt):
        states.write(tmp_path / "documents", root / "champion", out)
    assert out.read_bytes() == before
    left[0] = 100
    figures = states.write(tmp_path / "documents", root / "champion", out)
    assert {name: figures[name] for name in ("texts", "computed")} == {"texts": 4, "computed": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["documents", "states.sqlite"]
    # Of another model's documents nothing is taken over.
    assert states.write(tmp_path / "documents", root / "other", out)["computed"] == 4


def test_a_damaged_row_is_computed_again_and_a_file_in_its_place_is_taken_up(
    root: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copy(store, tmp_path / "states.sqlite"))
    with closing(sqlite3.connect(out)) as file:
        keys = [row[0] for row in file.execute("SELECT key FROM texts ORDER BY key")]
        for number, key in enumerate(keys[:3]):
            change = ("data = substr(data, 2)", "data = zeroblob(0), crc = 0, dim = 0", "dim = 'much'")[number]
            file.execute(f"UPDATE texts SET {change} WHERE key = ?", (key,))
        file.commit()
    opened = StateStore(out)
    assert [opened.get((opened.frozen, key)) is not None for key in keys] == [False, False, False, True]
    assert opened.get(("another", keys[3])) is None
    beside = tmp_path / "beside"
    beside.write_bytes(b"no store")
    beside.replace(out)
    assert opened.get((opened.frozen, keys[3])) is not None
    assert caplog.text.count("stay as they were") == 1
    assert opened.get((opened.frozen, keys[3])) is not None
    assert caplog.text.count("stay as they were") == 1
    states.write(root / "documents", root / "other", out)
    of_other = StateStore(out).frozen
    assert opened.frozen != of_other
    assert opened.get((of_other, keys[0])) is not None


@pytest.mark.parametrize("content", [b"", b"no store", None])
def test_what_is_no_store_is_one_sentence(content: bytes | None, root: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "states.sqlite").write_bytes(content)
    with pytest.raises(UserError, match=r"no store of states.*serm export --documents"):
        predictor.application({"champion": root / "champion"}, SETTINGS, states=[tmp_path / "states.sqlite"])


def test_the_command_writes_it_and_says_what_it_lacks(root: Path, tmp_path: Path, serm: Serm) -> None:
    model, out = str(root / "champion"), str(tmp_path / "states.sqlite")
    said = serm("export", "--states", "--model", model, cwd=tmp_path)
    assert (said.returncode, "of which documents?" in said.stderr) == (2, True)
    asked = ("export", "--states", "--documents", str(root / "documents"), "--out", out, "--json", "--model")
    assert json.loads(serm(*asked, model, cwd=tmp_path).stdout)["computed"] == 4
    shutil.copyfile(out, tmp_path / ".states.sqlite.part")
    with closing(sqlite3.connect(tmp_path / ".states.sqlite.part", isolation_level=None)) as file:
        file.execute("BEGIN EXCLUSIVE")
        said = serm(*asked, model, cwd=tmp_path)
    assert (said.returncode, "another serm export is writing it" in said.stderr) == (2, True)


def test_a_model_that_reads_no_document_alone_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relevance, "load_scorer", lambda model: SimpleNamespace(frozen=""))  # as a generative one
    with pytest.raises(UserError, match="a generative model reads a document only with its query"):
        states.write(root / "documents", "a model", tmp_path / "states.sqlite")
