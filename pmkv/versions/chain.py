"""A chain: the runs that together answer for one table or keyspace, newest first.

On top the *open* run, which takes what is written; below it those *closed* by a rotation, until a checkpoint has
written them to a file; then the hot words, a shortcut past what is below; then the *runs* on file. Whatever a higher
one says of a word hides the lower ones, a delete too.

Open and closed runs and hot words are looked at under the store's lock; runs on file never change, and may be asked
without it, so a lookup has two halves: `look_above`, then `look_below` with the runs that were the chain's at that
moment.

Counting costs a write nothing: `Tally` notes which words are new to a run, and looks below only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from sortedcontainers import SortedList

from ..errors import CorruptionError
from ..index.heap import Heap
from ..index.hot import Budget, HotIndex
from ..index.open import OpenIndex
from ..index.run import Run
from ..kernels import location
from ..kernels.records import DAMAGED, key_bounds, read_records
from ..kernels.runs import places_of

NOTHING = np.empty((0, 2), np.int64)
LOOKED_UP = 1 << 18  # words that are looked up below at once, when they are counted
Window = tuple[np.ndarray, np.ndarray, np.ndarray]  # places, words, locations


class Ids:
    """Ids to be looked up, or entered."""

    keyed = False

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    @property
    def words(self) -> np.ndarray:
        return self.ids.view(np.uint64)

    def some(self, which: np.ndarray) -> Ids:
        return Ids(self.ids[which])

    @staticmethod
    def joined(many: Sequence[Ids]) -> Ids:
        return Ids(np.concatenate([one.ids for one in many]))

    def in_index(self, index: OpenIndex, pending: np.ndarray) -> tuple[np.ndarray, int]:
        return index.find(self.ids, pending)

    def in_hot(self, hot: HotIndex, found: np.ndarray) -> None:
        hot.find(self.ids, found)

    def in_run(self, run: Run, seed: np.uint64, found: np.ndarray) -> None:
        run.find(seed, self.ids, found)

    def enter(self, index: OpenIndex, locations: np.ndarray) -> np.ndarray:
        return index.insert(self.ids, locations)


class Keys:
    """Keys to be looked up, or entered: their hashes, and where they stand in an array of bytes, int64[n, 2]."""

    keyed = True

    def __init__(
        self, words: np.ndarray, blob: np.ndarray, bounds: np.ndarray, data: np.ndarray, owner: np.uint64, verify: bool
    ) -> None:
        """data: the pool, whose records a hash leads to; owner, verify: see `kernels.probe.find_keys`."""
        self.words, self.blob, self.bounds = words, blob, bounds
        self.data, self.owner, self.verify = data, owner, verify

    def some(self, which: np.ndarray) -> Keys:
        return Keys(self.words[which], self.blob, self.bounds[which], self.data, self.owner, self.verify)

    @staticmethod
    def joined(many: Sequence[Keys]) -> Keys:
        """Of one chain, all of them written: what maps the pool last maps all of it."""
        last = many[-1]
        words = np.concatenate([one.words for one in many])
        bounds = np.concatenate([one.bounds for one in many])
        return Keys(words, last.blob, bounds, last.data, last.owner, last.verify)

    def in_index(self, index: OpenIndex, pending: np.ndarray) -> tuple[np.ndarray, int]:
        return index.find_keys(self.data, self.words, self.blob, self.bounds, pending, self.owner, self.verify)

    def in_hot(self, hot: HotIndex, found: np.ndarray) -> None:
        hot.find_keys(self.data, self.words, self.blob, self.bounds, found)

    def in_run(self, run: Run, seed: np.uint64, found: np.ndarray) -> None:
        run.find_keys(self.data, seed, self.words, self.blob, self.bounds, self.owner, self.verify, found)

    def enter(self, index: OpenIndex, locations: np.ndarray) -> np.ndarray:
        return index.insert_keys(self.data, self.words, self.blob, self.bounds, locations)


Wanted = Ids | Keys


class Tally:
    """What a mutable run changes in the count of its chain. `covered`: words of it that live below, too."""

    def __init__(self) -> None:
        self.covered = 0
        self.expiries = SortedList()  # of its live records that have one
        self.gone = SortedList()  # those of the records below that it hides
        self.is_unknown = False  # damage kept some from being counted
        self._uncounted: dict[int, Wanted] = {}  # by identity

    def note(self, new: Wanted) -> None:
        """These words stood nowhere in this run before."""
        self._uncounted[id(new)] = new

    @property
    def noted(self) -> list[Wanted]:
        """What is not looked at yet."""
        return list(self._uncounted.values())

    def settle(self, wanted: Wanted, found: np.ndarray, expiries: np.ndarray) -> None:
        """What was noted was looked for below, and found, with these expiries. Under the lock; whoever is second
        changes nothing."""
        if self._uncounted.pop(id(wanted), None) is not None:
            self.covered += int(np.count_nonzero(lives(found)))
            self.gone.update(expiries.tolist())

    def give_up(self, wanted: Wanted) -> None:
        """What was noted cannot be looked for: something below is damaged. Under the lock."""
        self._uncounted.pop(id(wanted), None)
        self.is_unknown = True


@dataclass(frozen=True)
class Dram:
    """Where chains keep what is not on files. budget: of hot words."""

    heap: Heap
    budget: Budget


class Mutable:
    """A run in DRAM with its tally: the open one, or one that was closed."""

    def __init__(self, heap: Heap, seed: int) -> None:
        self.index, self.tally = OpenIndex(heap, seed), Tally()
        self.first = 0  # the LSN of its first write
        self.held = self.dead = False  # a checkpoint reads it; its chain needs it no more

    def release(self) -> None:
        """The checkpoint is through. Under the lock."""
        self.held = False
        if self.dead:
            self.index.clear()


class Lookup:
    """Some runs of a chain, newest first, as they were at one moment."""

    def __init__(self, closed: tuple[Mutable, ...], runs: tuple[Run, ...], seed: np.uint64) -> None:
        self.closed, self.runs, self.seed = closed, runs, seed

    def find(self, wanted: Wanted) -> np.ndarray:
        """Locations, 0 where there is none. Under the lock, if there are closed runs."""
        found = np.zeros(wanted.words.size, np.uint64)
        for mutable in self.closed:
            fill(wanted, mutable.index, NOTHING, found)
        self.look_below(wanted, found)
        return found

    def find_all(self, many: Sequence[Wanted]) -> list[np.ndarray]:
        """`find` of each, of all of them in the order of places: neighbours stand on one page of a run, so that a
        lookup of many hardly ever waits for DRAM."""
        joined = type(many[0]).joined(many)
        places_of(joined.words, self.seed, places := np.empty(joined.words.size, np.uint64))
        order = np.argsort(places)
        found = np.empty(order.size, np.uint64)
        found[order] = self.find(joined.some(order))
        return np.split(found, np.cumsum([one.words.size for one in many])[:-1])

    def look_below(self, wanted: Wanted, found: np.ndarray) -> None:
        """Fill `found` from the runs on file, where it is 0. Needs no lock."""
        for run in self.runs:
            wanted.in_run(run, self.seed, found)


class Chain:
    """The runs of one table or keyspace."""

    def __init__(self, dram: Dram, seed: int, width: int, runs: tuple[Run, ...] = ()) -> None:
        """width: bytes of a row, 0 for a keyspace."""
        self._dram, self._seed, self.seed = dram, seed, np.uint64(seed)
        self.width, self.runs = width, runs
        self.closed: tuple[Mutable, ...] = ()
        self.open = Mutable(dram.heap, seed)
        self.hot = self._new_hot() if runs else None

    def _new_hot(self) -> HotIndex:
        return HotIndex(self._dram.heap, self._dram.budget, self._seed)

    # finding and entering

    def look_above(self, wanted: Wanted, pending: np.ndarray) -> tuple[np.ndarray, int]:
        """(locations, 0 where there is none above the runs on file; how many are pending). Under the lock."""
        found, waiting = wanted.in_index(self.open.index, pending)
        for mutable in self.closed:
            waiting += fill(wanted, mutable.index, pending, found)
        if self.hot is not None:
            wanted.in_hot(self.hot, found)
        return found, waiting

    def look_below(
        self, wanted: Wanted, found: np.ndarray, runs: tuple[Run, ...], lock: AbstractContextManager[object]
    ) -> None:
        """Fill `found` from the runs on file that were the chain's at the time of `look_above`. Takes the lock at the
        end only, to make hot what is asked for often."""
        missed = np.flatnonzero(found == 0)
        if missed.size:
            Lookup((), runs, self.seed).look_below(wanted, found)
            with lock:
                self._learn(wanted, found, missed, runs)

    def _learn(self, wanted: Wanted, found: np.ndarray, missed: np.ndarray, runs: tuple[Run, ...]) -> None:
        """Not if the runs were exchanged since; and not what was written since, which then stands in a run above."""
        if self.hot is None or runs is not self.runs:
            return
        which = missed[found[missed] != 0]
        for mutable in (self.open, *self.closed):
            if which.size and mutable.index.count:
                which = which[wanted.some(which).in_index(mutable.index, NOTHING)[0] == 0]
        if which.size:
            self.hot.admit(wanted.words[which], found[which])

    def find(self, wanted: Wanted) -> np.ndarray:
        """Both halves at once, whatever is pending. Under the lock."""
        found, _ = self.look_above(wanted, NOTHING)
        Lookup((), self.runs, self.seed).look_below(wanted, found)
        return found

    def enter(self, wanted: Wanted, locations: np.ndarray, lsn: int) -> np.ndarray:
        """Write words; returns what stood in the open run before each. Under the lock."""
        self.open.first = self.open.first or lsn
        before = wanted.enter(self.open.index, locations)
        if self.closed or self.runs:
            if self.hot is not None:
                self.hot.forget(wanted.words)
            if not before.all():
                self.open.tally.note(wanted_of(wanted, locations, before == 0))
        return before

    # counting

    def count(self, now: int) -> int:
        """How many words live, those that have expired by `now` (unix ms) not among them. Under the lock."""
        self._settle()
        mutables = (self.open, *self.closed)
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

    def _settle(self) -> None:
        mutables = (self.open, *self.closed)
        for i, mutable in enumerate(mutables):
            below = Lookup(mutables[i + 1 :], self.runs, self.seed)
            for noted in portions(mutable.tally.noted):
                for one, found in zip(noted, below.find_all(noted)):
                    mutable.tally.settle(one, found, expiries_of(one, found))

    # walking

    def walk(self, place: int = 0) -> Iterator[Window]:
        """Everything from `place` on, in windows ascending by place; a word may come several times, and be dead: who
        walks looks it up. Under the lock."""
        if not self.closed and not self.runs:
            yield from self.open.index.walk(place)
            return
        sources = [m.index.walk(place) for m in (self.open, *self.closed)]
        sources += [run.walk(place, self.seed) for run in self.runs]
        yield from merged(sources)

    def walk_above(self) -> Iterator[Window]:
        """The same of what is not on file."""
        yield from merged([m.index.walk() for m in (self.open, *self.closed)])

    # its life

    @property
    def keyed(self) -> bool:
        return self.width == 0

    def rotate(self) -> tuple[Mutable, ...]:
        """Close the open run, if it holds anything; returns all closed ones, for a checkpoint to write. Under the
        lock."""
        if self.open.index.count:
            self.closed = (self.open, *self.closed)
            self.open = Mutable(self._dram.heap, self._seed)
        for mutable in self.closed:
            mutable.held = True
        return self.closed

    def adopt(self, closed: tuple[Mutable, ...], run: Run | None) -> None:
        """The oldest closed runs were written to a file as one (None: nothing of them is left). Under the lock."""
        kept = len(self.closed) - len(closed)
        assert self.closed[kept:] == closed, "what was written is not what stands on the files"
        self.closed, self.runs = self.closed[:kept], (run, *self.runs) if run is not None else self.runs
        if self.hot is None:
            self.hot = self._new_hot()

    def replace(self, inputs: tuple[Run, ...], run: Run | None) -> None:
        """Consecutive runs were folded into one, or into nothing. What is hot stays right: a fold moves no record.
        Under the lock."""
        self.runs = replaced(self.runs, inputs, run)

    def discard(self) -> None:
        """Give the memory back, what a checkpoint reads when it is through; the chain is not used again. Under the
        lock."""
        for mutable in (self.open, *self.closed):
            mutable.dead = True
            if not mutable.held:
                mutable.index.clear()
        self.runs = ()  # who reads them without the lock has them; nothing is learned here any more
        if self.hot is not None:
            self.hot.clear()

    @property
    def count_above(self) -> int:
        """Entries that are not on file. Under the lock."""
        return sum(m.index.count for m in (self.open, *self.closed))

    @property
    def is_cold(self) -> bool:
        """May a lookup have to wait for the disk?"""
        return any(not run.is_warm for run in self.runs)

    @property
    def nbytes(self) -> int:
        """DRAM of the open and closed runs."""
        return sum(m.index.nbytes for m in (self.open, *self.closed))

    def check(self) -> None:
        """Every run's own invariants. Under the lock."""
        for mutable in (self.open, *self.closed):
            mutable.index.check()
        for run in self.runs:
            run.check(self.seed)
        if self.hot is not None:
            self.hot.check()


def portions(noted: list[Wanted]) -> Iterator[list[Wanted]]:
    """Some at a time, as many as may be looked up at once."""
    portion: list[Wanted] = []
    size = 0
    for wanted in noted:
        portion.append(wanted)
        size += wanted.words.size
        if size >= LOOKED_UP:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def fill(wanted: Wanted, index: OpenIndex, pending: np.ndarray, found: np.ndarray) -> int:
    """Ask an index for the words that are still missing; returns how many of them are pending."""
    missing = np.flatnonzero(found == 0)
    if not missing.size or not index.count:
        return 0
    found[missing], waiting = wanted.some(missing).in_index(index, pending)
    return waiting


def live_of(runs: tuple[Run, ...]) -> int | None:
    """How many more words live by these runs; None where damage kept one from being counted."""
    lives_by = [run.info.live for run in runs]
    return None if None in lives_by else sum(lives_by)


def lives(found: np.ndarray) -> np.ndarray:
    """bool[n]: neither absent nor deleted."""
    return (found != 0) & ((found & location.DELETE) == 0)


def wanted_of(wanted: Wanted, locations: np.ndarray, which: np.ndarray) -> Wanted:
    """Some of what was just written, each word once, kept for later: keys as they stand in their records."""
    if isinstance(wanted, Ids):
        return Ids(wanted.ids[which])
    bounds = np.empty((int(np.count_nonzero(which)), 2), np.int64)
    key_bounds(wanted.data, locations[which], bounds)
    # verified: a damaged record below is taken for the key's, else it would be counted twice
    return Keys(wanted.words[which], wanted.data, bounds, wanted.data, wanted.owner, True)


def expiries_of(wanted: Wanted, found: np.ndarray) -> np.ndarray:
    """Those of the live records that were found. CorruptionError: one is damaged."""
    out = np.zeros((found.size, 4), np.int64)
    if isinstance(wanted, Keys):
        read_records(wanted.data, found, wanted.owner, 0, True, out)
        bad = np.flatnonzero(out[:, 0] == DAMAGED)
        if bad.size:
            raise CorruptionError(
                f"a record at offset {int(found[bad[0]] & location.OFFSET_MASK):,} of the pool is damaged: its check "
                "does not hold. It was overwritten, but how many keys there are is not known; restore a backup"
            )
    return out[out[:, 2] != 0, 2]


def merged(sources: list[Iterator[Window]]) -> Iterator[Window]:
    """Several walks as one: each window reaches as far as the source that shows least at the moment."""
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


def replaced(runs: tuple[Run, ...], inputs: tuple[Run, ...], run: Run | None) -> tuple[Run, ...]:
    """`runs` with the consecutive `inputs` replaced."""
    at = runs.index(inputs[0])
    assert runs[at : at + len(inputs)] == inputs, "what is folded is not consecutive any more"
    return (*runs[:at], *((run,) if run is not None else ()), *runs[at + len(inputs) :])


def netted(added: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expiries that came and those that went, sorted, without pairs that cancel out."""
    values, where = np.unique(np.concatenate([added, gone]), return_inverse=True)
    counts = np.zeros(values.size, np.int64)
    np.add.at(counts, where[: added.size], 1)
    np.add.at(counts, where[added.size :], -1)
    return np.repeat(values, np.maximum(counts, 0)), np.repeat(values, np.maximum(-counts, 0))
