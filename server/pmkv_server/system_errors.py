"""Name the errors of the system, so that a reply or a line of the log says which resource is missing."""

from __future__ import annotations

import errno
import os

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
ADVICE = {
    **dict.fromkeys(NO_ROOM, "make room on the disk"),
    **dict.fromkeys(NO_DESCRIPTOR, "raise the limit of open files (ulimit -n), or lower --max-clients"),
    errno.EIO: "see to the disk; the system's log names it",
    errno.EROFS: "mount the file system for writing",
    errno.EACCES: "give the server's user the right to it",
    errno.EPERM: "give the server's user the right to it",
    errno.ENOMEM: "give the server more memory, or lower --dram",
}


def describe(error: OSError) -> str:
    """Return the error in one line: what the system says, its name, the file it is about, and what to do."""
    code = error.errno
    if code is None:
        return str(error) or type(error).__name__
    name = errno.errorcode.get(code, str(code))
    text = f"{error.strerror or os.strerror(code)} ({name})"
    place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    return f"{text}{place}" + (f"; {ADVICE[code]}" if code in ADVICE else "")
