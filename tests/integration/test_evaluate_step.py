"""The evaluate step with real models, which a real KServe server must serve before one may pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import evaluation_world as world
import pytest
import tiny_models

from serm import contracts, relevance
from serm.release import evaluate
from serm.serving import server, trial
from serm.serving.replay import Request
from serm.settings import Settings

WORDS = ["query", "passage", ":", "title", "other", "0", "1", "2", "3"]
RULES = ["rolling_gain", "frozen_loss", "slice_loss", "calibration_loss"]
RULES += ["panel_trust", "model_size", "serving", "latency"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    world.write(root)
    for seed, path in enumerate((root / "champion", root / "trained" / "model")):
        tiny_models.save(path, root / "base", seed, WORDS)
    (root / "annotated").mkdir()
    (root / "annotated" / "annotate.json").write_text(json.dumps({"held": [], "not_measured": []}))
    return root


def _run(root: Path, settings: Settings, out: str) -> tuple[dict[str, Any], dict[str, Any]]:
    inputs = [root / name for name in ("champion", "trained", "annotated", "tests", "validated", "reference")]
    figures = evaluate(*inputs, root / out, settings)
    evaluation: dict[str, Any] = json.loads((root / out / "evaluate.json").read_text())
    return dict(figures), evaluation


def test_the_step_boots_the_server_and_gives_the_same_bytes_again(root: Path) -> None:
    settings = world.settings(gate={"max_p95_ms": 60000})  # a starved machine is no slow model
    figures, found = _run(root, settings, "out")
    _run(root, settings, "again")
    for file in ("evaluate.json", "per_query/part-0.parquet", "rankings/part-0.parquet"):
        assert (root / "out" / file).read_bytes() == (root / "again" / file).read_bytes()
    rules = {rule["rule"]: rule for rule in found["gate"]["rules"]}
    assert [rule["rule"] for rule in found["gate"]["rules"] if rule["rule"] != "slice_loss"] == [
        name for name in RULES if name != "slice_loss"
    ]
    assert rules["serving"]["result"] == rules["latency"]["result"] == "passed"
    assert rules["serving"]["value"] == 0
    assert rules["model_size"]["value"] < 1
    assert figures["served_p95_ms"] > 0
    assert figures["gate"] == found["gate"]["result"]
    assert found["pairs"] == {"frozen": 640, "rolling": 640}
    assert found["versions"]["champion"] == relevance.load(root / "champion").version
    measured = contracts.read(root / "out" / "per_query", contracts.PER_QUERY)
    assert measured["pairs"].to_pylist().count("all") == 7 * 2 * 160
    assert contracts.read(root / "out" / "rankings", contracts.RANKINGS).num_rows == 2 * 2 * 160 * 4
    assert len(found["examples"]["wins"]) == 5


def test_a_server_that_serves_another_model_is_found(root: Path) -> None:
    model = relevance.load(root / "trained" / "model")
    requests = [Request("u", "other", ("title 0", "title 3"))]
    with server.running({trial.NAME: root / "champion"}) as ready:
        found = trial.check(ready, model, requests)
    assert found.difference > 0.01
    assert not found.error


def test_a_model_that_cannot_be_served_is_an_error_not_a_crash(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root / "champion", broken)
    (broken / "model.safetensors").unlink()
    with server.running({trial.NAME: broken}) as ready:
        found = trial.check(ready, relevance.load(root / "champion"), [Request("u", "other", ("title 0",))])
    assert "ended with code" in found.error
