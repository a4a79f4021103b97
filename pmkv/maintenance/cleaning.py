"""Cleaning: move what lives in some segments to others, so that the space of what is dead comes back.

A pass counts what lives in each closed segment, chooses some, verifies their frames, and moves the records. Over the
runs of every layer that names them it puts a *relocation run* of the moved records, and marks the segments as emptied
in the runs below: entries there that point into them count for nothing from then on. Where that would leave too many
runs, or most of a layer moves, or values are lists of chunks, the runs of the layer are written anew instead, as one.
The commit of the manifest with these runs, and without the emptied segments, is the switch. Then the index stacks
exchange their runs, and the segments are freed once no reader is left.

A pass is a generator of steps, like a compaction: a checkpoint may go between its steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import CorruptionError, FullError
from ..index.run import Run, RunInfo
from ..index.run_files import RunFileWriter
from ..index.run_writer import Compaction
from ..kernels.location import CHECK_SHIFT, OFFSET_MASK
from ..kernels.probe import hash_keys
from ..kernels.records import key_bounds
from ..log.format import ALIGN, FRAME_HEADER, WORTH_SHARE, Kind, frame_size, unpack_frame
from ..log.replay import MovedEnd
from ..log.segments import Reserve, next_uses
from ..versions.layer import LayerTree
from ..versions.manifest import CollectionRecord, Manifest
from .cleaning_policy import MIN_WIN, Candidate, choose_victims
from .committed import CommittedState, Steps
from .compaction import write_output
from .compaction_policy import CompactionPlan
from .relocation import Relocation

VERIFIED_FRAMES = 16  # between two steps
FRAMING = 1.05  # bytes of the log for each byte moved: headers of frames
ID_BYTES = 8  # moved with each row
USUAL_FACTOR = 2  # records are hardly longer than so many mean ones, where a segment ends
MOST_RUNS = 16  # of a layer, with which it still gets a relocation run: reads probe each
MOST_MOVED = 0.5  # of a layer's live bytes: beyond that its runs are written anew


@dataclass(frozen=True)
class LiveLayer:
    """The runs of one layer, the live bytes that they refer to in each segment, and the LSN of the last write."""

    plan: CompactionPlan
    live: np.ndarray
    lsn: int

    def live_in(self, segments: np.ndarray) -> int:
        """Return the live bytes in these segments (bool for each)."""
        size = min(self.live.size, segments.size)  # the pool may have grown, and has a rest at its end
        return int(self.live[:size][segments[:size]].sum())


@dataclass(frozen=True)
class Rewritten:
    """Describes what stands in place of the inputs of a plan: a run, None if nothing is left, and below it `kept`."""

    plan: CompactionPlan
    run: Run | None
    kept: tuple[Run, ...] = ()


Done = list[Rewritten]


@dataclass
class CleaningTotals:
    """Counts what passes did since the store was opened: those that were committed, the records that they moved, and
    the segments that they freed."""

    passes: int = 0
    records: int = 0
    freed: int = 0


class Cleaner:
    """Runs the cleaning of one store."""

    def __init__(self, state: CommittedState) -> None:
        self._state = state
        self._known: dict[tuple[str, ...], np.ndarray] = {}  # live bytes by segment, of the runs with these names
        self._times: dict[tuple[int, int], int] = {}  # of segments in a generation: see `_filled_at`
        self.damaged: dict[int, str] = {}  # segments that cannot be emptied, and why
        self.totals = CleaningTotals()
        self._found_no_room = False  # the last pass was given up, as segments had less room than it seemed
        self.live: np.ndarray | None = None  # bytes that live in each segment, by the last count

    @property
    def manifest(self) -> Manifest | None:
        """Return the manifest that is current."""
        return self._state.manifest

    @property
    def awaits_checkpoint(self) -> bool:
        """Return whether no pass can begin before a first checkpoint of this process."""
        return not self._state.may_clean

    @property
    def is_possible(self) -> bool:
        """Return whether a pass may begin now."""
        state = self._state
        return state.may_clean and not (state.is_compacting or state.uncertain_files or state.manifest is None)

    def clean(self, wanted: int | None = None, min_win: float = MIN_WIN) -> Steps:
        """Run one pass. wanted: segments to gain, None for all that is worth it; min_win: the part of a segment that
        must be dead.

        Does nothing before the first checkpoint of this process, as only then do runs name every chunk that a replayed
        record lists; nor beside a compaction, nor after a commit that failed, until the next checkpoint."""
        state = self._state
        self.recycle()
        if not self.is_possible or state.manifest is None:
            return
        state.is_compacting = True
        try:
            yield from self._pass(state.manifest, wanted, min_win)
            self._found_no_room = False
        except FullError:
            self._found_no_room = True
            raise
        finally:
            state.is_compacting = False
            state.log.chunk_pins.emptying, state.log.pool.promised = frozenset(), 0
        state.try_to_remove_unneeded_files()
        self.recycle()

    def recycle(self) -> int:
        """Free retired segments that no reader needs any more; return how many."""
        pool = self._state.log.pool
        freed = sum(1 for _ in pool.recycle())
        if freed:
            pool.on_take()
        return freed

    # what lives where

    def _survey(self, manifest: Manifest) -> Generator[None, None, list[LiveLayer]]:
        """Return all layers with the live bytes that each has in each segment."""
        found: list[LiveLayer] = []
        trees, known = self._state.trees(), {}
        for name, collection in manifest.collections.items():
            for layer in collection.layers:
                if layer.runs and name in trees:
                    bottom = layer.below is None
                    plan = CompactionPlan(trees[name], layer.id, layer.runs, bottom)
                    key = (str(bottom), *(run.name for run in layer.runs))
                    live = self._known.get(key)
                    if live is None:
                        live = yield from self._compaction(plan).live_bytes()
                    known[key] = live
                    found.append(LiveLayer(plan, live, layer.last_write))
        self._known = known
        return found

    def _compaction(self, plan: CompactionPlan) -> Compaction:
        tree, state = plan.tree, self._state
        return Compaction(plan.inputs, state.log.data, tree.width, np.uint64(tree.seed), state.segments, plan.bottom)

    def _candidates(self, manifest: Manifest, layers: list[LiveLayer]) -> list[Candidate]:
        """Return all segments that may be emptied. The caller holds locks.append."""
        log = self._state.log
        live = np.zeros(log.pool.count, np.int64)
        for layer in layers:
            size = min(live.size, layer.live.size)  # the pool may have grown, and has a rest at its end
            live[:size] += layer.live[:size]
        self.live = live
        surveyed = {id(run) for layer in layers for run in layer.plan.inputs}
        surveyed |= {id(skip.run) for one in manifest.collections.values() for skip in one.skip_runs}
        kept = {index for index, _ in manifest.end.segments[-1:]}
        kept |= log.mover.open_segments | log.chunk_pins.pinned | self.damaged.keys()
        for _, run in manifest.runs:
            if id(run) not in surveyed:
                kept |= run.info.segments.keys()  # its table was dropped since: the next checkpoint forgets it
        moved = [index for index, *_ in manifest.end.moved.segments]
        order = sorted([*moved, *(index for index, _ in manifest.end.segments)], key=self._filled_at)
        return [
            Candidate(index, int(live[index]), len(order) - place)
            for place, index in enumerate(order)
            if index not in kept
        ]

    def _filled_at(self, index: int) -> int:
        """Return when the first frame of a segment was written, in unix ms: what lies in a segment of moved records is
        as old as its last move."""
        pool = self._state.log.pool
        key = index, pool.generations.get(index, 0)
        if key not in self._times:
            at = pool.start(index) + ALIGN
            self._times[key] = int(pool.medium.data[at : at + FRAME_HEADER.itemsize].view(FRAME_HEADER)["time"][0])
        return self._times[key]

    def _room(self, layers: list[LiveLayer]) -> int:
        """Return how many bytes may be moved, and promise the segments for them: the one that is kept back for this,
        and most of what is left to writers. At the end of each segment a rest is left over that is not worth a frame,
        or in which the next record has no place: after a pass that found too little room, as long as one may be.

        The caller holds locks.append."""
        log = self._state.log
        log.pool.promised = max(0, log.pool.free - Reserve.WRITE) * 3 // 4
        widths = [one.plan.tree.width for one in layers if one.plan.tree.width]
        longest = log.frame_limit if self._found_no_room else USUAL_FACTOR * self._mean_record(layers)
        waste = frame_size(min(log.frame_limit, log.frame_limit // WORTH_SHARE + max([longest, *widths])))
        room = (1 + log.pool.promised) * (log.pool.segment_size - waste) + max(0, log.mover.room - waste)
        return int(room / max([FRAMING, *(FRAMING * (ID_BYTES + width) / width for width in widths)]))

    def _mean_record(self, layers: list[LiveLayer]) -> int:
        """Return the mean length of a record in the keyspace where it is longest; 0 if there are tables alone."""
        means = [
            sum(sum(run.info.segments.values()) for run in one.plan.inputs)
            // max(1, sum(run.info.count for run in one.plan.inputs))
            for one in layers
            if one.plan.tree.keyed
        ]
        return max(means, default=0)

    # one pass

    def _pass(self, manifest: Manifest, wanted: int | None, min_win: float) -> Steps:
        log = self._state.log
        layers = yield from self._survey(manifest)
        with log.locks.append:
            candidates = self._candidates(manifest, layers)
            victims = choose_victims(candidates, log.pool.segment_size, self._room(layers), wanted, min_win)
            log.chunk_pins.emptying = frozenset(one.index for one in victims)
        if not victims:
            return
        yield
        whole = set()
        for one in victims:
            if not one.live or (yield from self._verify(one.index)):
                whole.add(one.index)
        if whole:
            yield from self._empty(whole, layers)

    def _verify(self, index: int) -> Generator[None, None, bool]:
        """Return whether every frame of a segment is whole. What is damaged is never copied, so that its checksum stays
        what it is."""
        log, pool = self._state.log, self._state.log.pool
        at, stop = pool.start(index) + ALIGN, pool.stop(index)
        end = log.mover.end_of(index) if index in pool.moved else stop
        for count in range(pool.segment_size):
            frame = unpack_frame(memoryview(pool.medium.data), at, stop, pool.seed(index)) if at < end else None
            if frame is None:
                break
            at = frame.end
            if frame.kind == Kind.NEXT or at == end:
                return True
            if count % VERIFIED_FRAMES == VERIFIED_FRAMES - 1:
                yield
        self.damaged[index] = (
            f"the frame at offset {at:,} of the pool is damaged, so that segment {index} cannot be emptied: restore a "
            "backup, or salvage what is whole"
        )
        return False

    def _empty(self, victims: set[int], layers: list[LiveLayer]) -> Steps:
        """Move what lives in these segments, write runs that say where, commit, and retire the segments."""
        state, log = self._state, self._state.log
        emptied, chunks = np.zeros(log.pool.count, bool), dict[int, int]()
        emptied[list(victims)] = True
        naming = [one for one in layers if any(names(run, victims) for run in one.plan.inputs)]
        done: Done = []
        if naming:
            infos, last = [], max(one.plan.inputs[0].info.last for one in naming)
            partly = [self._moves_part(one, emptied) for one in naming]
            with state.new_file(last) as out:
                for layer, is_part in zip(naming, partly):
                    try:
                        infos.append((yield from self._write(out, layer, emptied, chunks, is_part)))
                    except CorruptionError as error:
                        self.damaged |= dict.fromkeys(self._damaged_by(layer.plan, victims), str(error))
                        raise
                log.mover.seal(last)
                yield
            done = [
                Rewritten(one.plan, state.open_new_run(info), emptied_runs(one.plan, victims) if is_part else ())
                for one, info, is_part in zip(naming, infos, partly)
            ]
        self._commit(victims, done)

    def _moves_part(self, layer: LiveLayer, emptied: np.ndarray) -> bool:
        """Return whether a layer gets a relocation run, and its runs stay.

        Not if that is not worth it; nor with lists of chunks, which a run below would go on naming; nor if deletes of
        keys at the bottom, which are not counted as live, would be moved."""
        plan = layer.plan
        if plan.tree.keyed:
            deletes = plan.bottom and any(run.info.deletes != 0 for run in plan.inputs)
            if deletes or self._compaction(plan).lists != 0:
                return False
        return len(plan.inputs) <= MOST_RUNS and layer.live_in(emptied) <= MOST_MOVED * layer.live.sum()

    def _damaged_by(self, plan: CompactionPlan, victims: set[int]) -> set[int]:
        """Return the segments that are given up because a record of a layer is damaged."""
        return {index for run in plan.inputs for index in run.info.segments} & victims

    def _write(
        self, out: RunFileWriter, layer: LiveLayer, emptied: np.ndarray, chunks: dict[int, int], is_part: bool
    ) -> Generator[None, None, RunInfo]:
        """Write one run in place of all runs of a layer, with the new locations of what was moved; is_part: one of what
        was moved alone."""
        plan, log = layer.plan, self._state.log
        moving = (emptied, self._expected(layer, emptied)) if is_part else None
        tree, lists = plan.tree, self._compaction(plan).lists != 0
        relocation = Relocation(log, tree, plan.layer, layer.lsn, emptied, chunks, lists)
        info = yield from write_output(self._state, out, plan, relocation, moving)
        self.totals.records += relocation.records
        return info

    def _expected(self, layer: LiveLayer, emptied: np.ndarray) -> int:
        """Return how many records of a layer live in these segments, about; at least 1."""
        infos, width = [run.info for run in layer.plan.inputs], layer.plan.tree.width
        mean = sum(sum(info.segments.values()) for info in infos) // max(1, sum(info.count for info in infos))
        return 1 + layer.live_in(emptied) // max(1, width or mean)

    def _commit(self, victims: set[int], done: Done) -> None:
        """Commit the manifest without the emptied segments, exchange the runs, and retire the segments."""
        state, log = self._state, self._state.log
        manifest = state.manifest
        assert manifest is not None
        if state.uncertain_files or log.failed:
            return  # a checkpoint failed to commit meanwhile
        for one in done:  # None: its table was dropped meanwhile
            manifest = one.plan.in_manifest(manifest, one.run, one.kept) or manifest
        manifest = self._with_moved_expiries(without_skip_runs(manifest, victims), victims, done)
        freed = victims - {index for _, run in manifest.runs for index in run.info.segments}
        with log.locks.append, log.locks.state:
            moved = log.mover.end()
            uses = next_uses(log.pool, freed)
        state.commit(without_segments(manifest, freed, moved, uses))
        state.adopt(lambda: self._exchange(victims, done, freed))
        self.totals.passes += 1
        self.totals.freed += len(freed)

    def _with_moved_expiries(self, manifest: Manifest, victims: set[int], done: Done) -> Manifest:
        """Return the manifest with the new locations of moved records that were seen expired."""
        for name, collection in manifest.collections.items():
            if collection.expired and (tree := self._state.trees().get(name)) is not None:
                moved = self._moved_places(tree, [place for place, _ in collection.expired], victims, done)
                kept = [[moved.get(place, place), expiry] for place, expiry in collection.expired]
                collection = replace(collection, expired=sorted(one for one in kept if one[0]))
                manifest = manifest.with_collection(name, collection)
        return manifest

    def _moved_places(self, tree: LayerTree, places: list[int], victims: set[int], done: Done) -> dict[int, int]:
        """Return the new locations of those of some records of a keyspace that stand in emptied segments; 0 where a
        record is in no run any more."""
        log, old = self._state.log, np.array(places, np.uint64)
        segments = ((old & OFFSET_MASK).astype(np.int64) - log.pool.start(0)) // log.pool.segment_size
        old = old[np.isin(segments, list(victims))]
        moved = dict.fromkeys(old.tolist(), 0)
        key_bounds(log.data, old, bounds := np.empty((old.size, 2), np.int64))
        readable = bounds[:, 1] <= log.data.size
        old, bounds = old[readable], bounds[readable]
        hash_keys(log.data, bounds, *log.pool.hash_words, key64s := np.empty(old.size, np.uint64))
        for plan, run in ((one.plan, one.run) for one in done):
            if run is not None and plan.tree.name == tree.name and old.size:
                found = np.zeros(old.size, np.uint64)
                seed, owner = np.uint64(tree.seed), np.uint64(tree.owner)
                run.find_keys(log.data, seed, key64s, log.data, bounds, owner, False, found)
                same = (found != 0) & (found >> CHECK_SHIFT == old >> CHECK_SHIFT)
                moved |= dict(zip(old[same].tolist(), found[same].tolist()))
        return moved

    def _exchange(self, victims: set[int], done: Done, freed: set[int]) -> None:
        """Exchange the runs in memory for those of the manifest. The caller holds locks.append and locks.state."""
        trees = self._state.trees()
        for one in done:
            tree = trees.get(one.plan.tree.name)  # not always that of the plan: memory may have been rebuilt meanwhile
            if tree is not None:
                one.plan.in_tree(tree, one.run, one.kept)
                for stack in tree.stacks:
                    stack.clear_cache()
        for tree in trees.values():
            drop_skip_runs(tree, victims)
            if tree.expired:
                tree.expired.move(self._moved_places(tree, tree.expired.places, victims, done))
        named = {
            index
            for tree in trees.values()
            for layer in tree.layers.values()
            for run in layer.runs
            for index in run.info.segments
        }
        self._state.log.pool.retire(freed - named, self._state.catalog.commits)
        self._state.log.appender.commit()  # its commit point counts the segments of the log


def names(run: Run, segments: set[int]) -> bool:
    """Return whether a run refers to one of these segments."""
    return not segments.isdisjoint(run.info.segments)


def emptied_runs(plan: CompactionPlan, segments: set[int]) -> tuple[Run, ...]:
    """Return the inputs of a plan as they are once these segments are emptied."""
    return tuple(run.without(segments) if names(run, segments) else run for run in plan.inputs)


def without_skip_runs(manifest: Manifest, segments: set[int]) -> Manifest:
    """Return the manifest without the skip runs that refer to these segments: readers get the layers' own runs."""

    def cleaned(collection: CollectionRecord) -> CollectionRecord:
        kept = tuple(skip for skip in collection.skip_runs if not names(skip.run, segments))
        return replace(collection, skip_runs=kept) if len(kept) < len(collection.skip_runs) else collection

    return replace(manifest, collections={name: cleaned(one) for name, one in manifest.collections.items()})


def drop_skip_runs(tree: LayerTree, segments: set[int]) -> None:
    """Drop the skip runs that refer to these segments in memory. The caller holds locks.state."""
    kept = {top: skip for top, skip in tree.skip_runs.items() if not names(skip.run, segments)}
    if len(kept) < len(tree.skip_runs):
        tree.skip_runs = kept
        tree.invalidate_stacks()


def without_segments(manifest: Manifest, freed: set[int], moved: MovedEnd, next_uses: dict[int, int]) -> Manifest:
    """Return the manifest without the emptied segments."""
    end = manifest.end
    reused = dict(moved.reused) | next_uses
    moved = replace(
        moved,
        segments=[one for one in moved.segments if one[0] not in freed],
        reused=sorted([index, generation] for index, generation in reused.items()),
    )
    return replace(
        manifest, end=replace(end, segments=[one for one in end.segments if one[0] not in freed], moved=moved)
    )
