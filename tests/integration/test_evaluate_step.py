"""The evaluate step with real models, which the server that KServe runs must serve before one may pass."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import evaluation_world as world
import httpx
import pytest
import tiny_models

from serm import contracts, relevance
from serm.release import evaluate
from serm.relevance.together import score_all
from serm.serving import server, trial
from serm.serving.replay import Request
from serm.settings import Settings

WORDS = ["query", "passage", ":", "title", "other", "0", "1", "2", "3"]
RULES = ["rolling_gain", "frozen_loss", "pool_loss", "slice_loss", "calibration_loss"]
INPUTS = ("annotated", "tests", "validated", "reference")
RULES += ["panel_trust", "model_size", "serving"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    world.write(root)
    made = ("champion", "trained/model", "trained/controls/replay", "trained/controls/self-training")
    for seed, path in enumerate(made):
        tiny_models.save(root / path, root / "base", seed, WORDS)
    (root / "annotated").mkdir()
    (root / "annotated" / "annotate.json").write_text(json.dumps({"held": [], "not_measured": []}))
    return root


def _run(root: Path, settings: Settings, out: str) -> tuple[dict[str, Any], dict[str, Any]]:
    names = ("champion", "trained", "annotated", "tests", "validated", "reference")
    champion, trained, annotated, sets, validated, reference = (root / name for name in names)
    figures = evaluate(champion, trained, annotated, sets, validated, reference, root / out, settings)
    evaluation: dict[str, Any] = json.loads((root / out / "evaluate.json").read_text())
    return dict(figures), evaluation


def test_the_step_boots_the_server_and_gives_the_same_bytes_again(root: Path) -> None:
    settings = world.settings(gate={"golden_requests": 7})
    figures, found = _run(root, settings, "out")
    _run(root, settings, "again")
    for file in ("evaluate.json", "per_query/part-0.parquet", "rankings/part-0.parquet"):
        assert (root / "out" / file).read_bytes() == (root / "again" / file).read_bytes()
    rules = {rule["rule"]: rule for rule in found["gate"]["rules"]}
    assert [rule["rule"] for rule in found["gate"]["rules"] if rule["rule"] != "slice_loss"] == [
        name for name in RULES if name != "slice_loss"
    ]
    assert rules["serving"]["result"] == "passed"
    assert "answered 7 requests of 28 pairs" in rules["serving"]["reason"]
    assert rules["serving"]["value"] == 0
    assert rules["model_size"]["value"] < 1
    assert figures["served_p95_ms"] > 0
    assert figures["gate"] == found["gate"]["result"]
    assert found["pairs"] == {name: {"served": 640, "pool": 320} for name in ("frozen", "rolling")}
    assert found["versions"]["champion"] == relevance.load(root / "champion").version
    measured = contracts.read(root / "out" / "per_query", contracts.PER_QUERY)
    assert measured["pairs"].to_pylist().count("all") == 7 * 4 * 160
    assert contracts.read(root / "out" / "rankings", contracts.RANKINGS).num_rows == 2 * 2 * 160 * (4 + 2)
    assert len(found["examples"]["wins"]) == 5
    assert [one["queries"] for one in found["power"]["assumed"]] == [160] * 3
    assert [one["rule"] for one in found["power"]["measured"]] == ["rolling_gain", "frozen_loss", "pool_loss"]


def test_models_scored_together_have_the_bits_of_each_alone(root: Path) -> None:
    models = {name: relevance.load(root / name) for name in ("champion", "trained/model")}
    asked = ["other", "title q0", "other"], ["title 0", "title 3", "other 1 2"]
    for name, found in score_all(models, *asked).items():
        alone = models[name].score(*asked)
        assert (found.expected == alone.expected).all()
        assert (found.distribution == alone.distribution).all()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[trial.Trial]:
    """Trials that the step finds, in their order, in the place of its own."""
    found: list[trial.Trial] = []
    monkeypatch.setattr("serm.serving.server.running", lambda models: nullcontext(None))
    monkeypatch.setattr("serm.serving.trial.check", lambda *_: found.pop(0))
    return found


def test_a_slower_run_writes_the_same_bytes_and_tells_its_time_among_the_figures(
    root: Path, tried: list[trial.Trial]
) -> None:
    tried += [trial.Trial(20, 80, 0.0, 3.0), trial.Trial(20, 80, 0.0, 900_000.0)]
    fast, slow = (_run(root, world.settings(), name) for name in ("fast", "slow"))
    assert _tree(root / "fast") == _tree(root / "slow")
    assert (fast[0]["served_p95_ms"], slow[0]["served_p95_ms"]) == (3.0, 900_000.0)
    assert fast[0]["gate"] == slow[0]["gate"]


def test_controls_are_measured_beside_the_challenger_on_all_test_sets_and_decide_nothing(
    root: Path, tmp_path: Path, tried: list[trial.Trial]
) -> None:
    tried += [trial.Trial(20, 80, 0.0, 3.0)] * 2
    _, found = _run(root, world.settings(), "controlled")
    assert found["controls"].keys() == {"replay", "self-training"}
    assert found["versions"]["replay"] == relevance.load(root / "trained/controls/replay").version
    for of_control in found["controls"].values():
        for name in ("frozen", "rolling"):
            for documents in ("served", "pool"):
                less = of_control[name][documents]["NDCG@10"]
                both = found["sets"][name][documents]["all"]["all"]["measures"]["NDCG@10"]
                assert less["n"] == 160
                assert less["control"] + less["difference"] == pytest.approx(both["challenger"], abs=1e-5)
                assert less["gain"] + less["difference"] == pytest.approx(both["difference"], abs=1e-5)
    alone = tmp_path / "alone"
    shutil.copytree(root / "trained" / "model", alone / "model")
    annotated, tests, validated, reference = (root / name for name in INPUTS)
    evaluate(root / "champion", alone, annotated, tests, validated, reference, tmp_path / "out", world.settings())
    without = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert without["controls"] == {}
    assert [without[part] for part in ("gate", "sets")] == [found[part] for part in ("gate", "sets")]


def test_a_set_that_is_to_replace_the_frozen_one_is_measured_beside_it_and_decides_nothing(
    root: Path, tmp_path: Path, tried: list[trial.Trial]
) -> None:
    tried.append(trial.Trial(20, 80, 0.0, 3.0))
    both, out = tmp_path / "tests", tmp_path / "out"
    shutil.copytree(root / "tests", both)
    for kind in ("served", "pool"):
        world.judge(both / "next" / kind, [("title new", "de", f"de-{grade}", grade) for grade in range(4)])
    annotated, _, validated, reference = (root / name for name in INPUTS)
    evaluate(root / "champion", root / "trained", annotated, both, validated, reference, out, world.settings())
    told = json.loads((out / "evaluate.json").read_text())
    assert told["sets"]["next"]["served"]["all"]["all"]["n"] == 1
    assert told["tests"]["next"] == {"queries": {"0": 1}, "pairs": {"human": 4}}
    assert not any("next" in str(rule) for rule in told["gate"]["rules"])


def test_a_server_that_crashed_is_an_error_and_no_failure(root: Path, tried: list[trial.Trial]) -> None:
    tried.append(trial.Trial(20, 80, lost="The model server ended with code -9."))
    figures, found = _run(root, world.settings(), "lost")
    assert (figures["gate"], figures["error"]) == ("error", "serving")
    assert found["gate"]["result"] == "error"
    (rule,) = (one for one in found["gate"]["rules"] if one["result"] == "error")
    assert rule["reason"].startswith("The model server ended with code -9.")


def _tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_server_that_serves_another_model_is_found(root: Path) -> None:
    model = relevance.load(root / "trained" / "model")
    requests = [Request("u", "other", ("title 0", "title 3"))]
    with server.running({trial.NAME: root / "champion"}) as ready:
        found = trial.check(ready, model, requests)
    assert found.difference > 0.01
    assert (found.lost, found.refused) == ("", "")


def test_a_server_that_ends_is_told_as_such_without_what_differs_from_run_to_run(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root / "champion", broken)
    (broken / "model.safetensors").unlink()
    with server.running({trial.NAME: broken}) as ready:
        found = trial.check(ready, relevance.load(root / "champion"), [Request("u", "other", ("title 0",))])
    assert (found.lost, found.refused) == ("The model server ended with code 1.", "")
    assert "model.safetensors" in caplog.text  # its last words


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.ReadTimeout("timed out"), ("The model server gave no answer.", "")),
        (httpx.RemoteProtocolError("gone"), ("The model server gave no answer.", "")),
        (httpx.Response(503, text="stopping"), ("The model server gave no answer.", "")),
        (httpx.Response(500, text="out of order"), ("", "HTTP 500: out of order")),
        (httpx.Response(200, json={"predictions": []}), ("", "0 scores for 1 documents.")),
    ],
)
def test_no_answer_is_told_from_a_bad_one(
    root: Path, answer: httpx.Response | httpx.HTTPError, expected: tuple[str, str]
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.HTTPError):
            raise answer
        return answer

    client = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://here")
    found = trial.check(lambda: client, relevance.load(root / "champion"), [Request("u", "other", ("title 0",))])
    assert (found.lost, found.refused) == expected
