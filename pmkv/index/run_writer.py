"""Writes runs: merges memtables and older runs into one sorted index file, in steps.

`write_run` is the entry. Sources are merged in ascending order of slot hashes, a window at a time, so that memory is
bounded whatever their size.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels.location import DELETE, OFFSET_MASK
from ..kernels.runs import FREE, PAGE_WORDS, SPARE, check_pages, choose, fill_slots, key64s_of, merge_entries, weigh
from ..log.format import PART_SIZE
from .hash_table import HashTable
from .run import PAGE_SLOTS, STEP_SLOTS, Run, RunInfo, pages_of
from .run_files import RunFileWriter

SAMPLE_ENTRIES = 1 << 17  # entries examined to estimate how many there will be, within half a percent
MarkedEntries = tuple[np.ndarray, np.ndarray, np.ndarray]  # slot hashes, locations, marks: 1 where a run has it
# Takes slot hashes, locations, which of them are kept, and weights; returns the new locations and weights.
Relocate = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class _MergeInput:
    """One source of a merge: the window of its entries that comes next."""

    def __init__(self, source: HashTable | Run) -> None:
        self._is_run = isinstance(source, Run)
        if isinstance(source, Run):
            self._windows = source.entries()
        else:
            self._windows = ((slot_hashes, locations) for slot_hashes, _, locations in source.walk())
        self.slot_hashes = self.locations = np.empty(0, np.uint64)
        self._refill()

    def _refill(self) -> None:
        while not self.slot_hashes.size:
            if (window := next(self._windows, None)) is None:
                return
            self.slot_hashes, self.locations = window

    def take(self, limit: np.uint64) -> MarkedEntries:
        """Take the entries with slot hash <= limit. `limit` must not exceed the last one buffered."""
        count = int(np.searchsorted(self.slot_hashes, limit, side="right"))
        taken = self.slot_hashes[:count], self.locations[:count], np.full(count, self._is_run, np.uint8)
        self.slot_hashes, self.locations = self.slot_hashes[count:], self.locations[count:]
        self._refill()
        return taken


def merged_windows(sources: Sequence[HashTable | Run]) -> Iterator[MarkedEntries]:
    """Yield all entries of the sources (newest first) in ascending order of slot hashes.

    Entries of one slot hash come in the same window, newest first."""
    inputs = [_MergeInput(source) for source in sources]
    while inputs := [one for one in inputs if one.slot_hashes.size]:
        limit = min(one.slot_hashes[-1] for one in inputs)
        window, *older = [one.take(limit) for one in inputs]
        for entries in older:
            window = merge_two(window, entries)
        yield window


def merge_two(newer: MarkedEntries, older: MarkedEntries) -> MarkedEntries:
    """Merge two ascending windows; of equal slot hashes those of `newer` come first."""
    size = newer[0].size + older[0].size
    out = np.empty(size, np.uint64), np.empty(size, np.uint64), np.empty(size, np.uint8)
    merge_entries(*newer, *older, *out)
    return out


@dataclass(frozen=True)
class Compaction:
    """Selects the entries of the sources that the new run needs.

    data: the bytes of the pool; segments: the pool offset of its first segment, and the bytes of a segment."""

    sources: Sequence[HashTable | Run]
    data: np.ndarray
    width: int
    seed: np.uint64
    segments: tuple[int, int]
    bottom: bool

    def windows(self) -> Iterator[tuple[MarkedEntries, np.ndarray, int]]:
        """Yield (entries, uint8 mask of those needed, how many are needed), a window at a time."""
        for entries in merged_windows(self.sources):
            slot_hashes, locations, _ = entries
            keep = np.empty(slot_hashes.size, np.uint8)
            yield entries, keep, int(choose(slot_hashes, locations, self.data, self.width == 0, self.bottom, keep))

    def estimate(self) -> Generator[None, None, int]:
        """Return how many entries will be needed: exact if they are few, else extrapolated from the first ones.

        Slot hashes are uniform, so the density of the first windows holds for all. Only the capacity of the run
        depends on the estimate; 0 is always exact."""
        count = 0
        for (slot_hashes, _, _), _, needed in self.windows():
            count += needed
            if count >= SAMPLE_ENTRIES:
                return (count << 64) // (int(slot_hashes[-1]) + 1)
            yield
        return count

    def widened(self, ids: tuple[int, int] | None, slot_hashes: np.ndarray) -> tuple[int, int] | None:
        """Return the lowest and the highest id of `ids` and of the entries with these slot hashes."""
        if not self.width or not slot_hashes.size:
            return ids
        key64s_of(slot_hashes, self.seed, key64s := np.empty(slot_hashes.size, np.uint64))
        low, high = int(key64s.view(np.int64).min()), int(key64s.view(np.int64).max())
        return (min(low, ids[0]), max(high, ids[1])) if ids else (low, high)

    def weights(self) -> np.ndarray:
        """Return the bytes of each segment that the sources which are runs refer to."""
        first, size = self.segments
        weights = np.zeros(max(1, -(-(self.data.size - first) // size)), np.int64)
        for source in self.sources:
            if isinstance(source, Run):
                for index, live in source.info.segments.items():
                    weights[index] += live
        return weights

    @property
    def lists(self) -> int | None:
        """Return how many entries of the sources that are runs are lists of chunks, None if that is not known."""
        counts = [source.info.lists for source in self.sources if isinstance(source, Run)]
        return None if None in counts else sum(counts)

    def weigh(self, entries: MarkedEntries, keep: np.ndarray, weights: np.ndarray) -> int:
        """Subtract the bytes of dropped entries of runs, add those of kept entries of memtables. Return the same for
        the number of lists of chunks.

        No other record is read."""
        _, locations, marks = entries
        chunk_size = min(PART_SIZE, self.segments[1] // 4)
        return int(weigh(self.data, locations, marks, keep, self.width, *self.segments, chunk_size, weights))

    def live_bytes(self) -> Generator[None, None, np.ndarray]:
        """Return the bytes of each segment that a run of what is needed would refer to, in steps."""
        weights, runs = self.weights(), [source for source in self.sources if isinstance(source, Run)]
        if len(self.sources) > 1 or (self.bottom and any(run.info.deletes != 0 for run in runs)):
            for entries, keep, _ in self.windows():
                self.weigh(entries, keep, weights)
                yield
        return weights


@dataclass(frozen=True)
class MovedEntries(Compaction):
    """Selects, of the needed entries, those that point into segments which a cleaner empties. moving: bool for each
    segment; expected: how many entries there are, about."""

    moving: np.ndarray
    expected: int

    def windows(self) -> Iterator[tuple[MarkedEntries, np.ndarray, int]]:
        """Yield as a compaction does, the selected entries alone, marked as those of no run."""
        first, size = self.segments
        for (slot_hashes, locations, _), keep, _ in super().windows():
            places = ((locations & OFFSET_MASK).astype(np.int64) - first) // size
            known = (places >= 0) & (places < self.moving.size)
            which = np.flatnonzero((keep != 0) & known & self.moving[places.clip(0, self.moving.size - 1)])
            entries = slot_hashes[which], locations[which], np.zeros(which.size, np.uint8)
            yield entries, np.ones(which.size, np.uint8), which.size

    def estimate(self) -> Generator[None, None, int]:
        """Return what the cleaner expects: it has counted what lives, and looking twice would take long."""
        yield
        return self.expected

    def weights(self) -> np.ndarray:
        """Return zeros: what the run refers to is added as it is written."""
        return np.zeros_like(super().weights())

    @property
    def lists(self) -> int | None:
        """Return 0, as a layer with lists is always written anew."""
        return 0


class _PageWriter:
    """Writes the pages of a run in order: slots, expiries, and at the end the checksums of these pages."""

    def __init__(self, out: RunFileWriter, capacity: int, nonce: int) -> None:
        self._out, self.capacity, self._nonce = out, capacity, np.uint64(nonce)
        self._first_slot = self._free_slot = self._page = 0
        self._checks: list[np.ndarray] = []
        self._buffer = np.empty(2 * STEP_SLOTS, np.uint64)
        self._clear()

    def _clear(self) -> None:
        self._buffer[0::2], self._buffer[1::2] = FREE, 0

    def add(self, slot_hashes: np.ndarray, locations: np.ndarray, keep: np.ndarray) -> Iterator[None]:
        """Place the entries that `keep` selects after all those placed before."""
        done = 0
        while done < slot_hashes.size:
            filled = fill_slots(
                slot_hashes, locations, keep, self.capacity, self._first_slot, self._free_slot, self._buffer, done
            )
            done, self._free_slot = int(filled[0]), int(filled[1])
            if done < slot_hashes.size:
                self._write(self._buffer)
                self._first_slot += STEP_SLOTS
                self._clear()
                yield

    @property
    def slots(self) -> int:
        """Return the final count of slots, those left free at the end included."""
        return pages_of(2 * (max(self.capacity, self._free_slot) + SPARE)) * PAGE_SLOTS

    def end_slots(self) -> Iterator[None]:
        """Write the slots that are still buffered, and the free ones after them."""
        while self._first_slot < self.slots:
            self._write(self._buffer[: 2 * (self.slots - self._first_slot)])
            self._first_slot += STEP_SLOTS
            self._clear()
            yield

    def add_expiries(self, expiries: np.ndarray) -> Iterator[None]:
        """Write ascending expiries, padded to whole pages."""
        for start in range(0, expiries.size, 2 * STEP_SLOTS):
            piece = expiries[start : start + 2 * STEP_SLOTS].astype(np.int64).view(np.uint64)
            self._write(np.pad(piece, (0, -piece.size % PAGE_WORDS)))
            yield

    def _write(self, words: np.ndarray) -> None:
        checks = np.empty(words.size // PAGE_WORDS, np.uint64)
        check_pages(words, self._page, self._nonce, checks)
        self._checks.append(checks)
        self._page += checks.size
        self._out.write(words)

    def end(self) -> None:
        """Write the checksums of all pages."""
        checks = np.concatenate(self._checks)
        self._out.write(np.pad(checks, (0, -checks.size % PAGE_WORDS)))


def stay(
    slot_hashes: np.ndarray, locations: np.ndarray, keep: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leave records where they are: the default of `write_run`."""
    return locations, weights


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
    relocate: Relocate = stay,
    moving: tuple[np.ndarray, int] | None = None,
) -> Generator[None, None, RunInfo]:
    """Write one run that holds what the sources (newest first) say together, in steps; return its `RunInfo`.

    width: bytes of a row, 0 for a keyspace, where only entries of the same key replace each other. seed: of the slot
    hashes. segments: pool offset of the first segment, and bytes of a segment. bottom: nothing older lies below, so
    deletes are dropped. added, gone: expiries, ascending. live, first, last: see `RunInfo`. relocate: moves records and
    returns their new locations. moving: of `MovedEntries`, which alone are written. Without any, the run `is_empty`."""
    how = sources, pool_data, width, seed, segments, bottom
    compaction = MovedEntries(*how, *moving) if moving else Compaction(*how)
    offset, expected, nonce = out.size, (yield from compaction.estimate()), secrets.randbits(63)
    writer, weights = _PageWriter(out, max(expected * 5 // 4, 1), nonce), np.empty(0, np.int64)
    count, deletes, lists, ids = 0, 0, compaction.lists, None
    if expected or live or added.size or gone.size:  # entries may have moved to a run above, and be counted here
        weights = compaction.weights()
        for entries, keep, needed in compaction.windows():
            more = compaction.weigh(entries, keep, weights)
            lists = None if lists is None else lists + more
            locations, weights = relocate(*entries[:2], keep, weights)
            yield from writer.add(entries[0], locations, keep)
            count += needed
            deletes += np.count_nonzero(entries[1][np.flatnonzero(keep)] & DELETE)
            ids = compaction.widened(ids, entries[0])
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
        lists=lists,
    )
