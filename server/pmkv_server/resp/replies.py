"""Encode the replies to many commands into one array, without a Python object for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit, types

from pmkv import BytesArray
from pmkv.runtime.jit import kernel
from pmkv_server.resp.scan import NULL

BULK_OVERHEAD_BYTES = 24  # by which a bulk string is longer than its value, at most; a null is shorter
_READ_ONLY, _BYTES = types.Array(types.uint8, 1, "C", readonly=True), types.uint8[::1]
_INTS, _BOUNDS = types.int64[::1], types.int64[:, ::1]
_NULL = np.frombuffer(NULL[2], np.uint8)


@njit
def _put_line(out, at, number):
    """Write a number and CR LF at offset `at`; return the offset after them."""
    end, rest = at + 1, number // 10
    while rest:
        end, rest = end + 1, rest // 10
    for i in range(end - 1, at - 1, -1):
        out[i] = 48 + number % 10
        number //= 10
    out[end], out[end + 1] = 13, 10
    return end + 2


@njit(inline="always")
def _copy(out, at, values, start, stop):
    """Copy values[start:stop] to offset `at`; return the offset after them.

    Not a slice assignment, since numba allows there for overlapping arrays.
    """
    for i in range(stop - start):
        out[at + i] = values[start + i]
    return at + stop - start


@kernel(_READ_ONLY, _BOUNDS, _READ_ONLY, _BYTES, _INTS, hold_gil=True)
def bulk_strings(values, bounds, null, out, sizes):
    """Write each value as a bulk string, `null` where its bounds are negative; return the bytes written.

    sizes: receives the bytes of each reply
    """
    at = 0
    for i in range(len(bounds)):
        begin, start, stop = at, bounds[i, 0], bounds[i, 1]
        if start < 0:
            at = _copy(out, at, null, 0, len(null))
        else:
            out[at] = 36
            at = _put_line(out, at + 1, stop - start)
            at = _copy(out, at, values, start, stop) + 2
            out[at - 2], out[at - 1] = 13, 10
        sizes[i] = at - begin
    return at


class Replies:
    """Replies one after the other in `data`; sizes: bytes of each."""

    def __init__(self, data: np.ndarray, sizes: np.ndarray) -> None:
        self.data, self.sizes = data, sizes

    @classmethod
    def of(cls, replies: Sequence[bytes]) -> Replies:
        """Encode replies that are bytes."""
        data = np.frombuffer(b"".join(replies) or b"\0", np.uint8)
        return cls(data, np.fromiter(map(len, replies), np.int64, len(replies)))

    @classmethod
    def bulks(cls, values: BytesArray) -> Replies:
        """Encode values as bulk strings, absent ones as RESP2's null."""
        data, sizes = (
            np.empty(len(values.blob) + BULK_OVERHEAD_BYTES * len(values), np.uint8),
            np.empty(len(values), np.int64),
        )
        used = bulk_strings(values.blob, values.bounds, _NULL, data, sizes)
        return cls(data[:used], sizes)
