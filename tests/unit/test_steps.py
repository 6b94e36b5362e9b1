"""Every place that names the steps, their inputs or their outputs says what their table says: no more, no less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from components import images
from pipelines.compile import COMPILED, load_ir
from pipelines.generate import DVC_YAML, generate
from serm import cli, layout, steps
from serm.report import loop
from serm.settings import Settings
from serm.steps import GIVEN, STAGES, TABLE, WATCHING, Data, Step

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("step", TABLE, ids=lambda step: step.name)
HEAVY = {"torch", "kfp", "pandas", "duckdb", "ibis", "pyarrow", "numpy", "pydantic", "typer", "yaml"}


def test_the_table_is_light_to_import() -> None:
    script = "import sys, serm.steps; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()


def test_a_step_reads_what_the_workspace_or_an_earlier_step_gives() -> None:
    there = set(GIVEN)
    for step in TABLE:
        assert set(step.reads) <= there, step.name
        there |= {step.writes} if step.writes else set()
    assert {one.path for one in GIVEN} == {*layout.INPUTS, *layout.READ}
    assert len({one.name for one in there}) == len({one.path for one in there}) == len(there)


@EACH
def test_sections_and_image_of_a_step_are_there(step: Step) -> None:
    assert set(step.params) <= Settings.model_fields.keys()
    assert hasattr(images, step.image.upper())


def test_each_image_but_the_server_s_runs_a_step() -> None:
    named = {name for name in vars(images) if name.isupper() and name[0] != "_"}
    assert named - {"SERVE"} == {one.image.upper() for one in TABLE}


@EACH
def test_the_verb_has_an_option_for_each_thing_that_the_step_reads_or_writes(step: Step) -> None:
    options = {one.name: one for one in get_command(cli.app).commands[step.name].params}  # type: ignore[attr-defined]
    given: dict[str | None, Any] = {"params": layout.PARAMS, "json": False, "serm_workspace": None}
    if step.writes:
        given |= {one.name: one.path for one in step.reads} | {"out": step.writes.path}
    if step.name == "annotate":
        given["dry_run"] = False
    assert {name: one.default for name, one in options.items() if name != "help"} == given
    for one in step.reads if step.writes else ():
        option = options[one.name]
        assert (option.opts, option.help) == ([f"--{one.name}"], one.help)


def test_the_generated_files_are_fresh_and_no_other_step_has_a_component(tmp_path: Path) -> None:
    for path in generate(tmp_path):
        assert (ROOT / path.relative_to(tmp_path)).read_text() == path.read_text(), "stale: run `make compile`"
    components = {path.parent.name for path in (ROOT / "components").glob("*/component.py")}
    assert components == {step.name for step in TABLE}


def test_components_of_a_step_that_is_gone_are_removed(tmp_path: Path) -> None:
    gone = tmp_path / "components" / "gone" / "component.py"
    gone.parent.mkdir(parents=True)
    gone.touch()
    generate(tmp_path)
    assert not gone.parent.exists()


def test_dvc_has_the_reproducible_steps_with_all_that_they_read() -> None:
    stages = yaml.safe_load((ROOT / DVC_YAML).read_text())["stages"]
    assert (ROOT / "dvc.yaml").read_text() == (ROOT / DVC_YAML).read_text()
    assert list(stages) == ["begin", *(step.name for step in STAGES)]
    assert stages["begin"]["params"] == ["cycle"]
    assert [name for one in stages["begin"]["outs"] for name in one] == [str(path) for path in layout.READ]
    for step in STAGES:
        assert stages[step.name] == {
            "cmd": f"serm {step.name}",
            "params": list(step.params),
            "deps": [str(one.path) for one in step.reads],
            "outs": [f"cycle/{step.name}"],
        }


def test_the_pipeline_takes_the_uris_of_what_a_cycle_is_given() -> None:
    inputs = load_ir(COMPILED / "evolve.yaml")["root"]["inputDefinitions"]
    assert inputs.keys() == {"parameters"}
    assert inputs["parameters"].keys() == {*(one.name for one in GIVEN), "settings", "repository", "force", "kept"}


def test_the_pipeline_wires_each_step_to_what_it_reads_and_to_nothing_else() -> None:
    ir = load_ir(COMPILED / "evolve.yaml")
    dags = [ir["root"]["dag"], *(one["dag"] for one in ir["components"].values() if "dag" in one)]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items() if f"exec-{name}" in _containers(ir)}
    assert tasks.pop("report")["componentRef"] == {"name": "comp-report"}
    assert tasks.keys() == {step.name for step in TABLE} == {name[5:] for name in _containers(ir) - {"exec-report"}}
    importers = {
        name: task["inputs"]["parameters"]["uri"]["componentInputParameter"].removeprefix("pipelinechannel--")
        for dag in dags
        for name, task in dag["tasks"].items()
        if name.startswith("importer")
    }
    assert set(importers.values()) == {one.name for one in GIVEN}
    for step in TABLE:
        inputs = tasks[step.name]["inputs"]["artifacts"]
        assert {name: _source(one, importers) for name, one in inputs.items()} == {
            one.name: _made(one) for one in step.reads
        }


def _containers(ir: dict[str, Any]) -> set[str]:
    return {name for name, one in ir["deploymentSpec"]["executors"].items() if "container" in one}


def _source(given: dict[str, Any], importers: dict[str, str]) -> str:
    """Return the task and its output, or the pipeline's parameter whose URI is imported."""
    if made := given.get("taskOutputArtifact"):
        name = f"{made['producerTask']}-{made['outputArtifactKey']}"
    else:
        name = given["componentInputArtifact"].removeprefix("pipelinechannel--")
    return importers.get(name.removesuffix("-artifact"), name)


def _made(one: Data) -> str:
    return one.name if one in GIVEN else f"{one.path.name}-{one.name}"


@EACH
def test_a_container_has_the_image_and_asks_for_what_the_table_says(step: Step) -> None:
    container = load_ir(COMPILED / "evolve.yaml")["deploymentSpec"]["executors"][f"exec-{step.name}"]["container"]
    assert container["image"] == getattr(images, step.image.upper())
    asked = container["resources"]
    assert (asked["resourceCpuRequest"], asked["resourceMemoryRequest"]) == (step.cpu, step.memory)


def test_the_report_has_a_station_of_its_own_for_each_step_and_the_champion() -> None:
    assert loop._OWN.keys() == {*(step.name for step in TABLE), "champion"} - {"record"}
    assert list(loop._told()) == [*steps.STEPS, "publish", "deploy", "champion"]
    assert [step.name for step in WATCHING] == ["ingest", "validate", "drift"]
