"""The kernel that finds equal keys in a batch, so that each is looked up once."""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BYTES, I64, I64_2D, U64, kernel
from .memory import load64

U = np.uint64


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


@kernel(BYTES, I64_2D, U64, I64, I64, I64, size_argument=2)
def number_keys(keys, bounds, words, table, numbers, firsts):
    """Set numbers[i] to the number of the i-th key among the different ones, in the order of their first places, which
    `firsts` receives. Return how many there are.

    words: hashes of the keys; table: zeros, more than there are keys, a power of two of them."""
    count = 0
    mask = table.size - 1
    for i in range(words.size):
        start, length = bounds[i, 0], bounds[i, 1] - bounds[i, 0]
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
        if table[at] == 0:
            firsts[count] = i
            count += 1
            table[at] = count
        numbers[i] = table[at] - 1
    return count
