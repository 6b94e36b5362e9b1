"""``serm doctor``."""

from __future__ import annotations

import importlib.metadata
import json as jsonlib
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from serm.cli.extras import requirements
from serm.cli.options import Json, Params
from serm.escaping import visible
from serm.layout import PARAMS

_OPTIONAL = ("export", "generative", "s3", "spark", "tables")
#: For who works on SERM, for a judge in this process, and the name for all others.
_NOT_ASKED_FOR = {"dev", "local-llm", "all"}
_PROGRAMS = {"git": "apt-get install git", "java": "apt-get install openjdk-17-jre-headless (for Spark only)"}


def doctor(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at the Kubernetes cluster of your kubeconfig; change nothing.")
    ] = False,
    kubeconfig: Annotated[Path | None, typer.Option(help="Of --cluster, in the place of kubectl's own.")] = None,
    context: Annotated[str | None, typer.Option(help="Of the kubeconfig, in the place of its current one.")] = None,
    params: Params = PARAMS,
    json: Json = False,
) -> None:
    """Say what is installed, what is missing, and how to install it; exit code 1 if a needed part is missing."""
    checks = _cluster(params, kubeconfig, context) if cluster else [*_packages(), *_programs(), *_machine()]
    if json:
        print(jsonlib.dumps(checks))
    else:
        _show(checks)
    if any(check["state"] == "missing" for check in checks):
        raise typer.Exit(1)


def _cluster(params: Path, kubeconfig: Path | None, context: str | None) -> list[dict[str, str]]:
    from serm import settings
    from serm.cluster import connect, examine
    from serm.settings import ServingSettings
    from serm.steps import TABLE

    serving = settings.load(params).serving if params.is_file() else ServingSettings()
    memory = max((step.memory for step in TABLE), key=lambda text: int(text.removesuffix("Gi")))
    api = connect(kubeconfig, context)
    return [check.row() for check in examine(api, serving.namespace, serving.name, serving.mode, memory)]


def _packages() -> list[dict[str, str]]:
    brought, checks, told = requirements(), [], set[str]()
    for extra in sorted(brought.keys() - _NOT_ASKED_FOR, key=lambda extra: len(brought[extra])):
        for package in [name for name in brought[extra] if name not in told]:
            told.add(package)
            try:
                found, fix, state = importlib.metadata.version(package), "", "ok"
            except importlib.metadata.PackageNotFoundError:
                found, fix = "", f"pip install 'serm[{extra}]'" if extra else "pip install serm"
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
    from rich.table import Column, Table
    from rich.text import Text

    colour = {"ok": "green", "missing": "red", "optional": "yellow", "unknown": "yellow"}
    headings = ("part", "for", "found", "state", "what to do")
    table = Table(*(Column(heading, overflow="fold") for heading in headings))  # a name cut short cannot be looked up
    for check in checks:
        state = check["state"]
        words = [Text(visible(check[name])) for name in ("part", "for", "found", "fix")]
        table.add_row(*words[:3], f"[{colour[state]}]{state}[/]", words[3])
    Console().print(table)
