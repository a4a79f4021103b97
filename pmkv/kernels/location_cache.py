"""Finding, admitting and forgetting words in the hot-set index.

Blocks in the heap, reached as the sub-tables of `kernels.probe` are (directory, rows of `subs`: base in the heap, sets,
evicted since the last look, depth of its own). A block is sets of one cache line: four slots (word, location), those
taken in front. A word asked for moves a slot forward, one let in takes the last: nothing has to be counted or aged.

Let in is who was offered before. The doorkeeper remembers that: `marks` are uint64, each of them 16 bits of the places
of the last four words that were offered and belong there, the newest lowest.
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
LAST = SET_WORDS - 2
LANES, LANE_TOPS = U(0x0001000100010001), U(0x8000800080008000)


@njit(inline="always")
def set_of(place, directory, subs, depth):
    """Where the set of a place begins in the heap."""
    sub = sub_of(place, directory, depth)
    return subs[sub, 0] + SET_WORDS * slot_of(place, subs[sub, 3], subs[sub, 1])


@njit(inline="always")
def move_forward(heap, first, at):
    """Change places with the slot in front."""
    if at > first:
        word, where = heap[at], heap[at + 1]
        heap[at] = heap[at - 2]
        heap[at + 1] = heap[at - 1]
        heap[at - 2] = word
        heap[at - 1] = where


@kernel(U64, I64, I64_2D, INT, WORD, IDS, U64, size_argument=5)
def find_hot(heap, directory, subs, depth, seed, ids, found):
    """Fill found[i] where it is 0 and the index has ids[i]; returns (how many were 0, how many of them were found)."""
    asked, hits = 0, 0
    for i in range(ids.size):
        if i + AHEAD < ids.size and found[i + AHEAD] == U(0):
            prefetch(heap, set_of(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        if found[i] != U(0):
            continue
        asked += 1
        word = U(ids[i])
        first = set_of(mix(word, seed), directory, subs, depth)
        for at in range(first, first + SET_WORDS, 2):
            if heap[at] == word and heap[at + 1] != U(0):
                found[i] = heap[at + 1]
                hits += 1
                move_forward(heap, first, at)
                break
    return asked, hits


@kernel(U64, I64, I64_2D, INT, WORD, BYTES, U64, BYTES, I64_2D, U64, size_argument=6)
def find_hot_keys(heap, directory, subs, depth, seed, data, words, keys, bounds, found):
    """As find_hot, of keys[bounds[i, 0] : bounds[i, 1]] and their hashes: a record with another key is passed over."""
    asked, hits = 0, 0
    for i in range(words.size):
        if i + AHEAD < words.size and found[i + AHEAD] == U(0):
            prefetch(heap, set_of(mix(words[i + AHEAD], seed), directory, subs, depth))
        if found[i] != U(0):
            continue
        asked += 1
        first = set_of(mix(words[i], seed), directory, subs, depth)
        length = bounds[i, 1] - bounds[i, 0]
        for at in range(first, first + SET_WORDS, 2):
            where = heap[at + 1]
            if heap[at] == words[i] and where != U(0):
                if same_key(data, location.offset_of(where), keys, bounds[i, 0], length):
                    found[i] = where
                    hits += 1
                    move_forward(heap, first, at)
                break  # a word stands in one slot
    return asked, hits


@njit(inline="always")
def mark_of(place, marks):
    """Where a place belongs in the doorkeeper: by its low half, the 16 bits that are kept are of the high one."""
    return np.int64(((place & U(0xFFFFFFFF)) * U(marks.size)) >> U(32))


@njit(inline="always")
def is_let_in(marks, at, place):
    """Was it offered before, lately? If not, it is noted."""
    mark = (place >> U(32)) & U(0xFFFF)
    lanes = marks[at] ^ (mark * LANES)
    if (lanes - LANES) & ~lanes & LANE_TOPS != U(0):  # one of the four is zero
        return True
    marks[at] = (marks[at] << U(16)) | mark
    return False


@kernel(U64, I64, I64_2D, INT, WORD, U64, IDS, U64, size_argument=6)
def admit(heap, directory, subs, depth, seed, marks, ids, locations):
    """Offer words; those known get their new location, those offered before get in. Returns (let in, pushed out)."""
    admitted, evicted = 0, 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            place = mix(U(ids[i + AHEAD]), seed)
            prefetch(heap, set_of(place, directory, subs, depth))
            prefetch(marks, mark_of(place, marks))
        if locations[i] == U(0):
            continue
        word = U(ids[i])
        place = mix(word, seed)
        sub = sub_of(place, directory, depth)
        first = subs[sub, 0] + SET_WORDS * slot_of(place, subs[sub, 3], subs[sub, 1])
        at = first
        while at < first + LAST and heap[at + 1] != U(0) and heap[at] != word:
            at += 2
        known = heap[at + 1] != U(0) and heap[at] == word
        if not known:
            if not is_let_in(marks, mark_of(place, marks), place):
                continue
            admitted += 1
            if heap[at + 1] != U(0):
                evicted += 1
                subs[sub, 2] += 1
        heap[at] = word
        heap[at + 1] = locations[i]
    return admitted, evicted


@kernel(U64, I64, I64_2D, INT, WORD, IDS, size_argument=5)
def forget(heap, directory, subs, depth, seed, ids):
    """Take words out; those behind them in their sets move up. Returns how many were there."""
    gone = 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            prefetch(heap, set_of(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        word = U(ids[i])
        first = set_of(mix(word, seed), directory, subs, depth)
        at = first
        while at < first + SET_WORDS and not (heap[at] == word and heap[at + 1] != U(0)):
            at += 2
        if at < first + SET_WORDS:
            gone += 1
            while at < first + LAST:
                heap[at] = heap[at + 2]
                heap[at + 1] = heap[at + 3]
                at += 2
            heap[at] = U(0)
            heap[at + 1] = U(0)
    return gone


@kernel(U64, INT, INT, I64, I64_2D, INT, WORD)
def spread(heap, base, sets, directory, subs, depth, seed):
    """Enter an old block into those that `directory` names now, twice as many sets; order is kept."""
    for at in range(base, base + SET_WORDS * sets, 2):
        if heap[at + 1] != U(0):
            to = set_of(mix(heap[at], seed), directory, subs, depth)
            while heap[to + 1] != U(0):
                to += 2
            heap[to] = heap[at]
            heap[to + 1] = heap[at + 1]
