"""A step of a rollout in a run on Kubeflow: its record is in git before the challenger gets more traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serm.errors import UserError
from serm.kubeflow import repository
from serm.layout import ROLLOUTS
from serm.rollout import controller, look, traffic
from serm.rollout.record import load
from serm.settings import RolloutSettings
from serm.workspace.store import run

PARAMS = """\
cycle: {number: 4, start: "2026-01-01T00:00:00Z", end: "2026-02-01T00:00:00Z"}
rollout: {traffic: transformer, traffic_options: {experiment: experiment.yaml}}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cycle-0003's rollout runs, and params.yaml is at the next cycle already."""
    root = tmp_path / "search"
    (root / ".dvc").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS.replace("experiment.yaml", str(tmp_path / "experiment.yaml")))
    run(["git", "init", "--quiet"], root)
    run(["git", "config", "user.name", "x"], root)
    run(["git", "config", "user.email", "x@x"], root)
    settings = RolloutSettings(steps=(1, 5), unwatched=("errors", "latency"))
    with traffic.connect("transformer", {"experiment": str(tmp_path / "experiment.yaml")}, "", "") as backend:
        controller.start(root / ROLLOUTS, "cycle-0003", settings, backend, datetime.now(UTC) - timedelta(days=2))
    run(["git", "add", "params.yaml", "rollout/cycle-0003.json"], root)
    run(["git", "commit", "--quiet", "--message", "begun"], root)
    monkeypatch.setattr(look, "read", lambda _, stages, *__: look.Seen([(900, 900)] * len(stages), 0, {}))
    return root


def share(workspace: Path) -> Any:
    return yaml.safe_load((workspace.parent / "experiment.yaml").read_text())["percent"]


def test_the_rollout_that_runs_is_ticked_whichever_cycle_the_settings_are_at(workspace: Path) -> None:
    assert repository.ramp(str(workspace), workspace.parent, workspace / "log") == {"outcome": "running", "percent": 5}
    assert share(workspace) == 5
    told = run(["git", "log", "--format=%s"], workspace).splitlines()
    assert told == ["Rollout of cycle-0003: running, 5 %", "Rollout of cycle-0003: running, 1 %", "begun"]
    assert not run(["git", "status", "--short", "rollout/cycle-0003.json"], workspace)


def test_a_lost_push_gives_no_traffic_that_the_repository_does_not_know_of(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes: list[str] = []

    def push(*_: Any) -> None:
        pushes.append(run(["git", "rev-parse", "HEAD"], workspace))
        if len(pushes) in (1, 3):
            raise UserError("the push was lost")

    monkeypatch.setattr(repository, "_push", push)
    record = workspace / ROLLOUTS / "cycle-0003.json"
    with pytest.raises(UserError, match="the push was lost"):
        repository.ramp(str(workspace), workspace.parent, workspace / "log")
    assert share(workspace) == 1
    run(["git", "reset", "--quiet", "--hard", "HEAD~1"], workspace)  # what the next run clones
    with pytest.raises(UserError, match="the push was lost"):
        repository.ramp(str(workspace), workspace.parent, workspace / "log")
    assert share(workspace) == 5
    run(["git", "reset", "--quiet", "--hard", "HEAD~1"], workspace)
    assert load(record).percent == 1
    assert repository.ramp(str(workspace), workspace.parent, workspace / "log")["percent"] == 5
    assert [stage.percent for stage in load(record).stages] == [1, 5]
