"""A chain: what answers for one table or keyspace in one view, newest first: the runs of its layers from the top down.

First the *open* run of the top layer, which takes what is written; then those *closed*, until a checkpoint has written
them; then the hot words, a shortcut past what is below; then the *runs* on file. Whatever a higher one says of a word
hides the lower ones, a delete too. Nothing below a layer is newer than it, and a checkpoint writes all that is closed:
so no closed run ever stands below one on file.

Open and closed runs and hot words are looked at under the store's lock; runs on file never change, and may be asked
without it, so a lookup has two halves: `find_in_memory`, then `find_on_disk` with the runs that were the chain's
at that moment.

Counting costs a write nothing: `LiveCounter` notes which words are new to a run, and looks below only when
somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from ..errors import CorruptionError
from ..index.arena import HELD
from ..index.live_count import CountBatch, CountResult
from ..index.location_cache import LocationCache
from ..index.lookup_batch import (
    NOTHING,
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

FEW = 1 << 12  # words that a count looks up under the lock
PORTION = 1 << 14  # and as many as are looked up at once before that, of which some are above the runs on file
Window = tuple[np.ndarray, np.ndarray, np.ndarray]  # places, words, locations


class RunSet:
    """Some runs of a chain, newest first, as they were at one moment."""

    def __init__(self, closed: tuple[MemTable, ...], runs: tuple[Run, ...], seed: np.uint64) -> None:
        self.closed, self.runs, self.seed = closed, runs, seed

    def find(self, wanted: LookupBatch) -> np.ndarray:
        """Locations, 0 where there is none. Under the lock, if there are closed runs."""
        found = self._find_closed(wanted)
        self.find_on_disk(wanted, found)
        return found

    def _find_closed(self, wanted: LookupBatch) -> np.ndarray:
        found = np.zeros(wanted.words.size, np.uint64)
        for mutable in self.closed:
            find_missing(wanted, mutable.index, NOTHING, found)
        return found

    def count_noted(self, portion: CountBatch, between: Callable[[], None] = no_yield) -> CountResult:
        """What lives here of what was noted. between: called now and then. CorruptionError: something below is damaged,
        or a record whose key is looked for. Under the lock, if there are closed runs that are not held."""
        below = self.near(portion.notes)
        if not below.closed and not below.runs:
            return CountResult(0, [])
        wanted = sorted_by_slot(portion.notes, self.seed, between)
        count, expiries = 0, []
        for some in pieces(wanted.words.size):
            between()
            part = wanted.part(some)
            below.look_for_any(part, found := below._find_closed(part))
            covered = covered_by(part, found)
            count += covered.count
            expiries += covered.expiries
        return CountResult(count, expiries)

    def near(self, notes: Sequence[LookupBatch]) -> RunSet:
        """Without runs that have none of these for certain. A table that is loaded in the order of its ids would else
        ask for each of them in every run."""
        bounds = bounds_of(notes)
        if bounds is None:
            return self
        return RunSet(self.closed, tuple(run for run in self.runs if run.info.may_have(*bounds)), self.seed)

    def find_on_disk(self, wanted: LookupBatch, found: np.ndarray) -> None:
        """Fill `found` from the runs on file, where it is 0. Needs no lock."""
        wanted.in_runs(self.runs, self.seed, found)

    def look_for_any(self, wanted: LookupBatch, found: np.ndarray) -> None:
        """The same, to be counted. Where no run has a delete, all that have an id say that it lives: the oldest is
        asked first, as it has most of them. (Of a key the newest is wanted, for its expiry.)"""
        runs = self.runs if wanted.keyed or any(run.info.deletes != 0 for run in self.runs) else self.runs[::-1]
        wanted.in_runs(runs, self.seed, found)


def covered_by(wanted: LookupBatch, found: np.ndarray) -> CountResult:
    """CorruptionError: a record that was found is damaged."""
    return CountResult(int(np.count_nonzero(lives(found))), expiries_of(wanted, found).tolist())


class IndexStack:
    """The runs of one table or keyspace, as one view has them."""

    def __init__(self, top: Layer, lasts: bool = True) -> None:
        """lasts: long enough for hot words."""
        self.tree, self.seed = top.tree, np.uint64(top.tree.seed)
        self.top, self._lasts = top, lasts
        self.hot: LocationCache | None = None
        self._is_known = False
        self._look_again()
        self.tree.chains.add(self)

    def stand_on(self, top: Layer) -> bool:
        """Another layer is on top: was the chain exchanged, or does it only go on?"""
        goes_on = top.below is self.top
        before = (self._runs, {*self._closed, *self.top.mutables}) if self._is_known and not goes_on else None
        if top.tree is not self.tree:  # memory went back, and everything was made anew
            before = None
            self.tree.chains.discard(self)
            self.tree = top.tree
            self.tree.chains.add(self)
        self.top = top
        self._look_again()
        if not goes_on:
            self._forget_exchanged(before)
        return not goes_on

    @property
    def closed(self) -> tuple[MemTable, ...]:
        """Newest first. Under the lock."""
        if not self._is_known:
            self._look_again()
        return self._closed

    @property
    def runs(self) -> tuple[Run, ...]:
        """On file, newest first; spans in place of those of their layers. Under the lock."""
        if not self._is_known:
            self._look_again()
        return self._runs

    def _look_again(self) -> None:
        """Gather the runs of all layers."""
        closed: list[MemTable] = []
        runs: list[Run] = []
        layer: Layer | None = self.top
        spans, layers = self.tree.spans, self.tree.layers
        while layer is not None:
            closed += layer.closed
            # not for the layer that stands for an empty part: its number may be that of another view's layer
            span = spans.get(layer.id) if spans and layers.get(layer.id) is layer else None
            if span is not None:
                runs.append(span.run)
                layer = layers[span.below] if span.below is not None else None
            else:
                runs += layer.runs
                layer = layer.below
        self._closed, self._runs, self._is_known = tuple(closed), tuple(runs), True
        if not runs:
            self._forget_all()
        elif self.hot is None and self._lasts:
            dram = self.tree.dram
            self.hot = LocationCache(dram.heap, dram.budget, self.seed)

    def leave(self) -> None:
        """Give the memory of hot words back; the chain is not used again. Under the lock."""
        self.tree.chains.discard(self)
        self._closed, self._runs, self._is_known = (), (), True
        self._forget_all()

    def forget(self) -> None:
        """What is held of runs may be gone: files that nobody reads any more would keep their room on the disk."""
        self._closed, self._runs, self._is_known = (), (), False

    def _forget_exchanged(self, before: tuple[tuple[Run, ...], set[MemTable]] | None) -> None:
        """Of hot words those go of which a run on file speaks that only the chain of now has, or only the one before
        (its runs, and those on no file); what stands on the files of both is what it was. What is on no file is not
        hot: so of that, what the chain of now has alone. All go where these are many, or not known."""
        if self.hot is None:
            return
        runs, mutables = before or ((), set())
        others = set(runs) ^ set(self._runs)
        above = [mutable.index for mutable in self.mutables if mutable not in mutables]
        if before is None or sum(run.info.count for run in others) + sum(index.count for index in above) > FEW:
            self.hot.clear()
            return
        try:
            for walk in [run.walk(0, self.seed) for run in others] + [index.walk() for index in above]:
                for _, words, _ in walk:
                    self.hot.forget(words)
        except CorruptionError:  # it is told to whoever reads that
            self.hot.clear()

    def _forget_all(self) -> None:
        if self.hot is not None:
            self.hot.clear()
            self.hot = None

    # finding and entering

    def find_in_memory(self, wanted: LookupBatch, pending: np.ndarray) -> tuple[np.ndarray, int]:
        """(locations, 0 where there is none above the runs on file; how many are pending). Under the lock."""
        wanted.moment = self._moment
        mutable = self.top.open
        if mutable is not None:
            found, waiting = wanted.in_index(mutable.index, pending)
        else:
            found, waiting = np.zeros(wanted.words.size, np.uint64), 0
        for mutable in self.closed:
            waiting += find_missing(wanted, mutable.index, pending, found)
        if self.hot is not None:
            wanted.in_hot(self.hot, found)
        return found, waiting

    def find_on_disk(
        self, wanted: LookupBatch, found: np.ndarray, runs: tuple[Run, ...], lock: AbstractContextManager[object]
    ) -> None:
        """Fill `found` from the runs on file that were the chain's at the time of `find_in_memory`. Takes the lock
        at the end only, to make hot what is asked for often."""
        if found.all():
            return
        hot = self.hot
        missed = (found == 0).nonzero()[0] if hot is not None and hot.wants() else None
        RunSet((), runs, self.seed).find_on_disk(wanted, found)
        if missed is not None:
            which = missed[found[missed] != 0]
            if which.size:
                with lock:
                    self._admit_to_cache(wanted, found, which, runs)

    def _admit_to_cache(self, wanted: LookupBatch, found: np.ndarray, which: np.ndarray, runs: tuple[Run, ...]) -> None:
        """Not if the runs were exchanged since; and not what was written since, which then stands in a run above."""
        if self.hot is None or runs is not self.runs:
            return
        if wanted.moment != self._moment:
            for mutable in self.mutables:
                if which.size and mutable.index.count:
                    which = which[wanted.some(which).in_index(mutable.index, NOTHING)[0] == 0]
        if which.size:
            self.hot.admit(wanted.words[which], found[which])

    @property
    def _moment(self) -> tuple[int, int]:
        """While this stays as it is, nothing is written."""
        return self.top.id, self.top.entered

    def find(self, wanted: LookupBatch) -> np.ndarray:
        """Both halves at once, whatever is pending. Under the lock."""
        found, _ = self.find_in_memory(wanted, NOTHING)
        RunSet((), self.runs, self.seed).find_on_disk(wanted, found)
        return found

    def make_room(self, words: np.ndarray, lock: AbstractContextManager[object]) -> None:
        """Let the open run grow for what is entered next, while others read. By who writes, without the lock."""
        self.top.to_write(lock).index.make_room(words, lock)

    def enter(self, wanted: LookupBatch, locations: np.ndarray, lsn: int) -> np.ndarray:
        """Write words; returns what stood in the open run before each. Under the lock."""
        self.announce(locations.size, lsn)
        before = self.insert(wanted, locations)
        self.entered(wanted, new_keys(wanted, locations, before) if self.closed or self.runs else None)
        return before

    def announce(self, count: int, lsn: int) -> None:
        """So many words come, by a frame: whatever interrupts that (Ctrl-C), the layer was written. Under the lock."""
        top, mutable = self.top, self.top.to_write()
        mutable.first = mutable.first or lsn
        top.writes += count
        top.changed = lsn

    def insert(
        self, wanted: LookupBatch, locations: np.ndarray, lock: AbstractContextManager[object] = HELD
    ) -> np.ndarray:
        """Then they are entered, which takes long: by who writes, under the lock, or with it and while nobody counts or
        walks, and nobody is shown anything of it."""
        return wanted.enter(self.top.to_write(lock).index, locations, lock)

    def entered(self, wanted: LookupBatch, new: LookupBatch | None) -> None:
        """They are there; with a note of what is new. Under the lock, and not before: whoever looked for these words
        meanwhile in vain, and offers what the runs have as hot, has to be too early for this, or to learn of it."""
        self.top.entered += 1
        if self.closed or self.runs:
            if self.hot is not None:
                self.hot.forget(wanted.words)
            if new is not None:
                self.top.to_write().tally.note(new)

    # counting

    def count(self, now: int) -> int:
        """How many words live, those that have expired by `now` (unix ms) not among them. Under the lock."""
        mutables = self.mutables
        if not mutables and not self.runs:
            return 0
        self._settle()
        live = live_of(self.runs)
        if live is None or any(m.tally.is_unknown for m in mutables):
            raise CorruptionError(
                "how many there are is not known: an index, or a record that was overwritten, was damaged when they "
                "were counted; restore a backup, or move `catalog` and `runs` away, and the whole log is replayed"
            )
        live += sum(m.index.live - m.tally.covered for m in mutables)
        expired = sum(run.expired(now) for run in self.runs)
        for tally in (m.tally for m in mutables):
            expired += tally.expiries.bisect_right(now) - tally.gone.bisect_right(now)
        return live - expired

    @property
    def uncounted(self) -> int:
        """How many words a count has to look up first, as it was lately: without the lock."""
        mutables = (self.top.open, *self._closed)
        return sum(mutable.tally.uncounted for mutable in mutables if mutable is not None)

    def count_ahead(self, lock: AbstractContextManager[object]) -> None:
        """Look most of these up before, with the lock for moments only: after a restart it may take long."""
        while True:
            with lock:
                mutables, runs = self.mutables, self.runs
                many = (i for i, mutable in enumerate(mutables) if mutable.tally.uncounted > FEW)
                if (i := next(many, None)) is None:
                    return
                tally = mutables[i].tally
                portion = tally.portion(PORTION)
                wanted = sorted_by_slot(portion.notes, self.seed)
                found = np.zeros(wanted.words.size, np.uint64)
                for below in mutables[i + 1 :]:
                    find_missing(wanted, below.index, NOTHING, found)
            RunSet((), runs, self.seed).near(portion.notes).look_for_any(wanted, found)
            covered = covered_by(wanted, found)
            with lock:
                tally.settle(portion, covered)

    def _settle(self) -> None:
        mutables = self.mutables
        for i, mutable in enumerate(mutables):
            below = RunSet(mutables[i + 1 :], self.runs, self.seed)
            while portion := mutable.tally.portion():
                mutable.tally.settle(portion, below.count_noted(portion))

    # walking

    def walk(self, place: int = 0) -> Iterator[Window]:
        """Everything from `place` on, in windows ascending by place; a word may come several times, and be dead: who
        walks looks it up. Under the lock."""
        if self.top.open is not None and not self.closed and not self.runs:
            yield from self.top.open.index.walk(place)
            return
        sources = [m.index.walk(place) for m in self.mutables]
        sources += [run.walk(place, self.seed) for run in self.runs]
        yield from merged(sources)

    def at(self, place: int) -> np.ndarray:
        """The locations of one place, newest first; dead ones among them. Under the lock."""
        found = [m.index.at(place) for m in self.mutables] + [run.at(place) for run in self.runs]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def walk_above(self) -> Iterator[Window]:
        """The same of what is not on file."""
        yield from merged([m.index.walk() for m in self.mutables])

    # what it is

    @property
    def mutables(self) -> tuple[MemTable, ...]:
        """The open run, if anything was written, and the closed ones."""
        return (self.top.open, *self.closed) if self.top.open is not None else self.closed

    @property
    def count_above(self) -> int:
        """Entries that are not on file. Under the lock."""
        return sum(m.index.count for m in self.mutables)

    @property
    def is_cold(self) -> bool:
        """May a lookup have to wait for the disk?"""
        return any(not run.is_warm for run in self._runs)  # as they were lately: without the lock

    @property
    def nbytes(self) -> int:
        """DRAM of the open and closed runs."""
        return sum(m.index.nbytes for m in self.mutables)

    def check(self) -> None:
        """It is what its layers say. Under the lock."""
        closed, runs = self.closed, self.runs
        self._look_again()
        assert (closed, runs) == (self.closed, self.runs), "the chain is not what its layers say"
        layers = list(self.top.down())
        on_file = next((i for i, layer in enumerate(layers) if layer.runs), len(layers))
        assert not any(layer.closed for layer in layers[on_file + 1 :]), "a closed run stands below one on file"
        if self.hot is not None:
            self.hot.check()


def merged(sources: list[Iterator[Window]]) -> Iterator[Window]:
    """Several walks as one: each window reaches as far as the source that shows least at the moment."""
    if len(sources) == 1:
        yield from (window for window in sources[0] if window[0].size)
        return
    heads = [next(source, None) for source in sources]
    while any(head is not None for head in heads):
        heads = [skip_empty(head, source) for head, source in zip(heads, sources)]
        shown = [head for head in heads if head is not None]
        if not shown:
            return
        last = min(head[0][-1] for head in shown)
        parts: list[Window] = []
        for i, head in enumerate(heads):
            if head is not None:
                cut = int(np.searchsorted(head[0], last, "right"))
                parts.append(tuple(column[:cut] for column in head))
                heads[i] = tuple(column[cut:] for column in head)
        places, words, locations = (np.concatenate(columns) for columns in zip(*parts))
        order = np.argsort(places, kind="stable")
        yield places[order], words[order], locations[order]


def skip_empty(head: Window | None, source: Iterator[Window]) -> Window | None:
    """The next window of a source that shows something, None at its end."""
    while head is not None and not head[0].size:
        head = next(source, None)
    return head


def netted(added: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expiries that came and those that went, sorted, without pairs that cancel out."""
    values, where = np.unique(np.concatenate([added, gone]), return_inverse=True)
    counts = np.zeros(values.size, np.int64)
    np.add.at(counts, where[: added.size], 1)
    np.add.at(counts, where[added.size :], -1)
    return np.repeat(values, np.maximum(counts, 0)), np.repeat(values, np.maximum(-counts, 0))
