"""``serm doctor``."""

from __future__ import annotations

import importlib.metadata
import json as jsonlib
import os
import shutil
import sys

import typer

from serm.cli.extras import requirements
from serm.cli.options import Json

_OPTIONAL = ("export", "generative", "spark", "tables")
#: For who works on SERM, for a judge in this process, and the name for all others.
_NOT_ASKED_FOR = {"dev", "local-llm", "all"}
_PROGRAMS = {"git": "apt-get install git", "java": "apt-get install openjdk-17-jre-headless (for Spark only)"}


def doctor(json: Json = False) -> None:
    """Say what is installed, what is missing, and how to install it; exit code 1 if a needed part is missing."""
    checks = [*_packages(), *_programs(), *_machine()]
    if json:
        print(jsonlib.dumps(checks))
    else:
        _show(checks)
    if any(check["state"] == "missing" for check in checks):
        raise typer.Exit(1)


def _packages() -> list[dict[str, str]]:
    brought, checks, told = requirements(), [], set[str]()
    for extra in sorted(brought.keys() - _NOT_ASKED_FOR, key=lambda extra: len(brought[extra])):
        for package in [name for name in brought[extra] if name not in told]:
            told.add(package)
            try:
                found, fix, state = importlib.metadata.version(package), "", "ok"
            except importlib.metadata.PackageNotFoundError:
                found, fix = "", "pip install serm" + (f"[{extra}]" if extra else "")
                state = "optional" if extra in _OPTIONAL else "missing"
            checks.append({"part": package, "for": extra or "core", "found": found, "state": state, "fix": fix})
    return checks


def _programs() -> list[dict[str, str]]:
    checks = []
    for program, fix in _PROGRAMS.items():
        found = shutil.which(program) or ""
        state = "ok" if found else "optional" if program == "java" else "missing"
        checks.append({"part": program, "for": "programs", "found": found, "state": state, "fix": "" if found else fix})
    return checks


def _machine() -> list[dict[str, str]]:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    python = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return [
        {
            "part": "python",
            "for": "machine",
            "found": python,
            "state": "ok" if supported else "missing",
            "fix": "" if supported else "use Python 3.11 to 3.13",
        },
        {
            "part": "memory",
            "for": "machine",
            "found": f"{memory:.0f} GiB, {os.cpu_count()} cores",
            "state": "ok" if memory >= 6 else "missing",
            "fix": "" if memory >= 6 else "the demo needs 6 GiB",
        },
    ]


def _show(checks: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    colour = {"ok": "green", "missing": "red", "optional": "yellow"}
    table = Table("part", "for", "found", "state", "to install")
    for check in checks:
        state = check["state"]
        table.add_row(check["part"], check["for"], check["found"], f"[{colour[state]}]{state}[/]", check["fix"])
    Console().print(table)
