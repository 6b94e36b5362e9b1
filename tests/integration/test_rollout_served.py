"""A whole ramp: real predictors behind a real HAProxy, simulated users who click on what they were shown, the decision.

The models have random weights, and the hidden truth is what one of them says: so that one is really better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import serving_here
import tiny_models

from serm import contracts, relevance
from serm.layout import CHAMPION, CYCLE
from serm.report import ramp as pages
from serm.rollout.record import Record, load
from serm.settings import EngineSettings, RolloutSettings
from serm.settings.serving import PredictorSettings
from serm.worlds import ramp
from serm.worlds.emoji import WINDOWS

WORDS = tiny_models.WORDS[3:]
DOCUMENTS = [" ".join(words) for words in permutations(WORDS, 3)][::8]
ENGINE = EngineSettings(threads=1, memory_gb=1)


@contextmanager
def here(models: Mapping[str, Path]) -> Iterator[Callable[[], httpx.Client]]:
    with serving_here.serving(models, PredictorSettings()) as client:
        yield lambda: client


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model that is right, and one that says the opposite."""
    root = tmp_path_factory.mktemp("models")
    tiny_models.save(root / "right", root / "base", 0)
    model = relevance.load(root / "right")
    assert isinstance(model, relevance.RelevanceModel)
    model.residual.head.weight.data *= -1
    model.save(root / "wrong")
    return {name: root / name for name in ("right", "wrong")}


@pytest.fixture(scope="module")
def site(models: dict[str, Path]) -> ramp.Site:
    """People ask for words; a few documents are good, as the right model has it."""
    count, depth = len(WORDS), len(DOCUMENTS)
    pairs = [(query, document) for query in WORDS for document in DOCUMENTS]
    scores = relevance.load(models["right"]).score(*map(list, zip(*pairs, strict=True))).expected.reshape(count, depth)
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return ramp.Site(
        queries=np.array(WORDS),
        locales=np.repeat("en", count),
        shares=np.full(count, 1 / count),
        related=np.roll(np.arange(count), 1),
        doc_ids=np.tile([f"d{number}" for number in range(depth)], (count, 1)),
        texts=np.tile(DOCUMENTS, (count, 1)),
        grades=np.array([3, 3, 2, 2, 1, 1, *[0] * (depth - 6)])[ranks],
    )


@pytest.fixture
def roll_out(
    models: dict[str, Path], site: ramp.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Record]]:
    monkeypatch.setattr(ramp, "running", here)
    monkeypatch.setattr(ramp, "site", lambda *_: site)
    monkeypatch.setattr(ramp, "USERS_A_DAY", 240)
    settings = RolloutSettings(steps=(20, 50), min_users=30, planned_users=150, guardrails={"abandonment": 0.3})
    more = {"signals": (), "max_days": 9.0, "min_requests": 20, "unwatched": ("latency",)}
    monkeypatch.setattr(ramp, "RAMP", settings.model_copy(update=more))

    def run(champion: str, challenger: str) -> list[Record]:
        for name, path in ((champion, CHAMPION), (challenger, CYCLE / "train/model")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            if not (tmp_path / path).exists():
                (tmp_path / path).symlink_to(models[name])
        nothing: Any = None
        return ramp.roll_out(tmp_path, nothing, nothing, 1, "cycle-0001", ENGINE)

    return run


def test_users_promote_what_serves_them_better_and_take_the_old_model_back(
    roll_out: Callable[..., list[Record]], tmp_path: Path
) -> None:
    promoted, back = roll_out("wrong", "right")
    assert (promoted.outcome, back.outcome) == ("promoted", "rolled_back"), (promoted.decisions, back.decisions)
    assert [stage.percent for stage in promoted.stages] == [20, 50, 100]
    assert back.stages[-1].percent == 0
    for one in (promoted, back):
        assert one == load(tmp_path / "rollout" / f"{one.experiment}.json")
        assert one.note.startswith("Simulated users")
    better, worse = (float(word) for word in promoted.note.split() if word.startswith(("0.", "1.")))
    assert better > worse + 0.1
    # Its log is the next window's: only the ramp of the cycle's own challenger, of all three groups.
    log = contracts.read(tmp_path / "log", contracts.IMPRESSIONS)
    assert set(log["variant"].to_pylist()) == {"challenger", "control", "champion"}
    assert len(set(log["model_version"].to_pylist())) == 2
    days = (promoted.decisions[-1].at - promoted.stages[0].since) / timedelta(days=1)
    assert len(log["user_id"].unique()) == 240 * days
    start = WINDOWS[1][1]
    assert min(log["event_time"].to_pylist()) >= start
    # What ended is not run again, and the page shows both.
    assert roll_out("wrong", "right") == [promoted, back]
    shown = pages.page(tmp_path / "rollout" / "cycle-0001.json", tmp_path / "ramp.html").read_text()
    assert "Simulated users" in shown
    assert json.loads((tmp_path / "rollout" / "cycle-0001.json").read_text())["outcome"] == "promoted"


def test_users_take_a_worse_challenger_back_and_a_ramp_that_was_cut_short_is_run_again(
    roll_out: Callable[..., list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:

        def gone(*_: Any) -> None:
            raise KeyboardInterrupt

        killed.setattr(ramp, "_day", gone)
        with pytest.raises(KeyboardInterrupt):
            roll_out("right", "wrong")
    assert load(tmp_path / "rollout" / "cycle-0001.json").outcome == "running"
    (record,) = roll_out("right", "wrong")
    assert record.outcome == "rolled_back", record.decisions[-1]
    assert not (tmp_path / "rollout" / "cycle-0001-reversed.json").exists()
