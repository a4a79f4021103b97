"""The location cache: locations of keys that are looked up again and again, in front of the runs of one index stack.

`kernels.location_cache` describes the layout and the admission. A cache begins as one page and grows a block at a time,
so that no call moves more than some thousand slots: where many admissions had to evict, and either the slots are in use
or that happened to a good part of the lookups. Growing keeps all entries.

The caller holds locks.state. What it offers must be what the runs say now: a caller that probed the runs without the
lock checks, before it offers, that the stack was not exchanged meanwhile. Keys written or deleted are removed under the
same hold of the lock as the write.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from weakref import WeakSet

import numpy as np

from ..kernels import location_cache
from ..kernels.location_cache import SET_WORDS, SLOTS
from .arena import PAGE_WORDS, Arena

SMALLEST, LARGEST = PAGE_WORDS // SET_WORDS, 32 * PAGE_WORDS // SET_WORDS  # sets of a block: 4 KiB, 128 KiB
MAX_DEPTH = 24
BLOCK_BYTES = LARGEST * SET_WORDS * 8  # of the largest block
GROWTHS_PER_CALL = 1  # blocks, each in some tenths of a millisecond
OFFERS_PER_RELEASE = 512  # a spare block is given back to the system after every so many offers
LOOKUPS_PER_SLOT = 32  # with more lookups than this, growing would not change the hit rate
OFFERS_PER_ADMIT = 8  # where hardly anything is found, one of so many offers is taken


class CacheBudget:
    """The bytes of DRAM that all location caches of a store share.

    An eighth is for the doorkeeper, which remembers a few more key64s of the latest offers than there can be slots: so
    any key that would fit is admitted at its second miss, however small the caches are yet. While a block grows, its
    old memory (128 KiB at most) is not counted."""

    def __init__(self, size: int) -> None:
        # a mapping: NumPy would ask for huge pages, and the first batch wait until all of them are zeroed
        self.marks = np.frombuffer(mmap.mmap(-1, max(size // 64, 1) * 8, flags=mmap.MAP_PRIVATE), np.uint64)
        self.size, self.used = size, self.marks.nbytes
        self.sharers: WeakSet[LocationCache] = WeakSet()
        self.on_take: Callable[[], None] | None = None  # called when `free` has become less
        self._period = 0  # lookups until the last period ended
        self._spare: list[tuple[Arena, int]] = []  # arena and base of large blocks that caches gave up, not zeroed
        self._offered = 0

    def take(self, n: int) -> bool:
        """Take so many bytes of the budget; return False if they are not left."""
        if self.used + n > self.size:
            return False
        self.used += n
        if self.on_take is not None:
            self.on_take()
        return True

    def give(self, n: int) -> None:
        """Return so many bytes to the budget."""
        self.used -= n

    @property
    def free(self) -> int:
        """Return the bytes that nobody uses: others may, until they are taken."""
        return max(self.size - self.used - self.kept, 0)

    @property
    def kept(self) -> int:
        """Return the bytes of spare blocks, which `used` does not include."""
        return len(self._spare) * BLOCK_BYTES

    def leave(self, arena: Arena, base: int, sets: int) -> None:
        """Accept a block that a cache gave up, and its bytes.

        Large blocks are kept while the budget has room: a new stack soon needs as many, and pages from the system cost
        ten times as much as zeroing these."""
        if sets == LARGEST:
            self._spare.append((arena, base))
        else:
            arena.free(base, sets * SET_WORDS)

    def block(self, arena: Arena, sets: int) -> int:
        """Return the base of a zeroed block, a spare one if there is one. The caller has taken its bytes."""
        if sets == LARGEST and self._spare and self._spare[-1][0] is arena:
            base = self._spare.pop()[1]
            arena.words[base : base + LARGEST * SET_WORDS] = 0
            return base
        self.make_room()
        return arena.allocate(sets * SET_WORDS)

    def make_room(self) -> None:
        """Give spare blocks back until they fit into the budget together with the blocks in use."""
        while self._spare and self.used + self.kept > self.size:
            self._release()

    def offered(self) -> None:
        """Count an offer; now and then give a spare block back. Many at once would take long."""
        self._offered += 1
        if self._spare and self._offered % OFFERS_PER_RELEASE == 0:
            self._release()

    def _release(self) -> None:
        arena, base = self._spare.pop()
        arena.free(base, LARGEST * SET_WORDS)

    def take_over(self, n: int, taker: LocationCache) -> bool:
        """Take bytes of the budget, if need be from the cache that has the fewest hits per byte.

        That cache must have less than half of what the taker expects, so that equal caches do not take from each other
        for ever."""
        self._end_period()
        for _ in range(2):  # a released block leaves a page in use
            if self.take(n):
                return True
            least = min(
                (index for index in self.sharers if index.nbytes >= n), key=LocationCache.hits_per_byte, default=taker
            )
            if (
                least is taker
                or 2 * least.hits_per_byte() >= taker.expected_hits() / (taker.nbytes + n)
                or not least.release_block()
            ):
                return False
        return self.take(n)

    def _end_period(self) -> None:
        """Begin a new period if as many lookups were made as there can be slots."""
        asked = sum(index.hits + index.misses for index in self.sharers)
        if not 0 <= asked - self._period < self.size // 16:
            self._period = asked
            for index in self.sharers:
                index.end_period()


class LocationCache:
    """A cache of key64 -> location.

    `hits` and `misses` count lookups, `admitted` and `evicted` entries."""

    def __init__(self, arena: Arena, budget: CacheBudget, seed: int) -> None:
        self._arena, self._budget, self.seed = arena, budget, np.uint64(seed)
        self.hits = self.misses = self.admitted = self.evicted = self._turn = 0
        self._previous_period = self._period_start = 0, 0  # hits and evicted when the last period began, and this one
        budget.sharers.add(self)
        self._empty()

    def _empty(self) -> None:
        self.depth = 0
        self.directory = np.zeros(1, np.int64)
        self.subs = np.zeros((0, 4), np.int64)  # base, sets, evicted since the last look, depth
        self._looked = np.zeros(0, np.int64)  # lookups until the last look, for each block

    @property
    def _shape(self) -> tuple:
        return self._arena.words, self.directory, self.subs, self.depth, self.seed

    def find(self, ids: np.ndarray, found: np.ndarray) -> int:
        """Set found (uint64), where it is 0, to the cached location; return how many were found."""
        if not len(self.subs):
            return self._count(found.size - int(np.count_nonzero(found)), 0)
        return self._count(*location_cache.find_hot(*self._shape, ids.view(np.int64), found))

    def find_keys(
        self, data: np.ndarray, words: np.ndarray, keys: np.ndarray, bounds: np.ndarray, found: np.ndarray
    ) -> int:
        """Do as `find` for byte keys, as `HashTable.find_keys`: records in `data` are compared with them."""
        if not len(self.subs):
            return self._count(found.size - int(np.count_nonzero(found)), 0)
        return self._count(*location_cache.find_hot_keys(*self._shape, data, words, keys, bounds, found))

    def _count(self, asked: int, hits: int) -> int:
        self.hits += hits
        self.misses += asked - hits
        return hits

    def admit(self, words: np.ndarray, locations: np.ndarray) -> None:
        """Offer locations found in the runs (0 is skipped); a key that is offered again soon is admitted."""
        self._budget.offered()
        if not len(self.subs):
            if not self._budget.take_over(SMALLEST * SET_WORDS * 8, self):
                return
            self._add_sub(SMALLEST, 0)
        admitted, evicted = location_cache.admit(*self._shape, self._budget.marks, words.view(np.int64), locations)
        self.admitted += admitted
        self.evicted += evicted
        if evicted:
            crowded = np.flatnonzero(2 * self.subs[:, 2] >= SLOTS * self.subs[:, 1])
            for sub in crowded[:GROWTHS_PER_CALL].tolist():
                self._look(sub)

    def forget(self, words: np.ndarray) -> None:
        """Remove keys that were written or deleted."""
        if len(self.subs):
            location_cache.forget(*self._shape, words.view(np.int64))

    def _add_sub(self, sets: int, depth: int) -> int:
        base = self._budget.block(self._arena, sets)
        self.subs = np.vstack([self.subs, np.array([[base, sets, 0, depth]], np.int64)])
        self._looked = np.append(self._looked, self.hits + self.misses)
        return len(self.subs) - 1

    def _look(self, sub: int) -> None:
        """Grow a block if that pays and DRAM is left. Called after evictions from half as many slots as it has."""
        base, sets, _, depth = self.subs[sub].tolist()
        asked, self._looked[sub] = self.hits + self.misses - int(self._looked[sub]), self.hits + self.misses
        self.subs[sub, 2] = 0
        profits = (asked >> depth) <= LOOKUPS_PER_SLOT * SLOTS * sets or 8 * self._taken(sub) >= 7 * SLOTS * sets
        splits = sets == LARGEST
        if not profits or (splits and depth == MAX_DEPTH) or not self._budget.take_over(sets * SET_WORDS * 8, self):
            return
        if splits:
            self._split(sub, depth)
        else:
            self.subs[sub] = (self._budget.block(self._arena, 2 * sets), 2 * sets, 0, depth)
        location_cache.spread(self._arena.words, base, sets, *self._shape[1:])
        self._budget.leave(self._arena, base, sets)
        self._budget.make_room()

    def _split(self, sub: int, depth: int) -> None:
        """Split a block by one more bit of the slot hash: half of its directory entries name a new block."""
        if depth == self.depth:
            self.directory = np.repeat(self.directory, 2)
            self.depth += 1
        self.subs[sub] = (self._budget.block(self._arena, LARGEST), LARGEST, 0, depth + 1)
        other = self._add_sub(LARGEST, depth + 1)
        span = 1 << (self.depth - depth)  # entries that named the block
        first = int(np.flatnonzero(self.directory == sub)[0])
        self.directory[first + span // 2 : first + span] = other

    def _slots(self, sub: int) -> np.ndarray:
        """Return (key64, location) of each slot of a block, set by set: uint64[sets, SLOTS, 2]."""
        base, sets = self.subs[sub, :2].tolist()
        return self._arena.words[base : base + sets * SET_WORDS].reshape(sets, SLOTS, 2)

    def _taken(self, sub: int) -> int:
        return int(np.count_nonzero(self._slots(sub)[:, :, 1]))

    def end_period(self) -> None:
        """Begin a new period of counting."""
        self._previous_period, self._period_start = self._period_start, (self.hits, self.evicted)

    def wants(self) -> bool:
        """Return whether locations found in the runs should be offered. Called without the lock.

        Where far more keys are looked up than there can be slots, and less than an eighth of them is found here, one
        offer of eight is enough: frequent keys are admitted all the same, and offers take part of a read's time."""
        asked = self.hits + self.misses
        if asked < LOOKUPS_PER_SLOT * (self._budget.size // 16) or OFFERS_PER_ADMIT * self.hits > asked:
            return True
        self._turn += 1
        return self._turn % OFFERS_PER_ADMIT == 0

    def hits_per_byte(self) -> float:
        """Return the hits per byte in this period and the last."""
        return (self.hits - self._previous_period[0]) / self.nbytes

    def expected_hits(self) -> int:
        """Return the hits expected with one more block: current hits plus recent evictions.

        The first page is free: without any block, all misses count."""
        return (
            self.hits - self._previous_period[0] + self.evicted - self._previous_period[1]
            if self.nbytes
            else self.misses
        )

    def release_block(self) -> bool:
        """Empty the first large block, for a cache that makes more of its bytes; return False if there is none."""
        large = np.flatnonzero(self.subs[:, 1] > SMALLEST)
        if large.size:
            base, sets, _, depth = self.subs[large[0]].tolist()
            self.subs[large[0]] = (self._budget.block(self._arena, SMALLEST), SMALLEST, 0, depth)
            self._budget.give((sets - SMALLEST) * SET_WORDS * 8)
            self._budget.leave(self._arena, base, sets)
        return large.size > 0

    def __len__(self) -> int:
        return sum(self._taken(sub) for sub in range(len(self.subs)))

    @property
    def nbytes(self) -> int:
        return int(self.subs[:, 1].sum()) * SET_WORDS * 8

    def clear(self) -> None:
        """Remove all entries and give the memory up; the counters continue."""
        self._budget.give(self.nbytes)
        for base, sets in self.subs[:, :2].tolist():
            self._budget.leave(self._arena, base, sets)
        self._empty()

    def check(self) -> None:
        """Assert that entries are found again and unique, slots in use come first, and the directory is valid.

        Each block must be named by one aligned block of the directory."""
        assert self.nbytes <= self._budget.used
        words = []
        for sub, (_, _, _, depth) in enumerate(self.subs.tolist()):
            entries = np.flatnonzero(self.directory == sub)
            assert entries.size == 1 << (self.depth - depth) and entries[0] % entries.size == 0
            assert np.ptp(entries) == entries.size - 1
            slots = self._slots(sub)
            taken = slots[:, :, 1] != 0
            assert (taken[:, :-1] >= taken[:, 1:]).all()
            words.append(slots[taken][:, 0])
        every = np.concatenate([np.empty(0, np.uint64), *words])
        assert np.unique(every).size == every.size
        if every.size:
            found = np.zeros(every.size, np.uint64)
            # all are found; the counters are not changed
            assert location_cache.find_hot(*self._shape, every.view(np.int64), found) == (every.size, every.size)
