"""Whatever stands where a model should, loading gives a model or one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_models

from serm import relevance
from serm.errors import UserError
from serm.relevance import loading, model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    tiny_models.save(path / "model", path / "base", seed=1)
    return path / "model"


def test_a_trained_model_is_loaded_to_train_and_to_serve(saved: Path) -> None:
    trained, served = loading.load(saved), loading.load_scorer(saved)
    assert trained.version == served.version
    assert (trained.score(["cat"], ["dog"]).expected == served.score(["cat"], ["dog"]).expected).all()


@pytest.mark.parametrize("family", ["exported", "another", None, 7])
def test_another_family_is_named(family: object, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "read_config", lambda path: ({"family": family}, "v"))
    with pytest.raises(UserError, match=rf"family {family!r}, expected cross-encoder or generative"):
        loading.load(saved)


def test_what_a_library_makes_of_a_broken_file_is_one_sentence_and_a_missing_package_is_not(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")

    def broken(*_: object) -> None:
        raise KeyError("wrong\nlayers")

    monkeypatch.setattr(model, "read_model", broken)
    with pytest.raises(UserError, match=r"copy: cannot be read as a cross-encoder model \(.*restore it") as told:
        relevance.load(copy)
    assert "\n" not in str(told.value)

    def missing(*_: object) -> None:
        raise ModuleNotFoundError(name="peft")

    monkeypatch.setattr(model, "read_model", missing)
    with pytest.raises(ModuleNotFoundError):
        relevance.load(copy)
