"""Kernels that find and insert key64s (ids, or hashes of keys) in a hash table, and walk it.

The table is sub-tables in one arena of uint64. A slot is a pair (key64, location); location 0 means free. The slot hash
of a key64 is `mix(key64, seed)`. Its first `depth` bits select an entry of `directory`, which names the row of the
sub-table in `subs`: (base in the arena, capacity in slots, slots taken, depth of its own). The next 32 bits, scaled to
the capacity, are the slot where linear probing begins. So slots are nearly sorted by slot hash, at any capacity.
Entries are never removed from a sub-table.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BOOL, BYTES, I64, I64_2D, IDS, INT, U64, WORD, WORDS, kernel
from . import location
from .hashing import check16, mix, siphash
from .memory import load64, prefetch

U = np.uint64
AHEAD = 8  # keys between prefetch and probe: enough to hide a cache miss, few enough to stay in flight
RECORD_HEADER = 16


@njit(inline="always")
def sub_of(slot_hash, directory, depth):
    """Return the number of the sub-table of a slot hash."""
    return directory[np.int64((slot_hash >> U(1)) >> U(63 - depth))]


@njit(inline="always")
def slot_of(slot_hash, depth, capacity):
    """Return the slot of a sub-table where probing for a slot hash begins."""
    return np.int64((((slot_hash << U(depth)) >> U(32)) * U(capacity)) >> U(32))


@njit(inline="always")
def is_crowded(subs, sub):
    """Return whether seven eighths are taken: probes are still short, and a free slot always ends them."""
    return subs[sub, 2] * 8 >= subs[sub, 1] * 7


@njit(inline="always")
def first_slot(slot_hash, directory, subs, depth):
    """Return the position in the arena where probing for a slot hash begins."""
    sub = sub_of(slot_hash, directory, depth)
    return subs[sub, 0] + 2 * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])


@njit(inline="always")
def next_slot(at, subs, sub):
    """Return the position of the next slot to probe; the first one follows the last one."""
    at += 2
    if at == subs[sub, 0] + 2 * subs[sub, 1]:
        return subs[sub, 0]
    return at


@kernel(U64, I64, I64_2D, INT, WORD, IDS, I64_2D, U64, size_argument=5)
def find_ids(arena, directory, subs, depth, seed, ids, pending, found):
    """Set found[i] to the location of ids[i], or 0; return how many of these are pending."""
    pending_count = 0
    for i in range(ids.size):
        if i + AHEAD < ids.size:
            prefetch(arena, first_slot(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        key64 = U(ids[i])
        slot_hash = mix(key64, seed)
        sub = sub_of(slot_hash, directory, depth)
        at = subs[sub, 0] + 2 * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])
        while arena[at + 1] != U(0) and arena[at] != key64:
            at = next_slot(at, subs, sub)
        found[i] = arena[at + 1]
        pending_count += location.is_pending(found[i], pending)
    return pending_count


@kernel(IDS, I64, INT, WORD, I64)
def count_subs(key64s, directory, depth, seed, counts):
    """Add to counts[sub] how many of the key64s belong to each sub-table."""
    for i in range(key64s.size):
        counts[sub_of(mix(U(key64s[i]), seed), directory, depth)] += 1


@kernel(U64, I64, I64_2D, INT, WORD, IDS, U64, U64, INT, size_argument=5)
def insert_ids(arena, directory, subs, depth, seed, ids, locations, before, start):
    """Insert ids[start:], later ones win; set before[i] to the location that was replaced.

    Return (the first i that needs a larger sub-table, or ids.size; the change of the count of live keys)."""
    live_change = 0
    for i in range(start, ids.size):
        if i + AHEAD < ids.size:
            prefetch(arena, first_slot(mix(U(ids[i + AHEAD]), seed), directory, subs, depth))
        key64 = U(ids[i])
        slot_hash = mix(key64, seed)
        sub = sub_of(slot_hash, directory, depth)
        at = subs[sub, 0] + 2 * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])
        while arena[at + 1] != U(0) and arena[at] != key64:
            at = next_slot(at, subs, sub)
        before[i] = arena[at + 1]
        if before[i] == U(0):
            if is_crowded(subs, sub):
                return i, live_change
            arena[at] = key64
            subs[sub, 2] += 1
        arena[at + 1] = locations[i]
        live_change += np.int64(location.lives(locations[i])) - np.int64(location.lives(before[i]))
    return ids.size, live_change


@njit(inline="always")
def same_key(data, record, keys, start, length):
    """Return whether the record at this pool offset has the key keys[start : start + length]."""
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
    """Return whether the record at this location disagrees with the check in the location."""
    at = location.offset_of(where)
    head = load64(data, at)
    length = RECORD_HEADER + np.int64((head >> U(32)) & U(0xFFFFFF)) + np.int64(head & U(0xFFFFFFFF))
    return at + length > data.size or check16(data, at, length, owner, U(0)) != location.check_of(where)


@njit(inline="always")
def find_key(arena, subs, sub, at, data, key64, keys, start, length):
    """Return the position of the slot of a key, or of the free slot where it would be inserted.

    Equal hashes are only candidates: the keys are compared."""
    while arena[at + 1] != U(0):
        if arena[at] == key64 and same_key(data, location.offset_of(arena[at + 1]), keys, start, length):
            break
        at = next_slot(at, subs, sub)
    return at


@kernel(BYTES, I64_2D, WORD, WORD, U64, size_argument=4)
def hash_keys(keys, bounds, k0, k1, key64s):
    """Set key64s[i] to the SipHash of keys[bounds[i, 0] : bounds[i, 1]]."""
    for i in range(key64s.size):
        key64s[i] = siphash(keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0], k0, k1)


@njit(inline="always")
def find_damaged(arena, subs, sub, at, data, key64, owner):
    """Return the position of a damaged record with this hash, which may be the key asked for, or of a free slot."""
    while arena[at + 1] != U(0) and not (arena[at] == key64 and is_damaged(data, arena[at + 1], owner)):
        at = next_slot(at, subs, sub)
    return at


@kernel(U64, I64, I64_2D, INT, WORD, BYTES, U64, BYTES, I64_2D, I64_2D, WORD, BOOL, U64, size_argument=6)
def find_keys(arena, directory, subs, depth, seed, data, key64s, keys, bounds, pending, owner, verify, found):
    """Set found[i] to the location of keys[bounds[i, 0] : bounds[i, 1]], or 0; return how many of these are pending.

    verify: a damaged record that may have the key is found instead of none."""
    pending_count = 0
    for i in range(key64s.size):
        if i + AHEAD < key64s.size:
            prefetch(arena, first_slot(mix(key64s[i + AHEAD], seed), directory, subs, depth))
        slot_hash = mix(key64s[i], seed)
        sub = sub_of(slot_hash, directory, depth)
        first = subs[sub, 0] + 2 * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])
        at = find_key(arena, subs, sub, first, data, key64s[i], keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0])
        if verify and arena[at + 1] == U(0):
            at = find_damaged(arena, subs, sub, first, data, key64s[i], owner)
        found[i] = arena[at + 1]
        pending_count += location.is_pending(found[i], pending)
    return pending_count


@kernel(U64, I64, I64_2D, INT, WORD, BYTES, U64, BYTES, I64_2D, U64, U64, INT, size_argument=6)
def insert_keys(arena, directory, subs, depth, seed, data, key64s, keys, bounds, locations, before, start):
    """Insert the keys from `start` on, later ones win; otherwise as `insert_ids`."""
    live_change = 0
    for i in range(start, key64s.size):
        if i + AHEAD < key64s.size:
            prefetch(arena, first_slot(mix(key64s[i + AHEAD], seed), directory, subs, depth))
        slot_hash = mix(key64s[i], seed)
        sub = sub_of(slot_hash, directory, depth)
        at = subs[sub, 0] + 2 * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])
        at = find_key(arena, subs, sub, at, data, key64s[i], keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0])
        before[i] = arena[at + 1]
        if before[i] == U(0):
            if is_crowded(subs, sub):
                return i, live_change
            arena[at] = key64s[i]
            subs[sub, 2] += 1
        arena[at + 1] = locations[i]
        live_change += np.int64(location.lives(locations[i])) - np.int64(location.lives(before[i]))
    return key64s.size, live_change


@kernel(U64, INT, INT, I64, I64_2D, INT, WORD)
def reinsert(arena, base, capacity, directory, subs, depth, seed):
    """Insert the slots of an old sub-table into the sub-tables that `directory` names now.

    The key64s are distinct, so the first free slot is right."""
    for old in range(base, base + 2 * capacity, 2):
        if arena[old + 1] != U(0):
            slot_hash = mix(arena[old], seed)
            sub = sub_of(slot_hash, directory, depth)
            at = subs[sub, 0] + 2 * slot_of(slot_hash, subs[sub, 3], subs[sub, 1])
            while arena[at + 1] != U(0):
                at = next_slot(at, subs, sub)
            arena[at] = arena[old]
            arena[at + 1] = arena[old + 1]
            subs[sub, 2] += 1


@kernel(U64, INT, INT, INT, WORD, WORD, U64, U64, U64)
def collect(arena, base, capacity, depth, seed, first_slot_hash, slot_hashes, key64s, locations):
    """Copy the entries of a sub-table of this depth with slot hash >= first_slot_hash, sorted by slot hash.

    Entries of one slot hash keep their order. Return how many there are."""
    count = 0
    for wrapped in range(2):  # entries whose probing wrapped around have the highest hashes: they come last
        for slot in range(capacity):
            at = base + 2 * slot
            if arena[at + 1] == U(0):
                if wrapped:
                    break
                continue
            slot_hash = mix(arena[at], seed)
            if (slot_of(slot_hash, depth, capacity) > slot) != (wrapped == 1) or slot_hash < first_slot_hash:
                continue
            to = count
            while to > 0 and slot_hashes[to - 1] > slot_hash:  # a short way: slots are nearly sorted by slot hash
                slot_hashes[to], key64s[to], locations[to] = slot_hashes[to - 1], key64s[to - 1], locations[to - 1]
                to -= 1
            slot_hashes[to], key64s[to], locations[to] = slot_hash, arena[at], arena[at + 1]
            count += 1
    return count


@kernel(U64, WORDS, U64, U64, U64, size_argument=0)
def pick_new(before, key64s, locations, new_key64s, new_locations):
    """Collect the key64s whose before[i] is 0, and their locations; return how many there are."""
    count = 0
    for i in range(before.size):
        if before[i] == U(0):
            new_key64s[count] = key64s[i]
            new_locations[count] = locations[i]
            count += 1
    return count
