"""Checkpoints and folds: what moves a layer's runs from DRAM to files, and keeps them few.

A checkpoint rotates every layer at one place of the log, y, waits until y is durable, writes what was closed as one new
file, and commits to the catalog: complete up to y. A fold writes one run in place of consecutive ones of one layer and
commits that. The catalog's commit is the only switch; a crash before it leaves files that nobody needs, which the next
opening removes, one behind it leaves the log to be replayed from the new y.

Both are generators: they yield where something else may go first, and never hold the store's lock across a yield. All
of it runs in one thread; users write and read beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain as joined

import numpy as np

from ..catalog.key_directory import Key
from ..catalog.lmdb_catalog import Catalog
from ..errors import ClosedError, CorruptionError, FullError, PmkvError
from ..index.live_count import CountBatch, LiveCounter
from ..index.lookup_batch import KeyBatch, lives
from ..index.memtable import MemTable
from ..index.run import Run, RunInfo
from ..index.run_files import RunFiles, RunFileWriter
from ..index.run_writer import write_run
from ..kernels.location import DELETE
from ..kernels.records import key_bounds
from ..log.log import Log
from ..runtime.scheduling import no_yield, yield_cpu, yield_gil
from ..versions.index_stack import RunSet, merged, netted
from ..versions.layer import Layer, LayerTree, live_of
from ..versions.manifest import Manifest, ViewRecord, from_records, name_of
from .compaction_policy import CompactionPlan, SkipRunPlan, compactions_of, skip_run_of, together
from .joining import NOBODY, can_be_read, enter, neighbours

NAMED = 2048  # keys read at a time: a long list would hold the interpreter
Steps = Generator[None, None, None]


@dataclass(frozen=True)
class FrozenLayer:
    """The closed runs of one layer that a checkpoint has to write, newest first, and what was below them then: closed
    runs of older layers, and runs on file."""

    tree: LayerTree
    layer: int
    runs: tuple[MemTable, ...]
    lower: tuple[MemTable, ...]
    below: tuple[Run, ...]

    @classmethod
    def of(cls, layer: Layer) -> FrozenLayer:
        """And held, until the checkpoint is through. Under the lock."""
        below = list(layer.down())[1:]
        for mutable in layer.closed:
            mutable.held = True
        return cls(
            layer.tree, layer.id, layer.closed,
            tuple(mutable for one in below for mutable in one.closed),
            tuple(run for one in (layer, *below) for run in one.runs),
        )  # fmt: skip


@dataclass
class FrozenState:
    """Everything as of one place of the log: its state but for what was closed, and that."""

    state: Manifest
    closed: list[FrozenLayer]
    dead: list[Key]  # keys in the ordered directory that were looked up, and dead then
    lonely: set[str]  # parts of which no other view than main holds anything
    appended: tuple[int, int, int]  # what the log had appended then


class Checkpointer:
    """Of one store. `committed`: what the catalog says. rotate: closes the open runs; trees: all there are now."""

    def __init__(
        self,
        log: Log,
        catalog: Catalog,
        shelf: RunFiles,
        rotate: Callable[[], FrozenState],
        trees: Callable[[], dict[str, LayerTree]],
    ) -> None:
        self._log, self._catalog, self._shelf, self._rotate, self._trees = log, catalog, shelf, rotate, trees
        self._segments = (log.pool.start(0), log.pool.segment_size)
        self._unsure: set[str] = set()  # files of commits that failed: they may be needed after a restart
        self.folding = False  # a fold has a file that no state names yet
        self._folded: Manifest | None = None  # the state in which nothing was left to be folded while nobody wrote
        self._broken: set[str] = set()  # runs that a fold could not read
        self._number = 0
        self._maps: dict[str, np.ndarray] = {}
        self.committed = self._load()
        self.complete_to = 0, 0, 0  # of what the log appended: frames, records, bytes
        self.checkpoints = self.folds = 0
        self.checkpointed_at = 0  # unix ms
        self.written = 0  # bytes of runs
        self.pause: Callable[[], None] = no_yield  # called within steps, and may raise to give up
        self.error: str | None = None  # why the last checkpoint or fold failed; None if it did not

    # opening

    def _load(self) -> Manifest | None:
        records = self._catalog.load()
        return from_records(records, self.open_run) if records is not None else None

    def open_run(self, info: RunInfo) -> Run:
        """Map a run. CorruptionError: its file is gone or damaged."""
        if info.file not in self._maps:
            try:
                self._maps[info.file] = self._shelf.open(info.file)
            except FileNotFoundError as error:
                raise CorruptionError(
                    f"the catalog names {info.file} among the runs, and there is no such file: restore it, or move "
                    "`catalog` and `runs` away: the log holds everything, and is replayed from its beginning then"
                ) from error
        return Run(info, self._maps[info.file], name_of(info))

    def tidy(self) -> None:
        """Remove files that no state needs. A readonly store has mapped what it reads, and keeps that."""
        if self.folding:
            return  # its end does
        needed = (self.committed.files if self.committed else set()) | self._unsure
        for name in self._shelf.names():
            if name not in needed:
                self._shelf.remove(name)
        self._maps = {name: data for name, data in self._maps.items() if name in needed}

    def warm(self) -> Steps:
        """Read what the catalog names once, so that probes need not wait for the disk."""
        damaged = None
        for _, run in list(self.committed.runs if self.committed else ()):
            try:
                yield from run.warm()
            except CorruptionError as error:  # the others are read nevertheless
                damaged = error
        if damaged is not None:
            raise damaged

    @property
    def nbytes(self) -> int:
        """Bytes of the files that are needed."""
        return sum(data.size for data in list(self._maps.values()))

    def close(self) -> None:
        self._catalog.close()
        self._maps = {}

    # a checkpoint

    def checkpoint(self) -> Steps:
        """Take one: the log is replayed from here on."""
        rotation = self._rotate()
        try:
            yield from self._checkpoint(rotation)
        finally:
            for closed in rotation.closed:
                for mutable in closed.runs:
                    mutable.release(self._log.locks.state)
        yield_gil()
        self._try_to_tidy()

    def _try_to_tidy(self) -> None:
        """What was committed is: files that could not be removed are the next one's."""
        with contextlib.suppress(PmkvError, OSError):
            self.tidy()

    def _checkpoint(self, rotation: FrozenState) -> Steps:
        state = rotation.state
        self._log.flush(state.end.lsn)
        yield
        written = (yield from self._write(rotation)) if rotation.closed else []
        for closed, run in zip(rotation.closed, written):
            if run is not None:
                state = with_run(state, closed, run)
        dead = joined(self._dead_names(rotation), rotation.dead)
        # after a commit that failed and may have taken effect, who knows which keys left the directory
        is_sure = not self._unsure
        self._commit(state, self._new_names(rotation, is_sure), dead)
        yield_gil()
        with self._log.locks.state:
            self._adopt(rotation, written)
        self.complete_to = rotation.appended
        self.checkpoints += 1
        self.checkpointed_at = self._log.now()

    def _adopt(self, rotation: FrozenState, written: list[Run | None]) -> None:
        """What was closed is on file now. Under the lock."""
        for closed, run in zip(rotation.closed, written):
            layer = self._present(closed.tree) and closed.tree.with_closed(closed.runs)
            if layer:  # else it was dropped, cleared, or went back
                layer.adopt(closed.runs, run)
            for mutable in closed.runs:
                mutable.dead = True
        for tree in {id(closed.tree): closed.tree for closed in rotation.closed}.values():
            tree.changed()

    def _present(self, tree: LayerTree) -> bool:
        return self._trees().get(tree.name) is tree

    def _write(self, rotation: FrozenState) -> Generator[None, None, list[Run | None]]:
        """Everything that was closed, as one file."""
        infos: list[RunInfo] = []
        last = rotation.state.end.lsn
        with self._new_file(last) as out:
            for closed in rotation.closed:
                infos.append((yield from self._write_closed(out, closed, last)))
            yield
        return [self._written(info) if info.count else None for info in infos]

    def _written(self, info: RunInfo) -> Run:
        """A run that was just written: the system holds its pages."""
        run = self.open_run(info)
        run.is_warm = True
        return run

    @contextlib.contextmanager
    def _new_file(self, lsn: int) -> Iterator[RunFileWriter]:
        """A file of runs, synced at the end, gone if something fails before. Its name is that of no other: a fold
        covers the same LSNs as a checkpoint, perhaps one of an earlier process, whose file holds other parts' runs
        too."""
        there, name = set(self._shelf.names()), ""
        while not name or name in there:
            self._number += 1
            name = f"{lsn:016x}-{self._number}.runs"
        out = self._shelf.create(name)
        try:
            yield out
            out.sync()
            self.written += out.size
        except BaseException:
            out.close()
            self._shelf.remove(name)
            raise
        out.close()

    def _write_closed(self, out: RunFileWriter, closed: FrozenLayer, last: int) -> Generator[None, None, RunInfo]:
        """The closed runs of one layer as one run."""
        runs = closed.runs
        made: list[MemTable] = []
        try:
            sources = yield from self._counted(closed, made)
            tallies = [mutable.tally for mutable in runs]
            is_known = not any(tally.is_unknown for tally in tallies)
            added, gone = netted(
                np.array([expiry for tally in tallies for expiry in tally.expiries], np.int64),
                np.array([expiry for tally in tallies for expiry in tally.gone], np.int64),
            )
            return (
                yield from write_run(
                    out,
                    [mutable.index for mutable in sources],
                    pool_data=self._log.data,
                    width=closed.tree.width,
                    seed=np.uint64(closed.tree.seed),
                    segments=self._segments,
                    bottom=not (closed.lower or closed.below),
                    live=sum(mutable.index.live - mutable.tally.covered for mutable in runs) if is_known else None,
                    added=added,
                    gone=gone,
                    first=runs[-1].first,
                    last=last,
                )
            )
        finally:
            for mutable in made:
                mutable.dead = True
                mutable.release(self._log.locks.state)

    def _counted(self, closed: FrozenLayer, made: list[MemTable]) -> Generator[None, None, list[MemTable]]:
        """Settle all tallies, from the oldest run on. Returns what the runs say together, newest first: the runs, or in
        place of many small neighbours one that is made of them, and noted in `made`."""
        tree, lock = closed.tree, self._log.locks.state
        sources: list[MemTable] = []
        for group in reversed((yield from self._groups(closed))):
            if len(group) > 1:
                count = sum(mutable.index.count for mutable in group)
                made.append(MemTable(tree.dram.heap, tree.seed, count, lock))
                sources.insert(0, made[-1])
            for mutable in reversed(group):
                below = RunSet((*sources, *closed.lower), closed.below, np.uint64(tree.seed))
                while portion := mutable.tally.portion():
                    self._count(mutable.tally, portion, below)
                    yield
                if len(group) > 1:
                    self._between()
                    enter(tree, mutable, sources[0], self._log.data, lock)
            if len(group) == 1:
                sources.insert(0, group[0])
            yield
        return sources

    def _groups(self, closed: FrozenLayer) -> Generator[None, None, list[list[MemTable]]]:
        """Of runs that are joined."""
        groups: list[list[MemTable]] = []
        for group in neighbours(closed.runs):
            is_whole = True
            for mutable in group if closed.tree.keyed and len(group) > 1 else ():
                is_whole &= can_be_read(mutable, self._log.data, self._log.pool.hash_words)
                yield
            groups += [group] if is_whole else [[mutable] for mutable in group]
        return groups

    def _count(self, tally: LiveCounter, portion: CountBatch, below: RunSet) -> None:
        """Damage concerns who reads there, and the count; the checkpoint is everybody's."""
        try:
            covered = below.count_noted(portion, self._between)
        except CorruptionError:
            with self._log.locks.state:
                tally.give_up(portion)
            return
        with self._log.locks.state:
            tally.settle(portion, covered)

    def _between(self) -> None:
        """Two pieces of a step: others go first, and the store may be closing."""
        yield_cpu()
        self.pause()

    def _new_names(self, rotation: FrozenState, is_sure: bool) -> Iterator[Key]:
        """Keys that the closed runs put and, if the directory is sure to have those, that do not live below."""
        for closed in rotation.closed:
            if closed.tree.keyed:
                below = RunSet((), closed.below if is_sure else (), np.uint64(closed.tree.seed))
                yield from self._named(closed.tree, closed.runs, below)

    def _dead_names(self, rotation: FrozenState) -> Iterator[Key]:
        """Keys that the closed runs deleted, of keyspaces that only `main` holds anything of: of all its layers at
        once, as what one deleted, one above it may have put again."""
        for name in rotation.lonely:
            layers = sorted((one for one in rotation.closed if one.tree.name == name), key=lambda one: -one.layer)
            if layers:
                yield from self._named(layers[0].tree, tuple(run for one in layers for run in one.runs), None)

    def _named(self, tree: LayerTree, mutables: tuple[MemTable, ...], below: RunSet | None) -> Iterator[Key]:
        for _, words, locations in merged([mutable.index.walk() for mutable in mutables]):
            if below is None:
                words, locations = with_deletes(words, locations)
            yield from named(self._log.data, tree.number, words, locations, below)

    def _commit(self, state: Manifest, new: Iterable[Key] = (), dead: Iterable[Key] = ()) -> None:
        before = self._unsure
        self._unsure = before | state.files
        try:
            self._catalog.commit(state.as_records(), new, dead, self.pause)
        except (FullError, ClosedError):  # nothing was switched: its file is not needed
            self._unsure = before
            self._try_to_tidy()
            raise
        self.committed, self._unsure, self.error = state, set(), None

    # a fold

    def fold(self) -> Steps:
        """Fold until every chain has few runs. Nothing if that is under way already: it looks again at its end. Nor
        between a commit that failed and the next checkpoint: half of it, keys that left the directory, would be made
        current with the state before it."""
        while not (self.folding or self._unsure):
            state, at_rest = self.committed, self._log.is_idle
            chosen = self._choose(at_rest)
            if not chosen:
                self._folded = state if at_rest else self._folded
                return
            self.folding = True
            try:
                yield from self._fold(chosen)
            finally:
                self.folding = False
            self._try_to_tidy()

    @property
    def may_fold_at_rest(self) -> bool:
        """Was anything committed since folds were last looked for while nobody wrote?"""
        return self._folded is not self.committed

    def _choose(self, at_rest: bool) -> list[CompactionPlan | SkipRunPlan]:
        """What is worth folding, the cheapest of it."""
        found: list[CompactionPlan | SkipRunPlan] = []
        state, trees = self.committed, self._trees()
        for name, part in state.parts.items() if state else ():
            if name in trees:
                tops = [view.parts.get(name) for view in heads_of(state)]
                found += compactions_of(trees[name], part, set(tops), at_rest)
                spans = [skip_run_of(trees[name], part, top) for top in tops]
                found += {span.top: span for span in spans if span is not None}.values()
        return together([one for one in found if not any(run.name in self._broken for run in one.inputs)])

    def _fold(self, folds: list[CompactionPlan | SkipRunPlan]) -> Steps:
        infos = []
        with self._new_file(max(fold.inputs[0].info.last for fold in folds)) as out:
            for fold in folds:
                try:
                    infos.append((yield from self._write_fold(out, fold)))
                except CorruptionError:  # others' are folded without it the next time
                    self._broken |= {run.name for run in fold.inputs}
                    raise
            yield
        state, done = self.committed, []
        assert state is not None
        for fold, info in zip(folds, infos):
            run = self._written(info) if info.count else None
            changed = fold.in_state(state, run)
            if changed is not None:  # else what it folded was dropped meanwhile
                state, done = changed, [*done, (fold, run)]
        if self._unsure:
            return  # a checkpoint beside this failed
        if done:
            self._commit(state)
        with self._log.locks.state:
            for fold, run in done:
                if self._present(fold.tree):
                    fold.in_tree(run)
        self.folds += len(done)

    def _write_fold(self, out: RunFileWriter, fold: CompactionPlan | SkipRunPlan) -> Generator[None, None, RunInfo]:
        inputs = fold.inputs
        added, gone = netted(*(np.concatenate([getattr(run, which) for run in inputs]) for which in ("added", "gone")))
        return (
            yield from write_run(
                out,
                list(inputs),
                pool_data=self._log.data,
                width=fold.tree.width,
                seed=np.uint64(fold.tree.seed),
                segments=self._segments,
                bottom=fold.bottom,
                live=live_of(inputs),
                added=added,
                gone=gone,
                first=inputs[-1].info.first,
                last=inputs[0].info.last,
            )
        )


def with_run(state: Manifest, closed: FrozenLayer, run: Run) -> Manifest:
    """With what was closed as a run of its layer."""
    part = state.parts[closed.tree.name]
    runs = next(layer.runs for layer in part.layers if layer.id == closed.layer)
    return state.with_part(closed.tree.name, part.with_runs(closed.layer, (run, *runs)))


def heads_of(state: Manifest) -> Iterator[ViewRecord]:
    """The views that are written to, and read most."""
    return (view for view in state.views.values() if view.kind in ("main", "branch"))


def with_deletes(words: np.ndarray, locations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What concerns words of which a delete is here: mostly nothing, and a look at each key takes long."""
    gone = words[(locations & DELETE) != 0]
    which = np.flatnonzero(np.isin(words, gone)) if gone.size else gone.astype(np.int64)
    return words[which], locations[which]


def named(
    data: np.ndarray, number: int, words: np.ndarray, locations: np.ndarray, below: RunSet | None
) -> Iterator[Key]:
    """The keys of records, newest first, that the newest puts and that do not live below; without `below`, those that
    it deletes."""
    seen: set[bytes] = set()
    last = None
    for first in range(0, words.size, NAMED):
        some = slice(first, first + NAMED)
        for word, key, dead in entries(data, words[some], locations[some], below):
            if word != last:  # those of one hash stand together
                last = word
                seen.clear()
            if key not in seen:
                seen.add(key)
                if dead == (below is None):
                    yield number, key, word


def entries(
    data: np.ndarray, words: np.ndarray, locations: np.ndarray, below: RunSet | None
) -> Iterator[tuple[int, bytes, bool]]:
    """Hash, key and whether it is a delete, of records whose keys do not live below."""
    bounds = np.empty((words.size, 2), np.int64)
    key_bounds(data, locations, bounds)
    if below is not None and below.runs:  # a look below costs a tenth of an entry in the directory
        with contextlib.suppress(CorruptionError):  # then all are entered
            which = ~lives(below.find(KeyBatch(words, data, bounds, data, NOBODY, False)))
            words, bounds, locations = words[which], bounds[which], locations[which]
    for word, (start, stop), dead in zip(words.tolist(), bounds.tolist(), ((locations & DELETE) != 0).tolist()):
        yield word, data[start:stop].tobytes(), dead
