"""The row cache: rows of tables that are read again and again, in front of the indexes and the log.

A hit costs no lookup in a run, and touches no page of the log. `kernels.row_cache` describes the layout, the eviction
and the admission. Each index stack of a table has a cache of its own, so that a row of another view or version cannot
be found in it. All of them share the bytes of one `RowBudget`. A cache begins with a few sets and grows where offers
meet full sets; once the budget is used up, it takes over bytes of the cache that has the fewest hits per byte.

The caller holds locks.state, except for the methods of `RowHits`. What it offers must be what the runs say now; ids
written or deleted are removed under the same hold of the lock as the write.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np

from ..kernels import row_cache
from ..kernels.row_cache import SET_META_WORDS, WAYS
from ..runtime.jit import FEW_ELEMENTS
from ..runtime.memory_nodes import ANYWHERE, MemoryNodes
from .miss_curve import MissCurve

SWITCH = "PMKV_ROW_CACHE"
FIRST_SETS = 4
OFFERS_PER_SET = 4  # that met a full set: a set is added for so many
GROWTHS_PER_EXPECT = 8  # one call of `expect` adds so many times GROWTH_BYTES
GROWTH_BYTES = 256 << 10  # that one call adds at most
RELEASE_BYTES = 1 << 20  # of closed caches, given back to the system by one call
DOORKEEPER_SHARE = 64  # the doorkeeper takes one byte in so many of the budget
LOOKUPS_PER_SLOT = 32  # with more lookups than this, most rows that are worth it are there
OFFERS_PER_ADMIT = 8  # where hardly anything is found, one of so many offers is taken
SLOTS_PER_ROW = 2  # with so many, hardly any set is full
PERIODS = 8  # of counting hits per byte: lookups of one period are so many times fewer than the bytes of the budget
HUGE_PAGES_FROM = 16 << 20  # bytes of an array in use from which it grows by huge pages, which are 2 MiB
MAP_NORESERVE, MADV_HUGEPAGE = 0x4000, 14
# called with few ids only, so without a look at how many
take_few_rows = getattr(row_cache.take_rows, "holding", row_cache.take_rows)
_libc = ctypes.CDLL(None)


def is_switched_off() -> bool:
    """Return whether the environment switches the row cache off."""
    return os.environ.get(SWITCH) == "off"


def reserve(nbytes: int) -> np.ndarray:
    """Return zeroed bytes that take no memory before they are touched; MemoryError if there is no address space."""
    try:
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        raise MemoryError(f"the system grants no {nbytes:,} bytes of address space for the row cache") from error
    return np.frombuffer(memory, np.uint8)


def give_back(array: np.ndarray, start: int, stop: int) -> None:
    """Give the whole pages of array[start : stop], which is uint8, back to the system."""
    start, stop = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop:
        _libc.madvise(ctypes.c_void_p(array.ctypes.data + start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)


def use_huge_pages(array: np.ndarray) -> None:
    """Ask for huge pages where the array grows from now on: random reads of much memory take half as long."""
    _libc.madvise(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), MADV_HUGEPAGE)


class Sharer(Protocol):
    """A part of the budget: a row cache, or the pinned rows of a table.

    nbytes: in use; reserved: bytes that others must leave to it; can_shrink: whether it has bytes to give up."""

    nbytes: int
    reserved: int
    hits: int
    misses: int

    def bytes_for(self, rows: int) -> int:
        """Return the bytes that a cache needs so that nearly all of so many rows find a slot."""
        return -(-SLOTS_PER_ROW * rows // WAYS) * self.set_bytes

    @property
    def can_shrink(self) -> bool: ...

    def hits_per_byte(self) -> float: ...

    def expected_hits(self) -> float: ...

    def shrink(self, nbytes: int) -> None: ...

    def end_period(self) -> None: ...


class Lender(Protocol):
    """Another budget, whose free bytes may be used until `on_take` is called."""

    size: int
    on_take: Callable[[], None] | None

    @property
    def free(self) -> int: ...


class RowBudget:
    """The bytes of DRAM that all row caches of a store share, among them those of the doorkeeper, which remembers the
    latest offers. What can be reserved is of `size`; caches may grow by what `lender` has free, too."""

    def __init__(self, size: int, lender: Lender | None = None, nodes: MemoryNodes = ANYWHERE) -> None:
        """nodes: where the memory is taken from."""
        self._lender, self.nodes = lender, nodes
        if lender is not None:
            lender.on_take = self._keep_limit
        self.marks = nodes.bind_near(reserve(max(size // DOORKEEPER_SHARE // 8, 1) * 8)).view(np.uint64)
        self.size, self.used, self.curve = size, self.marks.nbytes, MissCurve(size)
        self._leftover: list[tuple[np.ndarray, np.ndarray, int, int]] = []  # meta, rows, sets in use, bytes of a set
        self.sharers: WeakSet[Any] = WeakSet()
        self._period = 0  # lookups until the last period ended
        self.on_need: Callable[[], None] | None = None  # called when rows should be loaded, under locks.state

    def renewed(self, lender: Lender) -> RowBudget:
        """Return a budget of the same size that nobody shares yet."""
        new = RowBudget(self.size, lender, self.nodes)
        new.on_need = self.on_need
        return new

    def need(self) -> None:
        """Ask for the rows that should be loaded: call `on_need`."""
        if self.on_need is not None:
            self.on_need()

    @property
    def limit(self) -> int:
        """Return the bytes that can be in use now."""
        return self.size + (self._lender.free if self._lender is not None else 0)

    @property
    def largest(self) -> int:
        """Return the bytes that can ever be in use."""
        return self.size + (self._lender.size if self._lender is not None else 0)

    def _keep_limit(self) -> None:
        """Let the caches that make least of their bytes give up what the lender has taken back."""
        while self.used > self.limit:
            least = self._least(None)
            if least is None:
                if not self._leftover:
                    return
                self.release_some()
            else:
                least.shrink(self.used - self.limit)

    def _least(self, taker: Sharer | None) -> Sharer | None:
        """Return the cache that has the fewest hits per byte, of those that have bytes to give up."""
        others = (one for one in self.sharers if one is not taker and one.can_shrink)
        return min(others, key=lambda one: one.hits_per_byte(), default=None)

    def promised(self, taker: Sharer | None = None) -> int:
        """Return the bytes that are reserved for others than `taker`, and that they do not use yet."""
        return sum(max(one.reserved - one.nbytes, 0) for one in self.sharers if one is not taker)

    def free_for(self, taker: Sharer | None) -> int:
        """Return how many bytes a sharer could reserve: those that are neither in use for ever nor promised."""
        kept = sum(max(one.reserved, 0) for one in self.sharers if one is not taker)
        return self.size - self.marks.nbytes - kept

    def take(self, nbytes: int, taker: Sharer | None = None) -> bool:
        """Take so many bytes of the budget; return False if they are not left."""
        if self.used + nbytes + self.promised(taker) > self.limit:
            return False
        self.used += nbytes
        return True

    def give(self, nbytes: int) -> None:
        """Return so many bytes to the budget."""
        self.used -= nbytes

    def take_over(self, nbytes: int, taker: Sharer) -> bool:
        """Take bytes of the budget, if need be from the cache that has the fewest hits per byte.

        That cache must have less than half of what the taker expects, so that equal caches do not take from each other
        for ever; unless the bytes are reserved for the taker. What is reserved for others is not taken."""
        self._end_period()
        is_reserved = taker.nbytes + nbytes <= taker.reserved
        while not self.take(nbytes, taker):
            least = self._least(taker)
            if least is None:
                return False
            if not is_reserved and 2 * least.hits_per_byte() >= taker.expected_hits() / (taker.nbytes + nbytes):
                return False
            least.shrink(nbytes)
            if not is_reserved:
                return self.take(nbytes, taker)
        return True

    def leave(self, meta: np.ndarray, rows: np.ndarray, sets: int, set_bytes: int) -> None:
        """Take over the arrays of a closed cache, of which so many sets hold rows.

        The system takes long to free much memory, so it is given back a piece at a time."""
        if sets:
            self._leftover.append((meta, rows, sets, set_bytes))

    def release_some(self) -> None:
        """Give a piece of the memory of closed caches back to the system. A reader that still copies from it finds that
        the stamps have changed."""
        if self._leftover:
            meta, rows, stop, set_bytes = self._leftover.pop()
            start, row_bytes = max(stop - max(RELEASE_BYTES // set_bytes, 1), 0), set_bytes - SET_META_WORDS * 8
            meta[start * SET_META_WORDS : stop * SET_META_WORDS] = 0
            give_back(rows, start * row_bytes, stop * row_bytes)
            self.give((stop - start) * set_bytes)
            self.leave(meta, rows, start, set_bytes)

    def _end_period(self) -> None:
        """Begin a new period of counting after so many lookups that all caches can have met their hot rows."""
        asked = sum(cache.hits + cache.misses for cache in self.sharers)
        if not 0 <= asked - self._period < self.size // (PERIODS * 64):
            self._period = asked
            for cache in self.sharers:
                cache.end_period()


class Hits:
    """Counts the hits of one lookup, and holds the positions of what is missing."""

    __slots__ = ("count", "missed")

    def __init__(self, missed: np.ndarray, count: int) -> None:
        self.missed, self.count = missed, count

    def _lose(self, lost: int, found: np.ndarray) -> int:
        """Count rows as misses that were changed since the lookup, where found[i] is 0 now; return how many."""
        if lost:
            self.missed = np.flatnonzero(found == 0)
            self.count -= lost
        return lost


class RowHits(Hits):
    """Holds what one lookup found in a cache: slots and stamps by position in the batch, and what is missing.

    The arrays of the cache are kept, so that the rows can be read after the lock was released. The methods need no
    lock."""

    __slots__ = ("_cache", "_changes", "_meta", "_stamps", "_width", "rows", "slots", "stride")

    def __init__(self, cache: RowCache, slots: np.ndarray, stamps: np.ndarray, missed: np.ndarray, count: int) -> None:
        """slots: empty if the rows were copied during the lookup."""
        self._cache, self._changes = cache, cache.changes
        self._meta, self.rows, self.stride, self._width = cache.meta, cache.rows, cache.stride, cache.width
        self.slots, self._stamps = slots, stamps
        super().__init__(missed, count)

    def copy_to(self, out: np.ndarray, found: np.ndarray) -> int:
        """Copy the rows of all hits to `out`, uint8[n * width]. Where a slot was replaced since the lookup, set
        found[i] to 0, so that the row is looked up on file. Return how many there were."""
        if not self.count or not self.slots.size:
            return 0
        lost = row_cache.copy_rows(
            self._meta, self.rows, self.stride, self._width, self.slots, self._stamps, found, out
        )
        return self._lose(lost, found)

    def drop_changed(self, found: np.ndarray) -> int:
        """Check that the rows that were read in place did not change since the lookup. Where one did, set
        found[i] to 0. Return how many there were."""
        if not self.count or self._cache.changes == self._changes:
            return 0
        return self._lose(row_cache.drop_changed(self._meta, self.slots, self._stamps, found), found)


class AllCopied:
    """Holds what a lookup found all rows of, and copied under the lock: nothing is left to do."""

    __slots__ = ("count",)
    missed = slots = np.empty(0, np.int64)
    rows, stride = np.empty(0, np.uint8), 0

    def __init__(self, count: int) -> None:
        self.count = count

    def copy_to(self, out: np.ndarray, found: np.ndarray) -> int:
        """Do nothing; no row was lost."""
        return 0

    def drop_changed(self, found: np.ndarray) -> int:
        """Do nothing; no row was lost."""
        return 0


class RowCache:
    """A cache of id -> row, for rows of `width` bytes.

    `hits` and `misses` count lookups below the memtables, `admitted` and `evicted` rows."""

    keeps_absent = False

    def __init__(self, budget: RowBudget, width: int, owner: int, seed: int) -> None:
        """owner: the number of the table, which the checks of its rows cover."""
        self.reserved = 0
        self._budget, self.width, self.owner, self.seed = budget, width, np.uint64(owner), np.uint64(seed)
        self.stride = -(-width // 8) * 8
        self.hits = self.misses = self.admitted = self.evicted = 0
        self.changes = 0  # goes up before slots are changed
        self._turn, self._stamp, self._floor = 0, 1, 1
        self._previous_period = self._period_start = 0, 0  # hits and evicted when the last period began, and this one
        self._empty()
        budget.sharers.add(self)

    def _empty(self) -> None:
        self.sets, self.mask = 0, 0
        self.meta, self.rows = np.zeros(0, np.uint64), np.zeros(0, np.uint8)

    @property
    def set_bytes(self) -> int:
        """Return the bytes of a set."""
        return SET_META_WORDS * 8 + WAYS * self.stride

    @property
    def row_bytes(self) -> int:
        """Return the bytes that a row takes."""
        return self.set_bytes // WAYS

    @property
    def nbytes(self) -> int:
        return self.sets * self.set_bytes

    def bytes_for(self, rows: int) -> int:
        """Return the bytes that a cache needs so that nearly all of so many rows find a slot."""
        return -(-SLOTS_PER_ROW * rows // WAYS) * self.set_bytes

    @property
    def can_shrink(self) -> bool:
        """Return whether sets can be given up that are not reserved."""
        return self.sets > FIRST_SETS and self.nbytes > self.reserved

    @property
    def _shape(self) -> tuple[int, int, np.uint64, int]:
        return self.sets, self.mask, self.seed, self._floor

    def find(self, ids: np.ndarray, found: np.ndarray, out: np.ndarray | None = None) -> RowHits | AllCopied:
        """Set found (uint64), where it is 0, to CACHED if the row is here; return the hits. out: uint8[n * width], to
        which the rows of a short batch are copied at once."""
        if not self.sets:
            missed = np.flatnonzero(found == 0)
            return RowHits(self, missed, missed.view(np.uint64), missed, 0)
        if out is not None and ids.size <= FEW_ELEMENTS:
            slots, missed = np.empty((2, ids.size), np.int64)
            hits, missing = take_few_rows(
                self.meta, self.rows, self.stride, self.width, *self._shape, ids, found, slots, missed, out
            )
            if hits == ids.size:
                return AllCopied(hits)
            slots = stamps = missed[:0]
        else:
            slots, stamps, missed = np.empty((3, ids.size), np.int64)
            arguments = ids, found, slots, stamps.view(np.uint64), missed
            hits, missing = row_cache.find_rows(self.meta, *self._shape, *arguments)
        return RowHits(self, slots, stamps.view(np.uint64), missed[:missing], hits)

    def note(self, ids: np.ndarray, hits: RowHits | AllCopied) -> None:
        """Count what a lookup of a user found."""
        self._budget.curve.note(ids, self)
        self.hits += hits.count
        self.misses += hits.missed.size

    def lacks(self, ids: np.ndarray, found: np.ndarray) -> bool:
        """Return whether one of the ids whose found[i] is 0 is not here. Counts nothing."""
        slots, stamps, missed = np.empty((3, ids.size), np.int64)
        arguments = ids, found, slots, stamps.view(np.uint64), missed
        return bool(row_cache.find_rows(self.meta, *self._shape, *arguments)[1]) if self.sets else not found.all()

    def wants(self) -> bool:
        """Return whether rows found on file should be offered. Called without the lock.

        Where far more ids are looked up than there can be slots, and less than an eighth of them is found here, one
        offer of eight is enough: frequent rows are admitted all the same, and offers take part of a read's time."""
        asked = self.hits + self.misses
        slots = self._budget.size // (self.set_bytes // WAYS)
        if asked < LOOKUPS_PER_SLOT * slots or OFFERS_PER_ADMIT * self.hits > asked:
            return True
        self._turn += 1
        return self._turn % OFFERS_PER_ADMIT == 0

    def admit(self, ids: np.ndarray, locations: np.ndarray, which: np.ndarray, rows: np.ndarray) -> None:
        """Offer rows[i * width :] of ids[i] for each i of `which`: they get free slots, and slots of rows that were not
        used lately if they were offered before."""
        self._budget.release_some()
        if not self.sets and not self._begin():
            return
        self.changes += 1
        admitted, evicted, full = row_cache.admit_rows(
            self.meta, self.rows, self.stride, self.width, *self._shape, self._budget.marks, ids, locations,
            self.owner, which, rows, self._stamp,
        )  # fmt: skip
        self._stamp += admitted
        self.admitted += admitted
        self.evicted += evicted
        if full:
            self._grow(full)

    def forget(self, ids: np.ndarray) -> None:
        """Remove ids that were written or deleted."""
        if self.sets:
            self.changes += 1
            row_cache.forget_rows(self.meta, *self._shape, ids)

    # size

    def _begin(self) -> bool:
        """Reserve address space for as many rows as the budget has room for; return False if nothing is left."""
        if not self._budget.take_over(FIRST_SETS * self.set_bytes, self):
            return False
        sets = self._budget.largest // self.set_bytes
        self.meta = self._budget.nodes.bind_near(reserve(sets * SET_META_WORDS * 8)).view(np.uint64)
        self.rows = self._budget.nodes.bind_far(reserve(sets * WAYS * self.stride))
        self.sets, self.mask = FIRST_SETS, FIRST_SETS - 1
        return True

    def _grow(self, offers: int) -> None:
        """Add sets for so many offers that met a full set, as far as the budget allows."""
        wanted = min(max(offers // OFFERS_PER_SET, 1), max(GROWTH_BYTES // self.set_bytes, 1))
        stop = min(self.sets + wanted, 1 << self.sets.bit_length(), self.meta.size // SET_META_WORDS)
        if stop > self.sets and self._budget.take_over((stop - self.sets) * self.set_bytes, self):
            self.changes += 1
            for array, set_bytes in ((self.rows, WAYS * self.stride), (self.meta, SET_META_WORDS * 8)):
                if self.sets * set_bytes < HUGE_PAGES_FROM <= stop * set_bytes:
                    use_huge_pages(array)
            self.mask = (1 << (stop - 1).bit_length()) - 1
            row_cache.add_sets(self.meta, self.rows, self.stride, self.sets, stop, self.mask, self.seed, self._floor)
            self.sets = stop

    def shrink(self, nbytes: int) -> None:
        """Give up sets of at least so many bytes, for a cache that has more hits per byte."""
        wanted, self.changes = max(-(-nbytes // self.set_bytes), 1), self.changes + 1
        while wanted > 0 and self.sets > FIRST_SETS:
            stop, least = self.sets, 1 << ((self.sets - 1).bit_length() - 1)
            self.sets = max(stop - wanted, least, FIRST_SETS)
            self.evicted += row_cache.remove_sets(
                self.meta, self.rows, self.stride, self.sets, stop, self.mask, self._floor
            )
            self.mask = (1 << (self.sets - 1).bit_length()) - 1
            wanted -= stop - self.sets
            self._budget.give((stop - self.sets) * self.set_bytes)
            give_back(self.rows, self.sets * WAYS * self.stride, stop * WAYS * self.stride)

    # figures

    def end_period(self) -> None:
        """Begin a new period of counting."""
        self._previous_period, self._period_start = self._period_start, (self.hits, self.evicted)

    def hits_per_byte(self) -> float:
        """Return the hits per byte in this period and the last."""
        return (self.hits - self._previous_period[0]) / max(self.nbytes, 1)

    def expected_hits(self) -> int:
        """Return the hits expected with a few more sets: current hits plus recent evictions.

        The first sets are free: without any, all misses count."""
        recent = self.hits - self._previous_period[0] + self.evicted - self._previous_period[1]
        return recent if self.sets else self.misses + 1

    def figures(self) -> dict[str, int]:
        """Return statistics by name."""
        return {
            "rows": len(self),
            "bytes": self.nbytes,
            "reserved": self.reserved,
            "hits": self.hits,
            "misses": self.misses,
            "fills": self.admitted,
            "evictions": self.evicted,
        }

    def __len__(self) -> int:
        return row_cache.cached_ids(self.meta, self.sets, self._floor, np.empty(0, np.int64))

    def ids(self) -> np.ndarray:
        """Return the ids of all rows here."""
        ids = np.empty(len(self), np.int64)
        row_cache.cached_ids(self.meta, self.sets, self._floor, ids)
        return ids

    def ids_in(self, start: int, stop: int) -> np.ndarray:
        """Return the ids of the rows in some sets."""
        meta = self.meta[start * SET_META_WORDS : min(stop, self.sets) * SET_META_WORDS]
        ids = np.empty(meta.size // 2, np.int64)
        return ids[: row_cache.cached_ids(meta, meta.size // SET_META_WORDS, self._floor, ids)]

    def expect(self, rows: int) -> None:
        """Make room for rows that are about to be loaded, as far as the budget allows."""
        if not self.sets and not self._begin():
            return
        wanted = self.bytes_for(rows) // self.set_bytes
        for _ in range(GROWTHS_PER_EXPECT):
            if self.sets >= wanted or self._budget.used + GROWTH_BYTES > self._budget.limit:
                return
            self._grow(OFFERS_PER_SET * (wanted - self.sets))

    def clear(self) -> None:
        """Remove all rows at once; the memory is kept for those to come."""
        self.changes += 1
        self._floor = self._stamp

    def close(self) -> None:
        """Give the memory up; the counters continue. Readers may still copy from the arrays that they hold."""
        self.changes += 1
        self._budget.leave(self.meta, self.rows, self.sets, self.set_bytes)
        self.reserved = 0
        self._empty()

    def check(self) -> None:
        """Assert that rows are found where they stand, and that no id is there twice."""
        assert self.nbytes <= self._budget.used <= self._budget.limit
        ids = self.ids()
        assert np.unique(ids).size == ids.size
        found, slots, missed = np.zeros(ids.size, np.uint64), np.empty(ids.size, np.int64), np.empty(ids.size, np.int64)
        stamps = np.empty(ids.size, np.uint64)
        found_all = row_cache.find_rows(self.meta, *self._shape, ids, found, slots, stamps, missed)
        assert found_all == (ids.size, 0) and (stamps < self._stamp).all()
