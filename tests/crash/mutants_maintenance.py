"""Mutants of checkpoints, folds and what they leave: stacks, catalog, files of runs. `mutants` says what one is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from pmkv.cache.pinned_rows import PinnedRows
from pmkv.cache.row_cache import RowCache
from pmkv.catalog.checked_records import ROOT, CheckedRecords, Root, Sums
from pmkv.engine.keyspace_scan import KeyspaceScan
from pmkv.index.live_count import CountBatch, CountResult, LiveCounter
from pmkv.index.location_cache import LocationCache
from pmkv.index.lookup_batch import LookupBatch
from pmkv.index.memtable import MemTable
from pmkv.index.run import Run, RunInfo
from pmkv.kernels.location import DELETE
from pmkv.log.format import Frame
from pmkv.log.replay import LogEnd, Replay
from pmkv.maintenance import checkpoint as checkpoint_module
from pmkv.maintenance import compaction as compaction_module
from pmkv.maintenance import memory_merge
from pmkv.maintenance.checkpoint import Checkpointer, FrozenState
from pmkv.maintenance.committed import CommittedState, Steps
from pmkv.versions.index_stack import IndexStack, RunSet
from pmkv.versions.layer import Layer, LayerTree
from pmkv.versions.manifest import CollectionRecord, Manifest
from tests.crash.files import SimulatedAppender, SimulatedCatalog
from tests.crash.mutants import MUTANTS, Patch, mutant

init, remove, commit_state = CommittedState.__init__, CommittedState.remove_unneeded_files, CommittedState.commit
checkpoint, commit = Checkpointer.checkpoint, Checkpointer._commit
write_run, freeze, adopt = checkpoint_module.write_run, Layer.freeze, Layer.adopt
group_small, batch_at = memory_merge.group_small, memory_merge.batch_at
others = set(MUTANTS)


# --- what is durable before what


class Hasty:
    """A log that does not wait for its flushes."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def flush(self, lsn: int) -> None:
        pass


@mutant("a checkpoint is committed before the log is durable up to it")
def _() -> list[Patch]:
    return [(CommittedState, "__init__", lambda self, log, *rest: init(self, Hasty(log), *rest))]


@mutant("a file of runs is committed before it is synced")
def _() -> list[Patch]:
    return [(SimulatedAppender, "sync", lambda self: None)]


@mutant("a checkpoint commits the end of the log as it is now, not as it was")
def _() -> list[Patch]:
    def late(self: Checkpointer, frozen: FrozenState, manifest: Manifest) -> None:
        with self._log.locks.state:
            manifest = replace(manifest, end=self._log.end_position())
        commit(self, frozen, manifest)

    return [(Checkpointer, "_commit", late)]


@mutant("a checkpoint commits the runs as they are now, not as they were")
def _() -> list[Patch]:
    def present(self: CommittedState, manifest: Manifest, *names: Any) -> None:
        for name in manifest.collections.keys() & self.trees().keys():
            manifest = manifest.with_collection(name, as_now(manifest.collections[name], self.trees()[name]))
        commit_state(self, manifest, *names)

    def as_now(collection: CollectionRecord, tree: LayerTree) -> CollectionRecord:
        for kept in collection.layers:
            layer = tree.layers.get(kept.id)
            if layer is not None and len(layer.runs) >= len(kept.runs):
                collection = collection.with_runs(kept.id, layer.runs)
        return collection

    return [(CommittedState, "commit", present)]


@mutant("replay goes on behind the first frame that a checkpoint does not hold")
def _() -> list[Patch]:
    iterate = Replay.__iter__

    def late(self: Replay) -> Iterator[Frame]:
        frames = iterate(self)
        if self._start is not None:
            next(frames, None)
        yield from frames

    return [(Replay, "__iter__", late)]


@mutant("files that the present state needs are removed before the next is committed")
def _() -> list[Patch]:
    def early(self: CommittedState, manifest: Manifest, *names: Any) -> None:
        for name in self.run_files.names():
            if name not in manifest.files:
                self.run_files.remove(name)
        commit_state(self, manifest, *names)

    return [(CommittedState, "commit", early)]


@mutant("files of a commit that failed are removed")
def _() -> list[Patch]:
    def sure(self: Checkpointer) -> Steps:
        try:
            yield from checkpoint(self)
        except BaseException:
            self._state.uncertain_files = set()
            self._state.remove_unneeded_files()
            raise

    return [(Checkpointer, "checkpoint", sure)]


@mutant("a checkpoint beside a fold removes its file")
def _() -> list[Patch]:
    def thorough(self: CommittedState) -> None:
        self.is_compacting, before = False, self.is_compacting
        remove(self)
        self.is_compacting = before

    return [(CommittedState, "remove_unneeded_files", thorough)]


# --- stacks


@mutant("what was written after the rotation goes with what was closed")
def _() -> list[Patch]:
    def forgetful(self: Layer, closed: tuple[MemTable, ...], run: Run | None) -> None:
        adopt(self, closed, run)
        self.memtable = None

    return [(Layer, "adopt", forgetful)]


@mutant("closed runs are lost when a checkpoint fails")
def _() -> list[Patch]:
    def forgetful(self: Layer) -> None:
        self.frozen = ()
        freeze(self)

    return [(Layer, "freeze", forgetful)]


@mutant("the deletes among what was closed are dropped above older runs")
def _() -> list[Patch]:
    return [(checkpoint_module, "write_run", lambda *a, **how: write_run(*a, **how | {"bottom": True}))]


@mutant("a fold drops deletes that is not at the bottom")
def _() -> list[Patch]:
    return [(compaction_module, "write_run", lambda *a, **how: write_run(*a, **how | {"bottom": True}))]


@mutant("what is older wins in a fold")
def _() -> list[Patch]:
    def backwards(out: Any, sources: Any, **how: Any) -> Any:
        return write_run(out, sources[::-1], **how)

    return [(checkpoint_module, "write_run", backwards), (compaction_module, "write_run", backwards)]


@mutant("of closed runs that are joined the older one wins")
def _() -> list[Patch]:
    return [(checkpoint_module, "group_small", lambda memtables: [group[::-1] for group in group_small(memtables)])]


@mutant("closed runs that are joined lose their deletes")
def _() -> list[Patch]:
    def lost(tree: LayerTree, words: Any, locations: Any, *rest: Any) -> Any:
        locations &= ~DELETE
        return batch_at(tree, words, locations, *rest)

    return [(memory_merge, "batch_at", lost)]


@mutant("a checkpoint counts what closed runs below have, too, as new")
def _() -> list[Patch]:
    return [(checkpoint_module, "RunSet", lambda frozen, runs, seed: RunSet((), runs, seed))]


@mutant("what lies below a run is not looked at when it is counted")
def _() -> list[Patch]:
    def apply(self: LiveCounter, portion: CountBatch, _: CountResult) -> None:
        self._pop(portion)

    return [(LiveCounter, "apply", apply)]


@mutant("the oldest run is asked who lives, whatever newer ones deleted")
def _() -> list[Patch]:
    find_any_on_disk = RunSet.find_any_on_disk

    def backwards(self: RunSet, wanted: LookupBatch, found: np.ndarray) -> None:
        find_any_on_disk(self if wanted.keyed else RunSet(self.frozen, self.runs[::-1], self.seed), wanted, found)

    return [(RunSet, "find_any_on_disk", backwards)]


@mutant("what is counted is not looked for in runs at whose lowest or highest id it stands")
def _() -> list[Patch]:
    def narrow(self: RunInfo, low: int, high: int) -> bool:
        return self.ids is None or (self.ids[0] < high and low < self.ids[1])

    return [(RunInfo, "may_have", narrow)]


@mutant("expiries that a run hides are counted on")
def _() -> list[Patch]:
    count = LiveCounter.apply

    def apply(self: LiveCounter, *what: Any) -> None:
        count(self, *what)
        self.gone.clear()

    return [(LiveCounter, "apply", apply)]


@mutant("a word that is written stays hot")
def _() -> list[Patch]:
    return [(LocationCache, "forget", lambda self, words: None)]


@mutant("a word that was written since it was looked for becomes hot")
def _() -> list[Patch]:
    def learn(self: IndexStack, wanted: LookupBatch, found: np.ndarray, which: np.ndarray, runs: Any) -> None:
        if self.cache is not None:
            self.cache.admit(wanted.key64s[which], found[which])

    return [(IndexStack, "_admit_to_cache", learn)]


# --- the row cache


@mutant("a row that is written stays in the row cache")
def _() -> list[Patch]:
    return [(RowCache, "forget", lambda self, ids: None)]


@mutant("a row that is written stays pinned")
def _() -> list[Patch]:
    return [(PinnedRows, "forget", lambda self, ids: None)]


# --- the directory of keys


@mutant("keys do not enter the directory")
def _() -> list[Patch]:
    return [(SimulatedCatalog, "commit", committing(lambda new, dead: ([], dead)))]


@mutant("dead keys leave the directory without a second look, and last (either one alone does no harm)")
def _() -> list[Patch]:
    def take_dead(self: KeyspaceScan) -> list[tuple[int, bytes, int]]:
        some, self._dead = list(self._dead), {}
        return [
            (self._keyspace.number, key, word) for key, word in zip(some, self._keyspace._wanted(some).words.tolist())
        ]

    def last(new: list[Any], dead: list[Any]) -> tuple[list[Any], list[Any]]:
        return [key for key in new if key not in dead], dead

    return [(KeyspaceScan, "take_dead", take_dead), (SimulatedCatalog, "commit", committing(last))]


def committing(change: Any) -> Any:
    """A commit of other keys."""
    plain = SimulatedCatalog.commit

    def commit_them(self: SimulatedCatalog, state: Any, new: Any = (), dead: Any = (), *pause: Any) -> int:
        dead = list(dead)
        return plain(self, state, *change(list(new), dead), *pause)

    return commit_them


# --- what is derived must be whole, and of this log


@mutant("the pages of a run are not verified")
def _() -> list[Patch]:
    make = Run.__init__

    def trusting(self: Run, *how: Any) -> None:
        make(self, *how)
        self._verified[:] = 1

    return [(Run, "__init__", trusting)]


@mutant("a record of the catalog is not verified")
def _() -> list[Patch]:
    return [(CheckedRecords, "_opened", lambda self, name, record: orjson.loads(record[8:]))]


@mutant("the root of the catalog is not compared with its records")
def _() -> list[Patch]:
    def trusting(self: CheckedRecords, records: Any) -> tuple[dict[str, Any], Root]:
        state, sums = {}, Sums()
        for name, record in records:
            state[name] = self._opened(name, record)
            if name != ROOT:
                sums.enter(name, record)
        root = state.pop(ROOT, {"commit": 1, "entries": 0})
        return state, Root(root["commit"], root["entries"], sums)

    return [(CheckedRecords, "open", trusting)]


@mutant("a catalog is not compared with the log")
def _() -> list[Patch]:
    return [(LogEnd, "check", lambda self, pool: None)]


MAINTENANCE = set(MUTANTS) - others
