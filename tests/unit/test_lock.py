"""One writer at a time in a workspace; a second one is told who it is, and a dead one is no obstacle."""

import json
import os
import signal
import subprocess
import sys

import pytest

from serm.errors import UserError
from serm.workspace.lock import writing

HOLD = """
import sys
from pathlib import Path
from serm.workspace.lock import writing
with writing(Path(sys.argv[1]), "serm evolve"):
    print("held", flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from serm.errors import UserError
from serm.workspace.lock import writing
try:
    with writing(Path(sys.argv[1]), "serm publish"):
        print("written")
except UserError as error:
    print(error)
"""


def holder(root):
    """Start another command that writes in ``root``, and return it once it has begun."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], **pipes)
    assert started.stdout.readline() == "held\n"
    return started


def attempt(root, **environment):
    command = [sys.executable, "-c", TRY, str(root)]
    given = os.environ | environment
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_a_second_writer_is_told_who_writes_since_when_and_what_to_do(tmp_path):
    other = holder(tmp_path)
    said = attempt(tmp_path)
    written = json.loads((tmp_path / ".serm/lock").read_text())
    assert f"`serm evolve` has been writing in this workspace since {written['since']}" in said
    assert f"process {other.pid} on {written['host']}" in said
    assert f"`kill {other.pid}`" in said
    assert len(said.splitlines()) == 1
    other.communicate("")
    assert attempt(tmp_path) == "written"


def test_the_lock_of_a_process_that_was_killed_is_no_obstacle(tmp_path):
    other = holder(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert "serm evolve" in (tmp_path / ".serm/lock").read_text()
    assert attempt(tmp_path) == "written"


def test_what_the_writer_starts_writes_under_its_lock(tmp_path):
    with writing(tmp_path, "serm evolve"):
        assert attempt(tmp_path) == "written"
        with writing(tmp_path, "serm advance"):
            pass
        assert json.loads((tmp_path / ".serm/lock").read_text())["verb"] == "serm evolve"
        assert attempt(tmp_path) == "written"


def test_processes_of_one_torchrun_write_together(tmp_path):
    other = holder(tmp_path)
    assert attempt(tmp_path, RANK="1") == "written"
    assert "serm evolve" in attempt(tmp_path, RANK="0")
    other.communicate("")


def test_the_lock_is_freed_when_the_command_fails_and_git_does_not_see_it(tmp_path):
    with pytest.raises(UserError, match="stopped"), writing(tmp_path, "serm evolve"):
        raise UserError("stopped")
    assert attempt(tmp_path) == "written"
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    done = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == ""
