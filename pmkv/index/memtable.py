"""A memtable: the mutable index of a layer in DRAM, with the counter of the live keys that it adds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import count

from ..runtime.scheduling import yield_gil
from .arena import HELD, Arena
from .hash_table import HashTable
from .live_count import LiveCounter

SHRUNK = 4  # sub-tables given back between two rests


class MemTable:
    """A run in DRAM with its tally: the open one, or one that was closed."""

    def __init__(self, heap: Arena, seed: int, expected: int = 0, lock: AbstractContextManager[object] = HELD) -> None:
        self.index, self.tally = HashTable(heap, seed, expected, lock), LiveCounter()
        self.first = 0  # the LSN of its first write
        self.held = self.dead = False  # a checkpoint reads it; no layer needs it any more

    def die(self) -> None:
        """No layer needs it any more."""
        self.dead = True
        if not self.held:
            self.index.clear()

    def release(self, lock: AbstractContextManager[object]) -> None:
        """The checkpoint is through. Giving memory back takes long: with the lock for moments."""
        with lock:
            self.held = False
        for number in count(1):
            if not (self.dead and self.index.shrink(lock)):
                return
            if number % SHRUNK == 0:
                yield_gil()
