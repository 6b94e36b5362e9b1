"""Where a cycle is committed: in a workspace on this machine, or by a clone in a repository somewhere else.

DVC's objects are pushed before git names them, and branch and tags in one atomic push, so that whoever sees a tag can
have its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from serm.errors import UserError
from serm.settings import PublishSettings
from serm.step import Figures
from serm.workspace.clone import Clone, cloned, is_url
from serm.workspace.lock import writing
from serm.workspace.store import Workspace

ATTEMPTS = 5
"""How often a cycle is committed anew on what others pushed meanwhile."""


class Overtaken(UserError):
    """Somebody else pushed to the branch since it was cloned."""


def committed(
    repository: Path | str, verb: str, settings: PublishSettings, commit: Callable[[Workspace], Figures]
) -> Figures:
    """Call ``commit`` on the workspace ``repository``, or on clones of it until none was overtaken.

    Args:
        repository: a directory, or a git URL.
        verb: what is done, as the user calls it: ``serm publish``.
        settings: the section ``publish``.
        commit: commits and pushes, with ``push``; it is called again with a new clone where that was overtaken.

    Raises:
        UserError: the repository cannot be had or written, or was overtaken ``ATTEMPTS`` times.
    """
    if not is_url(repository):
        workspace = Workspace(Path(repository))
        with writing(workspace.path, verb):
            if settings.push:
                require_level(workspace, settings.remote)
            return commit(workspace)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with cloned(str(repository), settings) as clone:
                return commit(clone)
        except Overtaken as error:
            if attempt == ATTEMPTS:
                raise UserError(
                    f"{repository}: others pushed to it during each of {ATTEMPTS} attempts; run `{verb}` again."
                ) from error
    raise AssertionError("unreachable")


def push(workspace: Workspace, settings: PublishSettings, tags: Sequence[str] = ()) -> None:
    """Push the branch and the tags at once, where the workspace is a clone or the settings say so.

    Raises:
        Overtaken: the branch has commits that this one lacks; in a workspace its tags are taken back, so that the
            next call makes them on the commit that is pushed then.
        UserError: one of the tags is there with another commit, or git says why it cannot be pushed.
    """
    if not (settings.push or isinstance(workspace, Clone)):
        return
    remote = "origin" if isinstance(workspace, Clone) else settings.remote
    branch = workspace.git("symbolic-ref", "--short", "HEAD")
    references = [f"refs/heads/{branch}", *(f"refs/tags/{tag}" for tag in tags)]
    try:
        workspace.git("push", "--quiet", "--atomic", remote, *(f"{one}:{one}" for one in references))
    except UserError as error:
        lines = (line.split("\t") for line in workspace.git("ls-remote", remote).splitlines())
        there = {name: commit for commit, name in lines}
        ours = {one: workspace.git("rev-parse", one) for one in references}
        if all(there.get(one) == ours[one] for one in references):
            return  # it was done, and only the answer was lost
        others = {one for one in references[1:] if there.get(one, ours[one]) != ours[one]}
        taken = [tag for tag in tags if f"refs/tags/{tag}" in others]
        if taken and not isinstance(workspace, Clone):  # a clone's next attempt compares the bytes
            raise UserError(_taken(workspace, remote, taken)) from error
        if taken or (references[0] in there and not workspace.has_commit(there[references[0]])):
            for tag in tags:
                if f"refs/tags/{tag}" not in there:
                    workspace.git("tag", "--delete", tag)
            raise Overtaken(_behind(workspace, remote, branch)) from error
        raise


def require_level(workspace: Workspace, remote: str) -> None:
    """Refuse, before any work, a branch that lacks commits of the remote's."""
    branch = workspace.git("symbolic-ref", "--short", "HEAD")
    line = workspace.git("ls-remote", remote, f"refs/heads/{branch}")
    if line and not workspace.has_commit(line.split("\t")[0]):
        raise UserError(_behind(workspace, remote, branch))


def require_new(workspace: Workspace, remote: str, tag: str) -> None:
    """Refuse, before any work, a git tag that the remote has and the workspace has not."""
    if workspace.git("ls-remote", remote, f"refs/tags/{tag}"):
        raise UserError(_taken(workspace, remote, [tag]))


def _taken(workspace: Workspace, remote: str, tags: Sequence[str]) -> str:
    return (
        f"{workspace.path}: {remote} has the tag {', '.join(tags)} already, on another commit; another publisher was"
        " first. Fetch it, and set cycle.number in params.yaml to the next number."
    )


def _behind(workspace: Workspace, remote: str, branch: str) -> str:
    return (
        f"{workspace.path}: {remote}/{branch} has commits that this branch lacks; run `git pull --rebase {remote}"
        f" {branch}`, then the same command again, which tags and pushes."
    )
