"""Batches of keys to look up in an index stack, or to insert: ids of a table, or byte keys of a keyspace.

To an index both are 64 bits (`key64s`): the id, or the hash of the key. Keys with one hash are told apart by their
records in the pool.

`ndarray.take` and kernels release the GIL, indexing with an array does not, so long batches are sliced with `take`;
see `runtime.jit.FEW_ELEMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from ..errors import CorruptionError
from ..kernels import location
from ..kernels.probe import pick_new
from ..kernels.records import DAMAGED, key_bounds, read_records
from ..kernels.runs import REGIONS, order_by_slot
from ..runtime.jit import FEW_ELEMENTS
from ..runtime.scheduling import no_yield
from .arena import HELD
from .hash_table import HashTable
from .location_cache import LocationCache
from .run import Run, find_in_runs, start_in_runs

NOTHING = np.empty((0, 2), np.int64)
NEVER = -1, -1
LOOKED_UP = 1 << 16  # keys that the live counter looks up in one batch
PIECE = 1 << 11  # keys of one kernel call, some tenths of a millisecond


class CachedRows(Protocol):
    """Holds what a lookup found in a row cache: see `cache.row_cache.RowHits`."""

    missed: np.ndarray  # positions in the batch that neither memory nor the row cache has
    count: int  # of hits
    slots: np.ndarray  # of each hit, by position in the batch
    rows: np.ndarray  # the row of slot s begins at rows[s * stride]
    stride: int

    def copy_to(self, out: np.ndarray, found: np.ndarray) -> int: ...

    def drop_changed(self, found: np.ndarray) -> int: ...


class IdBatch:
    """Ids to look up or to insert.

    cached: whether the row cache is asked: then a location may be CACHED. out: uint8[n * width], where its rows are
    copied to; None: they are not needed. cold: what is not in memory may have to be read from disk. is_walk: they are
    part of a walk over the table, and are admitted to no cache. is_load: nobody asked for them but a cache, so that
    they count neither as hits nor as misses."""

    keyed = False

    def __init__(self, ids: np.ndarray, out: np.ndarray | None = None, cached: bool = False) -> None:
        self.ids, self.out, self.cached = ids, out, cached
        self.hits: CachedRows | None = None  # of the row cache
        self.is_walk = self.is_load = self.cold = False
        self.is_started = False  # reads of the index pages were started already
        self.pages = 0.0  # that were read from disk for this batch
        # takes (batch, locations, positions, all rows), and offers the rows at these positions to the row cache
        self.offer: Callable[[IdBatch, np.ndarray, np.ndarray, np.ndarray], None] | None = None
        self.stamp = NEVER  # stamp of the index stack when its memory was probed for this batch

    @property
    def key64s(self) -> np.ndarray:
        return self.ids.view(np.uint64)

    def compare_in(self, data: np.ndarray) -> None:
        """Accept the current array of the pool; ids are in the index itself, so nothing is compared there."""

    def some(self, which: np.ndarray) -> IdBatch:
        return IdBatch(picked(self.ids, which))

    def slice(self, which: slice) -> IdBatch:
        return IdBatch(self.ids[which])

    @staticmethod
    def joined(batches: Sequence[IdBatch], between: Callable[[], None]) -> IdBatch:
        return IdBatch(np.concatenate([batch.ids for batch in batches]))

    def in_index(self, index: HashTable, pending: np.ndarray) -> tuple[np.ndarray, int]:
        return index.find(self.ids, pending)

    def in_cache(self, cache: LocationCache, found: np.ndarray) -> None:
        cache.find(self.ids, found)

    def in_runs(self, runs: Iterable[Run], seed: np.uint64, found: np.ndarray) -> None:
        find_in_runs(runs, seed, self.ids, found, self.cold and not self.is_started)

    def start_in_runs(self, runs: Iterable[Run], seed: np.uint64, found: np.ndarray) -> None:
        """Start to read the pages that `in_runs` reads."""
        start_in_runs(runs, seed, self.ids, found)
        self.is_started = True

    def enter(self, index: HashTable, locations: np.ndarray, lock: AbstractContextManager[object] = HELD) -> np.ndarray:
        return index.insert(self.ids, locations, lock)


class KeyBatch:
    """Keys to look up or to insert: their hashes, an array with their bytes, and their bounds in it, int64[n, 2]."""

    keyed = True

    def __init__(
        self,
        key64s: np.ndarray,
        blob: np.ndarray,
        bounds: np.ndarray,
        data: np.ndarray,
        owner: np.uint64,
        verify: bool,
        records: np.ndarray | None = None,
    ) -> None:
        """data: the bytes of the pool; owner, verify: see `kernels.probe.find_keys`; records: the locations of the
        records that have these keys. A batch of a live counter has `records` and no bounds."""
        self.key64s, self.blob, self.bounds = key64s, blob, bounds
        self.data, self.owner, self.verify, self.records = data, owner, verify, records
        self.stamp = NEVER  # as in IdBatch

    def compare_in(self, data: np.ndarray) -> None:
        """Compare with this array of the pool from now on: the pool may have grown."""
        self.data = data

    def some(self, which: np.ndarray) -> KeyBatch:
        key64s, bounds = picked(self.key64s, which), picked(self.bounds, which)
        return KeyBatch(key64s, self.blob, bounds, self.data, self.owner, self.verify)

    def slice(self, which: slice) -> KeyBatch:
        return KeyBatch(self.key64s[which], self.blob, self.bounds[which], self.data, self.owner, self.verify)

    @staticmethod
    def joined(batches: Sequence[KeyBatch], between: Callable[[], None]) -> KeyBatch:
        """Join batches of one index stack into one batch. The last batch maps all of the pool. between: called often.

        CorruptionError: a record whose key was noted is damaged, so that another key would be looked up."""
        last, key64s = batches[-1], np.concatenate([batch.key64s for batch in batches])
        locations = np.concatenate([batch.records for batch in batches]) & ~location.DELETE  # a delete has a key, too
        bounds = np.empty((key64s.size, 2), np.int64)
        for piece in pieces(key64s.size):
            between()
            _verified(last, locations[piece])
            key_bounds(last.data, locations[piece], bounds[piece])
        # verify=True: a damaged older record counts as the key, which would else be counted twice
        return KeyBatch(key64s, last.data, bounds, last.data, last.owner, True)

    def in_index(self, index: HashTable, pending: np.ndarray) -> tuple[np.ndarray, int]:
        return index.find_keys(self.data, self.key64s, self.blob, self.bounds, pending, self.owner, self.verify)

    def in_cache(self, cache: LocationCache, found: np.ndarray) -> None:
        cache.find_keys(self.data, self.key64s, self.blob, self.bounds, found)

    def in_runs(self, runs: Iterable[Run], seed: np.uint64, found: np.ndarray) -> None:
        for run in runs:
            run.find_keys(self.data, seed, self.key64s, self.blob, self.bounds, self.owner, self.verify, found)

    def enter(self, index: HashTable, locations: np.ndarray, lock: AbstractContextManager[object] = HELD) -> np.ndarray:
        return index.insert_keys(self.data, self.key64s, self.blob, self.bounds, locations, lock)


LookupBatch = IdBatch | KeyBatch


def find_missing(batch: LookupBatch, index: HashTable, pending: np.ndarray, found: np.ndarray) -> int:
    """Probe an index for the keys that are still missing; return how many of the locations found are pending."""
    missing = np.flatnonzero(found == 0)
    if not missing.size or not index.count:
        return 0
    found[missing], pending_count = batch.some(missing).in_index(index, pending)
    return pending_count


def lives(found: np.ndarray) -> np.ndarray:
    """Return bool[n]: whether a location is neither absent nor a delete."""
    return (found != 0) & ((found & location.DELETE) == 0)


def new_keys(batch: LookupBatch, locations: np.ndarray, before: np.ndarray) -> LookupBatch | None:
    """Return the keys of a batch that were in no slot before, each once; None if there are none.

    They are kept for later: byte keys refer to their records."""
    key64s, records = np.empty(before.size, np.uint64), np.empty(before.size, np.uint64)
    count = pick_new(before, batch.key64s, locations, key64s, records)
    if not count:
        return None
    if isinstance(batch, IdBatch):
        return IdBatch(key64s[:count].view(np.int64))
    return KeyBatch(key64s[:count], batch.data, NOTHING, batch.data, batch.owner, True, records[:count])


def pieces(count: int) -> Iterator[slice]:
    """Yield slices of so many keys, each of which is looked up in some tenths of a millisecond."""
    return (slice(first, first + PIECE) for first in range(0, count, PIECE))


def bounds_of(batches: Sequence[LookupBatch]) -> tuple[int, int] | None:
    """Return the lowest and the highest id of all batches; None if there is none, or if they are byte keys."""
    ids = [batch.ids for batch in batches if isinstance(batch, IdBatch) and batch.ids.size]
    return (min(int(one.min()) for one in ids), max(int(one.max()) for one in ids)) if ids else None


def picked(column: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return column[which], with the GIL released if it is long."""
    return column[which] if which.size <= FEW_ELEMENTS else column.take(which, axis=0)


def sorted_by_slot(
    batches: Sequence[LookupBatch], seed: np.uint64, between: Callable[[], None] = no_yield
) -> LookupBatch:
    """Join batches of one index stack, ordered by the leading bits of their slot hashes.

    Neighbours are then on one page of a run, so that a lookup of many keys hardly ever waits for DRAM. between: called
    often. CorruptionError: a key cannot be read."""
    joined = type(batches[0]).joined(batches, between)
    ends, order = np.zeros(REGIONS, np.int64), np.empty(joined.key64s.size, np.int64)
    order_by_slot(joined.key64s, seed, ends, order)
    between()
    return joined.some(order)


def expiries_of(batch: LookupBatch, found: np.ndarray) -> np.ndarray:
    """Return the expiries of the live records found. CorruptionError: one is damaged."""
    if isinstance(batch, IdBatch):
        return np.empty(0, np.int64)
    expiries = _verified(batch, found)[:, 2]
    return picked(expiries, np.flatnonzero(expiries))


def _verified(keys: KeyBatch, locations: np.ndarray) -> np.ndarray:
    """Return the rows of `kernels.records.read_records`. CorruptionError: a record is damaged."""
    read_records(keys.data, locations, keys.owner, 0, True, out := np.empty((locations.size, 4), np.int64))
    bad = np.flatnonzero(out[:, 0] == DAMAGED)
    if bad.size:
        raise CorruptionError(
            f"a record at offset {int(locations[bad[0]] & location.OFFSET_MASK):,} of the pool is damaged: its check "
            "does not hold. So how many keys there are is not known, even if it was overwritten; restore a backup"
        )
    return out
