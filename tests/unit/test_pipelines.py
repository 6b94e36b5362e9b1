"""The compiled pipelines are fresh and whole."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.compile import COMPILED, PIPELINES, dangling_references, load_ir

ROOT = Path(__file__).parents[2]
COMPILE = (
    "import sys; from pathlib import Path; from pipelines.compile import compile_all; compile_all(Path(sys.argv[1]))"
)


@pytest.fixture(scope="module")
def ir():
    return load_ir(COMPILED / "evolve.yaml")


def test_compiled_pipelines_are_fresh(tmp_path):
    # A process of its own: kfp looks through all modules that are there, for each line of a pipeline.
    subprocess.run([sys.executable, "-c", COMPILE, tmp_path], cwd=ROOT, check=True)
    for name in PIPELINES:
        fresh = (tmp_path / f"{name}.yaml").read_text()
        assert (COMPILED / f"{name}.yaml").read_text() == fresh, "stale: run `make compile`"


@pytest.mark.parametrize("name", PIPELINES)
def test_every_reference_resolves(name):
    assert list(dangling_references(load_ir(COMPILED / f"{name}.yaml"))) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda ir: ir["components"].pop("comp-mine"), "runs comp-mine"),
        (lambda ir: ir["deploymentSpec"]["executors"].pop("exec-mine"), "exec-mine"),
        (lambda ir: _tasks(ir)["annotate"]["dependentTasks"].append("nobody"), "depends on nobody"),
        (lambda ir: _tasks(ir)["annotate"]["inputs"]["artifacts"].pop("mined"), "does not pass mined"),
        (
            lambda ir: _tasks(ir)["annotate"]["dependentTasks"].remove("mine"),
            "takes mined from mine, but does not wait",
        ),
        (
            lambda ir: _tasks(ir)["annotate"]["inputs"]["artifacts"]["mined"]["taskOutputArtifact"].update(
                outputArtifactKey="nothing"
            ),
            "the output nothing of mine",
        ),
        (lambda ir: ir["root"]["inputDefinitions"]["parameters"].pop("settings"), "the input settings"),
    ],
)
def test_a_dangling_reference_is_found(ir, damage, complaint):
    damaged = copy.deepcopy(ir)
    damage(damaged)
    assert any(complaint in problem for problem in dangling_references(damaged))


def _branches(ir):
    return ir["components"]["comp-condition-branches-2"]["dag"]["tasks"]


def _tasks(ir):
    return ir["components"]["comp-condition-3"]["dag"]["tasks"]


def test_drift_decides_whether_the_cycle_goes_on(ir):
    drifted, quiet = (_branches(ir)[f"condition-{n}"]["triggerPolicy"]["condition"] for n in (3, 4))
    assert drifted.endswith("drift-Output'] == 'evolve'")
    assert quiet == f"!({drifted})"
    assert {"mine", "annotate", "train", "evaluate", "publish", "deploy"} <= _tasks(ir).keys()
    assert {"ingest", "validate", "drift"} <= ir["components"]["comp-exit-handler-1"]["dag"]["tasks"].keys()
    assert "publish" in _tasks(ir)["deploy"]["dependentTasks"]
    assert ir["components"]["comp-condition-4"]["dag"]["tasks"].keys() == {"record"}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_leaves_a_report_however_its_run_ends(name):
    tasks = load_ir(COMPILED / f"{name}.yaml")["root"]["dag"]["tasks"]
    assert tasks.keys() == {"exit-handler-1", "report"}
    assert tasks["report"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_components_install_nothing_at_run_time(ir):
    for executor in ir["deploymentSpec"]["executors"].values():
        if "container" in executor:
            assert "pip install" not in " ".join(executor["container"]["command"])
