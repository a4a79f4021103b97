"""Checkpoints: write frozen memtables as runs on file, so that a restart replays only the log after them.

A checkpoint freezes the memtables of every layer at one place of the log, waits until the log is durable up to there,
writes all frozen memtables as one file, and commits the manifest that is complete up to that place. A crash before the
commit leaves a file that the next opening removes; after the commit, replay starts at the new place.

A checkpoint is a generator: it yields where other work may go first, and never holds locks.state across a yield. It
runs in one thread, while users write and read in others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ..catalog.key_directory import Key
from ..errors import CorruptionError
from ..index.live_count import CountBatch, LiveCounter
from ..index.lookup_batch import KeyBatch, lives
from ..index.memtable import MemTable
from ..index.run import Run, RunInfo
from ..index.run_files import RunFileWriter
from ..index.run_writer import write_run
from ..kernels.location import DELETE
from ..kernels.records import key_bounds
from ..runtime.scheduling import yield_gil
from ..versions.index_stack import RunSet, merge_windows, net_expiries
from ..versions.layer import Layer, LayerTree
from ..versions.manifest import Manifest
from .committed import CommittedState, Steps
from .memory_merge import UNVERIFIED, group_small, has_readable_keys, insert_all

KEYS_AT_ONCE = 2048  # keys read from records in one call: a longer list would hold the GIL


@dataclass(frozen=True)
class FrozenLayer:
    """Holds the frozen memtables of one layer that a checkpoint has to write, newest first, and what lay below them
    when they were frozen: `lower`, the frozen memtables of older layers, and `below`, the runs on file."""

    tree: LayerTree
    layer: int
    memtables: tuple[MemTable, ...]
    lower: tuple[MemTable, ...]
    below: tuple[Run, ...]

    @classmethod
    def of(cls, layer: Layer) -> FrozenLayer:
        """Capture a layer, and hold its memtables until the checkpoint releases them. The caller holds locks.state."""
        older = list(layer.down())[1:]
        for memtable in layer.frozen:
            memtable.held = True
        return cls(
            layer.tree, layer.id, layer.frozen,
            tuple(memtable for one in older for memtable in one.frozen),
            tuple(run for one in (layer, *older) for run in one.runs),
        )  # fmt: skip


@dataclass
class FrozenState:
    """Holds the state of a store at one place of the log: the manifest without the frozen memtables, and these."""

    manifest: Manifest
    trees: dict[str, LayerTree]  # of this moment: there are others once memory was rebuilt
    layers: list[FrozenLayer]
    dead_keys: list[Key]  # in the ordered directory, found dead by lookups
    main_only: set[str]  # keyspaces of which no view but main holds anything
    appended: tuple[int, int, int]  # frames, records and bytes that the log had appended
    pinned: set[int]  # segments with chunks that no record lists yet


class Checkpointer:
    """Takes the checkpoints of one store. freeze: freezes the memtables, and returns the state at that LSN."""

    def __init__(self, state: CommittedState, freeze: Callable[[], FrozenState]) -> None:
        self._state, self._freeze, self._log = state, freeze, state.log
        self.count = 0  # checkpoints committed
        self.committed_at = 0  # unix ms of the last one

    def checkpoint(self) -> Steps:
        """Take a checkpoint: a restart replays the log from here on."""
        _lease = self._log.lease
        frozen = self._freeze()
        try:
            yield from self._checkpoint(frozen)
        finally:
            for layer in frozen.layers:
                for memtable in layer.memtables:
                    memtable.release(self._log.locks.state)
        yield_gil()
        self._state.try_to_remove_unneeded_files()

    def _checkpoint(self, frozen: FrozenState) -> Steps:
        """Write and commit what was frozen."""
        manifest = frozen.manifest
        self._log.flush(manifest.end.lsn)
        yield
        runs = (yield from self._write(frozen)) if frozen.layers else []
        for layer, run in zip(frozen.layers, runs):
            if run is not None:
                manifest = manifest.with_run(layer.tree.name, layer.layer, run)
        self._commit(frozen, manifest)
        yield_gil()
        self._state.adopt(lambda: self._adopt(frozen, runs), frozen.trees)
        with self._log.locks.state:
            self._log.chunk_pins.committed(frozen.pinned)
        self._state.may_clean = True
        self._state.complete_to = frozen.appended
        self.count += 1
        self.committed_at = self._log.now()

    def _commit(self, frozen: FrozenState, manifest: Manifest) -> None:
        """Commit the manifest, with the keys that enter and leave the ordered directory."""
        # a failed commit that took effect may have taken any key out of the directory: then enter all keys again
        new = self._new_keys(frozen, is_sure=not self._state.uncertain_files)
        self._state.commit(manifest, new, chain(self._deleted_keys(frozen), frozen.dead_keys))

    def _adopt(self, frozen: FrozenState, runs: list[Run | None]) -> None:
        """Put the runs in place of the memtables they were written from."""
        self._log.locks.state.assert_held()
        for written, run in zip(frozen.layers, runs):
            layer = self._state.is_present(written.tree) and written.tree.with_frozen(written.memtables)
            if layer:  # else it was dropped, cleared, or rebuilt
                layer.adopt(written.memtables, run)
            for memtable in written.memtables:
                memtable.dead = True
        for tree in {id(written.tree): written.tree for written in frozen.layers}.values():
            tree.invalidate_stacks()

    # writing runs

    def _write(self, frozen: FrozenState) -> Generator[None, None, list[Run | None]]:
        """Write all frozen memtables as one file. Return a run for each layer, None if nothing of it is left."""
        infos: list[RunInfo] = []
        last = frozen.manifest.end.lsn
        with self._state.new_file(last) as out:
            for layer in frozen.layers:
                infos.append((yield from self._write_layer(out, layer, last)))
            yield
        return [self._state.open_new_run(info) for info in infos]

    def _write_layer(self, out: RunFileWriter, layer: FrozenLayer, last: int) -> Generator[None, None, RunInfo]:
        """Write the frozen memtables of one layer as one run. last: the LSN up to which it is complete."""
        merged: list[MemTable] = []
        try:
            sources = yield from self._count_and_merge(layer, merged)
            counters = [memtable.counter for memtable in layer.memtables]
            is_known = not any(counter.is_unknown for counter in counters)
            added, gone = net_expiries(
                np.concatenate([counter.expiries.values() for counter in counters]),
                np.concatenate([counter.gone.values() for counter in counters]),
            )
            return (
                yield from write_run(
                    out,
                    [memtable.index for memtable in sources],
                    pool_data=self._log.data,
                    width=layer.tree.width,
                    seed=np.uint64(layer.tree.seed),
                    segments=self._state.segments,
                    bottom=not (layer.lower or layer.below),
                    live=sum(one.index.live - one.counter.covered for one in layer.memtables) if is_known else None,
                    added=added,
                    gone=gone,
                    first=layer.memtables[-1].first,
                    last=last,
                )
            )
        finally:
            for memtable in merged:
                memtable.dead = True
                memtable.release(self._log.locks.state)

    def _count_and_merge(self, layer: FrozenLayer, merged: list[MemTable]) -> Generator[None, None, list[MemTable]]:
        """Count what is new in each memtable, from the oldest on, and merge many small neighbours.

        Return what to write, newest first: the memtables, or merged ones in their place, which are added to `merged`
        for the caller to free."""
        tree, lock = layer.tree, self._log.locks.state
        sources: list[MemTable] = []
        for group in reversed((yield from self._groups(layer))):
            if len(group) > 1:
                count = sum(memtable.index.count for memtable in group)
                merged.append(MemTable(tree.dram.arena, tree.seed, count, lock))
                sources.insert(0, merged[-1])
            for memtable in reversed(group):
                below = RunSet((*sources, *layer.lower), layer.below, np.uint64(tree.seed))
                while batch := memtable.counter.next_batch():
                    self._count(memtable.counter, batch, below)
                    yield
                if len(group) > 1:
                    self._state.let_others_run()
                    insert_all(tree, memtable, sources[0], self._log.data, lock=lock)
            if len(group) == 1:
                sources.insert(0, group[0])
            yield
        return sources

    def _groups(self, layer: FrozenLayer) -> Generator[None, None, list[list[MemTable]]]:
        """Return the memtables in groups, newest first; the memtables of a group are merged."""
        groups: list[list[MemTable]] = []
        for group in group_small(layer.memtables):
            is_readable = True
            for memtable in group if layer.tree.keyed and len(group) > 1 else ():
                is_readable &= has_readable_keys(memtable, self._log.data, self._log.pool.hash_words)
                yield
            groups += [group] if is_readable else [[memtable] for memtable in group]
        return groups

    def _count(self, counter: LiveCounter, batch: CountBatch, below: RunSet) -> None:
        """Look up a batch of uncounted keys below their memtable. Damage there makes this count unknown, but does not
        fail the checkpoint, which other collections need."""
        try:
            covered = below.count_batch(batch, self._state.let_others_run)
        except CorruptionError:
            with self._log.locks.state:
                counter.give_up(batch)
            return
        with self._log.locks.state:
            counter.apply(batch, covered)

    # the ordered directory of keys

    def _new_keys(self, frozen: FrozenState, is_sure: bool) -> Iterator[Key]:
        """Yield the keys that the memtables put. is_sure: the directory holds all keys that live in the runs below,
        so these are left out."""
        for layer in frozen.layers:
            if layer.tree.keyed:
                below = RunSet((), layer.below if is_sure else (), np.uint64(layer.tree.seed))
                yield from self._keys_of(layer.tree, layer.memtables, below)

    def _deleted_keys(self, frozen: FrozenState) -> Iterator[Key]:
        """Yield the keys that the memtables deleted, of keyspaces that only `main` holds anything of. All layers of a
        keyspace are read together, as a layer may put again what one below it deleted."""
        for name in frozen.main_only:
            layers = sorted((one for one in frozen.layers if one.tree.name == name), key=lambda one: -one.layer)
            if layers:
                memtables = tuple(memtable for one in layers for memtable in one.memtables)
                yield from self._keys_of(layers[0].tree, memtables, None)

    def _keys_of(self, tree: LayerTree, memtables: tuple[MemTable, ...], below: RunSet | None) -> Iterator[Key]:
        """Yield the changed keys of some memtables, newest first: see `changed_keys`."""
        for _, hashes, locations in merge_windows([memtable.index.walk() for memtable in memtables]):
            if below is None:
                hashes, locations = only_deleted(hashes, locations)
            yield from changed_keys(self._log.data, tree.number, hashes, locations, below)


def only_deleted(hashes: np.ndarray, locations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries whose hash also has a delete: mostly none, and reading each key would take long."""
    deleted = hashes[(locations & DELETE) != 0]
    which = np.flatnonzero(np.isin(hashes, deleted)) if deleted.size else deleted.astype(np.int64)
    return hashes[which], locations[which]


def changed_keys(
    data: np.ndarray, keyspace: int, hashes: np.ndarray, locations: np.ndarray, below: RunSet | None
) -> Iterator[Key]:
    """Yield the keys whose newest record is a put and which do not live in `below`; with `below` None, those whose
    newest record is a delete. Entries of one hash are adjacent, newest first."""
    seen: set[bytes] = set()
    last = None
    for first in range(0, hashes.size, KEYS_AT_ONCE):
        some = slice(first, first + KEYS_AT_ONCE)
        for key_hash, key, is_delete in records_absent_from(data, hashes[some], locations[some], below):
            if key_hash != last:
                last = key_hash
                seen.clear()
            if key not in seen:
                seen.add(key)
                if is_delete == (below is None):
                    yield keyspace, key, key_hash


def records_absent_from(
    data: np.ndarray, hashes: np.ndarray, locations: np.ndarray, below: RunSet | None
) -> Iterator[tuple[int, bytes, bool]]:
    """Yield hash, key and whether it is a delete, of the records whose keys do not live in `below`."""
    bounds = np.empty((hashes.size, 2), np.int64)
    key_bounds(data, locations, bounds)
    if below is not None and below.runs:  # a lookup costs a tenth of an entry in the directory
        with contextlib.suppress(CorruptionError):  # then all keys enter the directory
            which = ~lives(below.find(KeyBatch(hashes, data, bounds, data, UNVERIFIED, False)))
            hashes, bounds, locations = hashes[which], bounds[which], locations[which]
    for key_hash, (start, stop), is_delete in zip(
        hashes.tolist(), bounds.tolist(), ((locations & DELETE) != 0).tolist()
    ):
        yield key_hash, data[start:stop].tobytes(), is_delete
