"""Which files below a directory are data: one rule for every reader."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from serm.errors import UserError


def data_files(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below the directory ``root`` whose names end with one of ``suffixes``, in a fixed order.

    Names are literal. What engines leave beside their data is left out, as Spark does: files and directories whose
    names begin with ``.``, or with ``_`` and hold no ``=`` (``_temporary``, ``_SUCCESS``, ``_delta_log``), and files
    that end with ``._COPYING_``. Links to files are followed, links to directories are not. ``root`` itself may have
    any name; of one that is a file, or is not there, nothing is below.

    Raises:
        UserError: a directory cannot be read, or such a name is no regular file or not UTF-8.
    """
    if not root.is_dir():
        return []
    found = []
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        folders[:] = filter(_is_data, folders)
        found += [Path(folder, name) for name in names if _is_data(name) and name.endswith(suffixes)]
    for path in found:
        _require_regular(path)
    return sorted(found)


def _is_data(name: str) -> bool:
    return not (name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_"))


def _require_regular(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{str(path)!a}: the name is not UTF-8; rename it.") from error
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it.") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: neither a file nor a directory (a pipe, socket or device); take it away.")


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); allow it or take it away.") from error
