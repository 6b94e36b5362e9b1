"""The git and DVC commands of a workspace, and how a directory gets into it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from serm.atomic import replace_directory, write_text
from serm.errors import UserError
from serm.layout import DVC

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

#: No question to nobody, no news home, no transport that a URL could turn into a command.
_QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
}


class Workspace:
    """git and DVC commands in one workspace; ``path`` is its root, in a git repository of its own or below one's root.

    A cycle's tag is its name, such as ``cycle-0003``; where the workspace is a directory of a larger repository it is
    ``search/cycle-0003``, so that several workspaces share one repository.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not (self.path / DVC).is_dir():
            raise UserError(
                f"{path}: not a SERM workspace (no .dvc directory); make one with `serm init` or `serm demo`."
            )

    @classmethod
    def create(cls, path: Path, remote: str | Path) -> Workspace:
        """Make ``path`` a git and DVC repository whose default remote is ``remote``: a directory, or a URL of DVC's."""
        path.mkdir(parents=True, exist_ok=True)
        run(["git", "init", "--quiet", "--initial-branch=main"], path)
        if not run(["git", "config", "--default", "", "user.email"], path):
            run(["git", "config", "user.name", "SERM"], path)
            run(["git", "config", "user.email", "serm@localhost"], path)
        if not (path / DVC).is_dir():
            run([*_DVC, "init"], path)
        url = remote if "://" in str(remote) else Path(remote).resolve()
        write_text(path / DVC / "config", _CONFIG.format(remote=url))
        return cls(path)

    def git(self, *arguments: str, index: Path | None = None) -> str:
        """Run git and return what it printed, stripped; ``index`` stands in for the repository's own."""
        return run(["git", *arguments], self.path, {"GIT_INDEX_FILE": str(index)} if index else None)

    def dvc(self, *arguments: str) -> str:
        """Run DVC and return what it printed, stripped. DVC tells why it failed only where it is not told to be quiet.

        Raises:
            UserError: it failed; the message has DVC's reason.
        """
        return run([*_DVC, *arguments], self.path)

    def track(self, *paths: Path) -> None:
        """Put directories under DVC (``dvc add``); ``pointers`` are what git keeps of them."""
        self.dvc("add", *map(str, paths))

    def changed(self, *paths: Path) -> list[str]:
        """Return those of the directories whose pointer is not there, or whose bytes are not its."""
        pointers = {str(path): path.with_name(f"{path.name}.dvc") for path in paths}
        missing = [name for name, pointer in pointers.items() if not (self.path / pointer).exists()]
        there = [str(pointer) for name, pointer in pointers.items() if name not in missing]
        status = json.loads(self.dvc("status", "--json", *there)) if there else {}
        return missing + [name for name, pointer in pointers.items() if str(pointer) in status]

    def freeze(self, stages: Sequence[str]) -> None:
        """Say in dvc.yaml that these stages do not run in this cycle; ``dvc status`` then asks no more of them."""
        if stages:
            self.dvc("freeze", *stages)

    def thaw(self) -> None:
        """Take back all that ``freeze`` said."""
        stages = yaml.safe_load((self.path / "dvc.yaml").read_text(encoding="utf-8")).get("stages", {})
        if frozen := [name for name, stage in stages.items() if stage.get("frozen")]:
            self.dvc("unfreeze", *frozen)

    def pointers(self, *paths: Path) -> list[Path]:
        """Return what git keeps of the directories that DVC tracks: pointers, and the ignore files that DVC wrote."""
        kept = [path.with_name(f"{path.name}.dvc") for path in paths]
        ignores = {path.parent / ".gitignore" for path in paths if self._ignored(path)}
        return [path for path in (*kept, *sorted(ignores)) if (self.path / path).exists()]

    def _ignored(self, path: Path) -> bool:
        """Whether the ignore file beside ``path`` names it, and the commit's or the index's does not yet."""
        file, line = path.parent / ".gitignore", f"/{path.name}"
        if not (self.path / file).exists() or line not in (self.path / file).read_text(encoding="utf-8").splitlines():
            return False
        return not all(line in self._try("show", f"{where}:./{file}").splitlines() for where in ("HEAD", ""))

    def commit(self, message: str, paths: Iterable[Path | str]) -> str:
        """Commit the paths as they stand, if they differ from the last commit, and return the commit's hash.

        Nothing else goes into the commit, and whatever the user staged stays staged. A call after one that was cut
        short ends what that began.
        """
        given = [str(path) for path in paths if (self.path / path).exists()]
        scratch = self.path / DVC / "tmp"
        scratch.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=scratch, prefix="serm-index-") as directory:
            index = Path(directory) / "index"
            if self._try("rev-parse", "--verify", "HEAD"):
                self.git("read-tree", "HEAD", index=index)
            self.git("add", "--", *given, index=index)
            if self.git("diff", "--cached", "--name-only", index=index):
                self.git("commit", "--quiet", "--message", message, index=index)
        self.git("reset", "--quiet", "--", *given)
        return self.git("rev-parse", "HEAD")

    def require_branch(self) -> None:
        """Make sure, before any work, that a commit can be made, and on a branch.

        Raises:
            UserError: this is no git repository, no tag can have the workspace's path, HEAD is detached, a merge or the
                like is not ended, or git does not know who commits.
        """
        self.git("rev-parse", "--git-dir")  # else it is no git repository, says git
        tag = self.tag("cycle-0001")
        if not self._try("check-ref-format", "--normalize", f"refs/tags/{tag}"):
            raise UserError(
                f"{self.path}: git allows no tag {tag!r}, which has the workspace's path in its repository; give the"
                " directory a name without blanks and signs."
            )
        if not self._try("symbolic-ref", "--quiet", "HEAD"):
            raise UserError(
                f"{self.path}: HEAD is detached, so that the commit would be on no branch; run `git switch main`, or"
                " `git switch --create NAME` for a branch from here, first."
            )
        for head in ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"):
            if self._try("rev-parse", "--verify", "--quiet", head):
                raise UserError(
                    f"{self.path}: git is in the middle of a {head.removesuffix('_HEAD').lower().replace('_', '-')};"
                    " end it (`git status` says how) first."
                )
        if not self._try("var", "GIT_COMMITTER_IDENT"):
            raise UserError(
                f"{self.path}: git does not know who commits; run `git config user.name NAME` and"
                " `git config user.email ADDRESS` first."
            )

    def has_commit(self, commit: str) -> bool:
        """Tell whether ``commit`` is HEAD or an ancestor of it."""
        command = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
        return subprocess.run(command, cwd=self.path, capture_output=True, check=False).returncode == 0

    def tag(self, name: str) -> str:
        """Return the git tag of the cycle ``name``."""
        return self.git("rev-parse", "--show-prefix") + name

    def has_tag(self, name: str) -> bool:
        """Tell whether the cycle ``name`` is tagged."""
        return bool(self._try("rev-parse", "--verify", "--quiet", f"refs/tags/{self.tag(name)}"))

    def shows(self, name: str, path: str) -> bool:
        """Tell whether the tag of the cycle ``name`` has the file ``path``."""
        return bool(self.git("ls-tree", self.tag(name), path))

    def show(self, name: str, path: str) -> str:
        """Return the text of the file ``path`` as the tag of the cycle ``name`` has it."""
        return self.git("show", f"{self.tag(name)}:./{path}")

    def get(self, name: str, path: str, out: Path) -> None:
        """Copy what DVC tracks at ``path`` under the tag of the cycle ``name`` to ``out``, which must not be there."""
        top, prefix = self.git("rev-parse", "--show-toplevel"), self.git("rev-parse", "--show-prefix")
        self.dvc("get", "--rev", self.tag(name), "--out", str(out.absolute()), top, prefix + path)

    def pin(self, stages: Sequence[str]) -> None:
        """Pin what lies in ``cycle/`` of these stages, and what they read, in dvc.lock; with all, pointers too."""
        defined = yaml.safe_load((self.path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        self.dvc("commit", "--force", *(() if set(stages) == set(defined) else stages))

    def push_objects(self, stages: Sequence[str] = ()) -> None:
        """Push all that DVC tracks to its default remote, if there is one."""
        if self.dvc_remote():
            self.dvc("push")

    def fetch(self, name: str, path: str) -> None:
        """Bring into DVC's cache what the tag of the cycle ``name`` pins at ``path``; the branch may be past it.

        Raises:
            UserError: DVC's remote does not answer, or lacks it.
        """
        from dvc.repo import Repo

        try:  # the command line fetches what HEAD pins, or all tags; DVC looks for targets from where it is
            with contextlib.chdir(self.path), Repo(str(self.path)) as repository:
                now = {of: deepcopy(dict(repository.config[of])) for of in ("core", "remote")}  # not the tag's
                repository.fetch([path], revs=[self.tag(name)], workspace=False, config=now)
        except Exception as error:  # each remote's own library has its own
            raise UserError(f"{self.path}: DVC cannot fetch {path} of {self.tag(name)} ({error}).") from error

    def dvc_remote(self) -> str:
        """Return the name of DVC's default remote; empty where it has none."""
        found = re.search(r"^(?:\S+\s+)?core\.remote=(.+)$", self.dvc("config", "--list"), re.MULTILINE)
        return found[1] if found else ""

    def _try(self, *arguments: str) -> str:
        """Return what git printed, and nothing where it failed."""
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=False).stdout.strip()


def cloned_at(url: str, path: Path, branch: str = "") -> None:
    """Make ``path`` a clone of ``url``, or bring the one that is there to its branch's newest commit.

    ``branch`` is the one to clone; empty: the repository's default branch.

    Raises:
        UserError: it cannot be cloned.
    """
    if (path / ".git").is_dir():
        run(["git", "fetch", "--quiet", "--tags", "origin"], path)
        run(["git", "reset", "--quiet", "--hard", "@{upstream}"], path)
        run(["git", "clean", "--quiet", "-d", "--force"], path)  # a killed try's, which git does not know: state.json
        return
    with replace_directory(path) as beside:
        clone(url, beside, *([f"--branch={branch}"] if branch else []))


def clone(url: str, path: Path, *options: str) -> None:
    """Clone with git's ``options``; no hook runs, a dead line is given up, and commits have an author.

    Raises:
        UserError: it cannot be cloned.
    """
    safe = ("-c", "core.hooksPath=/dev/null", "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
    run(["git", *safe, "clone", "--quiet", *options, "--", url, str(path)], path.parent)
    if not run(["git", "config", "--default", "", "user.email"], path):
        run(["git", "config", "user.name", "SERM"], path)
        run(["git", "config", "user.email", "serm@localhost"], path)


_DVC = (sys.executable, "-m", "dvc")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> str:
    """Run a git or DVC command in ``directory`` and return what it printed, stripped.

    Raises:
        UserError: it failed; the message has its reason.
    """
    given = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes"} | os.environ | _QUIET | (environment or {})
    done = subprocess.run(command, cwd=directory, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(["dvc", *command[3:]] if command[:3] == list(_DVC) else command)
        killed = f"{signal.Signals(-done.returncode).name} ended it" if done.returncode < 0 else ""
        raise UserError(f"{directory}: `{shown}` failed: {_reason(done.stderr or done.stdout or killed)}")
    return done.stdout.strip()


def _reason(text: str) -> str:
    """Return a program's own errors in one line: of DVC those that it calls so, of git all that it said."""
    lines = [line.strip() for line in _COLOUR.sub("", text).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
    shown = "; ".join(dict.fromkeys(errors[:4])) + (f"; and {len(errors) - 4} more" if len(errors) > 4 else "")
    return shown[:2000] or "it did not say why"


def place(source: Path, target: Path) -> None:
    """Make ``target`` the same tree as ``source``: hard links where the file system allows it, copies elsewhere."""
    if source.resolve() == target.resolve():
        return
    if not source.is_dir():
        raise UserError(f"{source}: no such directory; run the step that writes it first.")
    with replace_directory(target) as beside:
        shutil.copytree(source, beside, copy_function=link_or_copy, dirs_exist_ok=True)


def link_or_copy(source: str, target: str) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where the file system has no links between them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
