"""The location of a record: 47 bits of pool offset, a delete bit, a CRC-16. Zero means none: offset 0 is the header."""

from __future__ import annotations

import numpy as np
from numba import njit

U = np.uint64
OFFSET_BITS = 47
OFFSET_MASK = U((1 << OFFSET_BITS) - 1)
DELETE = U(1 << OFFSET_BITS)
CHECK_SHIFT = U(48)
CACHED = U(1)  # in place of a location: the row stands in the row cache. (Offset 1 is in the header of the pool.)


@njit(inline="always")
def make(offset, check):
    """Return the location of bytes at a pool offset."""
    return U(offset) | (check << CHECK_SHIFT)


@njit(inline="always")
def offset_of(location):
    """Return the pool offset."""
    return np.int64(location & OFFSET_MASK)


@njit(inline="always")
def check_of(location):
    """Return the CRC-16."""
    return location >> CHECK_SHIFT


@njit(inline="always")
def lives(location):
    """Return whether the location is neither absent nor a delete."""
    return location != U(0) and (location & DELETE) == U(0)


@njit(inline="always")
def is_pending(location, pending):
    """Return whether the location lies in one of the intervals (rows of [start, stop)) that are not durable yet."""
    offset = offset_of(location)
    for i in range(pending.shape[0]):
        if pending[i, 0] <= offset < pending[i, 1]:
            return True
    return False
