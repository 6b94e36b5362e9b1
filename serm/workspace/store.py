"""The git and DVC commands of a workspace, and how a directory gets into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from serm.atomic import replace_directory, write_text
from serm.errors import UserError

#: Hard links, so that the workspace, the cache and the pipeline's own outputs share one copy of a model.
_CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = store
[cache]
    type = "hardlink,copy"
['remote "store"']
    url = {remote}
"""

#: A workspace's dvc.yaml and params.yaml to begin with.
TEMPLATE = Path(__file__).parent / "template"

_QUIET = {"DVC_NO_ANALYTICS": "1", "DVC_STUDIO_OFFLINE": "1", "GIT_TERMINAL_PROMPT": "0"}


class Workspace:
    """git and DVC commands in one repository; ``path`` is its root."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not (self.path / ".dvc").is_dir():
            raise UserError(
                f"{path}: not a SERM workspace (no .dvc directory); make one with `serm demo` or `dvc init`."
            )

    @classmethod
    def create(cls, path: Path, remote: Path) -> Workspace:
        """Make ``path`` a git and DVC repository whose default remote is the directory ``remote``."""
        path.mkdir(parents=True, exist_ok=True)
        _run(["git", "init", "--quiet", "--initial-branch=main"], path)
        if not _run(["git", "config", "--default", "", "user.email"], path):
            _run(["git", "config", "user.name", "SERM"], path)
            _run(["git", "config", "user.email", "serm@localhost"], path)
        if not (path / ".dvc").is_dir():
            _run([*_DVC, "init", "--quiet"], path)
        write_text(path / ".dvc" / "config", _CONFIG.format(remote=remote.resolve()))
        workspace = cls(path)
        workspace.git("add", ".dvc/config")
        return workspace

    def git(self, *arguments: str) -> str:
        """Run git and return what it printed, stripped."""
        return _run(["git", *arguments], self.path)

    def dvc(self, *arguments: str) -> str:
        """Run DVC and return what it printed, stripped."""
        return _run([*_DVC, *arguments], self.path)

    def track(self, *paths: str) -> None:
        """Put directories under DVC (``dvc add``) and stage their pointers in git."""
        self.dvc("add", "--quiet", *paths)
        ignores = sorted({str(Path(path).parent / ".gitignore") for path in paths})  # DVC writes them beside the paths
        self.git("add", *(f"{path}.dvc" for path in paths), *(name for name in ignores if (self.path / name).exists()))

    def commit(self, message: str) -> str:
        """Commit what is staged, if anything is, and return the commit's hash."""
        if self.git("diff", "--cached", "--name-only"):
            self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def has_tag(self, name: str) -> bool:
        """Tell whether the tag ``name`` exists."""
        return bool(self.git("tag", "--list", name))

    def has_remote(self) -> bool:
        """Tell whether DVC has a default remote to push to."""
        return "core.remote" in self.dvc("config", "--list")


_DVC = (sys.executable, "-m", "dvc")


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, env=os.environ | _QUIET, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(["dvc", *command[3:]] if command[:3] == list(_DVC) else command)
        raise UserError(f"{directory}: `{shown}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def place(source: Path, target: Path) -> None:
    """Make ``target`` the same tree as ``source``: hard links where the file system allows it, copies elsewhere."""
    if source.resolve() == target.resolve():
        return
    if not source.is_dir():
        raise UserError(f"{source}: no such directory; run the step that writes it first.")
    with replace_directory(target) as beside:
        shutil.copytree(source, beside, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
