"""Kernels of pinned rows: the row of id i stands at rows[i * stride :], and words[i] says what is known of it.

A word is (stamp << 2 | state). The state is UNKNOWN, ABSENT or PRESENT; a word whose stamp is below `floor` counts as
UNKNOWN. The stamp is the number of the fill, and rows are read without a lock as those of `kernels.row_cache`: whoever
changes a slot zeroes the word first and sets the new one last. Ids outside [0, words.size) are absent.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BYTES, I64, IDS, INT, U8, U64, WORD, WORDS, kernel
from . import location
from .hashing import check16
from .location import CACHED
from .memory import copy, fence, prefetch
from .probe import AHEAD
from .records import PREFETCH_BYTES
from .row_cache import CHECK_PIECE

U = np.uint64
UNKNOWN, ABSENT, PRESENT = U(0), U(1), U(2)
STATE_MASK, STATE_BITS = U(3), U(2)


@njit(inline="always")
def state_of(words, id, floor):
    """Return what is known of an id."""
    if id < 0 or id >= words.size:
        return ABSENT
    word = words[id]
    return word & STATE_MASK if word >> STATE_BITS >= floor else UNKNOWN


@kernel(U64, WORD, IDS, U64, U64, I64, size_argument=2)
def find_pinned(words, floor, ids, found, stamps, missed):
    """Look up the ids whose found[i] is 0. Of a present one, set found[i] to CACHED, and stamps[i] to its word.

    Return (present ones, how many are unknown); missed[:that] is set to the positions of these."""
    hits, missing = 0, 0
    for i in range(ids.size):
        if found[i] != U(0):
            continue
        state = state_of(words, ids[i], floor)
        if state == PRESENT:
            hits += 1
            found[i] = CACHED
            stamps[i] = words[ids[i]]
        elif state == UNKNOWN:
            missed[missing] = i
            missing += 1
    return hits, missing


@kernel(U64, BYTES, INT, INT, WORD, IDS, U64, I64, U8, size_argument=5)
def take_pinned(words, rows, stride, width, floor, ids, found, missed, out):
    """Do as `find_pinned`, and copy the row of each hit to out[i * width :]. The caller holds the lock meanwhile."""
    hits, missing = 0, 0
    for i in range(ids.size):
        if i + 2 * AHEAD < ids.size and 0 <= ids[i + 2 * AHEAD] < words.size:
            prefetch(words, ids[i + 2 * AHEAD])
            for line in range(0, min(width, PREFETCH_BYTES), 64):
                prefetch(rows, ids[i + 2 * AHEAD] * stride + line)
        if found[i] != U(0):
            continue
        state = state_of(words, ids[i], floor)
        if state == PRESENT:
            hits += 1
            found[i] = CACHED
            copy(out, i * width, rows, ids[i] * stride, width)
        elif state == UNKNOWN:
            missed[missing] = i
            missing += 1
    return hits, missing


@kernel(U64, BYTES, INT, INT, IDS, U64, U64, U8, size_argument=4)
def copy_pinned(words, rows, stride, width, ids, stamps, found, out):
    """Copy the rows of the ids with found[i] == CACHED to out[i * width :].

    Where the row was changed meanwhile, set found[i] to 0. Return how often that happened."""
    lost = 0
    for first in range(0, found.size, CHECK_PIECE):
        stop = min(first + CHECK_PIECE, found.size)
        for i in range(first, stop):
            if i + AHEAD < found.size and found[i + AHEAD] == CACHED:
                for line in range(0, min(width, PREFETCH_BYTES), 64):
                    prefetch(rows, ids[i + AHEAD] * stride + line)
            if found[i] == CACHED:
                copy(out, i * width, rows, ids[i] * stride, width)
        fence()
        for i in range(first, stop):
            if found[i] == CACHED and words[ids[i]] != stamps[i]:
                found[i] = U(0)
                lost += 1
    return lost


@kernel(U64, IDS, U64, U64, size_argument=1)
def drop_changed_pinned(words, ids, stamps, found):
    """Set found[i] to 0 where it is CACHED and the row was changed since `find_pinned`. Return how often."""
    lost = 0
    for i in range(found.size):
        if found[i] == CACHED and words[ids[i]] != stamps[i]:
            found[i] = U(0)
            lost += 1
    return lost


@kernel(U64, U8, INT, INT, WORD, INT, IDS, WORDS, WORD, IDS, BYTES, WORD, size_argument=9)
def fill_pinned(words, rows, stride, width, floor, limit, ids, locations, owner, which, source, stamp):
    """Enter what was found of ids[n], for each n of `which`: absent, or the row source[n * width :].

    Ids that are known, or not below `limit`, are left as they are, as are rows that do not agree with the check in
    their location: `source` may belong to a user. stamp: of the first that is entered. Return how many were."""
    filled = 0
    for n in range(which.size):
        i = which[n]
        id = ids[i]
        if id >= limit or state_of(words, id, floor) != UNKNOWN:
            continue
        state = PRESENT if location.lives(locations[i]) else ABSENT
        words[id] = U(0)
        fence()
        if state == PRESENT:
            copy(rows, id * stride, source, i * width, width)
            if check16(rows, id * stride, width, owner, U(id)) != location.check_of(locations[i]):
                continue
        fence()
        words[id] = ((stamp + U(filled)) << STATE_BITS) | state
        filled += 1
    return filled


@kernel(U64, WORD, IDS, size_argument=2)
def forget_pinned(words, floor, ids):
    """Make ids unknown. Return how many were known."""
    gone = 0
    for i in range(ids.size):
        if 0 <= ids[i] < words.size:
            gone += state_of(words, ids[i], floor) != UNKNOWN
            words[ids[i]] = U(0)
    return gone


@kernel(U64, WORD, INT, INT, WORD, I64)
def ids_in_state(words, floor, start, stop, state, ids):
    """Set `ids` to those of [start, stop) that are in this state, as far as they fit. Return how many, and where the
    search ended."""
    count = 0
    for id in range(start, stop):
        if state_of(words, id, floor) == state:
            if count == ids.size:
                return count, id
            ids[count] = id
            count += 1
    return count, stop
