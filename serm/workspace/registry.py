"""The model registry in git: a version for each challenger that passed, a stage for each champion, as GTO tags them.

``gto show`` and ``dvc artifacts get`` read them. Source: https://dvc.org/doc/gto/user-guide. The models' name is that
of the artifact in dvc.yaml whose path is the challenger's; without one, nothing is registered.
"""

from __future__ import annotations

import yaml

from serm.layout import CYCLE
from serm.workspace.progress import number
from serm.workspace.store import Workspace

STAGE = "champion"


def register(workspace: Workspace, tag: str) -> list[str]:
    """Tag the commit of the cycle ``tag`` as a version of the model, and return the git tag, or nothing."""
    made = version(workspace, tag)
    if made:
        _tag(workspace, made, workspace.tag(tag), f"Version of {workspace.tag(tag)}")
    return [made] if made else []


def version(workspace: Workspace, tag: str) -> str:
    """Return the git tag of the model's version that the cycle ``tag`` made, or nothing where models have no name."""
    name = _artifact(workspace)
    return f"{name}@v{number(tag)}.0.0" if name else ""


def promote(workspace: Workspace, tag: str) -> list[str]:
    """Tag the version of the cycle ``tag`` as the champion, and return the git tag, or nothing; once a version."""
    registered = version(workspace, tag)
    if not registered or not workspace.git("for-each-ref", f"refs/tags/{registered}"):
        return []
    name = registered.rpartition("@")[0]
    stages = f"refs/tags/{name}#{STAGE}#"
    commit = workspace.git("rev-list", "-n", "1", workspace.tag(tag))
    listed = workspace.git("for-each-ref", "--format=%(refname) %(*objectname)", f"{stages}*").splitlines()
    there = dict(line.split() for line in listed)
    for made, of in there.items():
        if of == commit:
            return [made.removeprefix("refs/tags/")]
    count = max((int(made.rpartition("#")[2]) for made in there if made.rpartition("#")[2].isdigit()), default=0) + 1
    made = f"{name}#{STAGE}#{count}"
    _tag(workspace, made, commit, f"{workspace.tag(tag)} is the champion")
    return [made]


def _artifact(workspace: Workspace) -> str:
    """Return the models' name as GTO's tags have it: with ``search=`` before it in the workspace ``search``."""
    declared = yaml.safe_load((workspace.path / "dvc.yaml").read_text(encoding="utf-8")).get("artifacts") or {}
    names = [name for name, one in declared.items() if one.get("path") == str(CYCLE / "train" / "model")]
    prefix = workspace.tag("").removesuffix("/")
    return f"{prefix}={names[0]}" if prefix and names else names[0] if names else ""


def _tag(workspace: Workspace, made: str, commit: str, message: str) -> None:
    """Make a tag; one that is on another commit is of a trial, whose own tag was deleted."""
    wanted = workspace.git("rev-parse", f"{commit}^{{commit}}")
    if workspace.git("for-each-ref", "--format=%(*objectname)", f"refs/tags/{made}") != wanted:
        workspace.git("tag", "--force", "--annotate", made, wanted, "--message", message)
