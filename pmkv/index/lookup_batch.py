"""What is looked for in a chain, and entered in it: ids of a table, or keys of a keyspace, in batches.

`take` and kernels let other threads go on, indexing with an array does not: batches may be long, beside a server. Few
are picked by indexing: see `compile.FEW`.

Both are *words* to an index, 64 bits each; keys of one hash are told apart by their records in the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

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
from .run import Run, find_in_runs

NOTHING = np.empty((0, 2), np.int64)
NEVER = -1, -1
LOOKED_UP = 1 << 16  # words that are looked up below at once, when they are counted
PIECE = 1 << 11  # and in one call of a kernel


class IdBatch:
    """Ids to be looked up, or entered."""

    keyed = False

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self.moment = NEVER  # of a chain, when these were looked for in what is not on file

    @property
    def words(self) -> np.ndarray:
        return self.ids.view(np.uint64)

    def compare_in(self, data: np.ndarray) -> None:
        """The pool as it is now: an index has the ids themselves, and compares nothing there."""

    def some(self, which: np.ndarray) -> IdBatch:
        return IdBatch(picked(self.ids, which))

    def part(self, which: slice) -> IdBatch:
        return IdBatch(self.ids[which])

    @staticmethod
    def joined(notes: Sequence[IdBatch], between: Callable[[], None]) -> IdBatch:
        return IdBatch(np.concatenate([one.ids for one in notes]))

    def in_index(self, index: HashTable, pending: np.ndarray) -> tuple[np.ndarray, int]:
        return index.find(self.ids, pending)

    def in_hot(self, hot: LocationCache, found: np.ndarray) -> None:
        hot.find(self.ids, found)

    def in_runs(self, runs: Iterable[Run], seed: np.uint64, found: np.ndarray) -> None:
        find_in_runs(runs, seed, self.ids, found)

    def enter(self, index: HashTable, locations: np.ndarray, lock: AbstractContextManager[object] = HELD) -> np.ndarray:
        return index.insert(self.ids, locations, lock)


class KeyBatch:
    """Keys to be looked up, or entered: their hashes, and where they stand in an array of bytes, int64[n, 2]."""

    keyed = True

    def __init__(
        self,
        words: np.ndarray,
        blob: np.ndarray,
        bounds: np.ndarray,
        data: np.ndarray,
        owner: np.uint64,
        verify: bool,
        records: np.ndarray | None = None,
    ) -> None:
        """data: the pool, whose records a hash leads to; owner, verify: see `kernels.probe.find_keys`; records: the
        locations of those whose keys these are. A note has these alone, and no bounds."""
        self.words, self.blob, self.bounds = words, blob, bounds
        self.data, self.owner, self.verify, self.records = data, owner, verify, records
        self.moment = NEVER  # likewise

    def compare_in(self, data: np.ndarray) -> None:
        """The pool as it is now: it may have grown since."""
        self.data = data

    def some(self, which: np.ndarray) -> KeyBatch:
        words, bounds = picked(self.words, which), picked(self.bounds, which)
        return KeyBatch(words, self.blob, bounds, self.data, self.owner, self.verify)

    def part(self, which: slice) -> KeyBatch:
        return KeyBatch(self.words[which], self.blob, self.bounds[which], self.data, self.owner, self.verify)

    @staticmethod
    def joined(notes: Sequence[KeyBatch], between: Callable[[], None]) -> KeyBatch:
        """Of one chain: what maps the pool last maps all of it. CorruptionError: a record whose key was noted is
        damaged, so that another key would be looked for."""
        last, words = notes[-1], np.concatenate([one.words for one in notes])
        locations = np.concatenate([one.records for one in notes]) & ~location.DELETE  # a delete has a key, too
        bounds = np.empty((words.size, 2), np.int64)
        for some in pieces(words.size):
            between()
            _verified(last, locations[some])
            key_bounds(last.data, locations[some], bounds[some])
        # verified: a damaged record below is taken for the key's, else it would be counted twice
        return KeyBatch(words, last.data, bounds, last.data, last.owner, True)

    def in_index(self, index: HashTable, pending: np.ndarray) -> tuple[np.ndarray, int]:
        return index.find_keys(self.data, self.words, self.blob, self.bounds, pending, self.owner, self.verify)

    def in_hot(self, hot: LocationCache, found: np.ndarray) -> None:
        hot.find_keys(self.data, self.words, self.blob, self.bounds, found)

    def in_runs(self, runs: Iterable[Run], seed: np.uint64, found: np.ndarray) -> None:
        for run in runs:
            run.find_keys(self.data, seed, self.words, self.blob, self.bounds, self.owner, self.verify, found)

    def enter(self, index: HashTable, locations: np.ndarray, lock: AbstractContextManager[object] = HELD) -> np.ndarray:
        return index.insert_keys(self.data, self.words, self.blob, self.bounds, locations, lock)


LookupBatch = IdBatch | KeyBatch


def find_missing(wanted: LookupBatch, index: HashTable, pending: np.ndarray, found: np.ndarray) -> int:
    """Ask an index for the words that are still missing; returns how many of them are pending."""
    missing = np.flatnonzero(found == 0)
    if not missing.size or not index.count:
        return 0
    found[missing], waiting = wanted.some(missing).in_index(index, pending)
    return waiting


def lives(found: np.ndarray) -> np.ndarray:
    """bool[n]: neither absent nor deleted."""
    return (found != 0) & ((found & location.DELETE) == 0)


def new_keys(wanted: LookupBatch, locations: np.ndarray, before: np.ndarray) -> LookupBatch | None:
    """Of what was just written, that which stood nowhere before, each word once, kept for later: keys as they stand in
    their records."""
    words, records = np.empty(before.size, np.uint64), np.empty(before.size, np.uint64)
    count = pick_new(before, wanted.words, locations, words, records)
    if not count:
        return None
    if isinstance(wanted, IdBatch):
        return IdBatch(words[:count].view(np.int64))
    return KeyBatch(words[:count], wanted.data, NOTHING, wanted.data, wanted.owner, True, records[:count])


def pieces(count: int) -> Iterator[slice]:
    """Of so many words: what is looked up in some tenths of a millisecond."""
    return (slice(first, first + PIECE) for first in range(0, count, PIECE))


def bounds_of(notes: Sequence[LookupBatch]) -> tuple[int, int] | None:
    """The lowest and the highest id of all these; None if there is none, or if they are keys."""
    ids = [note.ids for note in notes if isinstance(note, IdBatch) and note.ids.size]
    return (min(int(some.min()) for some in ids), max(int(some.max()) for some in ids)) if ids else None


def picked(column: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Some of it, by their places in it."""
    return column[which] if which.size <= FEW_ELEMENTS else column.take(which, axis=0)


def sorted_by_slot(
    notes: Sequence[LookupBatch], seed: np.uint64, between: Callable[[], None] = no_yield
) -> LookupBatch:
    """Of notes of one chain, all that is to be looked for, about in the order of places: neighbours stand on one page
    of a run, so that a lookup of many hardly ever waits for DRAM. between: called now and then. CorruptionError: a key
    cannot be read."""
    joined = type(notes[0]).joined(notes, between)
    ends, order = np.zeros(REGIONS, np.int64), np.empty(joined.words.size, np.int64)
    order_by_slot(joined.words, seed, ends, order)
    between()
    return joined.some(order)


def expiries_of(wanted: LookupBatch, found: np.ndarray) -> np.ndarray:
    """Those of the live records that were found. CorruptionError: one is damaged."""
    if isinstance(wanted, IdBatch):
        return np.empty(0, np.int64)
    expiries = _verified(wanted, found)[:, 2]
    return picked(expiries, np.flatnonzero(expiries))


def _verified(keys: KeyBatch, locations: np.ndarray) -> np.ndarray:
    """What is to be known of records, whose keys are counted; see `kernels.records.read_records`."""
    read_records(keys.data, locations, keys.owner, 0, True, out := np.empty((locations.size, 4), np.int64))
    bad = np.flatnonzero(out[:, 0] == DAMAGED)
    if bad.size:
        raise CorruptionError(
            f"a record at offset {int(locations[bad[0]] & location.OFFSET_MASK):,} of the pool is damaged: its check "
            "does not hold. So how many keys there are is not known, even if it was overwritten; restore a backup"
        )
    return out
