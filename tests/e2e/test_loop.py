"""The whole loop on a small emoji world: killed, resumed, tagged, and the same bytes under both runners.

And every shell command in README.md and docs/ runs on that workspace, in the place of runs/demo. One file, because two
files may go to two workers, and each would run the loop for itself.
"""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serm import contracts, report
from serm.monitoring import exporter
from serm.report import formats
from serm.steps import STEPS, WATCH
from serm.workspace.store import Workspace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: A block of commands is run as it stands there; no block needs what another one left.
BLOCKS = [
    pytest.param(lines, id=f"{page.name}: {lines[0]}")
    for page in PAGES
    for block in BLOCK.findall(page.read_text(encoding="utf-8"))
    if (lines := [line for line in block.splitlines() if line.strip() and not line.startswith("#")])
]
#: `make demo` and `make test` are what runs this test, or take as long as all tests together.
LONG = {"make demo", "make demo-full", "make quick", "make test"}


def test_an_interrupted_cycle_resumes_where_it_stopped(demo):
    _, output = demo
    for step in STEPS:
        assert f"{step} (done before, taken from the cache)" in output


def test_the_cycle_is_tagged_and_clean(demo):
    workspace = Workspace(demo[0])
    assert workspace.has_tag("cycle-0001")
    assert workspace.git("status", "--porcelain") == ""
    assert (workspace.path / "cycle" / "model_card.md").read_text().startswith("---\nlibrary_name: serm")
    assert len(list((workspace.path / "evidently").glob("*/snapshots/*.json"))) == 1


def test_every_step_says_what_it_cost(demo):
    costs = json.loads((demo[0] / "history/cycle-0001/costs.json").read_text())
    assert {*STEPS, "publish", "deploy", "simulate"} <= costs.keys()
    for figures in costs.values():
        assert figures["seconds"] >= 0
        assert 0 < figures["peak_memory_mb"] < 6000


def test_kubeflows_page_of_a_run_shows_the_report_and_how_the_panel_labelled_gold(demo):
    (page,) = demo[0].glob(".kfp/*/serm-evolve-*/report/page")
    assert "This run has ended: succeeded." in page.read_text(encoding="utf-8")
    # The run that was killed after it had done that step; the last one took it from the cache.
    ran = max(demo[0].glob(".kfp/*/serm-evolve-*/annotate/executor_output.json"))
    told = json.loads(ran.read_text())["artifacts"]["gold"]
    rows = told["artifacts"][0]["metadata"]["confusionMatrix"]["rows"]
    gold = json.loads((demo[0] / "history/cycle-0001/annotate.json").read_text())["gold"]
    assert [row["row"] for row in rows] == gold["confusion"]
    assert sum(map(sum, gold["confusion"])) == gold["labelled"] > 0


def test_the_panel_loses_no_pair(demo):
    panel = json.loads((demo[0] / "history/cycle-0001/annotate.json").read_text())
    mined = json.loads((demo[0] / "history/cycle-0001/mine.json").read_text())["cascade"]["mined"]
    assert 0 < mined <= 120
    assert panel["kept"] + panel["dropped"] == mined


def test_both_models_answered_through_kserve(demo):
    canary = json.loads((demo[0] / "cycle/deploy/deploy.json").read_text())
    assert canary["requests"] == 20
    for model in ("champion", "challenger"):
        answers = canary["variants"][model]
        assert (answers["served"] + answers["shadow"], answers["errors"]) == (20, 0), model
        assert answers["latency_ms"]["p50"] > 0
        assert 0 <= answers["mean_score"] <= 3
    assert canary["variants"]["champion"]["mean_score"] != canary["variants"]["challenger"]["mean_score"]
    service = yaml.safe_load((demo[0] / "cycle/deploy/inferenceservice.yaml").read_text())
    assert service["kind"] == "InferenceService"
    (challenger,) = service["spec"]["canary"]
    assert challenger["trafficPercent"] == canary["traffic_percent"]


def test_the_command_line_writes_the_same_bytes_as_the_pipeline(demo, serm):
    """Its verbs run the same steps from the same tag; dvc.lock, a hash of every byte, must still hold."""
    workspace = Workspace(demo[0])
    workspace.git("checkout", "--quiet", "cycle-0001")
    workspace.dvc("checkout", "--quiet", "--force")
    assert "up to date" in workspace.dvc("status")
    lock = (workspace.path / "dvc.lock").read_text()
    for step in STEPS:  # in this process, which has imported what each of them needs
        shutil.rmtree(workspace.path / "cycle" / step)
        done = serm(step, cwd=workspace.path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "up to date" in workspace.dvc("status")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", STEPS[0]]  # as dvc.yaml says it
    done = subprocess.run(
        command, cwd=workspace.path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workspace.path / "dvc.lock").read_text() == lock
    workspace.git("checkout", "--quiet", "main")
    workspace.dvc("checkout", "--quiet", "--force")


def test_the_report_shows_what_the_cycle_found(demo):
    page = html.unescape(report.build(demo[0], demo[0] / "report").read_text(encoding="utf-8"))
    kept = demo[0] / "history/cycle-0001"
    for rule in json.loads((kept / "evaluate.json").read_text())["gate"]["rules"]:
        assert rule["reason"] in page
    truth = json.loads((kept / "audit.json").read_text())["labels"]["accuracy"]
    assert f"<b>{formats.share(truth)}</b> of the kept labels are true." in page


def test_a_window_in_which_nothing_drifted_is_recorded_and_moved_past(demo, tmp_path):
    """In a clone that shares DVC's cache, the same window comes once more."""
    clone = tmp_path / "clone"
    Workspace(demo[0]).git("clone", "--quiet", str(demo[0]), str(clone))
    workspace = Workspace(clone)
    workspace.git("config", "user.name", "SERM")
    workspace.git("config", "user.email", "serm@localhost")
    workspace.dvc("config", "--local", "cache.dir", str(demo[0] / ".dvc" / "cache"))
    workspace.dvc("checkout", "--quiet")
    params = (clone / "params.yaml").read_text()
    assert "number: 1\n" in params
    assert "drift: {}\n" in params
    # No p of 999 permutations is that small: the tests see nothing in the window, whatever chance brings.
    params = params.replace("number: 1\n", "number: 2\n").replace("drift: {}\n", "drift: {alpha: 0.0001}\n")
    (clone / "params.yaml").write_text(params)
    serm = [sys.executable, "-c", "from serm.cli import main; main()"]
    for verb in ("evolve", "advance"):
        done = subprocess.run([*serm, verb], cwd=clone, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    costs = json.loads((clone / "history/cycle-0002/costs.json").read_text())
    assert costs.keys() == {*WATCH, "record"}
    assert workspace.git("status", "--porcelain") == ""
    assert json.loads((clone / "state.json").read_text()) == {"after": "cycle-0002", "champion": "kept"}
    windows = contracts.read(clone / "state/windows/impressions", contracts.SAMPLES)
    assert set(windows["cycle"].to_pylist()) == {0, 1, 2}
    assert len(list((clone / "evidently").glob("*/snapshots/*.json"))) == 1  # git brought none
    exporter.write(clone, tmp_path / "serm.prom")
    gauges = (tmp_path / "serm.prom").read_text().splitlines()
    assert {"serm_cycle_number 2.0", "serm_drift_alarm 0.0"} <= set(gauges)
    page = report.build(clone, tmp_path / "report").read_text()
    assert "nothing drifted, so no challenger was trained" in page


@pytest.mark.parametrize("block", BLOCKS)
def test_documented_commands_run(block, demo):
    for command in block:
        run_documented(command, demo[0])


def run_documented(command, workspace):
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
        if command in LONG:
            return
        command += f" --dry-run --directory {ROOT}"
    in_workspace = program in ("git", "dvc") or "runs/demo" not in command
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command.replace("runs/demo", str(workspace))],
        cwd=workspace if in_workspace else ROOT,
        env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_there_are_commands_to_run():
    assert len(BLOCKS) >= 5
