"""Kernels of the row cache: look up, copy, admit, remove, and move rows when a cache grows or shrinks.

A cache is sets of WAYS slots. A slot has two words in `meta`, (id, stamp << 2 | uses), and `stride` bytes in `rows`.
The stamp is the number of the fill, so that no two contents of a slot have the same one; a slot whose stamp is below
`floor` is free. `uses` counts hits, at most 3. The sets are addressed by linear hashing (Litwin 1980): a cache grows by
one set at a time, which takes over half of the entries of one other set.

In a full set an id is admitted only if it was offered lately (the doorkeeper, as of `kernels.location_cache`), so that
ids read once evict nothing, and only in place of a row with no `uses`. Where all have some, each loses one, and the id
must be offered once more: so what is read about as often as the rows that are there does not take turns with them.

Rows are copied, or pooled where they stand, without a lock, while others admit and remove: a reader notes the stamp of
a slot under the lock, reads, and then looks whether the stamp is still the same. Whoever changes a slot zeroes the
stamp first and sets the new one last. Of short batches the rows are copied under the lock.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BYTES, I64, IDS, INT, U8, U64, WORD, WORDS, kernel
from . import location
from .hashing import check16, mix
from .location import CACHED
from .location_cache import mark_of, was_offered
from .memory import copy, fence, prefetch
from .probe import AHEAD
from .records import PREFETCH_BYTES

U = np.uint64
WAYS = 8
SET_META_WORDS = 2 * WAYS
USES_MASK, USES_BITS = U(3), U(2)
CHECK_PIECE = 32  # rows copied before their stamps are compared


@njit(inline="always")
def set_of(slot_hash, sets, mask):
    """Return the number of the set of a slot hash. mask: the lowest 2^n - 1 that is not below `sets` - 1."""
    at = np.int64(slot_hash & U(mask))
    return at if at < sets else at & (mask >> 1)


@njit(inline="always")
def is_free(meta, at, floor):
    """Return whether the slot at a position in `meta` is free."""
    return meta[at + 1] >> USES_BITS < floor


@njit(inline="always")
def way_of(meta, first, id, floor):
    """Return the position in `meta` of the slot of an id in the set that begins at `first`, or -1."""
    for at in range(first, first + SET_META_WORDS, 2):
        if meta[at] == U(id) and not is_free(meta, at, floor):
            return at
    return -1


@kernel(U64, INT, INT, WORD, WORD, IDS, U64, I64, U64, I64, size_argument=5)
def find_rows(meta, sets, mask, seed, floor, ids, found, slots, stamps, missed):
    """Look up the ids whose found[i] is 0. Of a hit, set found[i] to CACHED, slots[i] and stamps[i].

    Return (hits, how many are missing); missed[:that] is set to the positions of these."""
    hits, missing = 0, 0
    for i in range(ids.size):
        if i + AHEAD < ids.size and found[i + AHEAD] == U(0):
            prefetch(meta, SET_META_WORDS * set_of(mix(U(ids[i + AHEAD]), seed), sets, mask))
        if found[i] != U(0):
            continue
        at = way_of(meta, SET_META_WORDS * set_of(mix(U(ids[i]), seed), sets, mask), ids[i], floor)
        if at < 0:
            missed[missing] = i
            missing += 1
            continue
        hits += 1
        found[i] = CACHED
        slots[i] = at >> 1
        stamps[i] = meta[at + 1] >> USES_BITS
        if meta[at + 1] & USES_MASK != USES_MASK:
            meta[at + 1] += U(1)
    return hits, missing


@kernel(U64, BYTES, INT, INT, I64, U64, U64, U8, size_argument=5)
def copy_rows(meta, rows, stride, width, slots, stamps, found, out):
    """Copy the rows of the ids with found[i] == CACHED to out[i * width :].

    Where the slot was changed meanwhile, set found[i] to 0. Return how often that happened."""
    lost = 0
    for first in range(0, found.size, CHECK_PIECE):
        stop = min(first + CHECK_PIECE, found.size)
        for i in range(first, stop):
            if i + AHEAD < found.size and found[i + AHEAD] == CACHED:
                for line in range(0, min(width, PREFETCH_BYTES), 64):
                    prefetch(rows, slots[i + AHEAD] * stride + line)
            if found[i] == CACHED:
                copy(out, i * width, rows, slots[i] * stride, width)
        fence()
        for i in range(first, stop):
            if found[i] == CACHED and meta[2 * slots[i] + 1] >> USES_BITS != stamps[i]:
                found[i] = U(0)
                lost += 1
    return lost


@kernel(U64, BYTES, INT, INT, INT, INT, WORD, WORD, IDS, U64, I64, I64, U8, size_argument=8)
def take_rows(meta, rows, stride, width, sets, mask, seed, floor, ids, found, slots, missed, out):
    """Do as `find_rows`, and copy the row of each hit to out[i * width :]. The caller holds the lock meanwhile.

    Rows are prefetched while the next ids are looked up, some at a time."""
    hits, missing = 0, 0
    for first in range(0, ids.size, CHECK_PIECE):
        stop = min(first + CHECK_PIECE, ids.size)
        for i in range(first, stop):
            if i + CHECK_PIECE < ids.size and found[i + CHECK_PIECE] == U(0):
                prefetch(meta, SET_META_WORDS * set_of(mix(U(ids[i + CHECK_PIECE]), seed), sets, mask))
            if found[i] != U(0):
                continue
            at = way_of(meta, SET_META_WORDS * set_of(mix(U(ids[i]), seed), sets, mask), ids[i], floor)
            if at < 0:
                missed[missing] = i
                missing += 1
                continue
            hits += 1
            found[i] = CACHED
            slots[i] = at >> 1
            for line in range(0, min(width, PREFETCH_BYTES), 64):
                prefetch(rows, slots[i] * stride + line)
            if meta[at + 1] & USES_MASK != USES_MASK:
                meta[at + 1] += U(1)
        for i in range(first, stop):
            if found[i] == CACHED:
                copy(out, i * width, rows, slots[i] * stride, width)
    return hits, missing


@kernel(U64, I64, U64, U64, size_argument=1)
def drop_changed(meta, slots, stamps, found):
    """Set found[i] to 0 where it is CACHED and the slot was changed since `find_rows`. Return how often."""
    lost = 0
    for i in range(found.size):
        if found[i] == CACHED and meta[2 * slots[i] + 1] >> USES_BITS != stamps[i]:
            found[i] = U(0)
            lost += 1
    return lost


@njit(inline="always")
def idle_way(meta, first, hand):
    """Return the position of the first slot from `hand` on that was not used lately. If there is none, every slot of
    the set loses a use, and -1 is returned."""
    for step in range(WAYS):
        at = first + 2 * ((hand + step) & (WAYS - 1))
        if meta[at + 1] & USES_MASK == U(0):
            return at
    for at in range(first, first + SET_META_WORDS, 2):
        meta[at + 1] -= U(1)
    return -1


@njit(inline="always")
def free_way(meta, first, floor):
    """Return the position of a free slot of a set, or -1."""
    for at in range(first, first + SET_META_WORDS, 2):
        if is_free(meta, at, floor):
            return at
    return -1


@kernel(U64, U8, INT, INT, INT, INT, WORD, WORD, U64, IDS, WORDS, WORD, IDS, BYTES, WORD, size_argument=12)
def admit_rows(meta, rows, stride, width, sets, mask, seed, floor, marks, ids, locations, owner, which, source, stamp):
    """Offer the rows source[i * width :] of ids[i], for each i of `which`. stamp: of the first that is admitted.

    A row that does not agree with the check in its location is left out: `source` may belong to a user. Return
    (admitted, evicted, offers that met a full set)."""
    admitted, evicted, full = 0, 0, 0
    for n in range(which.size):
        id = ids[which[n]]
        slot_hash = mix(U(id), seed)
        first = SET_META_WORDS * set_of(slot_hash, sets, mask)
        if way_of(meta, first, id, floor) >= 0:
            continue
        at = free_way(meta, first, floor)
        if at < 0:
            full += 1
            if not was_offered(marks, mark_of(slot_hash, marks), slot_hash):
                continue
            at = idle_way(meta, first, np.int64(stamp) + full)
            if at < 0:
                continue
            evicted += 1
        meta[at + 1] = U(0)
        fence()
        copy(rows, (at >> 1) * stride, source, which[n] * width, width)
        if check16(rows, (at >> 1) * stride, width, owner, U(id)) != location.check_of(locations[which[n]]):
            continue
        meta[at] = U(id)
        fence()
        meta[at + 1] = (stamp + U(admitted)) << USES_BITS
        admitted += 1
    return admitted, evicted, full


@kernel(U64, INT, INT, WORD, WORD, IDS, size_argument=5)
def forget_rows(meta, sets, mask, seed, floor, ids):
    """Remove ids. Return how many were there."""
    gone = 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            prefetch(meta, SET_META_WORDS * set_of(mix(U(ids[i + AHEAD]), seed), sets, mask))
        at = way_of(meta, SET_META_WORDS * set_of(mix(U(ids[i]), seed), sets, mask), ids[i], floor)
        if at >= 0:
            meta[at + 1] = U(0)
            gone += 1
    return gone


@njit(inline="always")
def move_row(meta, rows, stride, at, to):
    """Move an entry to a slot that is free."""
    word = meta[at + 1]
    meta[at + 1] = U(0)
    fence()
    copy(rows, (to >> 1) * stride, rows, (at >> 1) * stride, stride)
    meta[to] = meta[at]
    fence()
    meta[to + 1] = word


@kernel(U64, U8, INT, INT, INT, INT, WORD, WORD)
def add_sets(meta, rows, stride, sets, stop, mask, seed, floor):
    """Let the sets [sets, stop), which are free, take over their part of other sets. mask: that of `stop` sets."""
    for new in range(sets, stop):
        first = SET_META_WORDS * (new & (mask >> 1))
        for at in range(first, first + SET_META_WORDS, 2):
            if not is_free(meta, at, floor) and np.int64(mix(meta[at], seed) & U(mask)) == new:
                move_row(meta, rows, stride, at, at + SET_META_WORDS * (new - (new & (mask >> 1))))


@kernel(U64, U8, INT, INT, INT, INT, WORD)
def remove_sets(meta, rows, stride, sets, stop, mask, floor):
    """Empty the sets [sets, stop), the last ones; free slots of the sets that take their place get some of their rows.

    mask: that of `stop` sets. Return how many rows were dropped."""
    dropped = 0
    for old in range(stop - 1, sets - 1, -1):
        into = SET_META_WORDS * (old & (mask >> 1))
        for at in range(SET_META_WORDS * old, SET_META_WORDS * (old + 1), 2):
            if is_free(meta, at, floor):
                continue
            to = free_way(meta, into, floor)
            if to >= 0:
                move_row(meta, rows, stride, at, to)
            else:
                meta[at + 1] = U(0)
                dropped += 1
    return dropped


@kernel(U64, INT, WORD, I64)
def cached_ids(meta, sets, floor, ids):
    """Copy the ids of all entries to `ids`, as far as they fit; return how many there are."""
    count = 0
    for at in range(0, SET_META_WORDS * sets, 2):
        if not is_free(meta, at, floor):
            if count < ids.size:
                ids[count] = np.int64(meta[at])
            count += 1
    return count
