"""Files that a server asks for a few rows at a time: SQLite's, read in place by any number of processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from serm.atomic import replace_file
from serm.errors import UserError


@contextmanager
def writing(out: Path, application: int) -> Iterator[sqlite3.Connection]:
    """Yield an empty file that takes the place of ``out`` when the block ends well; ``application`` says what it holds.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replace_file(out) as beside, closing(sqlite3.connect(beside)) as file:
            file.execute(f"PRAGMA application_id = {application}")
            yield file
            file.commit()
    except sqlite3.Error as error:
        raise UserError(f"{out}: cannot be written ({error}); make room on the disk.") from error


def opened(path: Path, application: int, probe: str, what: str) -> sqlite3.Connection:
    """Return the file ``path`` of an ``application``, to be read only, by one thread at a time.

    Args:
        path: the file; nobody writes into it, another may take its place.
        application: what ``writing`` was told.
        probe: SQL that its tables answer.
        what: of what it is the store, in the singular: ``serm export`` with the plural as a flag writes it.

    Raises:
        UserError: it is another file, or damaged.
    """
    wanted = f"write one with serm export --{what}s."
    try:
        file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        (found,) = file.execute("PRAGMA application_id").fetchone()
        if found == application:
            file.execute(probe).fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{path}: no {what} store ({error}); {wanted}") from error
    if found != application:
        raise UserError(f"{path}: no {what} store; {wanted}")
    file.execute(f"PRAGMA mmap_size = {2**40}")
    return file
