"""KServe's storage initializer for models in DVC: ``python -m serm.serving.storage URI DIRECTORY``.

``dvc://https://HOST/REPOSITORY@TAG/PATH`` is what DVC tracks at PATH under a tag of a git repository. Of the repository
that tag alone is cloned, and of the DVC remote only the objects below PATH are fetched; each must have the hash that
the tag pins. A URI without a repository, ``dvc://TAG/PATH`` as ``serving.storage_uri`` has it, is of the repository
that ``SERM_REPOSITORY`` names. Credentials come from the environment, as git's and DVC's own: none stands in a URI.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from serm.errors import UserError, os_fault
from serm.relevance.location import copy_directory, parts

REPOSITORY = "SERM_REPOSITORY"
TRANSPORTS = ("https", "http", "s3", "gs", "azure")
"""Of a DVC remote; a path, or a shell behind ssh, is none that a pod should follow."""
CLONE_SECONDS = 300
_UNFINISHED = ".unfinished-"
_GIT = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:http"}
#: No hook, link or filter of a repository takes part; a server that fell silent is given up.
_SAFE = ("core.hooksPath=/dev/null", "core.symlinks=false", "http.lowSpeedLimit=1000", "http.lowSpeedTime=60")


def fetch(uri: str, directory: Path, repository: str = "") -> None:
    """Put the files that ``uri`` names into ``directory``: all, or none.

    It may be there, with what an earlier start put there.
    ``repository`` is the git repository's address, where ``uri`` names none.

    Raises:
        UserError: the URI is none, something cannot be reached, has another transport or is not there, or a file has
            not the hash that the tag pins.
    """
    found = parts(uri)
    if not uri.startswith("dvc://"):
        raise UserError(f"{uri!r}: expected dvc://REPOSITORY@TAG/PATH.")
    source = found["repository"] or _checked(repository)
    with tempfile.TemporaryDirectory(prefix="serm-") as scratch:
        clone, files = Path(scratch) / "clone", Path(scratch) / "files"
        _clone(source, found["tag"], clone)
        _copy(uri, clone, found["path"].rstrip("/"), files)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _move(files, directory)
        except OSError as error:
            raise (os_fault(error, directory) or error) from error


def _checked(repository: str) -> str:
    """Return a repository's address, if it is one that a URI may name too."""
    if not repository:
        raise UserError(f"{REPOSITORY} is not set, and the URI names no repository: dvc://https://HOST/REPO@TAG/PATH.")
    return parts(f"dvc://{repository}@tag/path")["repository"]


def _clone(repository: str, tag: str, clone: Path) -> None:
    options = [part for option in _SAFE for part in ("-c", option)]
    command = [
        "git",
        *options,
        "clone",
        "--quiet",
        "--depth=1",
        "--no-tags",
        f"--branch={tag}",
        "--",
        repository,
        str(clone),
    ]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **_GIT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLONE_SECONDS,
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed; take an image that has it.") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{repository}: not cloned after {CLONE_SECONDS} s; look at the git server.") from error
    if done.returncode:
        why = " ".join(done.stderr.split())[-300:]
        raise UserError(f"{repository}: its tag {tag} cannot be cloned ({why}); check both, and git's credentials.")


def _copy(uri: str, clone: Path, path: str, target: Path) -> None:
    """Copy what the clone and its DVC remote have at ``path``."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index.index import DataIndexError

    try:
        files = DVCFileSystem(str(clone))
        _refuse_other_transports(uri, files.repo.config.get("remote", {}))
        _refuse_imports(uri, path, files.repo)
        if not files.isdir(path):
            raise UserError(f"{uri}: the tag has no directory {path}; `git ls-tree -r TAG` shows all.")
        copy_directory(files, path, target, uri)
    except (DvcException, DataIndexError, OSError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"{uri}: cannot be had through DVC ({why}); is the model pushed, the remote in reach, its plugin (dvc-s3)"
            " installed?"
        ) from error


def _refuse_other_transports(uri: str, remotes: Mapping[str, Mapping[str, Any]]) -> None:
    for name, remote in remotes.items():
        scheme = urlsplit(str(remote.get("url", ""))).scheme
        if scheme not in TRANSPORTS:
            raise UserError(
                f"{uri}: its DVC remote {name!r} is reached by {scheme or 'a path'!r}; a pod follows"
                f" {', '.join(TRANSPORTS)} only."
            )


def _refuse_imports(uri: str, path: str, repo: Any) -> None:
    """Refuse what DVC would fetch from another repository or address than the tag's remote (``dvc import``)."""
    wanted = PurePosixPath(path)
    for stage in repo.index.stages:
        if stage.is_repo_import or stage.is_partial_import or stage.is_versioned_import:
            found = PurePosixPath(os.path.relpath(stage.outs[0].fs_path, repo.root_dir))
            if found == wanted or wanted in found.parents or found in wanted.parents:
                raise UserError(f"{uri}: {found} is imported from elsewhere; track it in its own repository (dvc add).")


def _move(files: Path, directory: Path) -> None:
    """Move the files' tree into ``directory``: a volume's mount point, which cannot be replaced itself."""
    for left in directory.glob(f"{_UNFINISHED}*"):  # of an initializer that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=directory) as beside:
        for file in files.rglob("*"):  # copied first, for the volume may be full
            if file.is_file():
                copy = Path(beside) / file.relative_to(files)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
        for one in Path(beside).iterdir():
            if (directory / one.name).is_dir():  # a pod that starts again has its volume still
                shutil.rmtree(directory / one.name)
            one.rename(directory / one.name)


def main() -> None:
    """Read the command line, as KServe gives it, and fetch."""
    parser = argparse.ArgumentParser(prog="python -m serm.serving.storage", description="Fetch a model from DVC.")
    parser.add_argument("uri")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    try:
        fetch(options.uri, options.directory, os.environ.get(REPOSITORY, ""))
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
