"""``serm`` as on the command line, but in this process: a check starts no Python of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from serm.cli import main

Serm = Callable[..., CompletedProcess[str]]


@pytest.fixture
def serm(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Serm:
    """Run ``serm`` with these arguments in the directory ``cwd``, and return its exit code, stdout and stderr."""

    def run(*arguments: str, cwd: Path) -> CompletedProcess[str]:
        capfd.readouterr()
        code: object = 0
        with contextlib.chdir(cwd), monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["serm", *arguments])
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
        said = capfd.readouterr()
        return CompletedProcess(["serm", *arguments], int(str(code)), said.out, said.err)

    return run
