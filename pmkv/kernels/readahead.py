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


@kernel(WORD, I64)
def start_reads(base, pages):
    """Start to read these pages, ascending, mapped at the address `base`, each once or more; return how many calls."""
    calls, first = 0, 0
    while first < pages.size:
        stop = first + 1
        while stop < pages.size and pages[stop] <= pages[stop - 1] + 1:
            stop += 1
        length = (pages[stop - 1] - pages[first] + 1) << PAGE_SHIFT
        madvise(base + (U(pages[first]) << U(PAGE_SHIFT)), U(length), np.int32(WILL_NEED))
        calls += 1
        first = stop
    return calls
