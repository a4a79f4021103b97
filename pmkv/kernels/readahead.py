"""Kernels that start reads of many pages of a mapped file before the first of them is waited for.

A page fault waits for one page. `madvise(MADV_WILLNEED)` only starts to read, so that a batch of random reads takes
about as long as the disk needs for all of them at once.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numba import types

from ..runtime.jit import I64, INT, JIT, WORD, WORDS, kernel
from .location import CACHED, lives, offset_of
from .runs import slot_of

U = np.uint64
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT
SLOT_BITS = 4  # a slot of a run has 16 bytes
# Of what one call asks for, the system reads no more than the larger of a device's read_ahead_kb, 128 unless somebody
# has set it, and of the largest transfer of the device.
CALL_PAGES = 32
CALL_BYTES = CALL_PAGES << PAGE_SHIFT
WILL_NEED = 3  # MADV_WILLNEED

if JIT:
    # by its name: an address could not be kept in the cache of compiled kernels
    madvise = types.ExternalFunction("madvise", types.int32(types.uint64, types.uint64, types.int32))
else:
    _libc = ctypes.CDLL(None)

    def madvise(start, length, advice):
        return _libc.madvise(ctypes.c_void_p(int(start)), ctypes.c_size_t(int(length)), int(advice))


@kernel(WORDS, INT, I64)
def row_pages(locations, width, pages):
    """Set pages[:n] to the first and the last page of each row that stands in the pool; return n."""
    count = 0
    for i in range(locations.size):
        if locations[i] > CACHED and lives(locations[i]):
            first = offset_of(locations[i])
            last = (first + width - 1) >> PAGE_SHIFT
            first >>= PAGE_SHIFT
            pages[count] = first
            count += 1
            if last != first:
                pages[count] = last
                count += 1
    return count


@kernel(WORDS, INT, INT, I64)
def slot_pages(slot_hashes, capacity, first, pages):
    """Set pages[i] to the page on which a probe of a run for slot_hashes[i] begins. first: page of the run's slots."""
    for i in range(slot_hashes.size):
        pages[i] = first + (slot_of(slot_hashes[i], capacity) >> (PAGE_SHIFT - SLOT_BITS))


@kernel(WORD, I64, INT)
def start_reads(base, pages, step):
    """Start to read these pages, ascending, mapped at the address `base`, each once or more, and those between two of
    them that are at most `step` apart. Return how many calls that took."""
    calls, first = 0, 0
    while first < pages.size:
        stop = first + 1
        while stop < pages.size and pages[stop] <= pages[stop - 1] + step:
            stop += 1
        for begin in range(pages[first], pages[stop - 1] + 1, CALL_PAGES):
            length = min(CALL_PAGES, pages[stop - 1] + 1 - begin) << PAGE_SHIFT
            madvise(base + (U(begin) << U(PAGE_SHIFT)), U(length), np.int32(WILL_NEED))
            calls += 1
        first = stop
    return calls
