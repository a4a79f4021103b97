"""Reserving space in a file: all of a range is allocated, or none of it."""

from __future__ import annotations

import ctypes
import os

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
