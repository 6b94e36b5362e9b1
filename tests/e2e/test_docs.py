"""Every shell command in README.md and docs/ runs, on the small workspace in the place of runs/demo."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for block in BLOCK.findall(page.read_text(encoding="utf-8"))
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
#: `make demo` and `make test` are what runs this test, or take as long as all tests together.
LONG = {"make demo", "make test"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_runs(command, demo):
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
        if command in LONG:
            return
        command += f" --dry-run --directory {ROOT}"
    workspace = str(demo[0])
    in_workspace = program in ("git", "dvc") or "runs/demo" not in command
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command.replace("runs/demo", workspace)],
        cwd=workspace if in_workspace else ROOT,
        env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 5
