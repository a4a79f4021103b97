"""The kernel of the miss-ratio curve: reuse distances of a sample of ids, in bytes.

An id is in the sample if the first bits of its hash are zero, so of each id all lookups count, or none (SHARDS,
Waldspurger 2015). Lookups of the sample are numbered. `last` has the id at the number of its latest lookup, `weights`
the bytes of its row there, and `tree` their sums (Fenwick 1994): what lies behind the last lookup of an id is the bytes
of all distinct ids since, which an LRU cache must have to hit. `keys` and `numbers` are a hash table from ids to
numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import I64, IDS, INT, U64, WORD, kernel
from .hashing import mix

U = np.uint64
NEXT, TOTAL = 0, 1  # of `state`: the number of the next lookup, the bytes of all ids


@njit(inline="always")
def add_weight(tree, at, weight):
    """Add to the weight at a number."""
    at += 1
    while at < tree.size:
        tree[at] += weight
        at += at & -at


@njit(inline="always")
def weight_up_to(tree, at):
    """Return the sum of the weights at the numbers up to this one."""
    total, at = 0, at + 1
    while at > 0:
        total += tree[at]
        at -= at & -at
    return total


@njit(inline="always")
def slot_of_key(keys, key):
    """Return the slot of a key, or the free one where it would be."""
    at = np.int64(key & U(keys.size - 1))
    while keys[at] != U(0) and keys[at] != key:
        at = (at + 1) & (keys.size - 1)
    return at


@njit(inline="always")
def renumber(keys, numbers, last, weights, tree, state):
    """Number the newer half of the ids anew from 0 on, in their order, and forget the others."""
    tracked = 0
    for at in range(last.size):
        tracked += last[at] != U(0)
    skipped, to = max(tracked - last.size // 2, 0), 0
    keys[:] = U(0)
    tree[:] = 0
    state[TOTAL] = 0
    for at in range(last.size):
        key, weight = last[at], weights[at]
        if key == U(0):
            continue
        last[at] = U(0)
        if skipped:
            skipped -= 1
            continue
        slot = slot_of_key(keys, key)
        keys[slot], numbers[slot] = key, to
        last[to], weights[to] = key, weight
        add_weight(tree, to, weight)
        state[TOTAL] += weight
        to += 1
    state[NEXT] = to


@kernel(IDS, WORD, INT, INT, U64, I64, U64, I64, I64, I64, I64, I64)
def note_ids(ids, seed, weight, bits, keys, numbers, last, weights, tree, state, edges, counts):
    """Take in lookups of ids, whose rows take `weight` bytes each. bits: that are zero in the hashes of the sample.

    Add 1 to counts[k] for the first edges[k] that is not below the distance, and to the last one for an id that is new.
    Return how many are in the sample."""
    sampled = 0
    for i in range(ids.size):
        key = mix(U(ids[i]), seed)
        if key >> U(64 - bits) != U(0):
            continue
        sampled += 1
        key = (key << U(1)) | U(1)  # zero is a free slot
        if state[NEXT] == last.size:
            renumber(keys, numbers, last, weights, tree, state)
        slot, distance = slot_of_key(keys, key), np.int64(-1)
        if keys[slot] != U(0):
            former = numbers[slot]
            distance = state[TOTAL] - weight_up_to(tree, former) + weights[former]
            add_weight(tree, former, -weights[former])
            state[TOTAL] -= weights[former]
            last[former] = U(0)
        k = edges.size
        if distance >= 0:
            k = 0
            while k < edges.size and edges[k] < distance:
                k += 1
        counts[k] += 1
        at = state[NEXT]
        keys[slot], numbers[slot], last[at], weights[at] = key, at, key, weight
        add_weight(tree, at, weight)
        state[TOTAL] += weight
        state[NEXT] = at + 1
    return sampled
