"""The kernel that finds equal keys in a batch, so that each is looked up once."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from ..runtime.jit import BYTES, I64, I64_2D, U64, WORD, kernel
from .hashing import siphash
from .memory import load64

U = np.uint64
FLAGS = types.Array(types.boolean, 1, "C", readonly=True)


@njit(inline="always")
def are_equal(data, start, other, length):
    """Return whether two ranges of bytes are equal."""
    i = 0
    while i + 8 <= length:
        if load64(data, start + i) != load64(data, other + i):
            return False
        i += 8
    while i < length:
        if data[start + i] != data[other + i]:
            return False
        i += 1
    return True


@njit(inline="always")
def place_of_key(keys, bounds, words, table, firsts, i):
    """Return the place in the table of the number, plus one, of the i-th key, or the free place for it."""
    start, length, mask = bounds[i, 0], bounds[i, 1] - bounds[i, 0], table.size - 1
    at = np.int64(words[i] & U(mask))
    while table[at] != 0:
        first = firsts[table[at] - 1]
        if (
            words[first] == words[i]
            and bounds[first, 1] - bounds[first, 0] == length
            and are_equal(keys, start, bounds[first, 0], length)
        ):
            break
        at = (at + 1) & mask
    return at


@kernel(BYTES, I64_2D, WORD, WORD, FLAGS, U64, I64, I64, I64, U64, I64_2D, size_argument=5)
def number_keys(keys, bounds, k0, k1, reads, words, table, numbers, firsts, read_words, read_bounds):
    """Set words[i] to the SipHash of each key, and numbers[i] to its number among the different ones.

    Keys that `reads` tells to be read at any of their places have the first numbers, in the order of these places, and
    `read_words` and `read_bounds` receive them.

    table: zeros, more than there are keys, a power of two of them; firsts: room for as many as there are keys.
    Return (the number of keys that are read, the number of different keys)."""
    count, read = 0, 0
    for is_read in (True, False):
        for i in range(words.size):
            if is_read:
                words[i] = siphash(keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0], k0, k1)
            if reads[i] != is_read:
                continue
            at = place_of_key(keys, bounds, words, table, firsts, i)
            if table[at] == 0:
                firsts[count] = i
                if is_read:
                    read_words[count], read_bounds[count, 0], read_bounds[count, 1] = (
                        words[i],
                        bounds[i, 0],
                        bounds[i, 1],
                    )
                    read += 1
                count += 1
                table[at] = count
            numbers[i] = table[at] - 1
    return read, count
