"""Kernels that look up, admit and remove entries of the location cache.

Blocks in the arena are reached as the sub-tables of `kernels.probe` are (directory, rows of `subs`: base in the arena,
sets, evictions since the last look, depth of its own). A block is sets of one cache line: four slots (key64, location),
those in use first. A hit moves its slot forward by one, an admission replaces the last slot: nothing has to be counted
or aged.

A key64 is admitted if it was offered before. The doorkeeper remembers that: `marks` are uint64, each with 16 bits of
the slot hashes of the last four key64s that were offered and map to it, the newest in the lowest bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BYTES, I64, I64_2D, IDS, INT, U64, WORD, kernel
from . import location
from .hashing import mix
from .memory import prefetch
from .probe import AHEAD, same_key, slot_of, sub_of

U = np.uint64
SLOTS = 4
SET_WORDS = 2 * SLOTS
LAST_SLOT_OFFSET = SET_WORDS - 2
LANES, LANE_TOPS = U(0x0001000100010001), U(0x8000800080008000)


@njit(inline="always")
def set_of(slot_hash, directory, subs, depth):
    """Return where the set of a slot hash begins in the arena."""
    sub = sub_of(slot_hash, directory, depth)
    return subs[sub, 0] + SET_WORDS * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])


@njit(inline="always")
def move_forward(arena, first, at):
    """Exchange a slot with the one in front of it."""
    if at > first:
        key64, found_location = arena[at], arena[at + 1]
        arena[at] = arena[at - 2]
        arena[at + 1] = arena[at - 1]
        arena[at - 2] = key64
        arena[at - 1] = found_location


@kernel(U64, I64, I64_2D, INT, WORD, IDS, U64, size_argument=5)
def find_hot(arena, directory, subs, depth, seed, ids, found):
    """Set found[i], where it is 0, to the cached location of ids[i].

    Return (how many were 0, how many of these were found)."""
    asked, hits = 0, 0
    for i in range(ids.size):
        if i + AHEAD < ids.size and found[i + AHEAD] == U(0):
            prefetch(arena, set_of(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        if found[i] != U(0):
            continue
        asked += 1
        key64 = U(ids[i])
        first = set_of(mix(key64, seed), directory, subs, depth)
        for at in range(first, first + SET_WORDS, 2):
            if arena[at] == key64 and arena[at + 1] != U(0):
                found[i] = arena[at + 1]
                hits += 1
                move_forward(arena, first, at)
                break
    return asked, hits


@kernel(U64, I64, I64_2D, INT, WORD, BYTES, U64, BYTES, I64_2D, U64, size_argument=6)
def find_hot_keys(arena, directory, subs, depth, seed, data, key64s, keys, bounds, found):
    """Do as `find_hot` for keys[bounds[i, 0] : bounds[i, 1]] with hash key64s[i].

    A record with another key does not count as found."""
    asked, hits = 0, 0
    for i in range(key64s.size):
        if i + AHEAD < key64s.size and found[i + AHEAD] == U(0):
            prefetch(arena, set_of(mix(key64s[i + AHEAD], seed), directory, subs, depth))
        if found[i] != U(0):
            continue
        asked += 1
        first = set_of(mix(key64s[i], seed), directory, subs, depth)
        length = bounds[i, 1] - bounds[i, 0]
        for at in range(first, first + SET_WORDS, 2):
            found_location = arena[at + 1]
            if arena[at] == key64s[i] and found_location != U(0):
                if same_key(data, location.offset_of(found_location), keys, bounds[i, 0], length):
                    found[i] = found_location
                    hits += 1
                    move_forward(arena, first, at)
                break  # a key64 has at most one slot
    return asked, hits


@njit(inline="always")
def mark_of(slot_hash, marks):
    """Return the mark that a slot hash maps to, by its low half; the 16 bits kept there are of the high half."""
    return np.int64(((slot_hash & U(0xFFFFFFFF)) * U(marks.size)) >> U(32))


@njit(inline="always")
def was_offered(marks, at, slot_hash):
    """Return whether the slot hash was offered lately; if not, remember that it is offered now."""
    mark = (slot_hash >> U(32)) & U(0xFFFF)
    lanes = marks[at] ^ (mark * LANES)
    if (lanes - LANES) & ~lanes & LANE_TOPS != U(0):  # one of the four is zero
        return True
    marks[at] = (marks[at] << U(16)) | mark
    return False


@kernel(U64, I64, I64_2D, INT, WORD, U64, IDS, U64, size_argument=6)
def admit(arena, directory, subs, depth, seed, marks, ids, locations):
    """Offer entries: known key64s get their new location, those offered before are admitted.

    Return (admitted, evicted)."""
    admitted, evicted = 0, 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            slot_hash = mix(U(ids[i + AHEAD]), seed)
            prefetch(arena, set_of(slot_hash, directory, subs, depth))
            prefetch(marks, mark_of(slot_hash, marks))
        if locations[i] == U(0):
            continue
        key64 = U(ids[i])
        slot_hash = mix(key64, seed)
        sub = sub_of(slot_hash, directory, depth)
        first = subs[sub, 0] + SET_WORDS * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])
        at = first
        while at < first + LAST_SLOT_OFFSET and arena[at + 1] != U(0) and arena[at] != key64:
            at += 2
        known = arena[at + 1] != U(0) and arena[at] == key64
        if not known:
            if not was_offered(marks, mark_of(slot_hash, marks), slot_hash):
                continue
            admitted += 1
            if arena[at + 1] != U(0):
                evicted += 1
                subs[sub, 2] += 1
        arena[at] = key64
        arena[at + 1] = locations[i]
    return admitted, evicted


@kernel(U64, I64, I64_2D, INT, WORD, IDS, size_argument=5)
def forget(arena, directory, subs, depth, seed, ids):
    """Remove ids; later slots of their sets move forward. Return how many were removed."""
    gone = 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            prefetch(arena, set_of(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        key64 = U(ids[i])
        first = set_of(mix(key64, seed), directory, subs, depth)
        at = first
        while at < first + SET_WORDS and not (arena[at] == key64 and arena[at + 1] != U(0)):
            at += 2
        if at < first + SET_WORDS:
            gone += 1
            while at < first + LAST_SLOT_OFFSET:
                arena[at] = arena[at + 2]
                arena[at + 1] = arena[at + 3]
                at += 2
            arena[at] = U(0)
            arena[at + 1] = U(0)
    return gone


@kernel(U64, INT, INT, I64, I64_2D, INT, WORD)
def spread(arena, base, sets, directory, subs, depth, seed):
    """Insert an old block into the blocks that `directory` names now, which have twice as many sets; keep the order."""
    for at in range(base, base + SET_WORDS * sets, 2):
        if arena[at + 1] != U(0):
            to = set_of(mix(arena[at], seed), directory, subs, depth)
            while arena[to + 1] != U(0):
                to += 2
            arena[to] = arena[at]
            arena[to + 1] = arena[at + 1]
