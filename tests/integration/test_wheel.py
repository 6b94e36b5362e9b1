"""The wheel: SERM alone, whole, and at work where no checkout is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, which has what a build needs and nothing of earlier builds."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "serm", source / "serm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = tmp_path_factory.mktemp("built")
    _run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", built, source, cwd=built
    )
    (found,) = built.glob("serm-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's programs: the wheel, and of this environment all packages but its SERM."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    _run(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files in it, an editable install's among them, are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done


def test_the_wheel_has_every_file_of_serm_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "serm").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}


def test_doctor_and_help_run_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    checks = json.loads(_run(installed / "serm", "doctor", "--json", cwd=tmp_path).stdout)
    assert {one["state"] for one in checks if one["for"] == "core"} == {"ok"}
    assert "evolve" in _run(installed / "serm", "--help", cwd=tmp_path).stdout


def test_the_pipeline_and_the_emoji_world_are_in_it(installed: Path, tmp_path: Path) -> None:
    program = """
import importlib.util, serm, yaml
from serm.workspace.runner import PIPELINE
from serm.worlds.emoji import EmojiWorld
EmojiWorld(seed_queries=60, test_queries=40)
assert next(iter(yaml.safe_load_all(PIPELINE.read_text())))["pipelineInfo"]["name"] == "serm-evolve"
assert not any(importlib.util.find_spec(name) for name in ("components", "pipelines"))
print(serm.__file__)
"""
    done = _run(installed / "python", "-c", program, cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent), done.stderr
