"""Writes that happen whole or not at all: write beside, fsync, and take the place of what was there in one step.

What a killed process left beside is taken away by the next write to the same place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serm.errors import UserError, os_fault

_UNFINISHED = ".unfinished"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
#: What a kernel or file system without renameat2's exchange answers.
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    Raises:
        UserError: it cannot be written: the disk is full, or not to be written to. What was there stays.
    """
    with _faults_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path, directory=False) as beside:
            yield beside
            beside.chmod(0o644)
            _fsync(beside)
            beside.replace(path)
            _fsync(path.parent)


@contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``path``; it takes the place of ``path`` when the block ends well.

    Where the kernel can, both change places in one step: a reader sees the one or the other. Elsewhere ``path`` is
    set aside for a moment; a process that is killed in it leaves what ``recover`` brings back. A link stays a link.

    Raises:
        UserError: it cannot be written: a file is there, the disk is full, or not to be written to. What was there
            stays.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: a file is there, where a directory is to be written; take it away.")
    with _faults_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        with _beside(path, directory=True) as beside:
            beside.chmod(0o755)
            yield beside
            for file in (*beside.rglob("*"), beside):
                _fsync(file)
            _swap(beside, path)
            _fsync(path.parent)


def recover(path: Path) -> None:
    """Bring back the directory ``path``, or one above it, that a killed ``replace_directory`` had set aside."""
    for place in (*reversed(path.parents), path):
        aside = _aside(place)
        if not place.exists() and aside.is_dir():
            with _locked(aside) as held:
                if held and not place.exists():
                    aside.rename(place)


def _swap(beside: Path, path: Path) -> None:
    """Put ``beside`` in the place of ``path``; what was there, if anything, is then at ``beside`` or gone."""
    if not path.exists():
        beside.rename(path)
        return
    try:
        _exchange(beside, path)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        _swap_in_two_steps(beside, path)


def _swap_in_two_steps(beside: Path, path: Path) -> None:
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed after its swap: ``path`` is there
    with _locked(path):  # so that no reader takes it for what a killed process left
        path.rename(aside)
        try:
            beside.rename(path)
        except OSError:
            aside.rename(path)  # where this fails too, ``recover`` does it at the next write or read
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Let two paths change places in one step, or raise an ``OSError``. Source: renameat2(2)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.aside") if path.name else path


@contextmanager
def _beside(path: Path, *, directory: bool) -> Iterator[Path]:
    """Make a file or directory beside ``path`` that is locked as long as its writer lives, and gone after."""
    _take_away_unfinished(path)
    for last in (False, False, True):
        made = tempfile.mkdtemp if directory else _made_file
        beside = Path(made(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent))
        with _locked(beside) as held:
            if not (held or last):  # another writer took it for a killed one's; or no locks here, and nobody does that
                continue
            try:
                yield beside
            finally:
                _remove(beside)
            return


def _made_file(prefix: str, suffix: str, dir: Path) -> str:
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=dir)
    os.close(handle)
    return name


def _take_away_unfinished(path: Path) -> None:
    name = re.compile(re.escape(f".{path.name}.") + r"\w{8}" + re.escape(_UNFINISHED))
    for left in [one for one in path.parent.iterdir() if name.fullmatch(one.name)]:
        with _locked(left) as held:
            if held:
                _remove(left)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock on what is at ``path``; yields False where a living process holds it, or it is gone."""
    handle = None
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
    try:
        yield handle is not None and _lock(handle, path)
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _faults_told(path: Path) -> Iterator[None]:
    """Turn a full disk, and what else a person can mend, into a ``UserError`` about ``path``."""
    try:
        yield
    except OSError as error:
        if told := os_fault(error, path):
            raise told from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, atomically."""
    with replace_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as sorted, indented JSON, atomically; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
