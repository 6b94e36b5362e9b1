"""What DVC says of a workspace is true: its status, metrics and plots from cycle to cycle, and what a change runs."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from workspace_world import copy, next_cycle, outputs, params, run_steps, watch

from serm import contracts
from serm.settings import Settings
from serm.steps import STAGES, STEPS
from serm.workspace.advance import advance
from serm.workspace.progress import Progress
from serm.workspace.publish import publish
from serm.workspace.record import record
from serm.workspace.store import Workspace


def is_clean(workspace):
    return workspace.dvc("status", "--json") == "{}" and workspace.git("status", "--porcelain") == ""


@pytest.fixture(scope="module")
def made(template, tmp_path_factory):
    """Two cycles, the second of which gained more; what DVC said after each publish and each advance.

    The clock jumps: the first cycle is of 2099, the second of 2001, and so are its files.
    """
    workspace = copy(template, tmp_path_factory.mktemp("made"))
    root, clean = workspace.path, []
    for number, gain, year in ((1, 0.02, 2099), (2, 0.05, 2001)):
        with pytest.MonkeyPatch.context() as patched:
            for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"):
                patched.setenv(name, f"{year}-01-01T00:00:00Z")
            next_cycle(workspace, number)
            run_steps(root, weights=str(number).encode(), gain=gain)
            for file in (root / "cycle").glob("*/*"):
                if file.parent.name != "state":  # links to DVC's cache
                    os.utime(file, (0, datetime(year, 1, 1, tzinfo=UTC).timestamp()))
            publish(root, outputs(workspace), params(workspace))
            clean.append(is_clean(workspace))
            advance(root, params(workspace))
            clean.append(is_clean(workspace))
    return workspace, clean


def test_dvc_finds_nothing_changed_after_a_cycle_and_after_advance(made):
    assert made[1] == [True] * 4


def test_a_clock_that_jumped_back_between_two_cycles_changed_nothing(made):
    workspace, clean = made
    assert clean == [True] * 4
    dates = workspace.git("log", "--format=%cs", "-4", "--reverse").split()
    assert dates == ["2099-01-01"] * 2 + ["2001-01-01"] * 2
    assert Progress.read(workspace.path) == Progress("cycle-0002", "promoted")
    assert contracts.read(workspace.path / "state/judgments", contracts.JUDGMENTS).num_rows == 2


def test_metrics_and_plots_are_compared_from_cycle_to_cycle(made):
    workspace, _ = made
    found = json.loads(workspace.dvc("metrics", "diff", "cycle-0001", "cycle-0002", "--json"))
    gain = found["cycle/evaluate/metrics.json"]["rolling.served.NDCG@10.difference"]
    assert (gain["old"], gain["new"]) == (0.02, 0.05)
    plots = json.loads(workspace.dvc("plots", "diff", "cycle-0001", "cycle-0002", "--json"))["data"]
    assert {"cycle/evaluate/slices.json"} <= {name.removeprefix("dvc.yaml::") for name in plots}
    drawn = json.dumps(plots)
    assert "0.72" in drawn
    assert "0.75" in drawn


def test_a_quiet_window_leaves_dvc_with_nothing_to_do_and_the_next_cycle_runs_all(made, tmp_path):
    workspace = copy(made[0], tmp_path)
    root = workspace.path
    next_cycle(workspace, 3)
    record(root, watch(root, weights=b"2", gain=0.05), params(workspace))
    assert workspace.dvc("status", "--json") == "{}"
    advance(root, params(workspace))
    assert is_clean(workspace)
    next_cycle(workspace, 4)
    run_steps(root, weights=b"4")
    publish(root, outputs(workspace), params(workspace))
    assert is_clean(workspace)
    assert "frozen" not in (root / "dvc.yaml").read_text()


def after(section):
    """The stages that a change of a section of params.yaml concerns, by the table of steps."""
    changed = {step.writes for step in STAGES if section in step.params}
    for step in STAGES:
        if changed & set(step.reads):
            changed.add(step.writes)
    return [step.name for step in STAGES if step.writes in changed]


def test_a_changed_parameter_runs_what_depends_on_it_and_nothing_else(made, tmp_path):
    workspace = copy(made[0], tmp_path)
    path = workspace.path / "params.yaml"
    text = path.read_text()
    sections = {name for step in STAGES for name in step.params} - {"cycle"}
    for section in sorted(sections):
        values = yaml.safe_load(text)
        values[section] = (values[section] or {}) | {"another": 1}
        path.write_text(yaml.safe_dump(values))
        with contextlib.chdir(workspace.path), Repo(str(workspace.path)) as repository:
            ran = [stage.name for stage in repository.reproduce(dry=True, force_downstream=True)]
        assert ran == [name for name in STEPS if name in after(section)], section
    assert sections < Settings.model_fields.keys()


def test_an_advance_is_the_same_bytes_wherever_it_is_made(made, tmp_path):
    workspace, _ = made
    workspace.git("clone", "--quiet", "--branch=cycle-0002", str(workspace.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    for name, value in (("user.name", "t"), ("user.email", "t@t")):
        clone.git("config", name, value)
    clone.git("switch", "--quiet", "--create", "again")
    clone.dvc("config", "--local", "cache.dir", str(workspace.path / ".dvc/cache"))
    clone.dvc("checkout", "--quiet", *(f"state/{name}.dvc" for name in ("champion", "judgments", "reference")))
    clone.dvc("checkout", "--quiet", "state/profiles.dvc", "state/windows.dvc")
    advance(clone.path, params(clone))
    for one in ("state.json", "state/champion.dvc", "state/judgments.dvc", "state/reference.dvc", "state/windows.dvc"):
        assert (clone.path / one).read_text() == (workspace.path / one).read_text(), one


SERM = """#!{python}
import json, pathlib, sys
import yaml
step = sys.argv[1]
params = yaml.safe_load(open("params.yaml"))
out = pathlib.Path("cycle") / step
out.mkdir(parents=True, exist_ok=True)
own = params.get({{"mine": "mining", "train": "training"}}.get(step, step))
(out / f"{{step}}.json").write_text(json.dumps([own, params["mining"] if step in ("annotate", "train") else None]))
if step == "train":
    (out / "tracking").mkdir(exist_ok=True)
    (out / "tracking/metrics.json").write_text(json.dumps({{"loss": 1 / params["training"]["epochs"]}}))
if step == "evaluate":
    (out / "metrics.json").write_text(json.dumps({{"gain": params["mining"]["budget"] / 1000}}))
    (out / "slices.json").write_text("[]")
"""


def test_experiments_sweep_parameters_and_are_queued(made, tmp_path, monkeypatch):
    """With stand-ins for the steps, which write what they were told."""
    workspace = copy(made[0], tmp_path)
    stand_in = tmp_path / "bin" / "serm"
    stand_in.parent.mkdir()
    stand_in.write_text(SERM.format(python=sys.executable))
    stand_in.chmod(0o755)
    programs = f"{stand_in.parent}:{Path(sys.executable).parent}"  # DVC starts itself from PATH to work on its queue
    monkeypatch.setenv("PATH", programs, prepend=":")
    workspace.dvc("exp", "run", "--queue", "-S", "mining.budget=500,700", "-S", "+training.epochs=2")
    workspace.dvc("exp", "run", "--run-all")
    table = workspace.dvc("exp", "show", "--csv", "--no-pager", "--only-changed")
    assert "500" in table
    assert "0.5" in table
    assert "0.7" in table
    done = subprocess.run(["git", "status", "--porcelain"], cwd=workspace.path, capture_output=True, text=True)
    assert done.stdout == ""
