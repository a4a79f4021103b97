"""Finding and entering words (ids, or hashes of keys) in the open index, and walking it.

The index is sub-tables in one heap of uint64, a slot being (word, location), location 0 = free. A word's place is
`mix(word, seed)`:
its first `depth` bits name an entry of `directory`, that one the sub-table's row in `subs`: (base in the heap,
capacity in slots,
slots taken, depth of its own); the 32 bits behind, scaled to the capacity, the slot where linear probing begins. So
slots stand
nearly in the order of places, at any capacity. Nothing is ever taken out of a sub-table.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BOOL, BYTES, I64, I64_2D, IDS, INT, U64, WORD, WORDS, kernel
from . import location
from .hashing import check16, mix, siphash
from .memory import load64, prefetch

U = np.uint64
AHEAD = 8  # slots asked for before they are needed: enough to hide a miss, few enough to stay in flight
RECORD_HEADER = 16


@njit(inline="always")
def sub_of(place, directory, depth):
    return directory[np.int64((place >> U(1)) >> U(63 - depth))]


@njit(inline="always")
def slot_of(place, depth, capacity):
    return np.int64((((place << U(depth)) >> U(32)) * U(capacity)) >> U(32))


@njit(inline="always")
def is_crowded(subs, sub):
    """Seven eighths taken: the longest probes are still short, and a free slot always ends them."""
    return subs[sub, 2] * 8 >= subs[sub, 1] * 7


@njit(inline="always")
def first_slot(place, directory, subs, depth):
    sub = sub_of(place, directory, depth)
    return subs[sub, 0] + 2 * slot_of(place, subs[sub, 3], subs[sub, 1])


@njit(inline="always")
def next_slot(at, subs, sub):
    at += 2
    if at == subs[sub, 0] + 2 * subs[sub, 1]:
        return subs[sub, 0]
    return at


@kernel(U64, I64, I64_2D, INT, WORD, IDS, I64_2D, U64, size_argument=5)
def find_ids(heap, directory, subs, depth, seed, ids, pending, found):
    """found[i] = location of ids[i] or 0; returns how many of them are pending."""
    waiting = 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            prefetch(heap, first_slot(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        word = U(ids[i])
        place = mix(word, seed)
        sub = sub_of(place, directory, depth)
        at = subs[sub, 0] + 2 * slot_of(place, subs[sub, 3], subs[sub, 1])
        while heap[at + 1] != U(0) and heap[at] != word:
            at = next_slot(at, subs, sub)
        found[i] = heap[at + 1]
        waiting += location.is_pending(found[i], pending)
    return waiting


@kernel(IDS, I64, INT, WORD, I64)
def count_subs(words, directory, depth, seed, counts):
    """counts[sub] += how many of these words belong to each sub-table."""
    for i in range(words.size):
        counts[sub_of(mix(U(words[i]), seed), directory, depth)] += 1


@kernel(U64, I64, I64_2D, INT, WORD, IDS, U64, U64, INT, size_argument=5)
def insert_ids(heap, directory, subs, depth, seed, ids, locations, before, start):
    """Enter ids[start:], later ones win; before[i] = what stood there.

    Returns (the first that needs a larger sub-table, or ids.size; how many more are alive, negative: fewer)."""
    alive = 0
    for i in range(start, ids.size):
        if i + AHEAD < ids.size:
            prefetch(heap, first_slot(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        word = U(ids[i])
        place = mix(word, seed)
        sub = sub_of(place, directory, depth)
        at = subs[sub, 0] + 2 * slot_of(place, subs[sub, 3], subs[sub, 1])
        while heap[at + 1] != U(0) and heap[at] != word:
            at = next_slot(at, subs, sub)
        before[i] = heap[at + 1]
        if before[i] == U(0):
            if is_crowded(subs, sub):
                return i, alive
            heap[at] = word
            subs[sub, 2] += 1
        heap[at + 1] = locations[i]
        alive += np.int64(location.lives(locations[i])) - np.int64(location.lives(before[i]))
    return ids.size, alive


@njit(inline="always")
def same_key(data, record, keys, start, length):
    """Is the key of the record at this pool offset keys[start : start + length]?"""
    if np.int64((load64(data, record) >> U(32)) & U(0xFFFFFF)) != length:
        return False
    at = record + RECORD_HEADER
    i = 0
    while i + 8 <= length:
        if load64(data, at + i) != load64(keys, start + i):
            return False
        i += 8
    while i < length:
        if data[at + i] != keys[start + i]:
            return False
        i += 1
    return True


@njit(inline="always")
def is_damaged(data, where, owner):
    """Does the record at this location not agree with the location's check?"""
    at = location.offset_of(where)
    word = load64(data, at)
    length = RECORD_HEADER + np.int64((word >> U(32)) & U(0xFFFFFF)) + np.int64(word & U(0xFFFFFFFF))
    return at + length > data.size or check16(data, at, length, owner, U(0)) != location.check_of(where)


@njit(inline="always")
def find_key(heap, subs, sub, at, data, word, keys, start, length):
    """The slot of a key, or the free slot where it would be entered: equal hashes are only candidates."""
    while heap[at + 1] != U(0):
        if heap[at] == word and same_key(data, location.offset_of(heap[at + 1]), keys, start, length):
            break
        at = next_slot(at, subs, sub)
    return at


@kernel(BYTES, I64_2D, WORD, WORD, U64, size_argument=4)
def hash_keys(keys, bounds, k0, k1, words):
    """words[i] = SipHash of keys[bounds[i, 0] : bounds[i, 1]]."""
    for i in range(words.size):
        words[i] = siphash(keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0], k0, k1)


@njit(inline="always")
def find_damaged(heap, subs, sub, at, data, word, owner):
    """The slot of a damaged record with this hash: its key may be the one asked for; or the free slot."""
    while heap[at + 1] != U(0) and not (heap[at] == word and is_damaged(data, heap[at + 1], owner)):
        at = next_slot(at, subs, sub)
    return at


@kernel(U64, I64, I64_2D, INT, WORD, BYTES, U64, BYTES, I64_2D, I64_2D, WORD, BOOL, U64, size_argument=6)
def find_keys(heap, directory, subs, depth, seed, data, words, keys, bounds, pending, owner, verify, found):
    """found[i] = location of keys[bounds[i, 0] : bounds[i, 1]] or 0, or with `verify` that of a damaged record that may
    be it; returns how many of them are pending."""
    waiting = 0
    for i in range(words.size):
        if i + AHEAD < words.size:
            prefetch(heap, first_slot(mix(words[i + AHEAD], seed), directory, subs, depth))
        place = mix(words[i], seed)
        sub = sub_of(place, directory, depth)
        first = subs[sub, 0] + 2 * slot_of(place, subs[sub, 3], subs[sub, 1])
        at = find_key(heap, subs, sub, first, data, words[i], keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0])
        if verify and heap[at + 1] == U(0):
            at = find_damaged(heap, subs, sub, first, data, words[i], owner)
        found[i] = heap[at + 1]
        waiting += location.is_pending(found[i], pending)
    return waiting


@kernel(U64, I64, I64_2D, INT, WORD, BYTES, U64, BYTES, I64_2D, U64, U64, INT, size_argument=6)
def insert_keys(heap, directory, subs, depth, seed, data, words, keys, bounds, locations, before, start):
    """Enter the keys from start on, later ones win; as insert_ids."""
    alive = 0
    for i in range(start, words.size):
        if i + AHEAD < words.size:
            prefetch(heap, first_slot(mix(words[i + AHEAD], seed), directory, subs, depth))
        place = mix(words[i], seed)
        sub = sub_of(place, directory, depth)
        at = subs[sub, 0] + 2 * slot_of(place, subs[sub, 3], subs[sub, 1])
        at = find_key(heap, subs, sub, at, data, words[i], keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0])
        before[i] = heap[at + 1]
        if before[i] == U(0):
            if is_crowded(subs, sub):
                return i, alive
            heap[at] = words[i]
            subs[sub, 2] += 1
        heap[at + 1] = locations[i]
        alive += np.int64(location.lives(locations[i])) - np.int64(location.lives(before[i]))
    return words.size, alive


@kernel(U64, INT, INT, I64, I64_2D, INT, WORD)
def reinsert(heap, base, capacity, directory, subs, depth, seed):
    """Enter the slots of an old sub-table into those that `directory` names now. They are distinct: the first free
    slot is right."""
    for old in range(base, base + 2 * capacity, 2):
        if heap[old + 1] != U(0):
            place = mix(heap[old], seed)
            sub = sub_of(place, directory, depth)
            at = subs[sub, 0] + 2 * slot_of(place, subs[sub, 3], subs[sub, 1])
            while heap[at + 1] != U(0):
                at = next_slot(at, subs, sub)
            heap[at] = heap[old]
            heap[at + 1] = heap[old + 1]
            subs[sub, 2] += 1


@kernel(U64, INT, INT, INT, WORD, WORD, U64, U64, U64)
def collect(heap, base, capacity, depth, seed, first_place, places, words, locations):
    """Copy what a sub-table of this depth holds at `first_place` or behind, in the order of places; those of one place
    as they stand. Returns how many."""
    count = 0
    for around in range(2):  # probing went on at the beginning for some, whose places are the last
        for slot in range(capacity):
            at = base + 2 * slot
            if heap[at + 1] == U(0):
                if around:
                    break
                continue
            place = mix(heap[at], seed)
            if (slot_of(place, depth, capacity) > slot) != (around == 1) or place < first_place:
                continue
            to = count
            while to > 0 and places[to - 1] > place:  # never far: slots stand nearly in the order of places
                places[to], words[to], locations[to] = places[to - 1], words[to - 1], locations[to - 1]
                to -= 1
            places[to], words[to], locations[to] = place, heap[at], heap[at + 1]
            count += 1
    return count


@kernel(U64, WORDS, U64, U64, U64, size_argument=0)
def pick_new(before, words, locations, new_words, new_locations):
    """The words that stood nowhere `before`, and their locations, one behind the other; returns how many they are."""
    count = 0
    for i in range(before.size):
        if before[i] == U(0):
            new_words[count] = words[i]
            new_locations[count] = locations[i]
            count += 1
    return count
