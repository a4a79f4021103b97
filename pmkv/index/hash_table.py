"""The index of a memtable: an extendible hash table from key64s (ids, hashes of keys) to locations, in DRAM.

`kernels.probe` describes the layout. The table grows by one sub-table at a time, by half while that is small and then
by splitting it, so that no write waits for more than some ten thousand slots to be moved, and an entry takes at most 28
bytes. A deleted key64 keeps its slot, with a delete location: older entries below must stay hidden.

The caller holds locks.state. For `make_room`, and for inserts that are passed the lock, it is enough that nobody else
writes: larger sub-tables are built while readers use the old ones, and replace them under the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from ..errors import InvalidError
from ..kernels import location
from ..kernels.hashing import place_of
from ..kernels.probe import (
    collect,
    count_subs,
    find_ids,
    find_keys,
    insert_ids,
    insert_keys,
    reinsert,
)
from ..runtime.arguments import whole_number
from ..runtime.scheduling import yield_cpu
from .arena import HELD, PAGE_WORDS, Arena

PAGE_SLOTS = PAGE_WORDS // 2
LARGEST_SUB = 64 * PAGE_SLOTS  # 256 KiB: moved in about a millisecond
MAX_DEPTH = 24


def check_cursor(cursor: int) -> None:
    """Raise InvalidError if a walk cannot continue at this cursor."""
    if not 0 <= whole_number(cursor, "a cursor") < 1 << 64:
        raise InvalidError(f"{cursor} is no cursor: begin with 0, go on with what the last call returned")


def half_size(slots: int, taken: int) -> int:
    """Return the slots of one half of a sub-table that is split, which gets `taken` entries.

    Hashes are uniform, so five eighths are enough; not so where key64s come in the order of their hashes, as a scan of
    this table gives them: then all entries may go to one half."""
    return max(slots * 5 // 8, taken * 5 // 4 + PAGE_SLOTS) // PAGE_SLOTS * PAGE_SLOTS


class HashTable:
    """An extendible hash table. `live` counts the key64s whose location is not a delete."""

    def __init__(self, arena: Arena, seed: int, expected: int = 0, lock: AbstractContextManager[object] = HELD) -> None:
        """expected: how many key64s the table will have, if known; it then need not grow to that size."""
        self._arena, self.seed = arena, np.uint64(seed)
        slots = expected * 2  # inserts take half as long in a half empty table as in one that is nearly full
        self.depth = max(0, (slots // LARGEST_SUB).bit_length())
        self.directory = np.arange(1 << self.depth)
        size = max(PAGE_SLOTS, (slots >> self.depth) // PAGE_SLOTS * PAGE_SLOTS)
        self.subs = np.array([self._new_sub(size, self.depth, lock) for _ in self.directory], np.int64)
        self.live = 0

    def _new_sub(
        self, slots: int, depth: int, lock: AbstractContextManager[object] = HELD
    ) -> tuple[int, int, int, int]:
        return self._arena.allocate(2 * slots, lock), slots, 0, depth

    @property
    def _shape(self) -> tuple:
        return self._arena.words, self.directory, self.subs, self.depth, self.seed

    def find(self, ids: np.ndarray, pending: np.ndarray) -> tuple[np.ndarray, int]:
        """Return (locations uint64[n] of int64 ids, 0 where there is none; how many of these are pending)."""
        found = np.empty(ids.size, np.uint64)
        return found, find_ids(*self._shape, ids, pending, found)

    def find_keys(
        self,
        data: np.ndarray,
        key64s: np.ndarray,
        keys: np.ndarray,
        bounds: np.ndarray,
        pending: np.ndarray,
        owner: np.uint64,
        verify: bool,
    ) -> tuple[np.ndarray, int]:
        """Do as `find` for byte keys: their hashes, an array with their bytes, and their bounds in it, int64[n, 2].

        owner: the keyspace, which the checks of records cover. verify: a damaged record that may have the key is found
        instead of none."""
        found = np.empty(key64s.size, np.uint64)
        return found, find_keys(*self._shape, data, key64s, keys, bounds, pending, owner, verify, found)

    def insert(self, ids: np.ndarray, locations: np.ndarray, lock: AbstractContextManager[object] = HELD) -> np.ndarray:
        """Insert ids in order, later ones win; return the locations that were replaced, 0 where there was none."""
        before, done = np.empty(ids.size, np.uint64), 0
        while True:
            done, live_change = insert_ids(*self._shape, ids, locations, before, done)
            self.live += live_change
            if done == ids.size:
                return before
            self._enlarge(self._sub_of(np.uint64(ids[done])), lock)

    def insert_keys(
        self, data: np.ndarray, key64s: np.ndarray, keys: np.ndarray, bounds: np.ndarray, locations: np.ndarray,
        lock: AbstractContextManager[object] = HELD,
    ) -> np.ndarray:  # fmt: skip
        """Insert keys in order, later ones win; return the locations that were replaced, 0 where there was none."""
        before, done = np.empty(key64s.size, np.uint64), 0
        while True:
            done, live_change = insert_keys(*self._shape, data, key64s, keys, bounds, locations, before, done)
            self.live += live_change
            if done == key64s.size:
                return before
            self._enlarge(self._sub_of(key64s[done]), lock)

    def make_room(self, key64s: np.ndarray, lock: AbstractContextManager[object]) -> None:
        """Grow until these key64s (int64 or uint64) fit, should all be new, so that inserting them moves nothing.

        Takes the lock for moments only."""
        while True:
            counts = np.zeros(len(self.subs), np.int64)
            count_subs(key64s.view(np.int64), self.directory, self.depth, self.seed, counts)
            crowded = np.flatnonzero((self.subs[:, 2] + counts) * 8 > self.subs[:, 1] * 7)
            if not crowded.size:
                return
            for sub in crowded.tolist():
                yield_cpu()
                self._enlarge(sub, lock)

    def _sub_of(self, key64: np.uint64) -> int:
        """Return the number of the sub-table that a key64 belongs to."""
        slot_hash = int(place_of(key64, self.seed))
        return int(self.directory[slot_hash >> (64 - self.depth) if self.depth else 0])

    def _enlarge(self, sub: int, lock: AbstractContextManager[object] = HELD) -> None:
        """Replace a sub-table by a larger one, or by two."""
        base, slots, _, depth = self.subs[sub].tolist()
        directory, subs, new_depth = self.directory, self.subs.copy(), self.depth
        if slots >= LARGEST_SUB and depth < MAX_DEPTH:  # split: one more bit of the slot hash selects
            directory = np.repeat(directory, 2) if depth == new_depth else directory.copy()
            new_depth = max(new_depth, depth + 1)
            entries = np.flatnonzero(directory == sub)
            directory[entries[entries.size // 2 :]] = len(subs)
            sizes = [half_size(slots, taken) for taken in self._halves(sub, directory, new_depth)]
            subs[sub] = self._new_sub(sizes[0], depth + 1, lock)
            subs = np.vstack([subs, [self._new_sub(sizes[1], depth + 1, lock)]])
        else:
            size = (slots + slots // 2) // PAGE_SLOTS * PAGE_SLOTS if slots > PAGE_SLOTS else 2 * slots
            subs[sub] = self._new_sub(size, depth, lock)
        reinsert(self._arena.words, base, slots, directory, subs, new_depth, self.seed)
        with lock:
            self.directory, self.subs, self.depth = directory, subs, new_depth
        self._arena.free(base, 2 * slots, lock)

    def _halves(self, sub: int, directory: np.ndarray, depth: int) -> tuple[int, int]:
        """Return how many entries of a sub-table stay in it, and go to the next one, by a directory of this depth."""
        base, slots, _, _ = self.subs[sub].tolist()
        table = self._arena.words[base : base + 2 * slots].reshape(-1, 2)
        key64s = np.ascontiguousarray(table[table[:, 1] != 0, 0])
        counts = np.zeros(len(self.subs) + 1, np.int64)
        count_subs(key64s.view(np.int64), directory, depth, self.seed, counts)
        return int(counts[sub]), int(counts[-1])

    def walk(self, slot_hash: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (slot hashes, key64s, locations) in ascending order from `slot_hash` on, deletes included.

        A window is one sub-table. A slot hash never changes: a walk that continues after the last one seen misses no
        entry that was there all the time."""
        entry = slot_hash >> (64 - self.depth) if self.depth else 0
        while entry < len(self.directory):
            sub = int(self.directory[entry])
            base, slots, taken, depth = self.subs[sub].tolist()
            slot_hashes, key64s, locations = (np.empty(taken, np.uint64) for _ in range(3))
            count = collect(
                self._arena.words, base, slots, depth, self.seed, np.uint64(slot_hash), slot_hashes, key64s, locations
            )
            entry = ((entry >> (self.depth - depth)) + 1) << (self.depth - depth)
            yield slot_hashes[:count], key64s[:count], locations[:count]

    def at(self, slot_hash: int) -> np.ndarray:
        """Return the locations of one slot hash."""
        slot_hashes, _, locations = next(self.walk(slot_hash))
        return locations[slot_hashes == slot_hash]

    @property
    def count(self) -> int:
        """Return how many key64s there are, deleted ones included."""
        return int(self.subs[:, 2].sum())

    @property
    def nbytes(self) -> int:
        return int(self.subs[:, 1].sum()) * 16

    def clear(self) -> None:
        """Give the memory back. The table is not used again."""
        while self.shrink():
            continue

    def shrink(self, lock: AbstractContextManager[object] = HELD) -> bool:
        """Give the memory of one sub-table back; return False if none is left. The table is not used again."""
        with lock:
            if not len(self.subs):
                return False
            base, slots, _, _ = self.subs[-1].tolist()
            self.subs = self.subs[:-1]
        self._arena.free(base, 2 * slots, lock)
        return True

    def check(self) -> None:
        """Assert that each slot is found again, counts agree, and the directory is valid.

        Each sub-table must be named by one aligned block of the directory."""
        taken = live = 0
        for number, (base, slots, count, depth) in enumerate(self.subs.tolist()):
            entries = np.flatnonzero(self.directory == number)
            assert (
                entries.size == 1 << (self.depth - depth)
                and entries[0] % entries.size == 0
                and np.ptp(entries) == entries.size - 1
            )
            table = self._arena.words[base : base + 2 * slots].reshape(-1, 2)
            used = np.flatnonzero(table[:, 1])
            assert used.size == count <= slots * 7 // 8 + 1
            taken += count
            live += int(np.count_nonzero((table[used, 1] & location.DELETE) == 0))
        seen = sum(key64s.size for _, key64s, _ in self.walk())
        assert seen == taken and live == self.live
