"""The DRAM of all memtables and location caches of a store: one array of uint64 in reserved address space.

One array, so that a kernel can probe any hash table with the same arguments. It is handed out in pages; pages never
handed out, or given back, take no memory. The caller holds locks.state or passes it: system calls are made without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections import defaultdict
from contextlib import AbstractContextManager

import numpy as np

from ..runtime.memory_nodes import ANYWHERE, MemoryNodes

PAGE_WORDS = 4096 // 8
RESERVED = 1 << 38  # bytes of address space, not of memory; halved until the system grants it
MAP_NORESERVE = 0x4000
MADV_POPULATE_WRITE = 23  # not in the mmap module; since Linux 5.14
POPULATE_WORDS = 4 * PAGE_WORDS  # words from which on a system call pays
HELD = contextlib.nullcontext()  # passed in place of a lock that the caller holds already
_libc = ctypes.CDLL(None)


class Arena:
    """Hands out and takes back zeroed pages of `words`, a uint64 array."""

    def __init__(self, nodes: MemoryNodes = ANYWHERE) -> None:
        self._mmap = self._reserve(RESERVED)
        self.words = nodes.bind_near(np.frombuffer(self._mmap, np.uint64))
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
        """Return the start of so many zeroed words (a multiple of 512). MemoryError: the address space is used up."""
        with lock:
            start = self._free[words].pop() if self._free[words] else self._extend(words)
            self.used += words
        if words >= POPULATE_WORDS:  # takes a tenth of the time of page faults at random
            self._advise(MADV_POPULATE_WRITE, start, words)  # an older system refuses, then pages fault in
        return start

    def _advise(self, advice: int, start: int, words: int) -> int:
        """Call madvise through ctypes: the method of the mapping would keep the GIL."""
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
        """Return the words of address space that were never handed out."""
        return (self.words.size - self._top) // PAGE_WORDS * PAGE_WORDS

    def free(self, start: int, words: int, lock: AbstractContextManager[object] = HELD) -> None:
        """Give pages back, to the system too. No reader may still use them."""
        if self._advise(mmap.MADV_DONTNEED, start, words):
            self.words[start : start + words] = 0  # `allocate` promises zeros
        with lock:
            self.used -= words
            self._free[words].append(start)
