"""The errors that a person can mend."""

from __future__ import annotations

import errno
from pathlib import Path


class UserError(Exception):
    """A mistake in what SERM was given: one sentence that names what is wrong, where, and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the limit on a file's size",
    errno.EIO: "look at the disk",
    errno.EROFS: "give a place that can be written to",
    errno.EACCES: "allow it, or give another path",
    errno.EPERM: "allow it, or give another path",
    errno.EBUSY: "give a directory inside it: it is a mount point, or in use",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOTDIR: "a file is there, where a directory is wanted; give another path",
    errno.EISDIR: "a directory is there, where a file is wanted; give another path",
    errno.ELOOP: "mend the link",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
}


def os_fault(error: OSError, path: Path | None = None) -> UserError | None:
    """Return what the operating system says in ``error`` as one sentence, if a person can mend it; else None.

    ``path`` is what was being written or read, for an error that names no file itself.
    """
    if "No usable temporary directory" in str(error):  # tempfile's own words, where the disk is full
        return UserError(f"{error.strerror}; free some space, or set TMPDIR.")
    if error.errno not in _FIXES:
        return None
    reason = errno.errorcode[error.errno] if not error.strerror else " ".join(str(error.strerror).split())[:200]
    return UserError(f"{error.filename or path or 'a file'}: {reason}; {_FIXES[error.errno]}.")
