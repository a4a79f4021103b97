"""The DRAM of all open indexes of a store: one array of words in reserved address space, handed out in pages.

One array, so that a kernel can probe any index with the same arguments. What was not handed out yet, or was given
back, takes no memory. Assumes: the caller holds the store's lock.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import defaultdict

import numpy as np

PAGE_WORDS = 4096 // 8
RESERVED = 1 << 38  # bytes of address space, not of memory; halved until the system grants it
MAP_NORESERVE = 0x4000
MADV_POPULATE_WRITE = 23  # not in the mmap module; since Linux 5.14
AT_ONCE = 4 * PAGE_WORDS  # words that are worth a system call


class Heap:
    """`words` is uint64[...]; `allocate` and `free` deal in pages of it, always zeroed."""

    def __init__(self) -> None:
        self._mmap = self._reserve(RESERVED)
        self.words = np.frombuffer(self._mmap, np.uint64)
        self._top = 0
        self._free: dict[int, list[int]] = defaultdict(list)
        self.used = 0  # words handed out

    @staticmethod
    def _reserve(size: int) -> mmap.mmap:
        while True:
            try:
                return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
            except OSError:
                size //= 2
                if size < 1 << 24:
                    raise

    def allocate(self, words: int) -> int:
        """The start of so many zeroed words (a multiple of 512)."""
        start = self._free[words].pop() if self._free[words] else self._extend(words)
        self.used += words
        if words >= AT_ONCE:  # a tenth of the time that a fault for each page would take, of entries in no order
            with contextlib.suppress(OSError):  # an older system refuses: no matter
                self._mmap.madvise(MADV_POPULATE_WRITE, start * 8, words * 8)
        return start

    def _extend(self, words: int) -> int:
        if words > self.left:
            raise MemoryError(
                f"the indexes need more than the {self.words.size * 8:,} bytes of address space that the system granted"
            )
        start, self._top = self._top, self._top + words
        return start

    @property
    def left(self) -> int:
        """Words of address space never handed out."""
        return (self.words.size - self._top) // PAGE_WORDS * PAGE_WORDS

    def free(self, start: int, words: int) -> None:
        """Give pages back, to the system too."""
        self.used -= words
        self._mmap.madvise(mmap.MADV_DONTNEED, start * 8, words * 8)
        self._free[words].append(start)
