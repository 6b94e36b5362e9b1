"""The bytes that a tag pins: DVC's hash of a directory, and a directory brought back from DVC's cache by it.

DVC's md5 of a directory is that of the JSON list of its files' own, sorted by their relative paths; the cache holds
the list and each file under its hash, as ``files/md5/ab/cdef...``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from serm.atomic import replace_directory
from serm.errors import UserError
from serm.workspace.store import Workspace, link_or_copy


def digest(directory: Path) -> str:
    """Return DVC's hash of a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    listed = [{"md5": _md5(path), "relpath": path.relative_to(directory).as_posix()} for path in files]
    listed.sort(key=lambda one: one["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def pinned(workspace: Workspace, tag: str) -> dict[str, str]:
    """Return the hash of each output that the tag's dvc.lock pins, by its path, such as ``cycle/train``.

    Raises:
        UserError: the tag has no dvc.lock, or it is not DVC's.
    """
    try:
        stages = yaml.safe_load(workspace.show(tag, "dvc.lock"))["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{workspace.path}: the dvc.lock of {workspace.tag(tag)} is not DVC's; publish the cycle again."
        ) from error


def bring(workspace: Workspace, tag: str, paths: dict[str, Path]) -> None:
    """Make each directory of ``paths`` (what a tag pins -> where to) the pinned one, whatever lies in ``cycle/`` now.

    The files come out of DVC's cache, from its remote where the cache lacks them; each is held against its hash.

    Args:
        workspace: the workspace.
        tag: the cycle, such as ``cycle-0003``.
        paths: for example ``cycle/train/model`` -> ``state/champion``, relative to the root.

    Raises:
        UserError: the tag pins no such directory, or neither cache nor remote has its bytes.
    """
    outs = pinned(workspace, tag)
    cache = Path(workspace.dvc("cache", "dir")) / "files" / "md5"
    for source, target in paths.items():
        within = [str(path) for path in (Path(source), *Path(source).parents) if str(path) in outs]
        if not within:
            raise UserError(f"{workspace.path}: {workspace.tag(tag)} pins no {source}; publish the cycle again.")
        out = within[0]
        inner = source.removeprefix(out).strip("/")
        try:
            files = _files(cache, outs[out], inner)
        except FileNotFoundError:  # a clone: the remote has them
            workspace.fetch(tag, out)
            files = _fetched(cache, outs[out], inner)
        if not files:
            raise UserError(f"{workspace.path}: {workspace.tag(tag)} pins no {source}; publish the cycle again.")
        with replace_directory(workspace.path / target) as beside:
            for name, held in files.items():
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(str(held), str(beside / name))


def _files(cache: Path, pin: str, inner: str) -> dict[str, Path]:
    """Return where the cache holds each file of a directory below ``inner``, by its path relative to that."""
    listed = json.loads(_held(cache, pin).read_text(encoding="utf-8"))
    prefix = f"{inner}/" if inner else ""
    wanted = {one["relpath"].removeprefix(prefix): one["md5"] for one in listed if one["relpath"].startswith(prefix)}
    return {name: _held(cache, md5) for name, md5 in wanted.items()}


def _fetched(cache: Path, pin: str, inner: str) -> dict[str, Path]:
    try:
        return _files(cache, pin, inner)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: neither DVC's cache nor its remote has what the tag pins; check out the tag,"
            " run `dvc pull`, and come back."
        ) from error


def _held(cache: Path, pin: str) -> Path:
    path = cache / pin[:2] / pin[2:]
    if _md5(path) != pin.removesuffix(".dir"):
        raise UserError(
            f"{path}: not the bytes that the tag pins (changed after they were published); delete it and `dvc fetch`."
        )
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
