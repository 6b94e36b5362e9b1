"""``serm rollout`` in a workspace: what it starts, what it commits, and which rollout it means."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from serm import cli
from serm.errors import UserError
from serm.layout import ROLLOUTS
from serm.rollout import controller, traffic
from serm.rollout.record import load
from serm.settings import RolloutSettings
from serm.workspace.store import run

NAME = "cycle-0003"
LOCK = {"stages": {"train": {"outs": [{"path": "cycle/train", "md5": "0123.dir"}]}}}


def settings(root: Path, number: int = 3, **rollout: Any) -> None:
    window = {"number": number, "start": "2018-01-01T00:00:00Z", "end": "2019-01-01T00:00:00Z"}
    options = {"experiment": str(root / "experiment.yaml")}
    chosen = {"traffic": "transformer", "traffic_options": options, "steps": [1, 50], **rollout}
    (root / "params.yaml").write_text(yaml.safe_dump({"cycle": window, "rollout": chosen}))


def deployed(root: Path, cycle: str = NAME, gate: str = "passed", p95: float | None = 40.0) -> None:
    out = root / "cycle/deploy"
    out.mkdir(parents=True, exist_ok=True)
    told = {"gate": gate, "variants": {"challenger": {"latency_ms": {"p95": p95}}}}
    (out / "deploy.json").write_text(json.dumps(told))
    (out / "inferenceservice.yaml").write_text(yaml.safe_dump({"metadata": {"annotations": {"serm/cycle": cycle}}}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace whose cycle-0003 is published."""
    settings(tmp_path)
    deployed(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(LOCK))
    run(["git", "init", "--quiet"], tmp_path)
    run(["git", "config", "user.name", "x"], tmp_path)
    run(["git", "config", "user.email", "x@x"], tmp_path)
    run(["git", "add", "params.yaml", "dvc.lock"], tmp_path)
    run(["git", "commit", "--quiet", "--message", "published"], tmp_path)
    run(["git", "tag", NAME], tmp_path)
    return tmp_path


def serm(root: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(cli.app, ["rollout", *arguments, "--workspace", str(root)])
    if isinstance(done.exception, UserError):
        raise done.exception
    return done


def test_a_start_commits_its_record_alone_which_says_what_model_users_see(root: Path) -> None:
    (root / "mine.txt").write_text("staged by hand")
    run(["git", "add", "mine.txt"], root)
    assert serm(root, "start").exit_code == 0
    record = load(root / ROLLOUTS / f"{NAME}.json")
    assert record.model is not None
    assert record.model.model_dump() == {"tag": NAME, "trained": "0123.dir"}
    assert run(["git", "show", "--format=%s", "--name-only"], root).split("\n\n") == [
        f"Rollout of {NAME}: begun with 1 %",
        f"rollout/{NAME}.json",
    ]
    assert run(["git", "diff", "--cached", "--name-only"], root) == "mine.txt"


def test_a_start_in_a_clone_that_only_pulls_commits_nothing(root: Path) -> None:
    assert serm(root, "start", "--no-commit").exit_code == 0
    assert run(["git", "log", "--format=%s"], root) == "published"


def test_a_start_that_cannot_be_committed_has_begun_and_says_so(root: Path) -> None:
    run(["git", "config", "user.email", ""], root)
    run(["git", "config", "user.name", ""], root)
    begun = serm(root, "start")
    assert begun.exit_code == 0
    assert f"rollout/{NAME}.json is not committed" in begun.output
    assert yaml.safe_load((root / "experiment.yaml").read_text())["percent"] == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"gate": "failed"}, "the gate's result is 'failed'"),
        ({"p95": 6000.0}, "took up to 6000.0 ms, and serving.max_p95_ms is 5000"),
        ({"p95": None}, "took up to None ms"),
        ({"cycle": "cycle-0002"}, "holds the challenger of cycle-0002, and params.yaml is at cycle-0003"),
    ],
)
def test_a_challenger_that_was_refused_or_too_slow_or_is_another_cycle_s_is_not_started(
    root: Path, given: dict[str, Any], told: str
) -> None:
    deployed(root, **given)
    with pytest.raises(UserError, match=told):
        serm(root, "start")
    assert not (root / "experiment.yaml").exists()
    (root / "cycle/deploy/inferenceservice.yaml").unlink()
    with pytest.raises(UserError, match=r"inferenceservice\.yaml: cannot be read"):
        serm(root, "start")


def test_where_a_rollout_is_required_an_unpublished_cycle_is_not_started(root: Path) -> None:
    settings(root, 4, required=True)
    deployed(root, "cycle-0004")
    with pytest.raises(UserError, match="cycle-0004 is not published"):
        serm(root, "start")


def test_the_one_that_runs_is_meant_whichever_cycle_the_settings_are_at(root: Path) -> None:
    serm(root, "start")
    settings(root, 4)
    assert json.loads(serm(root, "status", "--json").output)["experiment"] == NAME
    done = json.loads(serm(root, "abort", "--why", "by hand", "--json").output)
    assert (done["experiment"], done["outcome"]) == (NAME, "rolled_back")
    with pytest.raises(UserError, match=r"cycle-0004\.json: no such rollout"):
        serm(root, "status")


def test_two_that_run_at_once_and_a_damaged_record_are_told(root: Path) -> None:
    serm(root, "start")
    record = root / ROLLOUTS / f"{NAME}.json"
    record.with_name("cycle-0002.json").write_text("{")  # an old one: nothing hides the one that runs
    assert json.loads(serm(root, "status", "--json").output)["experiment"] == NAME
    record.with_name("cycle-0004.json").write_bytes(record.read_bytes())
    with pytest.raises(UserError, match="cycle-0003 and cycle-0004 are running at once"):
        serm(root, "status")
    for name in ("cycle-0003", "cycle-0004"):
        record.with_name(f"{name}.json").unlink()
    with pytest.raises(UserError, match=r"cycle-0002\.json: no rollout's record"):
        serm(root, "status")


def test_a_dry_run_says_what_was_begun_and_how_it_ended(root: Path) -> None:
    options = {"experiment": str(root / "experiment.yaml")}
    with traffic.connect("transformer", options, "", "") as backend:
        controller.start(root / ROLLOUTS, NAME, RolloutSettings(), backend, datetime(2026, 3, 2, tzinfo=UTC))

    def tried() -> Any:
        return json.loads(serm(root, "tick", "--dry-run", "--log", str(root / "log")).output)

    (root / "experiment.yaml").write_text(yaml.safe_dump({"name": NAME, "percent": 0}))
    told = tried()
    assert (told["outcome"], told["would_send"]) == ("rolled_back", None)
    assert "set to 0 by somebody else" in told["reasons"][0]
    path = root / ROLLOUTS / f"{NAME}.json"
    begun = json.loads(path.read_text())
    begun |= {"stages": [], "pending": {"action": "start", "percent": 1, "since": "2026-03-02T00:00:00Z"}}
    path.write_text(json.dumps(begun))
    told = tried()
    assert (told["pending"], told["percent"], told["would_send"]) == ("start", 1, {"name": NAME, "percent": 1})
