"""Index stacks: what answers lookups of one collection in one view, newest first.

An index stack has, from the top layer down: the *memtable*, which takes writes; the *frozen memtables*, until a
checkpoint has written them; a cache, a shortcut past all below it: of a table the row cache, of a keyspace, and where
there is no row cache, the location cache; the *runs* on file. Whatever a higher one says of a key hides the lower ones,
a delete too. Nothing in a layer is newer than what lies above it, and a checkpoint
writes all frozen memtables: so no frozen memtable ever lies below a run on file.

Memtables and the caches are read under locks.state; runs never change and are read without it. So a lookup has two
halves: `find_in_memory`, then `find_on_disk` with the runs that the stack had at the time of the first half.

Counting costs a write almost nothing: `LiveCounter` notes the keys that are new to a memtable, and looks them up below
only when somebody asks for the count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from ..cache.cold_reads import ColdReads
from ..cache.dram_choice import ALL, reserved_bytes
from ..cache.pinned_rows import PinnedRows, pinned_bytes
from ..cache.row_cache import RowBudget, RowCache
from ..errors import CorruptionError
from ..index.arena import HELD
from ..index.live_count import CountBatch, CountResult
from ..index.location_cache import LocationCache
from ..index.lookup_batch import (
    NOTHING,
    IdBatch,
    LookupBatch,
    bounds_of,
    expiries_of,
    find_missing,
    lives,
    new_keys,
    pieces,
    sorted_by_slot,
)
from ..index.memtable import MemTable
from ..index.run import Run
from ..runtime.scheduling import no_yield
from .layer import Layer, live_of

WALKED_ENTRIES_MAX = 1 << 12  # of replaced runs that are walked to drop their keys from the cache; else it is cleared
LOCKED_KEYS_MAX = 1 << 12  # keys of a memtable that a count looks up under locks.state
ADMITTED_BYTES = 256 << 10  # of rows that are admitted to the row cache under one hold of locks.state
COUNTED_KEYS = 1 << 14  # keys looked up at once before that; locks.state is held for the part of it in memory
SEED_FACTOR = 0x9E3779B97F4A7C15
Window = tuple[np.ndarray, np.ndarray, np.ndarray]  # slot hashes, keys64, locations


class RunSet:
    """Holds some frozen memtables and runs of a stack, newest first, as they were at one moment."""

    def __init__(self, frozen: tuple[MemTable, ...], runs: tuple[Run, ...], seed: np.uint64) -> None:
        self.frozen, self.runs, self.seed = frozen, runs, seed

    def find(self, batch: LookupBatch) -> np.ndarray:
        """Return locations, 0 where there is none. The caller holds locks.state, if there are memtables."""
        found = self._find_in_memory(batch)
        self.find_on_disk(batch, found)
        return found

    def _find_in_memory(self, batch: LookupBatch) -> np.ndarray:
        """Look a batch up in the memtables. Return locations, 0 where there is none."""
        found = np.zeros(batch.key64s.size, np.uint64)
        for memtable in self.frozen:
            find_missing(batch, memtable.index, NOTHING, found)
        return found

    def count_batch(self, batch: CountBatch, between: Callable[[], None] = no_yield) -> CountResult:
        """Count which of the noted keys live here. between: called now and then.

        The caller holds locks.state, if there are memtables that no checkpoint holds. CorruptionError: something here
        is damaged, or a record whose key is looked up."""
        below = self.near(batch.batches)
        if not below.frozen and not below.runs:
            return CountResult(0, [])
        keys = sorted_by_slot(batch.batches, self.seed, between)
        count, expiries = 0, []
        for some in pieces(keys.key64s.size):
            between()
            piece = keys.slice(some)
            below.find_any_on_disk(piece, found := below._find_in_memory(piece))
            covered = covered_by(piece, found)
            count += covered.count
            expiries += covered.expiries
        return CountResult(count, expiries)

    def near(self, batches: Sequence[LookupBatch]) -> RunSet:
        """Return the set without runs whose range of ids excludes all these. A table that is loaded in the order of its
        ids would otherwise look each of them up in every run."""
        bounds = bounds_of(batches)
        if bounds is None:
            return self
        return RunSet(self.frozen, tuple(run for run in self.runs if run.info.may_have(*bounds)), self.seed)

    def find_on_disk(self, batch: LookupBatch, found: np.ndarray) -> None:
        """Fill `found` from the runs on file, where it is 0. Needs no lock."""
        batch.in_runs(self.runs, self.seed, found)

    def find_any_on_disk(self, batch: LookupBatch, found: np.ndarray) -> None:
        """Do the same for a count, where any location of an id will do. If no run has a delete, an id lives wherever it
        is found, so the oldest run is probed first, as it has most ids. (Of a key the newest location is needed, for
        its expiry.)"""
        runs = self.runs if batch.keyed or any(run.info.deletes != 0 for run in self.runs) else self.runs[::-1]
        batch.in_runs(runs, self.seed, found)


def covered_by(batch: LookupBatch, found: np.ndarray) -> CountResult:
    """Count the live locations among those found. CorruptionError: a record that was found is damaged."""
    return CountResult(int(np.count_nonzero(lives(found))), expiries_of(batch, found).tolist())


class IndexStack:
    """Looks up, inserts and counts in the memtables and runs of one collection, as one view has them. top: its top
    layer; cached: it lives long enough for caches."""

    def __init__(self, top: Layer, cached: bool = True) -> None:
        self.tree, self.seed = top.tree, np.uint64(top.tree.seed)
        self.top, self._may_cache = top, cached
        self.cache: LocationCache | None = None
        self.rows: RowCache | PinnedRows | None = None
        self._keeps = False  # whether it keeps as many rows in DRAM as the table's owner chose
        self.reads = ColdReads()
        self._is_known = False
        self._gather()
        self.tree.stacks.add(self)

    # the layers that it is made of

    def rebase(self, top: Layer) -> bool:
        """Put the stack on another top layer. Return whether its content was replaced: False if `top` lies on the
        former one, so that it only continues. The caller holds locks.state."""
        continues = top.below is self.top
        before = (self._runs, {*self._frozen, *self.top.memtables}) if self._is_known and not continues else None
        if top.tree is not self.tree:  # memory was rebuilt, in a new arena
            before = self.cache = self.rows = None
            self.tree.stacks.discard(self)
            self.tree = top.tree
        self.top = top
        self.tree.stacks.add(self)  # also if it was closed
        self._gather()
        if not continues:
            self._drop_replaced(before)
        return not continues

    @property
    def frozen(self) -> tuple[MemTable, ...]:
        """Return the frozen memtables, newest first. The caller holds locks.state."""
        if not self._is_known:
            self._gather()
        return self._frozen

    @property
    def is_in_memory(self) -> bool:
        """Return whether there are no runs, as far as is known without locks.state."""
        return self._is_known and not self._runs

    @property
    def runs(self) -> tuple[Run, ...]:
        """Return the runs on file, newest first, with skip runs in place of those of their layers. The caller holds
        locks.state."""
        if not self._is_known:
            self._gather()
        return self._runs

    def _gather(self) -> None:
        """Gather the frozen memtables and runs of all layers."""
        frozen: list[MemTable] = []
        runs: list[Run] = []
        layer: Layer | None = self.top
        skip_runs, layers = self.tree.skip_runs, self.tree.layers
        while layer is not None:
            frozen += layer.frozen
            # the layer that stands for an empty collection is not in the tree: another view's may have its id
            skip = skip_runs.get(layer.id) if skip_runs and layers.get(layer.id) is layer else None
            if skip is not None:
                runs.append(skip.run)
                layer = layers[skip.below] if skip.below is not None else None
            else:
                runs += layer.runs
                layer = layer.below
        self._frozen, self._runs, self._is_known = tuple(frozen), tuple(runs), True
        if not runs:
            self._remove_caches()
        elif self.cache is None and self.rows is None and self._may_cache:
            dram = self.tree.dram
            if dram.rows is not None and not self.tree.keyed:
                self.rows = self._make_rows(dram.rows)
            else:
                self.cache = LocationCache(dram.arena, dram.budget, self._cache_seed)
        self._reserve()
        if isinstance(self.rows, PinnedRows) and not self.rows.is_complete and self.tree.dram.rows is not None:
            self.tree.dram.rows.need()  # what was written is on file now

    def keep_rows(self) -> None:
        """Keep as many rows in DRAM as the owner of the table chose, from now on. The caller holds locks.state."""
        self._keeps = True
        if self.rows is None or self.tree.dram.rows is None:
            return
        if isinstance(self.rows, PinnedRows) != self._pins(self.tree.dram.rows):
            former = self.rows
            former.close()
            self.rows = self._make_rows(self.tree.dram.rows)
            self.rows.hits, self.rows.misses = former.hits, former.misses
        self._reserve()

    def _pins(self, budget: RowBudget) -> bool:
        """Return whether all rows stand in DRAM by their ids: the table is dense, that was chosen, and they fit."""
        tree, bound = self.tree, (self.tree.decision or {}).get("rows")
        if not self._keeps or tree.kept != ALL or bound is None:
            return False
        return isinstance(self.rows, PinnedRows) or pinned_bytes(tree.width, bound) <= budget.free_for(self.rows)

    @property
    def _cache_seed(self) -> int:
        """Return a seed far from those of other tables, which differ in few bits: all caches ask one doorkeeper, and it
        would take id 2 of table 1 for id 1 of table 2."""
        return int(self.seed) * SEED_FACTOR % (1 << 64)

    def _make_rows(self, budget: RowBudget) -> RowCache | PinnedRows:
        tree = self.tree
        if self._pins(budget) and tree.decision is not None:
            return PinnedRows(budget, tree.width, tree.decision["rows"], tree.number)
        return RowCache(budget, tree.width, tree.number, self._cache_seed)

    def _reserve(self) -> None:
        """Reserve for the row cache what the owner of the table chose, as far as others leave it."""
        rows, budget = self.rows, self.tree.dram.rows
        if not self._keeps or not isinstance(rows, RowCache) or budget is None:
            return
        if self.tree.kept is None:
            rows.reserved = 0
            return
        wanted = reserved_bytes(self.tree.kept, budget.size, rows.bytes_for(live_of(self._runs) or 0))
        rows.reserved = min(wanted, budget.free_for(rows))

    def close(self) -> None:
        """Free the memory of the cache. The stack must not be read before the next `rebase`. The caller holds
        locks.state."""
        self.tree.stacks.discard(self)
        self._frozen, self._runs, self._is_known = (), (), True
        self._remove_caches()

    def invalidate(self) -> None:
        """Forget the memtables and runs until they are needed: some were replaced, and a reference to a run that
        nobody reads would keep its file on the disk."""
        self._frozen, self._runs, self._is_known = (), (), False

    def clear_cache(self) -> None:
        """Forget all cached locations: records were moved. The caller holds locks.state."""
        if self.cache is not None:
            self.cache.clear()

    def _drop_replaced(self, before: tuple[tuple[Run, ...], set[MemTable]] | None) -> None:
        """Drop cached locations and rows of every key in a run that only the old or only the new stack has, and of
        every key in a memtable that only the new one has. (The caches hold nothing from a memtable of the old one.)

        before: runs and memtables of the old stack; None if not known. Clears the caches then, and if the runs and
        memtables are large or damaged."""
        if self.cache is None and self.rows is None:
            return
        old_runs, old_memtables = before or ((), set())
        runs = set(old_runs) ^ set(self._runs)
        memtables = [memtable.index for memtable in self.memtables if memtable not in old_memtables]
        size = sum(run.info.count for run in runs) + sum(index.count for index in memtables)
        if before is None or size > WALKED_ENTRIES_MAX:
            self._clear_caches()
            return
        try:
            for walk in [run.walk(0, self.seed) for run in runs] + [index.walk() for index in memtables]:
                for _, keys64, _ in walk:
                    self._forget(keys64)
        except CorruptionError:  # a lookup that meets the damage will report it
            self._clear_caches()

    def _forget(self, keys64: np.ndarray) -> None:
        """Drop the cached locations and rows of these keys."""
        if self.cache is not None:
            self.cache.forget(keys64)
        if self.rows is not None:
            self.rows.forget(keys64.view(np.int64))

    def _clear_caches(self) -> None:
        if self.cache is not None:
            self.cache.clear()
        if self.rows is not None:
            self.rows.clear()

    def _remove_caches(self) -> None:
        if self.cache is not None:
            self.cache.clear()
            self.cache = None
        if self.rows is not None:
            self.rows.close()
            self.rows = None

    # lookups

    def find_in_memory(self, batch: LookupBatch, pending: np.ndarray) -> tuple[np.ndarray, int]:
        """Look a batch up in the memtables and the caches. Return (locations, 0 where there is none, CACHED where the
        row cache has the row; how many of them are pending). The caller holds locks.state."""
        batch.stamp = self._stamp
        found, waiting = self._find_in_memtables(batch, pending)
        if isinstance(batch, IdBatch):
            batch.hits = None
            if self.rows is not None and batch.cached:
                batch.hits = self.rows.find(batch.ids, found, batch.out)
                if not batch.is_load:
                    self.rows.note(batch.ids, batch.hits)
            if batch.hits is not None and not batch.hits.missed.size:
                return found, waiting
        if self.cache is not None:
            batch.in_cache(self.cache, found)
        return found, waiting

    def _find_in_memtables(self, batch: LookupBatch, pending: np.ndarray) -> tuple[np.ndarray, int]:
        """Do as `find_in_memory` in the memtables alone."""
        memtable = self.top.memtable
        if memtable is not None:
            found, waiting = batch.in_index(memtable.index, pending)
        else:
            found, waiting = np.zeros(batch.key64s.size, np.uint64), 0
        for memtable in self.frozen:
            waiting += find_missing(batch, memtable.index, pending, found)
        return found, waiting

    def find_on_disk(
        self, batch: LookupBatch, found: np.ndarray, runs: tuple[Run, ...], lock: AbstractContextManager[object]
    ) -> None:
        """Fill `found` from the runs that the stack had at the time of `find_in_memory`. lock: locks.state, taken only
        at the end, to admit what was found to the cache."""
        if isinstance(batch, IdBatch) and batch.hits is not None:
            if not batch.hits.missed.size:
                return
            if batch.offer is None:
                batch.offer = partial(self.admit_rows, runs, lock)
        if isinstance(batch, IdBatch):
            batch.cold = self.rows is not None and self.reads.is_cold
        if found.all():
            return
        cache = None if isinstance(batch, IdBatch) and batch.is_walk else self.cache
        missed = (found == 0).nonzero()[0] if cache is not None and cache.wants() else None
        RunSet((), runs, self.seed).find_on_disk(batch, found)
        if missed is not None:
            which = missed[found[missed] != 0]
            if which.size:
                with lock:
                    self._admit_to_cache(batch, found, which, runs)

    def start_on_disk(self, batch: IdBatch, found: np.ndarray, runs: tuple[Run, ...]) -> None:
        """Start to read the index pages that `find_on_disk` reads, if they may have to come from the disk."""
        if self.rows is not None and self.reads.is_cold:
            batch.start_in_runs(runs, self.seed, found)

    def _admit_to_cache(self, batch: LookupBatch, found: np.ndarray, which: np.ndarray, runs: tuple[Run, ...]) -> None:
        """Offer locations to the cache. The caller holds locks.state."""
        which = self._still_true(batch, which, runs)
        if self.cache is not None and which.size:
            self.cache.admit(batch.key64s[which], found[which])

    def _still_true(self, batch: LookupBatch, which: np.ndarray, runs: tuple[Run, ...]) -> np.ndarray:
        """Return those of the positions `which` whose keys a cache may hold as they were found in `runs`: none if the
        runs were replaced since the lookup; none of the keys that were written since, which a memtable has then. The
        caller holds locks.state."""
        if runs is not self.runs:
            return which[:0]
        if batch.stamp != self._stamp:
            for memtable in self.memtables:
                if which.size and memtable.index.count:
                    which = which[batch.some(which).in_index(memtable.index, NOTHING)[0] == 0]
        return which

    def admit_rows(
        self,
        runs: tuple[Run, ...],
        lock: AbstractContextManager[object],
        batch: IdBatch,
        found: np.ndarray,
        missed: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Offer rows to the row cache that were found below the memtables, with these runs, and gathered to `out`,
        uint8[n * width]: those at the positions `missed`. lock: locks.state, held for short times only."""
        rows = self.rows
        if rows is None:
            return
        self.reads.learn(batch.pages, missed.size)
        if (batch.is_walk and not rows.keeps_absent) or not rows.wants():
            return
        if not rows.keeps_absent:
            missed = missed[lives(found[missed])]
        step = max(ADMITTED_BYTES // rows.width, 1)
        for first in range(0, missed.size, step):
            with lock:
                which = self._still_true(batch, missed[first : first + step], runs)
                if self.rows is rows and which.size:
                    rows.admit(batch.ids, found, which, out)

    @property
    def _stamp(self) -> tuple[int, int]:
        """Return what differs after every insert."""
        return self.top.id, self.top.inserts

    def may_wait(self, ids: np.ndarray) -> bool:
        """Return whether a lookup may have to wait for the disk: of late some had to, and not all of the ids are in
        memory. The caller holds locks.state."""
        if not self.runs or self.rows is None or not self.reads.is_cold:
            return False
        found, _ = self._find_in_memtables(IdBatch(ids), NOTHING)
        return self.rows.lacks(ids, found)

    def find(self, batch: LookupBatch) -> np.ndarray:
        """Do both halves of a lookup, pending or not. The caller holds locks.state."""
        found, _ = self.find_in_memory(batch, NOTHING)
        RunSet((), self.runs, self.seed).find_on_disk(batch, found)
        return found

    # inserts

    def make_room(self, keys64: np.ndarray, lock: AbstractContextManager[object]) -> None:
        """Let the memtable grow for the next insert, while others read. The caller holds locks.append, not `lock`."""
        self.top.memtable_for_write(lock).index.make_room(keys64, lock)

    def enter(self, batch: LookupBatch, locations: np.ndarray, lsn: int) -> np.ndarray:
        """Insert a batch. Return the locations that the memtable had before. The caller holds locks.state."""
        self.begin_insert(locations.size, lsn)
        before = self.insert(batch, locations)
        self.finish_insert(batch, new_keys(batch, locations, before) if self.frozen or self.runs else None)
        return before

    def begin_insert(self, count: int, lsn: int) -> None:
        """Announce so many entries of frame `lsn`: even if something interrupts the insert (Ctrl-C), the layer counts
        as written. The caller holds locks.state."""
        top, memtable = self.top, self.top.memtable_for_write()
        memtable.first = memtable.first or lsn
        top.writes += count
        top.last_write = lsn

    def insert(
        self, batch: LookupBatch, locations: np.ndarray, lock: AbstractContextManager[object] = HELD
    ) -> np.ndarray:
        """Insert into the memtable, after `begin_insert`. Return the locations that it had before.

        The caller holds locks.append, and locks.state or passes it as `lock`. In the second case this takes long, and
        nobody may count or walk meanwhile, or be shown any of these entries."""
        return batch.enter(self.top.memtable_for_write(lock).index, locations, lock)

    def finish_insert(self, batch: LookupBatch, new: LookupBatch | None) -> None:
        """Finish `insert`: bump the stamp, drop the keys from the cache, note new keys for counting. Must follow the
        insert, or a concurrent miss could cache an older location. The caller holds locks.state."""
        self.top.inserts += 1
        if self.frozen or self.runs:
            self._forget(batch.key64s)
            if new is not None:
                self.top.memtable_for_write().counter.record(new)

    # counting

    def count(self, now: int) -> int:
        """Return how many keys live and have not expired by `now` (unix ms). The caller holds locks.state."""
        memtables = self.memtables
        if not memtables and not self.runs:
            return 0
        self._apply_counts()
        live = live_of(self.runs)
        if live is None or any(m.counter.is_unknown for m in memtables):
            raise CorruptionError(
                "how many there are is not known: an index, or a record that was overwritten, was damaged when they "
                "were counted; restore a backup, or move `catalog` and `runs` away, and the whole log is replayed"
            )
        live += sum(m.index.live - m.counter.covered for m in memtables)
        expired = sum(run.expired(now) for run in self.runs)
        for counter in (m.counter for m in memtables):
            expired += counter.expiries.count_until(now) - counter.gone.count_until(now)
        return live - expired

    @property
    def uncounted(self) -> int:
        """Return how many keys a count has to look up first, about: read without a lock."""
        memtables = (self.top.memtable, *self._frozen)
        return sum(memtable.counter.uncounted for memtable in memtables if memtable is not None)

    def count_ahead(self, lock: AbstractContextManager[object]) -> None:
        """Look most of the uncounted keys up before `count`, which may take long after a restart. lock: locks.state,
        held for short times only."""
        while True:
            with lock:
                memtables, runs = self.memtables, self.runs
                many = (i for i, memtable in enumerate(memtables) if memtable.counter.uncounted > LOCKED_KEYS_MAX)
                if (i := next(many, None)) is None:
                    return
                counter = memtables[i].counter
                batch = counter.next_batch(COUNTED_KEYS)
                keys = sorted_by_slot(batch.batches, self.seed)
                found = np.zeros(keys.key64s.size, np.uint64)
                for below in memtables[i + 1 :]:
                    find_missing(keys, below.index, NOTHING, found)
            RunSet((), runs, self.seed).near(batch.batches).find_any_on_disk(keys, found)
            covered = covered_by(keys, found)
            with lock:
                counter.apply(batch, covered)

    def _apply_counts(self) -> None:
        """Look all uncounted keys up. The caller holds locks.state."""
        memtables = self.memtables
        for i, memtable in enumerate(memtables):
            below = RunSet(memtables[i + 1 :], self.runs, self.seed)
            while batch := memtable.counter.next_batch():
                memtable.counter.apply(batch, below.count_batch(batch))

    # walks

    def walk(self, slot_hash: int = 0) -> Iterator[Window]:
        """Yield all entries from `slot_hash` on, in windows ascending by slot hash. A key may come several times, and
        be deleted: look it up. The caller holds locks.state."""
        if self.top.memtable is not None and not self.frozen and not self.runs:
            yield from self.top.memtable.index.walk(slot_hash)
            return
        sources = [m.index.walk(slot_hash) for m in self.memtables]
        sources += [run.walk(slot_hash, self.seed) for run in self.runs]
        yield from merge_windows(sources)

    def at(self, slot_hash: int) -> np.ndarray:
        """Return the locations of one slot hash, newest first, deletes too. The caller holds locks.state."""
        found = [m.index.at(slot_hash) for m in self.memtables] + [run.at(slot_hash) for run in self.runs]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def walk_above(self) -> Iterator[Window]:
        """Yield all entries above the runs on file. The caller holds locks.state."""
        yield from merge_windows([m.index.walk() for m in self.memtables])

    # figures

    @property
    def memtables(self) -> tuple[MemTable, ...]:
        """Return the memtable, if there is one, and the frozen ones. The caller holds locks.state."""
        return (self.top.memtable, *self.frozen) if self.top.memtable is not None else self.frozen

    @property
    def count_above(self) -> int:
        """Return the number of entries above the runs on file. The caller holds locks.state."""
        return sum(m.index.count for m in self.memtables)

    @property
    def is_cold(self) -> bool:
        """Return whether a lookup may have to wait for the disk, about: read without a lock."""
        return any(not run.is_warm for run in self._runs)

    @property
    def nbytes(self) -> int:
        """Return the bytes of DRAM that the memtables take."""
        return sum(m.index.nbytes for m in self.memtables)

    def check(self) -> None:
        """Assert that the stack has what its layers have. The caller holds locks.state."""
        frozen, runs = self.frozen, self.runs
        self._gather()
        assert (frozen, runs) == (self.frozen, self.runs), "the index stack has not what its layers have"
        layers = list(self.top.down())
        on_file = next((i for i, layer in enumerate(layers) if layer.runs), len(layers))
        assert not any(layer.frozen for layer in layers[on_file + 1 :]), "a frozen memtable lies below a run on file"
        for cache in (self.cache, self.rows):
            if cache is not None:
                cache.check()


def merge_windows(sources: list[Iterator[Window]]) -> Iterator[Window]:
    """Merge walks, newest source first, into one. Each window reaches as far as the shortest of the sources' present
    windows; entries of one slot hash are in the order of the sources."""
    if len(sources) == 1:
        yield from (window for window in sources[0] if window[0].size)
        return
    heads = [next(source, None) for source in sources]  # what is left of each source's present window; None at its end
    while any(head is not None for head in heads):
        heads = [skip_empty(head, source) for head, source in zip(heads, sources)]
        present = [head for head in heads if head is not None]
        if not present:
            return
        last = min(head[0][-1] for head in present)
        taken: list[Window] = []
        for i, head in enumerate(heads):
            if head is not None:
                cut = int(np.searchsorted(head[0], last, "right"))
                taken.append(tuple(column[:cut] for column in head))
                heads[i] = tuple(column[cut:] for column in head)
        slot_hashes, keys64, locations = (np.concatenate(columns) for columns in zip(*taken))
        order = np.argsort(slot_hashes, kind="stable")
        yield slot_hashes[order], keys64[order], locations[order]


def skip_empty(head: Window | None, source: Iterator[Window]) -> Window | None:
    """Return the next window that is not empty, `head` or one of the source; None at its end."""
    while head is not None and not head[0].size:
        head = next(source, None)
    return head


def net_expiries(added: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the expiries that were added and those that went, sorted, without pairs that cancel out."""
    values, where = np.unique(np.concatenate([added, gone]), return_inverse=True)
    counts = np.zeros(values.size, np.int64)
    np.add.at(counts, where[: added.size], 1)
    np.add.at(counts, where[added.size :], -1)
    return np.repeat(values, np.maximum(counts, 0)), np.repeat(values, np.maximum(-counts, 0))
