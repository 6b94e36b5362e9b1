"""DVC's commands in forks of one process that has imported it: an import takes several times as long as what is asked.

``serm.workspace.store`` starts ``python -m dvc`` for each command, and a test of a cycle gives dozens. The processes
that tests start themselves, killed ones and those of a wheel among them, start DVC as it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Reads a request a line, runs it in a fork and answers in a line. What commands import is imported before.
SERVER = """
import json, os, sys, tempfile
from importlib import import_module

for name in MODULES:
    import_module(name)
from dvc.cli import main

for line in sys.stdin:
    asked = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.environ.clear()
            os.environ.update(asked["environment"])
            os.chdir(asked["directory"])
            sys.argv = ["dvc", *asked["arguments"]]
            code = 1
            try:
                code = main(asked["arguments"])
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read().decode(errors="replace"))
    print(json.dumps([code, *told]), flush=True)
"""
MODULES = (
    *(f"dvc.commands.{name}" for name in ("add", "checkout", "commit", "config", "data_sync", "init", "status")),
    *(
        f"dvc.{name}"
        for name in ("analytics", "cachemgr", "data_cloud", "dependency", "lock", "output", "rwlock", "stage")
    ),
    *(f"dvc.repo.{name}" for name in ("add", "checkout", "commit", "fetch", "graph", "init", "push", "status")),
    *(f"dvc_data.{name}" for name in ("hashfile.build", "hashfile.checkout", "hashfile.transfer", "index.push")),
    *("dulwich.client", "dulwich.worktree", "fsspec.asyn", "networkx", "rich.console", "scmrepo.git", "sqltrie"),
)


class ForkedDvc:
    """Stands in for ``subprocess`` in ``serm.workspace.store``; its process starts with the first command of DVC."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[:3] != [sys.executable, "-m", "dvc"]:
            return subprocess.run(command, **options)
        asked = {
            "arguments": command[3:],
            "directory": str(Path(options["cwd"]).absolute()),
            "environment": dict(options["env"]),
        }
        if self._server is None:
            program = [sys.executable, "-c", f"MODULES = {MODULES!r}\n{SERVER}"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._server = subprocess.Popen(program, text=True, start_new_session=True, **pipes)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        try:
            print(json.dumps(asked), file=self._server.stdin, flush=True)
            code, out, err = json.loads(self._server.stdout.readline())
        except BaseException:  # a test's time is up, and whoever waited: the next command is not to wait behind it
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server = None
            raise
        return subprocess.CompletedProcess(command, code, out, err)

    def close(self) -> None:
        if self._server is not None:
            self._server.communicate()


@pytest.fixture(scope="session", autouse=True)
def forked_dvc() -> Iterator[None]:
    """In all tests of this process."""
    forked = ForkedDvc()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serm.workspace.store.subprocess", forked)
        yield
    forked.close()
