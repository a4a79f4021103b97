"""A run: an immutable index on file. `kernels.runs` says how its slots are laid out, `shelf` where its file stands.

In the file it is pages: slots, then the expiries it adds to its chain, then those it takes away, then a checksum of
every page before. `RunInfo`, which the catalog keeps, says where. Nothing of it is read before it is needed: every page
is verified when it is touched first. A run may be asked by several threads at once, and needs no lock.

`write_run` writes one, of open indexes or of other runs.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.location import DELETE
from ..kernels.runs import (
    FREE,
    PAGE_WORDS,
    SPARE,
    WHOLE,
    check_pages,
    choose,
    collect_run,
    count_until,
    fill_slots,
    find_in_run,
    find_keys_in_run,
    merge_entries,
    missing_places,
    verify_pages,
    weigh,
    words_at,
)
from ..log.format import PART_SIZE
from .hash_table import HashTable
from .run_files import PAGE, RunFileWriter, will_read

PAGE_SLOTS = PAGE_WORDS // 2
STEP = 32 * PAGE_SLOTS  # slots walked, written or verified at a time: 128 KiB
SAMPLE = 1 << 17  # entries looked at to say how many there will be, within half a percent
NONE = np.empty(0, np.int64)
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # places, locations, marks: 1 where a run counts it already


def pages_of(words: int) -> int:
    return -(-words // PAGE_WORDS)


@dataclass(frozen=True)
class RunInfo:
    """What the catalog says of a run.

    file, offset: where it begins. capacity, tail: in slots; only within the first are entries at home. count:
    entries, deletes among them. live: how many more words live by it; None if damage below kept that from being
    counted. added, gone: how many expiries. nonce: seeds the checksums. segments: bytes that it refers to in each
    segment of the pool. first, last: the LSNs that it covers. deletes: how many of the entries; None: not counted, by
    an earlier version. ids: none of a table is below the first of these or above the second; None: not known, or of a
    keyspace."""

    file: str
    offset: int
    capacity: int
    tail: int
    count: int
    live: int | None
    added: int
    gone: int
    nonce: int
    segments: dict[int, int]
    first: int
    last: int
    deletes: int | None = None
    ids: tuple[int, int] | None = None

    def may_have(self, low: int, high: int) -> bool:
        """Any of the ids from `low` to `high`?"""
        return self.ids is None or (self.ids[0] <= high and low <= self.ids[1])

    @property
    def slot_pages(self) -> int:
        return pages_of(2 * (self.capacity + self.tail))

    @property
    def pages(self) -> int:
        """How many pages have a checksum."""
        return self.slot_pages + pages_of(self.added) + pages_of(self.gone)

    @property
    def nbytes(self) -> int:
        return (self.pages + pages_of(self.pages)) * PAGE

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"segments": {str(index): size for index, size in self.segments.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunInfo:
        ids = values.get("ids")
        segments = {int(index): size for index, size in values["segments"].items()}
        return cls(**values | {"segments": segments, "ids": ids and tuple(ids)})


class Run:
    """An immutable index on file. data: all of the file; name: what to call it when it is damaged."""

    def __init__(self, info: RunInfo, data: np.ndarray, name: str) -> None:
        self.info, self.name, self._data = info, name, data
        end = info.offset + info.nbytes
        if data.size < end:
            raise CorruptionError(
                f"{name} ends at byte {data.size:,}, and must have {end:,}: restore {info.file}, which was cut short"
            )
        words = data[info.offset : end].view(np.uint64)
        self._words, self._checks = words[: info.pages * PAGE_WORDS], words[info.pages * PAGE_WORDS :][: info.pages]
        self._nonce, self._seen = np.uint64(info.nonce), np.zeros(info.pages, np.uint8)
        self.is_warm = False

    @property
    def nbytes(self) -> int:
        return self.info.nbytes

    @property
    def _pages(self) -> tuple[np.ndarray, np.ndarray, np.uint64, np.ndarray]:
        return self._words, self._checks, self._nonce, self._seen

    def _refuse(self, page: int) -> None:
        """Raise if a kernel met a damaged page."""
        if page != WHOLE:
            raise CorruptionError(
                f"{self.name} is damaged: the checksum of the page at byte {self.info.offset + page * PAGE:,} of "
                f"{self.info.file} does not hold. Restore the file from a backup"
            )

    def find(self, seed: np.uint64, ids: np.ndarray, found: np.ndarray) -> None:
        """found[i] = location of ids[i], where it is 0 and there is one; a delete is found too."""
        find_in_runs([self], seed, ids, found)

    def find_places(self, places: np.ndarray, which: np.ndarray, found: np.ndarray) -> int:
        """found[which[i]] = the location of the id whose place is places[i], if there is one; returns how many are not
        here: they stand in front of `places` and `which` now."""
        left, page = find_in_run(*self._pages, self.info.capacity, places, which, found)
        self._refuse(page)
        return left

    def find_keys(
        self,
        data: np.ndarray,
        seed: np.uint64,
        words: np.ndarray,
        keys: np.ndarray,
        bounds: np.ndarray,
        owner: np.uint64,
        verify: bool,
        found: np.ndarray,
    ) -> None:
        """The same of keys; data: the pool's bytes, and the rest as of `HashTable.find_keys`."""
        self._refuse(
            find_keys_in_run(*self._pages, self.info.capacity, seed, data, words, keys, bounds, owner, verify, found)
        )

    # walking

    def entries(self, place: int = 0, step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places, locations) ascending from `place` on, some thousand at a time, or of about `step` slots; those of
        one place come together."""
        step = step or STEP
        first, slots = int(place) * self.info.capacity >> 64, self.info.slot_pages * PAGE_SLOTS
        while first < slots:
            stop = self._group_end(min((first // step + 1) * step, slots))
            will_read(self._data, self.info.offset + 16 * stop, self.info.offset + 16 * (stop + step))
            self._refuse(verify_pages(*self._pages, first // PAGE_SLOTS, -(-stop // PAGE_SLOTS)))
            places, locations = np.empty(stop - first, np.uint64), np.empty(stop - first, np.uint64)
            count = collect_run(self._words, first, stop, np.uint64(place), places, locations)
            yield places[:count], locations[:count]
            first = stop

    def _group_end(self, stop: int) -> int:
        """The first slot from `stop` on that is not taken by an entry of the same place as the one before."""
        words, slots = self._words, self.info.slot_pages * PAGE_SLOTS
        while stop < slots and words[2 * stop + 1] and words[2 * stop] == words[2 * stop - 2]:
            stop += 1
        return stop

    def at(self, place: int) -> np.ndarray:
        """The locations of one place, newest first."""
        for places, locations in self.entries(place, PAGE_SLOTS):
            if places.size:
                return locations[places == place]
        return np.empty(0, np.uint64)

    def walk(self, place: int, seed: int | np.uint64) -> Iterator[Entries]:
        """(places, words, locations), as `entries`."""
        for places, locations in self.entries(place):
            words_at(places, np.uint64(seed), words := np.empty(places.size, np.uint64))
            yield places, words, locations

    # expiries

    def expired(self, now: int) -> int:
        """How many fewer live by `now` (unix ms) for the expiries that it adds and takes away."""
        if not self.info.added and not self.info.gone:
            return 0
        first = self.info.slot_pages * PAGE_WORDS
        added, page = count_until(*self._pages, first, self.info.added, np.uint64(max(now, 0)))
        self._refuse(page)
        first += pages_of(self.info.added) * PAGE_WORDS
        gone, page = count_until(*self._pages, first, self.info.gone, np.uint64(max(now, 0)))
        self._refuse(page)
        return added - gone

    @property
    def added(self) -> np.ndarray:
        """Expiries (int64, ascending) of records that live by this run."""
        return self._expiries(self.info.slot_pages, self.info.added)

    @property
    def gone(self) -> np.ndarray:
        """Those of records below that it hides."""
        return self._expiries(self.info.slot_pages + pages_of(self.info.added), self.info.gone)

    def _expiries(self, page: int, count: int) -> np.ndarray:
        self._refuse(verify_pages(*self._pages, page, page + pages_of(count)))
        return self._words[page * PAGE_WORDS :][:count].view(np.int64)

    # looking after it

    def warm(self) -> Iterator[None]:
        """Read and verify what nobody has touched yet, in steps."""
        for first in range(0, self.info.pages, step := STEP // PAGE_SLOTS):
            start = self.info.offset + first * PAGE
            will_read(self._data, start + step * PAGE, start + 2 * step * PAGE)
            self._refuse(verify_pages(*self._pages, first, min(first + step, self.info.pages)))
            yield
        self.is_warm = True

    def check(self, seed: int | np.uint64) -> None:
        """Every page is whole, entries ascend, each stands where a probe finds it, counts agree, expiries ascend."""
        count, deletes, free = 0, 0, 0
        for places, words, locations in self.walk(0, seed):
            assert locations.all()
            assert self.info.ids is None or not places.size or within(words.view(np.int64), self.info.ids)
            count += places.size
            deletes += np.count_nonzero(locations & DELETE)
            for place in places.tolist():
                free = max(place * self.info.capacity >> 64, free) + 1
            if places.size:
                assert (places[:-1] <= places[1:]).all()
                assert self._words[2 * free - 2] == places[-1], "each in the first free slot"
                found = np.zeros(words.size, np.uint64)
                self.find(np.uint64(seed), words.view(np.int64), found)
                first = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
                assert (found[first] == locations[first]).all(), "every word is found"
        assert count == self.info.count and self.info.tail >= SPARE
        assert self.info.deletes in (None, deletes)
        slots = self._words[: 2 * PAGE_SLOTS * self.info.slot_pages].reshape(-1, 2)
        assert (slots[slots[:, 1] == 0, 0] == FREE).all() and not slots[-SPARE:, 1].any()
        for expiries in (self.added, self.gone):
            assert (np.diff(expiries) >= 0).all()


def within(ids: np.ndarray, bounds: tuple[int, int]) -> bool:
    return bool(bounds[0] <= ids.min() and ids.max() <= bounds[1])


def find_in_runs(runs: Iterable[Run], seed: np.uint64, ids: np.ndarray, found: np.ndarray) -> None:
    """found[i] = the location of ids[i] in the first run that has it, where it is 0."""
    places, which = np.empty(ids.size, np.uint64), np.empty(ids.size, np.int64)
    left = missing_places(ids, seed, found, places, which)
    for run in runs:
        if left:
            left = run.find_places(places[:left], which[:left], found)


# folding and writing


class _Source:
    """An index to be written: what is next of it, a part at a time."""

    def __init__(self, index: HashTable | Run) -> None:
        self._is_run = isinstance(index, Run)
        if isinstance(index, Run):
            self._rest = index.entries()
        else:
            self._rest = ((places, locations) for places, _, locations in index.walk())
        self.places = self.locations = np.empty(0, np.uint64)
        self._refill()

    def _refill(self) -> None:
        while not self.places.size:
            if (following := next(self._rest, None)) is None:
                return
            self.places, self.locations = following

    def take(self, limit: np.uint64) -> Entries:
        """What is at most at `limit`, which is not behind the last place that stands ready."""
        count = int(np.searchsorted(self.places, limit, side="right"))
        taken = self.places[:count], self.locations[:count], np.full(count, self._is_run, np.uint8)
        self.places, self.locations = self.places[count:], self.locations[count:]
        self._refill()
        return taken


def merged(indexes: Sequence[HashTable | Run]) -> Iterator[Entries]:
    """All entries in ascending order of places, those of one place together, newest first."""
    sources = [_Source(index) for index in indexes]
    while sources := [source for source in sources if source.places.size]:
        limit = min(source.places[-1] for source in sources)
        window, *older = [source.take(limit) for source in sources]
        for entries in older:
            window = merge(window, entries)
        yield window


def merge(newer: Entries, older: Entries) -> Entries:
    size = newer[0].size + older[0].size
    out = np.empty(size, np.uint64), np.empty(size, np.uint64), np.empty(size, np.uint8)
    merge_entries(*newer, *older, *out)
    return out


@dataclass(frozen=True)
class _Fold:
    """What one run takes over of its sources. segments: where the first one of the pool begins, the size of each."""

    sources: Sequence[HashTable | Run]
    data: np.ndarray
    width: int
    seed: np.uint64
    segments: tuple[int, int]
    bottom: bool

    def chosen(self) -> Iterator[tuple[Entries, np.ndarray, int]]:
        """(entries, which of them are needed, how many these are), a window at a time."""
        for entries in merged(self.sources):
            places, locations, _ = entries
            keep = np.empty(places.size, np.uint8)
            yield entries, keep, choose(places, locations, self.data, self.width == 0, self.bottom, keep)

    def estimate(self) -> Generator[None, None, int]:
        """How many entries will be needed: counted, or where there are many, as many as their density tells. Places
        are as good as random. Nothing but the capacity depends on it; 0 is exact."""
        count = 0
        for (places, _, _), _, needed in self.chosen():
            count += needed
            if count >= SAMPLE:
                return (count << 64) // (int(places[-1]) + 1)
            yield
        return count

    def widened(self, ids: tuple[int, int] | None, places: np.ndarray) -> tuple[int, int] | None:
        """The lowest and the highest id, of those before and of these."""
        if not self.width or not places.size:
            return ids
        words_at(places, self.seed, words := np.empty(places.size, np.uint64))
        low, high = int(words.view(np.int64).min()), int(words.view(np.int64).max())
        return (min(low, ids[0]), max(high, ids[1])) if ids else (low, high)

    def weights(self) -> np.ndarray:
        """Of each segment, what the sources that are runs refer to."""
        first, size = self.segments
        weights = np.zeros(max(1, -(-(self.data.size - first) // size)), np.int64)
        for source in self.sources:
            if isinstance(source, Run):
                for index, live in source.info.segments.items():
                    weights[index] += live
        return weights

    def weigh(self, entries: Entries, keep: np.ndarray, weights: np.ndarray) -> None:
        """Take off what is dropped of runs, add what is kept of open indexes: nothing else is looked at."""
        _, locations, marks = entries
        part = min(PART_SIZE, self.segments[1] // 4)
        weigh(self.data, locations, marks, keep, self.width, *self.segments, part, weights)


class _Writer:
    """Slots, and the expiries behind them, written in steps, with their checksums at the end."""

    def __init__(self, out: RunFileWriter, capacity: int, nonce: int) -> None:
        self._out, self.capacity, self._nonce = out, capacity, np.uint64(nonce)
        self._first = self._free = self._page = 0
        self._checks: list[np.ndarray] = []
        self._buffer = np.empty(2 * STEP, np.uint64)
        self._clear()

    def _clear(self) -> None:
        self._buffer[0::2], self._buffer[1::2] = FREE, 0

    def add(self, places: np.ndarray, locations: np.ndarray, keep: np.ndarray) -> Iterator[None]:
        """Enter those entries that are kept, behind all those before."""
        done = 0
        while done < places.size:
            done, self._free = fill_slots(
                places, locations, keep, self.capacity, self._first, self._free, self._buffer, done
            )
            if done < places.size:
                self._write(self._buffer)
                self._first += STEP
                self._clear()
                yield

    @property
    def slots(self) -> int:
        """How many there must be in all, those left free at the end among them."""
        return pages_of(2 * (max(self.capacity, self._free) + SPARE)) * PAGE_SLOTS

    def end_slots(self) -> Iterator[None]:
        """Write the last of them."""
        while self._first < self.slots:
            self._write(self._buffer[: 2 * (self.slots - self._first)])
            self._first += STEP
            self._clear()
            yield

    def add_expiries(self, expiries: np.ndarray) -> Iterator[None]:
        for start in range(0, expiries.size, 2 * STEP):
            some = expiries[start : start + 2 * STEP].astype(np.int64).view(np.uint64)
            self._write(np.pad(some, (0, -some.size % PAGE_WORDS)))
            yield

    def _write(self, words: np.ndarray) -> None:
        checks = np.empty(words.size // PAGE_WORDS, np.uint64)
        check_pages(words, self._page, self._nonce, checks)
        self._checks.append(checks)
        self._page += checks.size
        self._out.write(words)

    def end(self) -> None:
        checks = np.concatenate(self._checks)
        self._out.write(np.pad(checks, (0, -checks.size % PAGE_WORDS)))


def write_run(
    out: RunFileWriter,
    sources: Sequence[HashTable | Run],
    *,
    pool_data: np.ndarray,
    width: int,
    seed: np.uint64,
    segments: tuple[int, int],
    bottom: bool,
    live: int | None,
    added: np.ndarray,
    gone: np.ndarray,
    first: int,
    last: int,
) -> Generator[None, None, RunInfo]:
    """Write one run of what the sources (newest first) say together, in steps; returns what it is.

    width: bytes of a row, 0 for a keyspace, where only entries of the same key replace each other. seed: of the places.
    segments: where the pool's first one begins, and their size. bottom: there is nothing below, so deletes are dropped.
    added, gone: expiries, ascending. If no entry is left, the count is 0 and nothing is written."""
    fold = _Fold(sources, pool_data, width, seed, segments, bottom)
    offset, expected, nonce = out.size, (yield from fold.estimate()), secrets.randbits(63)
    writer, weights, count, deletes = _Writer(out, max(expected * 5 // 4, 1), nonce), NONE, 0, 0
    ids: tuple[int, int] | None = None
    if expected:
        weights = fold.weights()
        for entries, keep, needed in fold.chosen():
            fold.weigh(entries, keep, weights)
            yield from writer.add(entries[0], entries[1], keep)
            count += needed
            deletes += np.count_nonzero(entries[1][np.flatnonzero(keep)] & DELETE)
            ids = fold.widened(ids, entries[0])
            yield
        yield from writer.end_slots()
        yield from writer.add_expiries(added)
        yield from writer.add_expiries(gone)
        writer.end()
    return RunInfo(
        file=out.name,
        offset=offset,
        capacity=writer.capacity,
        tail=writer.slots - writer.capacity,
        count=count,
        live=live,
        added=added.size,
        gone=gone.size,
        nonce=nonce,
        segments={int(index): int(weights[index]) for index in np.flatnonzero(weights)},
        first=first,
        last=last,
        deletes=int(deletes),
        ids=ids,
    )
