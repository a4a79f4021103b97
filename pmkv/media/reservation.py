"""Reserving space in a file, all of a range or none of it, and giving it back."""

from __future__ import annotations

import ctypes
import os

from ..runtime.scheduling import yield_cpu

PUNCH_PIECE_BYTES = 4 << 20  # per system call: the file is locked meanwhile, and a commit waits for it
KEEP_SIZE, PUNCH_HOLE = 1, 2  # of fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)


def reserve(fd: int, start: int, stop: int) -> None:
    """Allocate the bytes from `start` to `stop`. OSError: the disk is full; then nothing is allocated.

    posix_fallocate keeps what it got before it failed, so that each refused attempt would take space that other
    files were freed to make."""
    was_hole = _is_hole(fd, start, stop)
    try:
        os.posix_fallocate(fd, start, stop - start)
    except OSError:
        if was_hole:  # else the range has bytes of an earlier use
            _libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, ctypes.c_long(start), ctypes.c_long(stop - start))
        raise


def _is_hole(fd: int, start: int, stop: int) -> bool:
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= stop
    except OSError:  # ENXIO: no data from there to the end of the file
        return os.fstat(fd).st_size >= stop


def punch(fd: int, start: int, stop: int) -> bool:
    """Give the bytes from `start` to `stop` back to the file system, so that they read as zeros. Return False where it
    cannot do that."""
    for at in range(start, stop, PUNCH_PIECE_BYTES):
        yield_cpu()
        length = min(PUNCH_PIECE_BYTES, stop - at)
        if _libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, ctypes.c_long(at), ctypes.c_long(length)):
            return False
    return True
