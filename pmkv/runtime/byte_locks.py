"""Locks on single bytes of a file, shared between processes: a byte stands for whatever its number means to them.

They belong to the open file description (Linux), so that several stores of one process have locks of their own, and go
with it, however the process ends. A byte need not be in the file.
"""

from __future__ import annotations

import fcntl
import os
import struct

LOCK = struct.Struct("hhqqi")  # type, whence, start, length, process (0: of an open file description)


def share_byte(handle: int, number: int) -> None:
    """Hold byte `number` together with others. handle: of a file that is open for reading."""
    fcntl.fcntl(handle, fcntl.F_OFD_SETLK, LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, number, 1, 0))


def let_go_of_byte(handle: int, number: int) -> None:
    """Release byte `number`."""
    fcntl.fcntl(handle, fcntl.F_OFD_SETLK, LOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))


def is_any_held_below(handle: int, number: int) -> bool:
    """Return whether somebody else holds a byte below `number`."""
    asked = LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, number, 0)
    return bool(LOCK.unpack(fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
