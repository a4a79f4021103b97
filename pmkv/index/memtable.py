"""A memtable: the mutable index of a layer in DRAM, with the counter of the live keys that it adds.

The caller holds locks.state, except for `release`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import count

from ..runtime.scheduling import yield_gil
from .arena import HELD, Arena
from .hash_table import HashTable
from .live_count import LiveCounter

YIELD_EVERY = 4  # sub-tables given back between two yields of the GIL


class MemTable:
    """The open memtable of a layer, or a frozen one: its hash table and its live counter."""

    def __init__(self, arena: Arena, seed: int, expected: int = 0, lock: AbstractContextManager[object] = HELD) -> None:
        self.index, self.counter = HashTable(arena, seed, expected, lock), LiveCounter()
        self.first = 0  # the LSN of its first write
        self.held = self.dead = False  # a checkpoint reads it; no layer refers to it any more

    def die(self) -> None:
        """Give the memory back, now or when the checkpoint that reads it ends: no layer refers to this memtable."""
        self.dead = True
        if not self.held:
            self.index.clear()

    def release(self, lock: AbstractContextManager[object]) -> None:
        """Note that the checkpoint has ended. Giving memory back takes long, so the lock is taken for moments only."""
        with lock:
            self.held = False
        for number in count(1):
            if not (self.dead and self.index.shrink(lock)):
                return
            if number % YIELD_EVERY == 0:
                yield_gil()
