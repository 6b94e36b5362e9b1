"""The wheel: SERM alone, whole, and at work where no checkout is. The end-to-end tests run their cycle from it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from wheel import ROOT, run


def test_the_wheel_has_every_file_of_serm_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "serm").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}


def test_doctor_and_help_run_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    checks = json.loads(run(installed / "serm", "doctor", "--json", cwd=tmp_path).stdout)
    assert {one["state"] for one in checks if one["for"] == "core"} == {"ok"}
    assert "evolve" in run(installed / "serm", "--help", cwd=tmp_path).stdout


def test_the_pipeline_and_the_emoji_world_are_in_it(installed: Path, tmp_path: Path) -> None:
    program = """
import importlib.util, serm, yaml
from serm.workspace.provenance import PIPELINE
from serm.worlds.emoji import EmojiWorld
EmojiWorld(seed_queries=60, test_queries=40)
assert next(iter(yaml.safe_load_all(PIPELINE.read_text())))["pipelineInfo"]["name"] == "serm-evolve"
assert not any(importlib.util.find_spec(name) for name in ("components", "pipelines"))
print(serm.__file__)
"""
    done = run(installed / "python", "-c", program, cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent), done.stderr
