"""The open index: words (ids, hashes of keys) to locations, mutable, in DRAM. `kernels.probe` says how it is laid out.

It grows a sub-table at a time, by half until one is large and then by splitting it, so that no write ever waits for
more than some ten thousand slots to be moved, and at most 28 bytes an entry are taken. A deleted word keeps its slot,
with a delete location: what lies below must stay hidden. Assumes: the caller holds the store's lock; for `make_room`,
and to insert with the lock handed in, it is enough that nobody else writes: what is larger is made beside what readers
have, and put in its place.
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
from ..runtime.scheduling import yield_cpu
from .arena import HELD, PAGE_WORDS, Arena

PAGE_SLOTS = PAGE_WORDS // 2
LARGEST_SUB = 64 * PAGE_SLOTS  # 256 KiB: moved in about a millisecond
MAX_DEPTH = 24


def check_cursor(cursor: int) -> None:
    """Refuse a place where no walk can go on."""
    if not 0 <= cursor < 1 << 64:
        raise InvalidError(f"{cursor} is no cursor: begin with 0, go on with what the last call returned")


class HashTable:
    """An extendible hash table. `live` counts words whose location is not a delete."""

    def __init__(self, heap: Arena, seed: int, expected: int = 0, lock: AbstractContextManager[object] = HELD) -> None:
        """expected: how many words it will have, if that is known: it need not grow to that size."""
        self._heap, self.seed = heap, np.uint64(seed)
        slots = expected * 2  # entering takes half as long in one that is half empty as in one that is nearly full
        self.depth = max(0, (slots // LARGEST_SUB).bit_length())
        self.directory = np.arange(1 << self.depth)
        size = max(PAGE_SLOTS, (slots >> self.depth) // PAGE_SLOTS * PAGE_SLOTS)
        self.subs = np.array([self._new_sub(size, self.depth, lock) for _ in self.directory], np.int64)
        self.live = 0

    def _new_sub(
        self, slots: int, depth: int, lock: AbstractContextManager[object] = HELD
    ) -> tuple[int, int, int, int]:
        return self._heap.allocate(2 * slots, lock), slots, 0, depth

    @property
    def _shape(self) -> tuple:
        return self._heap.words, self.directory, self.subs, self.depth, self.seed

    def find(self, ids: np.ndarray, pending: np.ndarray) -> tuple[np.ndarray, int]:
        """(locations uint64[n], 0 where there is none; how many are pending) of int64 ids."""
        found = np.empty(ids.size, np.uint64)
        return found, find_ids(*self._shape, ids, pending, found)

    def find_keys(
        self,
        data: np.ndarray,
        words: np.ndarray,
        keys: np.ndarray,
        bounds: np.ndarray,
        pending: np.ndarray,
        owner: np.uint64,
        verify: bool,
    ) -> tuple[np.ndarray, int]:
        """The same of keys: their hashes, an array with their bytes, where each begins and ends in it, int64[n, 2].

        verify: a record of their owner that is damaged, and may be the one asked for, is found instead of none."""
        found = np.empty(words.size, np.uint64)
        return found, find_keys(*self._shape, data, words, keys, bounds, pending, owner, verify, found)

    def insert(self, ids: np.ndarray, locations: np.ndarray, lock: AbstractContextManager[object] = HELD) -> np.ndarray:
        """Enter ids in order, later ones win; returns what stood there before each."""
        before, done = np.empty(ids.size, np.uint64), 0
        while True:
            done, alive = insert_ids(*self._shape, ids, locations, before, done)
            self.live += alive
            if done == ids.size:
                return before
            self._enlarge(self._sub_of(np.uint64(ids[done])), lock)

    def insert_keys(
        self, data: np.ndarray, words: np.ndarray, keys: np.ndarray, bounds: np.ndarray, locations: np.ndarray,
        lock: AbstractContextManager[object] = HELD,
    ) -> np.ndarray:  # fmt: skip
        """Enter keys in order, later ones win; returns what stood there before each."""
        before, done = np.empty(words.size, np.uint64), 0
        while True:
            done, alive = insert_keys(*self._shape, data, words, keys, bounds, locations, before, done)
            self.live += alive
            if done == words.size:
                return before
            self._enlarge(self._sub_of(words[done]), lock)

    def make_room(self, words: np.ndarray, lock: AbstractContextManager[object]) -> None:
        """Be as large as these words (int64 or uint64) may need, should all of them be new: entering them next moves
        nothing. Takes the lock for moments only."""
        while True:
            counts = np.zeros(len(self.subs), np.int64)
            count_subs(words.view(np.int64), self.directory, self.depth, self.seed, counts)
            crowded = np.flatnonzero((self.subs[:, 2] + counts) * 8 > self.subs[:, 1] * 7)
            if not crowded.size:
                return
            for sub in crowded.tolist():
                yield_cpu()
                self._enlarge(sub, lock)

    def _sub_of(self, word: np.uint64) -> int:
        """Which sub-table a word belongs to."""
        place = int(place_of(word, self.seed))
        return int(self.directory[place >> (64 - self.depth) if self.depth else 0])

    def _enlarge(self, sub: int, lock: AbstractContextManager[object] = HELD) -> None:
        """Make room in a sub-table."""
        base, slots, _, depth = self.subs[sub].tolist()
        directory, subs, bits = self.directory, self.subs.copy(), self.depth
        if slots >= LARGEST_SUB and depth < MAX_DEPTH:  # one more bit of the place decides
            # five eighths each: chance never puts so many of its entries into one half
            size = slots * 5 // 8 // PAGE_SLOTS * PAGE_SLOTS
            subs[sub] = self._new_sub(size, depth + 1, lock)
            subs = np.vstack([subs, [self._new_sub(size, depth + 1, lock)]])
            directory = np.repeat(directory, 2) if depth == bits else directory.copy()
            bits = max(bits, depth + 1)
            entries = np.flatnonzero(directory == sub)
            directory[entries[entries.size // 2 :]] = len(subs) - 1
        else:
            size = (slots + slots // 2) // PAGE_SLOTS * PAGE_SLOTS if slots > PAGE_SLOTS else 2 * slots
            subs[sub] = self._new_sub(size, depth, lock)
        reinsert(self._heap.words, base, slots, directory, subs, bits, self.seed)
        with lock:
            self.directory, self.subs, self.depth = directory, subs, bits
        self._heap.free(base, 2 * slots, lock)

    def walk(self, place: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(places, words, locations) in ascending order of places from `place` on, a sub-table at a time, deletes
        included.

        A word's place never changes: whoever goes on behind the last place seen misses nothing that was there all
        the time."""
        entry = place >> (64 - self.depth) if self.depth else 0
        while entry < len(self.directory):
            sub = int(self.directory[entry])
            base, slots, taken, depth = self.subs[sub].tolist()
            places, words, locations = (np.empty(taken, np.uint64) for _ in range(3))
            count = collect(self._heap.words, base, slots, depth, self.seed, np.uint64(place), places, words, locations)
            entry = ((entry >> (self.depth - depth)) + 1) << (self.depth - depth)
            yield places[:count], words[:count], locations[:count]

    def at(self, place: int) -> np.ndarray:
        """The locations of one place."""
        places, _, locations = next(self.walk(place))
        return locations[places == place]

    @property
    def count(self) -> int:
        """How many words, deleted ones among them."""
        return int(self.subs[:, 2].sum())

    @property
    def nbytes(self) -> int:
        return int(self.subs[:, 1].sum()) * 16

    def clear(self) -> None:
        """Give the memory back; the index is not used again."""
        while self.shrink():
            continue

    def shrink(self, lock: AbstractContextManager[object] = HELD) -> bool:
        """Give the memory of one sub-table back, if there is one left; the index is not used again."""
        with lock:
            if not len(self.subs):
                return False
            base, slots, _, _ = self.subs[-1].tolist()
            self.subs = self.subs[:-1]
        self._heap.free(base, 2 * slots, lock)
        return True

    def check(self) -> None:
        """Every slot is found again from its word, counts agree, the directory covers every sub-table in one
        aligned block."""
        taken = live = 0
        for number, (base, slots, count, depth) in enumerate(self.subs.tolist()):
            entries = np.flatnonzero(self.directory == number)
            assert (
                entries.size == 1 << (self.depth - depth)
                and entries[0] % entries.size == 0
                and np.ptp(entries) == entries.size - 1
            )
            table = self._heap.words[base : base + 2 * slots].reshape(-1, 2)
            used = np.flatnonzero(table[:, 1])
            assert used.size == count <= slots * 7 // 8 + 1
            taken += count
            live += int(np.count_nonzero((table[used, 1] & location.DELETE) == 0))
        seen = sum(words.size for _, words, _ in self.walk())
        assert seen == taken and live == self.live
