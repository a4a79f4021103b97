"""The DRAM of all open indexes of a store: one array of words in reserved address space, handed out in pages.

One array, so that a kernel can probe any index with the same arguments. What was not handed out yet, or was given
back, takes no memory. Assumes: the caller holds the store's lock, or hands it in: what the system does is done without.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections import defaultdict
from contextlib import AbstractContextManager

import numpy as np

PAGE_WORDS = 4096 // 8
RESERVED = 1 << 38  # bytes of address space, not of memory; halved until the system grants it
MAP_NORESERVE = 0x4000
MADV_POPULATE_WRITE = 23  # not in the mmap module; since Linux 5.14
AT_ONCE = 4 * PAGE_WORDS  # words that are worth a system call
HELD = contextlib.nullcontext()  # in place of a lock that the caller holds
_libc = ctypes.CDLL(None)


class Arena:
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

    def allocate(self, words: int, lock: AbstractContextManager[object] = HELD) -> int:
        """The start of so many zeroed words (a multiple of 512)."""
        with lock:
            start = self._free[words].pop() if self._free[words] else self._extend(words)
            self.used += words
        if words >= AT_ONCE:  # a tenth of the time that a fault for each page would take, of entries in no order
            self._advise(MADV_POPULATE_WRITE, start, words)  # an older system refuses: no matter
        return start

    def _advise(self, advice: int, start: int, words: int) -> int:
        """Through ctypes: a method of the mapping would keep the interpreter."""
        at = ctypes.c_void_p(self.words.ctypes.data + start * 8)
        return _libc.madvise(at, ctypes.c_size_t(words * 8), advice)

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

    def free(self, start: int, words: int, lock: AbstractContextManager[object] = HELD) -> None:
        """Give pages back, to the system too; nobody looks at them any more."""
        if self._advise(mmap.MADV_DONTNEED, start, words):
            self.words[start : start + words] = 0  # the next one relies on it
        with lock:
            self.used -= words
            self._free[words].append(start)
