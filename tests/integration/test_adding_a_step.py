"""docs/add-a-step.md: a step is added in two places, all else follows, and nothing is left of it when they are gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import yaml
from workspace_world import impressions

from pipelines.compile import dangling_references, load_ir
from serm import contracts

ROOT = Path(__file__).parents[2]
COMPILE = ("-m", "pipelines.generate"), ("-m", "pipelines.compile")
SERM = "from serm.cli import main; main()"


def test_a_step_is_added_and_removed_in_two_places(tmp_path: Path) -> None:
    source, shop = tmp_path / "source", tmp_path / "shop"
    for name in ("serm", "components", "pipelines"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    before = _files(source)
    function, entry = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add-a-step.md").read_text(), flags=re.DOTALL)
    table = source / "serm/steps.py"
    without = table.read_text()

    (source / "serm/mining/popularity.py").write_text(textwrap.dedent(function))
    table.write_text(_before_mine(without, entry))
    for command in COMPILE:
        _python(*command, source=source, cwd=source)
    _is_a_task(source)
    _is_a_stage(source)
    _runs(source, shop)

    (source / "serm/mining/popularity.py").unlink()
    table.write_text(without)
    for command in COMPILE:
        _python(*command, source=source, cwd=source)
    assert _files(source) == before


def _before_mine(table: str, entry: str) -> str:
    mine = '    Step(\n        name="mine",'
    assert table.count(mine) == 1
    (step,) = re.findall(r"^ {4}Step\(\n.*?^ {4}\),\n", textwrap.dedent(entry), flags=re.DOTALL | re.MULTILINE)
    return table.replace(mine, step + mine)


def _is_a_task(source: Path) -> None:
    ir = load_ir(source / "pipelines/compiled/evolve.yaml")
    assert list(dangling_references(ir)) == []
    (tasks,) = (
        one["dag"]["tasks"] for one in ir["components"].values() if "popularity" in one.get("dag", {}).get("tasks", {})
    )
    assert "mine" in tasks
    assert tasks["publish"]["inputs"]["artifacts"]["popular"]["taskOutputArtifact"]["producerTask"] == "popularity"


def _is_a_stage(source: Path) -> None:
    stages = yaml.safe_load((source / "serm/workspace/template/dvc.yaml").read_text())["stages"]
    assert stages["popularity"] == {
        "cmd": "serm popularity",
        "params": ["cycle"],
        "deps": ["cycle/validate"],
        "outs": ["cycle/popularity"],
    }


def _runs(source: Path, shop: Path) -> None:
    """As a verb, as a method, and as one of what is published and of the report's stations."""
    contracts.write(impressions("fox"), shop / "cycle/validate/impressions", contracts.IMPRESSIONS)
    shutil.copy(ROOT / "serm/workspace/template/params.yaml", shop)
    (shop / ".dvc").mkdir()
    assert json.loads(_python("-c", SERM, "popularity", "--json", source=source, cwd=shop))["queries"] == 1
    program = """
import serm
from serm.report import loop
from serm.steps import PUBLISH, STEPS
print(serm.Workspace(".").popularity()["queries"], "popularity" in STEPS, PUBLISH.reads[3].name, loop.STEPS[3])
"""
    assert _python("-c", program, source=source, cwd=shop).split() == ["1", "True", "popular", "popularity"]
    assert json.loads((shop / "cycle/popularity/popularity.json").read_text()) == {"queries": 1}


def _python(*arguments: str, source: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
