"""A publish or an advance that was killed is ended by the next one, as if nothing had happened."""

import json
import subprocess
import sys

import pytest
from workspace_world import copy, judgments, make, next_cycle, outputs, params, run_steps, tree

from serm import contracts
from serm.cli import demo
from serm.errors import UserError
from serm.workspace import runner
from serm.workspace.advance import advance
from serm.workspace.progress import Progress
from serm.workspace.publish import publish

#: Kills itself before the n-th change that it would make: a rename, an exchange (through ctypes), a git or DVC command.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from serm import settings
from serm.workspace.advance import advance
from serm.steps import STEPS
from serm.workspace.publish import publish

verb, root, at, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), 0

def kill(event, arguments):
    global count
    if event in ("os.rename", "ctypes.dlopen", "subprocess.Popen"):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

given = settings.load(root / "params.yaml")
sys.addaudithook(kill)
if verb == "publish":
    publish(root, {step: root / "cycle" / step for step in STEPS}, given)
else:
    advance(root, given)
print(count)
"""
PARTS = 5


def run(verb, workspace, at=0):
    command = [sys.executable, "-c", PROGRAM, verb, str(workspace.path), str(at)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def found(workspace):
    """All that must be the same in the end: state, cycle, history, commits, tags, and nothing left to commit."""
    trees = {name: tree(workspace.path / name) for name in ("state", "cycle", "history", "reviewed")}
    log = workspace.git("log", "--format=%s %D", "--decorate-refs=refs/tags")
    return trees, log, workspace.git("status", "--porcelain"), (workspace.path / "state.json").exists()


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """For each verb a workspace before it, and how many changes the verb makes, and what it leaves."""
    directory = tmp_path_factory.mktemp("before")
    workspace = make(directory / "shop", directory / "store")
    run_steps(workspace.path)
    people = judgments([("fox", "d", 0)], "human", 1)
    contracts.write(people, workspace.path / "reviewed", contracts.JUDGMENTS)
    made = {}
    for verb in ("publish", "advance"):
        before = copy(workspace, tmp_path_factory.mktemp(verb))
        done = run(verb, workspace)
        assert done.returncode == 0, done.stderr
        made[verb] = (before, int(done.stdout), found(workspace))
    return made


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("verb", ["publish", "advance"])
def test_a_killed_verb_is_ended_by_the_next(verb, part, templates, tmp_path):
    before, changes, expected = templates[verb]
    workspace = copy(before, tmp_path)
    assert run(verb, workspace, at=1 + part * (changes - 1) // (PARTS - 1)).returncode == -9
    assert run(verb, workspace).returncode == 0
    assert found(workspace)[0] == expected[0]
    log = found(workspace)[1].replace("Another remote \n", "")
    assert log == expected[1].replace("Another remote \n", "")
    assert found(workspace)[2:] == expected[2:]


class Stream:
    """A world at cycle 1 whose pipeline has run."""

    def __init__(self, workspace):
        self.workspace, self.path = workspace, workspace.path

    def open_window(self, number):
        return {"seconds": 1.0}

    def settings(self):
        return params(self.workspace)

    def audit(self):
        return {"judged": contracts.read(self.path / "state/judgments", contracts.JUDGMENTS).num_rows}


def test_a_demo_that_was_killed_in_advance_goes_straight_on_to_it(templates, tmp_path, monkeypatch):
    workspace = copy(templates["advance"][0], tmp_path)
    root = workspace.path
    costs = root / "history/cycle-0001/costs.json"
    costs.write_text(json.dumps({"publish": {"seconds": 2.0}}))
    (root / "history/cycle-0001/audit.json").write_text('{"judged": 1}')
    assert run("advance", workspace, at=templates["advance"][1] // 2).returncode == -9
    assert Progress.read(root).advancing == "cycle-0001"
    with pytest.raises(UserError, match="`serm advance` past cycle-0001 was cut short; run it again first"):
        runner.run_cycle(root)
    monkeypatch.setattr("serm.evolve.run_cycle", lambda *_: pytest.fail("the cycle's work is done"))
    shown = []
    monkeypatch.setattr(demo, "show_costs", shown.append)
    demo.run_window(Stream(workspace), 1, rollout=True)
    assert shown == [{"simulate": {"seconds": 1.0}, "publish": {"seconds": 2.0}}]
    assert json.loads((root / "history/cycle-0001/audit.json").read_text()) == {"judged": 1}  # not of a half state
    assert Progress.read(root) == Progress("cycle-0001", "promoted")
    assert workspace.git("status", "--porcelain") == ""


def test_evolve_once_more_after_advance_ends_at_once_and_names_the_next_step(templates, tmp_path, monkeypatch):
    workspace = copy(templates["advance"][0], tmp_path)
    root = workspace.path
    monkeypatch.setattr(runner, "_run_pipeline", lambda *given: pytest.fail("nothing is to be run"))
    (root / "log/part-0.parquet").write_bytes(b"more of the log")
    with pytest.raises(UserError, match=r"cycle-0001 is published already, and log changed since"):
        runner.run_cycle(root)
    (root / "history/cycle-0001/costs.json").write_text("{}")
    with pytest.raises(UserError, match=r"cycle-0001 is done; run `serm advance`"):
        runner.run_cycle(root)
    advance(root, params(workspace))
    status = workspace.git("status", "--porcelain")
    with pytest.raises(UserError, match=r"state is past cycle-0001 already; set the next cycle's number"):
        runner.run_cycle(root)
    assert workspace.git("status", "--porcelain") == status
    next_cycle(workspace, 3)
    run_steps(root, weights=b"third")
    publish(root, outputs(workspace), params(workspace))
    advance(root, params(workspace))
    next_cycle(workspace, 1)
    with pytest.raises(UserError, match="the state is past cycle-0003 already"):
        advance(root, params(workspace))


def test_the_steps_run_at_the_root_whichever_directory_the_user_is_in(templates, tmp_path, monkeypatch):
    workspace = copy(templates["publish"][0], tmp_path)
    at = []

    def pipeline(root, tasks, force, journal):
        from pathlib import Path

        at.append(Path.cwd())  # where the judges' ledger, a relative path, lies
        publish(root, outputs(workspace), params(workspace))
        raise UserError("stopped")

    monkeypatch.setattr(runner, "_run_pipeline", pipeline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="stopped"):
        runner.run_cycle(workspace.path)
    assert at == [workspace.path]
    assert workspace.has_tag("cycle-0001")
