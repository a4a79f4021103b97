"""Kernels for the records of keyspaces and the rows of tables: write, find, verify and gather them.

A record is one word (value length: bits 0-31, key length: bits 32-55, flags: bits 56-63), one word with the expiry
(unix ms, 0 = never), the key, the value, and zeros up to a multiple of 8 bytes. The check in its location covers both
words, key and value, and the number of its keyspace. The check of a row covers its bytes, its table and its id.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BOOL, BYTES, I64, I64_2D, IDS, INT, U8, U64, WORD, WORDS, kernel
from . import location
from .hashing import check16
from .memory import copy, load64, prefetch, store64
from .probe import AHEAD, RECORD_HEADER

U = np.uint64
FLAG_DELETE = 16  # of a record: the key is deleted
FLAG_PARTS = 32  # of a record: the value is a list of chunks, which are in PART frames
ABSENT, DAMAGED = -1, -2
PREFETCH_BYTES = 512  # of a row; after these the processor has recognised the pattern
VERIFY_PIECE_BYTES = 1 << 20  # rows are copied, then verified, so many bytes at a time
HOLD_GIL_ROWS = 64  # rows of any width whose checks are computed with the GIL held


@njit(inline="always")
def padded(length):
    """Return the length rounded up to a multiple of 8."""
    return (length + 7) & ~7


@kernel(I64_2D, I64_2D, I64, size_argument=2)
def record_sizes(key_bounds, value_bounds, sizes):
    """Set sizes[i] to the bytes that the record of the i-th key and value takes; return their sum."""
    total = 0
    for i in range(sizes.size):
        sizes[i] = RECORD_HEADER + padded(key_bounds[i, 1] - key_bounds[i, 0] + value_bounds[i, 1] - value_bounds[i, 0])
        total += sizes[i]
    return total


@kernel(U8, INT, WORD, BYTES, I64_2D, BYTES, I64_2D, I64, I64, U64, size_argument=9)
def write_records(data, at, owner, keys, key_bounds, values, value_bounds, expiries, flags, locations):
    """Write one record for each key consecutively from data[at] on, and set locations[i]."""
    for i in range(locations.size):
        key, value = key_bounds[i, 0], value_bounds[i, 0]
        key_length, value_length = key_bounds[i, 1] - key, value_bounds[i, 1] - value
        length = RECORD_HEADER + key_length + value_length
        store64(data, at + padded(length) - 8, U(0))
        store64(data, at, U(value_length) | (U(key_length) << U(32)) | (U(flags[i]) << U(56)))
        store64(data, at + 8, U(expiries[i]))
        copy(data, at + RECORD_HEADER, keys, key, key_length)
        copy(data, at + RECORD_HEADER + key_length, values, value, value_length)
        locations[i] = location.make(at, check16(data, at, length, owner, U(0)))
        if flags[i] & FLAG_DELETE:
            locations[i] |= location.DELETE
        at += padded(length)


@kernel(BYTES, INT, INT, WORD, I64_2D, I64, U64)
def scan_records(data, at, stop, owner, bounds, expiries, locations):
    """Parse consecutive records, for replay: set the bounds of each key, its expiry and its location.

    Return the end of the last record, or -1 if they exceed `stop`."""
    for i in range(locations.size):
        if at + RECORD_HEADER > stop:
            return -1
        head = load64(data, at)
        key_length = np.int64((head >> U(32)) & U(0xFFFFFF))
        length = RECORD_HEADER + key_length + np.int64(head & U(0xFFFFFFFF))
        if at + padded(length) > stop:
            return -1
        bounds[i, 0] = at + RECORD_HEADER
        bounds[i, 1] = at + RECORD_HEADER + key_length
        expiries[i] = np.int64(load64(data, at + 8))
        locations[i] = location.make(at, check16(data, at, length, owner, U(0)))
        if (head >> U(56)) & U(FLAG_DELETE):
            locations[i] |= location.DELETE
        at += padded(length)
    return at


@kernel(BYTES, U64, WORD, INT, BOOL, I64_2D, size_argument=1, hold_gil_below=None)
def read_records(data, locations, owner, now, verify, out):
    """Set out[i] to (offset of the value, or ABSENT or DAMAGED; its length; expiry; flags).

    A record that has expired by `now` is absent. If `out` has one more row, it begins with the number of these, and of
    those found. Return how many are damaged."""
    damaged = expired = alive = 0
    for i in range(locations.size):
        if i + AHEAD < locations.size and locations[i + AHEAD] != U(0):
            prefetch(data, location.offset_of(locations[i + AHEAD]))
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = ABSENT, 0, 0, 0
        if not location.lives(locations[i]):
            continue
        at = location.offset_of(locations[i])
        head, expiry = load64(data, at), np.int64(load64(data, at + 8))
        key_length, value_length = np.int64((head >> U(32)) & U(0xFFFFFF)), np.int64(head & U(0xFFFFFFFF))
        length = RECORD_HEADER + key_length + value_length
        if verify and (
            at + length > data.size or check16(data, at, length, owner, U(0)) != location.check_of(locations[i])
        ):
            out[i, 0] = DAMAGED
            damaged += 1
        elif expiry == 0 or expiry > now:
            out[i, 0] = at + RECORD_HEADER + key_length
            out[i, 1], out[i, 2], out[i, 3] = value_length, expiry, np.int64(head >> U(56))
            alive += 1
        else:
            expired += 1
    if len(out) > locations.size:
        out[locations.size, 0], out[locations.size, 1] = expired, alive
    return damaged


@kernel(BYTES, U64, I64_2D)
def key_bounds(data, locations, bounds):
    """Set bounds[i] to the start and the stop of the key of a record; a delete has a key, too."""
    for i in range(locations.size):
        at = location.offset_of(locations[i])
        bounds[i, 0] = at + RECORD_HEADER
        bounds[i, 1] = at + RECORD_HEADER + np.int64((load64(data, at) >> U(32)) & U(0xFFFFFF))


@kernel(I64_2D, INT, size_argument=0)
def value_bytes(rows, refused_flags):
    """Return the bytes of all values that `read_records` found, or -1 if one has any of `refused_flags`."""
    total = 0
    for i in range(len(rows)):
        if rows[i, 0] >= 0:
            if rows[i, 3] & refused_flags:
                return -1
            total += rows[i, 1]
    return total


@kernel(BYTES, I64_2D, U8, I64_2D, size_argument=1)
def gather_values(data, rows, out, bounds):
    """Copy values to `out` consecutively; bounds[i] is the place of each, (-1, -1) where there is none.

    Return how many are absent."""
    at, absent = 0, 0
    for i in range(len(rows)):
        if rows[i, 0] >= 0:
            copy(out, at, data, rows[i, 0], rows[i, 1])
            bounds[i, 0], bounds[i, 1] = at, at + rows[i, 1]
            at += rows[i, 1]
        else:
            bounds[i, 0], bounds[i, 1] = ABSENT, ABSENT
            absent += 1
    return absent


@kernel(I64_2D, size_argument=0)
def longest_span(bounds):
    """Return the greatest length that the bounds enclose."""
    longest = 0
    for i in range(len(bounds)):
        longest = max(longest, bounds[i, 1] - bounds[i, 0])
    return longest


@kernel(BYTES, U64, I64)
def read_expiries(data, locations, expiries):
    """Set expiries[i] to the expiry of a record, 0 where none is live."""
    for i in range(locations.size):
        expiries[i] = 0
        if location.lives(locations[i]):
            expiries[i] = np.int64(load64(data, location.offset_of(locations[i]) + 8))


@kernel(BYTES, INT, IDS, INT, WORD, U64, size_argument=2, hold_gil_below=HOLD_GIL_ROWS)
def locate_rows(data, at, ids, width, owner, locations):
    """Set locations[i] for rows of `width` bytes that are consecutive from data[at] on."""
    for i in range(ids.size):
        locations[i] = location.make(at + i * width, check16(data, at + i * width, width, owner, U(ids[i])))


@njit(inline="always")
def gather_rows_unverified(data, locations, first, stop, width, default, out, found):
    """Do as `gather_rows` for [first, stop) without checks; return the first i outside the data, or -1."""
    for i in range(first, stop):
        if i + AHEAD < stop and locations[i + AHEAD] > location.CACHED:
            for line in range(0, min(width, PREFETCH_BYTES), 64):
                prefetch(data, location.offset_of(locations[i + AHEAD]) + line)
        found[i] = location.lives(locations[i])
        if locations[i] == location.CACHED:
            continue
        if not found[i]:
            copy(out, i * width, default, 0, width)
            continue
        at = location.offset_of(locations[i])
        if at + width > data.size:
            return i
        copy(out, i * width, data, at, width)
    return -1


@kernel(BYTES, U64, IDS, INT, WORD, BYTES, BOOL, U8, U8, size_argument=2, hold_gil_below=None)
def gather_rows(data, locations, ids, width, owner, default, verify, out, found):
    """Copy rows to `out` consecutively, `default` where there is none; set found[i] to 1 or 0.

    A row whose location is CACHED is in `out` already. Return the first damaged i, or -1. Rows are copied a piece at a
    time and verified in `out`: between checks the processor would wait for each row in turn, and the copies are still
    in its cache."""
    rows = max(1, VERIFY_PIECE_BYTES // width)
    for first in range(0, locations.size, rows):
        stop = min(first + rows, locations.size)
        outside = gather_rows_unverified(data, locations, first, stop, width, default, out, found)
        if verify:
            for i in range(first, stop if outside < 0 else outside):
                if not found[i] or locations[i] == location.CACHED:
                    continue
                if check16(out, i * width, width, owner, U(ids[i])) != location.check_of(locations[i]):
                    return i
        if outside >= 0:
            return outside
    return -1


@kernel(U8, U64, U64, INT, WORD, INT, U64)
def move_rows(data, locations, ids, width, owner, at, moved):
    """Copy ids, then their rows, to data[at...]; set moved[i] to the new location.

    Rows are verified before they are copied. Return the first damaged i, or -1."""
    rows = at + 8 * ids.size
    for i in range(ids.size):
        source = location.offset_of(locations[i])
        check = location.check_of(locations[i])
        if source + width > data.size or check16(data, source, width, owner, ids[i]) != check:
            return i
        store64(data, at + 8 * i, ids[i])
        copy(data, rows + i * width, data, source, width)
        moved[i] = location.make(rows + i * width, check)
    return -1


@kernel(BYTES, U64, WORD, I64)
def verify_records(data, locations, owner, sizes):
    """Set sizes[i] to the bytes of a record, deletes too; return the first damaged i, or -1."""
    for i in range(locations.size):
        at = location.offset_of(locations[i])
        if at + RECORD_HEADER > data.size:
            return i
        head = load64(data, at)
        length = RECORD_HEADER + np.int64((head >> U(32)) & U(0xFFFFFF)) + np.int64(head & U(0xFFFFFFFF))
        if at + length > data.size or check16(data, at, length, owner, U(0)) != location.check_of(locations[i]):
            return i
        sizes[i] = padded(length)
    return -1


@kernel(U8, U64, I64, INT, U64)
def move_records(data, locations, sizes, at, moved):
    """Copy verified records of these sizes consecutively to data[at...]; set moved[i] to the new location."""
    for i in range(locations.size):
        copy(data, at, data, location.offset_of(locations[i]), sizes[i])
        moved[i] = location.make(at, location.check_of(locations[i])) | (locations[i] & location.DELETE)
        at += sizes[i]


@kernel(BYTES, WORDS, U8)
def mark_lists(data, locations, found):
    """Set found[i] to whether the value of a record is a list of chunks; 0 for a record outside the data."""
    for i in range(locations.size):
        at = location.offset_of(locations[i])
        is_list = at + RECORD_HEADER <= data.size and (load64(data, at) >> U(56)) & U(FLAG_PARTS) != U(0)
        found[i] = is_list
