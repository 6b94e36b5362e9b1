"""A git repository somewhere else, cloned for as long as a cycle is published to it: nothing but what changes is here.

Inputs, state and DVC's objects stay where they are; what the cycle read is known by the pointers that git keeps.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serm.atomic import write_text
from serm.errors import UserError
from serm.layout import CYCLE, INPUTS, STATE
from serm.settings import PublishSettings
from serm.workspace.store import Workspace, clone

_URL = re.compile(r"(https?|ssh|file)://(?P<user>[^@\s?#/]*@)?[^@\s?#]+|(?P<name>[\w.-]+@)?[\w.-]+:(?!//)[^@\s?#]+")


class Clone(Workspace):
    """A shallow clone of one branch; made by ``cloned``."""

    def pin(self, stages: Sequence[str]) -> None:
        """Pin the outputs of the stages that lie in ``cycle/``; inputs and state as the pointers in git do.

        Raises:
            UserError: an input or a part of the state has no pointer in the repository, or DVC cannot write its own.
        """
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        read = {str(path): self._pointer(path) for path in INPUTS}
        read |= {str(CYCLE / path): self._pointer(path) for path in STATE}
        self._seed(stages, read)
        try:  # DVC looks for stages from where it is.
            with contextlib.chdir(self.path), Repo(str(self.path)) as repository, repository.lock:
                for name in stages:
                    stage = repository.stage.load_one("dvc.yaml", name)
                    stage.save(allow_missing=True, run_cache=False)  # what is missing keeps the hash that was seeded
                    stage.commit(allow_missing=True)
                    stage.dump(update_pipeline=False)
        except (DvcException, OSError, sqlite3.Error) as error:  # SQLite holds what DVC knows of files
            raise UserError(f"{self.path}: DVC cannot pin {', '.join(stages)} ({error}); is the disk full?") from error

    def push_objects(self, stages: Sequence[str] = ()) -> None:
        """Push the outputs of the stages to DVC's remote; those of ``begin``, the state, are there."""
        self.dvc("push", *(name for name in stages if name != "begin"))

    def fetch_tags(self, *tags: str) -> None:
        """Bring those of the git tags that the repository has."""
        listed = self.git("ls-remote", "origin", *(f"refs/tags/{tag}" for tag in tags))
        found = [line.split("\t")[1] for line in listed.splitlines()]
        if found:
            self.git("fetch", "--quiet", "--depth=1", "origin", *(f"+{one}:{one}" for one in found))

    def _pointer(self, path: Path) -> dict[str, Any]:
        """Return what DVC's pointer to a directory says of it: md5, size, number of files."""
        file = self.path / path.with_name(f"{path.name}.dvc")
        try:
            (out,) = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"]
            return {name: out[name] for name in ("hash", "md5", "size", "nfiles") if name in out}
        except FileNotFoundError as error:
            raise UserError(
                f"{file}: not in the repository; run `dvc add {path}` in the workspace, commit and push it, first."
            ) from error
        except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{file}: no pointer of DVC's ({error!r}); bring an undamaged copy.") from error

    def _seed(self, stages: Sequence[str], read: dict[str, dict[str, Any]]) -> None:
        """Put into dvc.lock what DVC cannot see here: the hashes of what the stages read from outside ``cycle/``."""
        defined = yaml.safe_load((self.path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        path = self.path / "dvc.lock"
        held: dict[str, Any] = {"schema": "2.0", "stages": {}}
        if path.exists():
            held = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in stages:
            for kind in ("deps", "outs"):
                named = [next(iter(one)) if isinstance(one, dict) else one for one in defined[name].get(kind, ())]
                known = [{"path": one, **read[one]} for one in named if one in read]
                others = [one for one in held["stages"].get(name, {}).get(kind, ()) if one["path"] not in read]
                if known or others:
                    held["stages"].setdefault(name, {"cmd": defined[name]["cmd"]})[kind] = known + others
        write_text(path, yaml.safe_dump(held, sort_keys=False))


def is_url(repository: str | Path) -> bool:
    """Tell a git URL (https, ssh, ``git@host:path``, file) from a path on this machine.

    Raises:
        UserError: it holds a password or a token, which git would store and show.
    """
    if isinstance(repository, Path) or Path(repository).is_dir():
        return False
    found = _URL.fullmatch(repository)
    if not found:
        if "://" in repository:
            shown = re.sub(r"//[^@/]*@", "//...@", repository)
            raise UserError(f"repository {shown!r}: expected https://, ssh://, file://, git@host:path or a directory.")
        return False
    user = (found["user"] or "").removesuffix("@")
    if user and (":" in user or not repository.startswith("ssh://")):
        shown = re.sub(r"//[^@/]*@", "//...@", repository)
        raise UserError(
            f"repository {shown!r} holds credentials, which every log would show; leave them to git's credential helper"
            " (GIT_ASKPASS, a mounted secret)."
        )
    return True


@contextmanager
def cloned(url: str, settings: PublishSettings) -> Iterator[Clone]:
    """Clone a repository for the length of the block; nothing of it is left behind.

    Raises:
        UserError: it cannot be cloned, or has no workspace where the settings say.
    """
    with tempfile.TemporaryDirectory(prefix="serm-publish-") as scratch:
        top = Path(scratch) / "clone"
        branch = [f"--branch={settings.branch}"] if settings.branch else []
        clone(url, top, "--depth=1", "--no-tags", *branch)
        workspace = Clone(within(url, top, settings.directory or ""))
        reach(workspace, url, settings.dvc_remote)
        yield workspace


def within(url: str, clone: Path, directory: str) -> Path:
    """Return where the workspace lies in the ``clone`` of ``url``; ``directory`` is empty where it is the root.

    Raises:
        UserError: there is none.
    """
    root = clone / (directory or ".")
    if not root.resolve().is_relative_to(clone.resolve()) or not (root / ".dvc").is_dir():
        raise UserError(
            f"{url}: no SERM workspace in {directory or 'its root'} (no .dvc directory); publish.directory says where"
            " it is, and the parameter directory of a pipeline that clones it."
        )
    return root


def reach(workspace: Workspace, url: str, dvc_remote: str) -> None:
    """Have a clone of ``url`` reach DVC's default remote at the URL ``dvc_remote``; empty: as its .dvc/config says.

    Raises:
        UserError: it has no default remote.
    """
    if dvc_remote:
        if not (name := workspace.dvc_remote()):
            raise UserError(f"{url}: its .dvc/config names no default remote; run `dvc remote default NAME` in it.")
        workspace.dvc("remote", "modify", "--local", name, "url", dvc_remote)
