"""The champion's own opinion: scored in parts that survive a crash, and the thresholds on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mining_thresholds import TAU
from pydantic import ValidationError

from serm.errors import UserError
from serm.mining import scoring
from serm.mining.scoring import score, with_model_thresholds
from serm.settings import MiningSettings, Threshold


class Stub:
    """A champion that expects grade 2 of everything, with less belief in longer texts."""

    version = "v1"

    def score(self, queries: list[str], documents: list[str]) -> Any:
        doubt = np.array([len(document) for document in documents]) / 100
        self.distribution = np.stack([doubt / 3, doubt / 3, 1 - doubt, doubt / 3], axis=1)
        self.expected = np.full(len(documents), 2.0)
        return self

    def sample(self, queries: list[str], documents: list[str], samples: int, seed: int) -> np.ndarray:
        return np.outer(np.arange(samples), [len(document) for document in documents]) / 100


def test_the_champion_scores_the_text_and_the_logs_own_score_stands(tmp_path: Path) -> None:
    table = pa.table({"query": ["q", "q"], "title": ["ab", "cdef"], "body": ["", ""], "logged": [None, 0.5]})
    scored = score(table, Stub(), lambda title, body: title, MiningSettings(dropout_samples=3), tmp_path)
    assert scored["score"].to_pylist() == [2.0, 0.5]
    assert scored["disagreement"].to_pylist() == pytest.approx([0.04, 0.08])
    assert scored["uncertainty"][0].as_py() < scored["uncertainty"][1].as_py()


def test_killed_while_it_scores_it_asks_the_champion_only_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PART", 2)
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    table = pa.table({"query": ["q"] * 5, "title": texts, "body": [""] * 5, "logged": pa.nulls(5, pa.float64())})
    settings = MiningSettings(dropout_samples=2)

    class Dies(Stub):
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.lives = 2

        def score(self, queries: list[str], documents: list[str]) -> Any:
            if self.lives == 0:
                raise KeyboardInterrupt
            self.lives -= 1
            self.asked.extend(documents)
            return super().score(queries, documents)

    model = Dies()
    with pytest.raises(KeyboardInterrupt):
        score(table, model, lambda title, body: title, settings, tmp_path)
    model.lives = 9
    scored = score(table, model, lambda title, body: title, settings, tmp_path)
    assert model.asked == texts
    assert scored.equals(score(table, Stub(), lambda title, body: title, settings, tmp_path / "whole"))
    # Another model or another seed does not take what this one left behind.
    model.version = "v2"
    score(table, model, lambda title, body: title, settings, tmp_path)
    assert model.asked == texts * 2


@pytest.mark.parametrize("damaged", [b"", b"PAR1 no more", None])
def test_a_finished_part_that_is_damaged_is_scored_again(tmp_path: Path, damaged: bytes | None) -> None:
    table = pa.table({"query": ["q"] * 2, "title": ["a", "bb"], "body": [""] * 2, "logged": pa.nulls(2, pa.float64())})
    whole = score(table, Stub(), lambda title, body: title, MiningSettings(), tmp_path)
    (part,) = tmp_path.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9] if damaged is None else damaged)
    assert score(table, Stub(), lambda title, body: title, MiningSettings(), tmp_path).equals(whole)
    assert score(table, Stub(), lambda title, body: title, MiningSettings(), tmp_path).equals(whole)


def test_model_thresholds_are_quantiles_over_the_candidates_that_the_scored_stand_for() -> None:
    # One suspect of high MD, and nine others that stand for a hundred: the suspect must not move the quantile.
    columns = {"disagreement": [9.0, *range(9)], "uncertainty": [0.0] * 10, "score": [3.0] + [1.0] * 9}
    scored = pa.table({**columns, "weight": [1.0] + [100.0] * 9})
    tau = with_model_thresholds(scored, TAU, MiningSettings(disagreement=Threshold(quantile=0.5)))
    assert tau.disagreement == 4.0
    assert tau.over_scored_above == 1.0
    assert with_model_thresholds(scored.slice(0, 0), TAU, MiningSettings()) == TAU
    absolute = with_model_thresholds(scored, TAU, MiningSettings(disagreement=Threshold(value=0.25)))
    assert absolute.disagreement == 0.25


@pytest.mark.parametrize("wrong", [{}, {"quantile": 0.5, "value": 1.0}, {"quantile": 1.5}])
def test_a_threshold_is_a_quantile_or_a_value(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Threshold.model_validate(wrong)


def test_a_champion_whose_scores_are_not_numbers_is_named(tmp_path: Path) -> None:
    class Broken(Stub):
        def sample(self, queries: list[str], documents: list[str], samples: int, seed: int) -> np.ndarray:
            return np.full((samples, len(documents)), np.nan)

    table = pa.table({"query": ["q"], "title": ["a"], "body": [""], "logged": pa.array([0.5])})
    with pytest.raises(UserError, match=r"champion gives scores that are not finite numbers; train it again"):
        score(table, Broken(), lambda title, body: title, MiningSettings(), tmp_path)
