"""What made a cycle: an in-toto Statement v1 with SLSA's provenance v1 over every file that its steps wrote.

Sources: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, its digest_set.md for ``dirHash``, and
https://slsa.dev/provenance/v1. It holds no time, so that the same bytes made in the same way are told alike; what tells
two runs apart is the run's id.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from serm.layout import CYCLE, INPUTS, LOG, PROVENANCE, READ
from serm.settings import Settings
from serm.workspace.store import Workspace

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD = "https://github.com/serm-relevance/serm/blob/main/docs/workspace.md#provenance"
"""What ``externalParameters`` and ``internalParameters`` mean is told there."""
PIPELINE = Path(str(files("serm.workspace") / "compiled" / "evolve.yaml"))

Descriptor = dict[str, Any]
"""in-toto's ResourceDescriptor."""


def path_of(tag: str) -> Path:
    """Return where the statement of the cycle ``tag`` lies in a workspace."""
    return PROVENANCE / f"{tag}.json"


def statement(workspace: Workspace, settings: Settings, steps: Sequence[str], run: str) -> dict[str, Any]:
    """Return the statement of a cycle whose outputs lie in ``cycle/`` and are pinned in dvc.lock.

    Args:
        workspace: the workspace, or a clone, which has no inputs: of those DVC's hash is told alone.
        settings: what the cycle ran with.
        steps: those that ran.
        run: the id of the KFP run, or nothing where the steps were run by hand.
    """
    root = workspace.path
    tag = settings.cycle.name
    subjects = [one for step in steps for one in _files(root, CYCLE / step)]
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"cycle": workspace.tag(tag), "params": settings.model_dump(mode="json")},
                "internalParameters": _pipeline() if run else {},
                "resolvedDependencies": [
                    *_inputs(root, _pins(root, steps)),
                    {"name": "workspace", "digest": {"gitCommit": _parent(workspace, tag)}},
                    code(),
                    *_packages(),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": f"{BUILD}-{'pipeline' if run else 'verbs'}",
                    "version": {"serm": version("serm"), "python": platform.python_version()},
                },
                **({"metadata": {"invocationId": run}} if run else {}),
            },
        },
    }


def code() -> Descriptor:
    """Return SERM itself: its version, and its commit where it runs from a git checkout."""
    found: Descriptor = {"name": "serm", "uri": f"pkg:pypi/serm@{version('serm')}"}
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found["digest"] = {"gitCommit": done.stdout.strip()}
    return found


def directory_hash(named: Sequence[tuple[str, str]]) -> str:
    """Return in-toto's ``dirHash`` of files given as (path, sha256): Go's Hash1, in hexadecimal."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(named, key=lambda one: one[0].encode()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _inputs(root: Path, pins: dict[str, str]) -> list[Descriptor]:
    """Return what the steps read from outside the cycle; of the log, each raw file too."""
    found: list[Descriptor] = []
    for path in (*INPUTS, *READ):
        if str(path) not in pins:
            continue
        listed = _files(root, path)
        digest = {"dvcMd5": pins[str(path)]}
        if listed:
            inside = [(one["name"].removeprefix(f"{path}/"), one["digest"]["sha256"]) for one in listed]
            digest["dirHash"] = directory_hash(inside)
        found += [{"name": str(path), "digest": digest}, *(listed if path == LOG else [])]
    return found


def _pins(root: Path, steps: Sequence[str]) -> dict[str, str]:
    """Return DVC's hash of all that the stages read, by its path."""
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {one["path"]: one["md5"] for step in steps for one in stages[step].get("deps", ())}


def _files(root: Path, path: Path) -> list[Descriptor]:
    """Return each file at or below ``path``, sorted by its path; nothing where nothing is."""
    inside = [root / path] if (root / path).is_file() else (root / path).rglob("*")
    found = {file.relative_to(root).as_posix(): file for file in inside if file.is_file()}
    return [{"name": name, "digest": {"sha256": _sha256(found[name])}} for name in sorted(found)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parent(workspace: Workspace, tag: str) -> str:
    """Return the commit on which the cycle's is made; where a killed publish made it already, the one before it."""
    made = workspace.git("log", "--diff-filter=A", "--format=%P", "-1", "--", str(path_of(tag)))
    return made.split()[0] if made else workspace.git("rev-parse", "HEAD")


def _pipeline() -> dict[str, Any]:
    """Return the pipeline's hash, and the image that it names for each step."""
    text = PIPELINE.read_text(encoding="utf-8")
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"]
    images = {
        name.removeprefix("exec-"): one["container"]["image"] for name, one in executors.items() if "container" in one
    }
    return {"pipeline": {"sha256": hashlib.sha256(text.encode()).hexdigest()}, "images": images}


@cache
def _packages() -> tuple[Descriptor, ...]:
    """Return what is installed beside SERM, as package URLs."""
    found = {re.sub(r"[-_.]+", "-", one.name).lower(): one.version for one in distributions() if one.name}
    return tuple({"uri": f"pkg:pypi/{name}@{found[name]}"} for name in sorted(found) if name != "serm")
