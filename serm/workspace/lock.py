"""One writer at a time in a workspace."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import psutil

from serm.atomic import write_text
from serm.errors import UserError
from serm.layout import LOCK, REVIEWED


@contextmanager
def writing(root: Path, verb: str) -> Iterator[None]:
    """Hold the lock of the workspace ``root`` while the block runs; the kernel frees it however the process ends.

    A step that the holder started (the pipeline's, or a function of the same process) writes under the holder's lock,
    and of the processes of one torchrun the first holds it for all.

    Args:
        root: the workspace.
        verb: what is done, as the user calls it: ``serm evolve``.

    Raises:
        UserError: another command writes in the workspace; the message says which, since when, and what to do.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    path = root / LOCK
    if not (path.parent / ".gitignore").exists():
        write_text(path.parent / ".gitignore", "*\n")
    with path.open("a+", encoding="utf-8") as file:
        if not _locked(file):
            other = _holder(file)
            if not _is_ours(other):
                raise UserError(_busy(root, other))
            yield
            return
        file.truncate(0)
        mine = {"pid": os.getpid(), "verb": verb, "host": socket.gethostname(), "since": _now()}
        print(json.dumps(mine), file=file, flush=True)
        try:
            yield
        finally:
            file.truncate(0)


def holder(root: Path) -> dict[str, Any]:
    """Return ``verb``, ``pid``, ``host`` and ``since`` of what writes in the workspace ``root``; empty if nothing does.

    It only reads what the holder wrote, since a lock taken to look would turn away a writer that comes just then.
    """
    try:
        with (root / LOCK).open(encoding="utf-8") as file:
            found = _holder(file)
        if found.get("host") != socket.gethostname():
            return found
        began = psutil.Process(found["pid"]).create_time()
        return found if began <= datetime.fromisoformat(found["since"]).timestamp() + 1 else {}
    except (OSError, psutil.Error, KeyError, ValueError, TypeError):
        return {}


@contextmanager
def reviews_at_rest(root: Path, reviewed: Path = REVIEWED) -> Iterator[None]:
    """Keep ``serm review`` from writing to the workspace's ``reviewed/``, or another of its datasets meanwhile.

    People grade for days, so a review does not hold the workspace's lock, but this one, for each answer.
    """
    with (root / LOCK.parent / f"{reviewed.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _holder(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:  # it has the lock, and has not said so yet
        return {}
    return found if isinstance(found, dict) else {}


def _is_ours(holder: dict[str, Any]) -> bool:
    """Whether this process or one that started it holds the lock."""
    me = psutil.Process()
    return holder.get("host") == socket.gethostname() and holder.get("pid") in {me.pid, *(p.pid for p in me.parents())}


def _busy(root: Path, holder: dict[str, Any]) -> str:
    if not holder:
        return f"{root}: another command has just begun to write in this workspace; try again when it has ended."
    verb, pid, host, since = (holder.get(name) for name in ("verb", "pid", "host", "since"))
    return (
        f"{root}: `{verb}` has been writing in this workspace since {since} (process {pid} on {host}); wait for it to"
        f" end, or end it there with `kill {pid}` and run this again, which goes on from where it stopped."
    )
