"""A run: an immutable sorted index file, and how it is read. `kernels.runs` describes the layout of its slots.

A run occupies consecutive pages of a run file (`run_files`): slots, then the expiries that it adds to its stack, then
the expiries that it takes away, then one checksum for each page before. The catalog keeps its `RunInfo`, which says
where the parts begin. Opening a run reads nothing: a page is verified when a probe touches it first. Any number of
threads may read a run at the same time, and need no lock. `run_writer` writes runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..cache.cold_reads import COLD_IDS, start_slots
from ..errors import CorruptionError
from ..kernels.location import DELETE, OFFSET_MASK
from ..kernels.runs import (
    FREE,
    PAGE_WORDS,
    SPARE,
    WHOLE,
    collect_run,
    count_until,
    find_in_run,
    find_keys_in_run,
    key64s_of,
    missing_slot_hashes,
    verify_pages,
)
from .run_files import PAGE, will_read

PAGE_SLOTS = PAGE_WORDS // 2
WARM_AHEAD_PAGES = 2048  # that the disk reads at once after the start, beside the reads of users
STEP_SLOTS = 32 * PAGE_SLOTS  # slots walked, written or verified at a time: 128 KiB
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # slot hashes, key64s, locations


def pages_of(words: int) -> int:
    """Return how many pages so many 64-bit words need."""
    return -(-int(words) // PAGE_WORDS)


@dataclass(frozen=True)
class RunInfo:
    """The catalog's record of one run.

    file, offset: where the run begins. capacity, tail: counts of slots; a slot hash always maps to one of the first
    `capacity`. count: entries, deletes included. live: how many more keys are live because of this run; None if damage
    below kept that from being counted. added, gone: counts of expiries. nonce: seeds the page checksums. segments:
    bytes that the run refers to, by segment of the pool. first, last: the LSNs that it covers. deletes: how many
    entries are deletes; None: written by an earlier version, which did not count them. ids: lowest and highest id of
    a table; None: not known, or a keyspace. emptied: segments that a cleaner has emptied since: entries that point
    there count for nothing, as a newer run of the layer has all that lived there."""

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
    lists: int | None = None
    emptied: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether nothing would change without the run: it has no entry, and counts nothing."""
        return not (self.count or self.live or self.added or self.gone)

    def may_have(self, low: int, high: int) -> bool:
        """Return whether the run may hold an id in [low, high]."""
        return self.ids is None or (self.ids[0] <= high and low <= self.ids[1])

    @property
    def slot_pages(self) -> int:
        return pages_of(2 * (self.capacity + self.tail))

    @property
    def pages(self) -> int:
        """Return how many pages have a checksum."""
        return self.slot_pages + pages_of(self.added) + pages_of(self.gone)

    @property
    def nbytes(self) -> int:
        return (self.pages + pages_of(self.pages)) * PAGE

    def asdict(self) -> dict[str, Any]:
        values = asdict(self) | {"segments": {str(index): size for index, size in self.segments.items()}}
        emptied = values.pop("emptied")
        return values | ({"emptied": emptied} if emptied else {})

    def without(self, segments: set[int]) -> RunInfo:
        """Return the record of the run once these segments are emptied."""
        emptied = tuple(sorted({*self.emptied, *(segments & self.segments.keys())}))
        left = {index: size for index, size in self.segments.items() if index not in segments}
        return replace(self, segments=left, emptied=emptied)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunInfo:
        ids = values.get("ids")
        segments = {int(index): size for index, size in values["segments"].items()}
        emptied = tuple(values.get("emptied", ()))
        return cls(**values | {"segments": segments, "ids": ids and tuple(ids), "emptied": emptied})


class Run:
    """An immutable index on file. data: the bytes of the whole file; name: what error messages call the run; segments:
    pool offset of the first segment, and bytes of a segment (0: entries of emptied segments are shown, too)."""

    def __init__(self, info: RunInfo, data: np.ndarray, name: str, segments: tuple[int, int] = (0, 0)) -> None:
        self.info, self.name, self._data = info, name, data
        end = info.offset + info.nbytes
        if data.size < end:
            raise CorruptionError(
                f"{name} ends at byte {data.size:,}, and must have {end:,}: restore {info.file}, which was cut short"
            )
        words = data[info.offset : end].view(np.uint64)
        self._words, self._checks = words[: info.pages * PAGE_WORDS], words[info.pages * PAGE_WORDS :][: info.pages]
        self._nonce, self._verified = np.uint64(info.nonce), np.zeros(info.pages, np.uint8)
        self.is_warm, self._segments = False, segments
        self._emptied = flags_of(info.emptied if segments[1] else ())

    def without(self, segments: set[int]) -> Run:
        """Return the run as it is once these segments are emptied. It shares everything else with this one."""
        run = copy(self)
        run.info = self.info.without(segments)
        run._emptied = flags_of(run.info.emptied)
        return run

    @property
    def nbytes(self) -> int:
        return self.info.nbytes

    @property
    def _pages(self) -> tuple[np.ndarray, np.ndarray, np.uint64, np.ndarray]:
        return self._words, self._checks, self._nonce, self._verified

    def _refuse(self, page: int) -> None:
        """Raise CorruptionError if `page`, which a kernel returned, is the number of a damaged page."""
        if (page := int(page)) != WHOLE:
            raise CorruptionError(
                f"{self.name} is damaged: the checksum of the page at byte {self.info.offset + page * PAGE:,} of "
                f"{self.info.file} does not hold. Restore the file from a backup"
            )

    def find(self, seed: np.uint64, ids: np.ndarray, found: np.ndarray) -> None:
        """Set found[i] to the location of ids[i] where it is 0 and the run has one, be it a delete."""
        find_in_runs([self], seed, ids, found)

    def find_slot_hashes(self, slot_hashes: np.ndarray, positions: np.ndarray, found: np.ndarray) -> int:
        """Set found[positions[i]] to the location of the id whose slot hash is slot_hashes[i], 0 if there is none.

        Return how many are missing; these are moved to the front of `slot_hashes` and `positions`."""
        left, page = find_in_run(*self._pages, self.info.capacity, slot_hashes, positions, found)
        self._refuse(page)
        return int(left)

    def start_reads(self, slot_hashes: np.ndarray) -> None:
        """Start to read the pages that a probe for these slot hashes reads, all together."""
        start_slots(self._data, self.info.offset // PAGE, self.info.capacity, slot_hashes)

    def find_keys(
        self,
        data: np.ndarray,
        seed: np.uint64,
        key64s: np.ndarray,
        keys: np.ndarray,
        bounds: np.ndarray,
        owner: np.uint64,
        verify: bool,
        found: np.ndarray,
    ) -> None:
        """Do as `find` for byte keys. data: the bytes of the pool; the other arguments as of `HashTable.find_keys`."""
        what = self.info.capacity, seed, data, key64s, keys, bounds, owner, verify
        self._refuse(find_keys_in_run(*self._pages, *what, self._emptied, *self._segments, found))

    # walking

    def entries(self, slot_hash: int = 0, step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (slot hashes, locations) in ascending order, beginning at `slot_hash`; none of emptied segments.

        A window covers about `step` slots, STEP_SLOTS by default; entries of one slot hash are never separated."""
        step = step or STEP_SLOTS
        first, slots = int(slot_hash) * self.info.capacity >> 64, self.info.slot_pages * PAGE_SLOTS
        while first < slots:
            stop = self._group_end(min((first // step + 1) * step, slots))
            if step > PAGE_SLOTS:  # else one group is looked for
                will_read(self._data, self.info.offset + 16 * stop, self.info.offset + 16 * (stop + step))
            self._refuse(verify_pages(*self._pages, first // PAGE_SLOTS, -(-stop // PAGE_SLOTS)))
            slot_hashes, locations = np.empty(stop - first, np.uint64), np.empty(stop - first, np.uint64)
            count = collect_run(self._words, first, stop, np.uint64(slot_hash), slot_hashes, locations)
            slot_hashes, locations = slot_hashes[:count], locations[:count]
            if self._emptied.size:
                which = self._stay(locations)
                slot_hashes, locations = slot_hashes[which], locations[which]
            yield slot_hashes, locations
            first = stop

    def _stay(self, locations: np.ndarray) -> np.ndarray:
        """Return bool for each location: whether it lies in no emptied segment."""
        first, size = self._segments
        segments = ((locations & OFFSET_MASK).astype(np.int64) - first) // size
        known = (segments >= 0) & (segments < self._emptied.size)
        return ~(known & (self._emptied[segments.clip(0, self._emptied.size - 1)] != 0))

    def _group_end(self, stop: int) -> int:
        """Return the first slot at or after `stop` that does not continue the slot hash of the slot before."""
        words, slots = self._words, self.info.slot_pages * PAGE_SLOTS
        while stop < slots and words[2 * stop + 1] and words[2 * stop] == words[2 * stop - 2]:
            stop += 1
        return stop

    def at(self, slot_hash: int) -> np.ndarray:
        """Return the locations of one slot hash, newest first."""
        for slot_hashes, locations in self.entries(slot_hash, PAGE_SLOTS):
            if slot_hashes.size:
                return locations[slot_hashes == slot_hash]
        return np.empty(0, np.uint64)

    def walk(self, slot_hash: int, seed: int | np.uint64) -> Iterator[Entries]:
        """Yield (slot hashes, key64s, locations), otherwise as `entries`."""
        for slot_hashes, locations in self.entries(slot_hash):
            key64s_of(slot_hashes, np.uint64(seed), key64s := np.empty(slot_hashes.size, np.uint64))
            yield slot_hashes, key64s, locations

    # expiries

    def expired(self, now: int) -> int:
        """Return by how much expiry has lowered the live count of this run until `now` (unix ms)."""
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
        """Return the expiries (int64, unix ms, ascending) of the records that are live because of this run."""
        return self._expiries(self.info.slot_pages, self.info.added)

    @property
    def gone(self) -> np.ndarray:
        """Return the expiries of the records in older runs that this run hides."""
        return self._expiries(self.info.slot_pages + pages_of(self.info.added), self.info.gone)

    def _expiries(self, page: int, count: int) -> np.ndarray:
        self._refuse(verify_pages(*self._pages, page, page + pages_of(count)))
        return self._words[page * PAGE_WORDS :][:count].view(np.int64)

    # warming and checking

    def warm(self) -> Iterator[None]:
        """Read and verify all pages that no probe has touched yet, in steps."""
        step, ahead = STEP_SLOTS // PAGE_SLOTS, 0
        for first in range(0, self.info.pages, step):
            if first >= ahead - WARM_AHEAD_PAGES // 2:
                start, ahead = self.info.offset + ahead * PAGE, first + WARM_AHEAD_PAGES
                will_read(self._data, start, self.info.offset + min(ahead, self.info.pages) * PAGE)
            self._refuse(verify_pages(*self._pages, first, min(first + step, self.info.pages)))
            yield
        self.is_warm = True

    def check(self, seed: int | np.uint64) -> None:
        """Assert that pages are whole, entries ascend, probes find each entry, counts agree and expiries ascend."""
        count, deletes, free = 0, 0, 0
        written = copy(self)
        written._emptied = flags_of(())  # entries of emptied segments have their slots
        for slot_hashes, key64s, locations in written.walk(0, seed):
            assert locations.all()
            assert self.info.ids is None or not slot_hashes.size or within(key64s.view(np.int64), self.info.ids)
            count += slot_hashes.size
            deletes += np.count_nonzero(locations & DELETE)
            for slot_hash in slot_hashes.tolist():
                free = max(slot_hash * self.info.capacity >> 64, free) + 1
            if slot_hashes.size:
                assert (slot_hashes[:-1] <= slot_hashes[1:]).all()
                assert self._words[2 * free - 2] == slot_hashes[-1], "each in the first free slot"
                found = np.zeros(key64s.size, np.uint64)
                self.find(np.uint64(seed), key64s.view(np.int64), found)
                first = np.flatnonzero(np.append(True, slot_hashes[1:] != slot_hashes[:-1]))
                assert (found[first] == locations[first]).all(), "every key64 is found"
        assert count == self.info.count and self.info.tail >= SPARE
        assert self.info.deletes in (None, deletes)
        slots = self._words[: 2 * PAGE_SLOTS * self.info.slot_pages].reshape(-1, 2)
        assert (slots[slots[:, 1] == 0, 0] == FREE).all() and not slots[-SPARE:, 1].any()
        for expiries in (self.added, self.gone):
            assert (np.diff(expiries) >= 0).all()


def flags_of(segments: tuple[int, ...]) -> np.ndarray:
    """Return uint8 flags of segments by index, up to the last of these."""
    flags = np.zeros(max(segments, default=-1) + 1, np.uint8)
    flags[list(segments)] = 1
    return flags


def within(ids: np.ndarray, bounds: tuple[int, int]) -> bool:
    """Return whether all ids lie in [bounds[0], bounds[1]]."""
    return bool(bounds[0] <= ids.min() and ids.max() <= bounds[1])


def find_in_runs(runs: Iterable[Run], seed: np.uint64, ids: np.ndarray, found: np.ndarray, cold: bool = False) -> None:
    """Set found[i], where it is 0, to the location of ids[i] in the first run that has one.

    cold: the runs may have to be read from disk, so their pages are read together, for some thousand ids at a time."""
    if cold and ids.size > COLD_IDS:
        for first in range(0, ids.size, COLD_IDS):
            find_in_runs(runs, seed, ids[first : first + COLD_IDS], found[first : first + COLD_IDS], cold)
        return
    slot_hashes, positions, left = _missing(ids, seed, found)
    for run in runs if cold else ():
        run.start_reads(slot_hashes[:left])
    for run in runs:
        if left:
            left = run.find_slot_hashes(slot_hashes[:left], positions[:left], found)


def start_in_runs(runs: Iterable[Run], seed: np.uint64, ids: np.ndarray, found: np.ndarray) -> None:
    """Start to read the pages that `find_in_runs` reads for ids whose found[i] is 0, some thousand at most."""
    slot_hashes, _, left = _missing(ids, seed, found)
    for run in runs if left else ():
        run.start_reads(slot_hashes[:left])


def _missing(ids: np.ndarray, seed: np.uint64, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the slot hashes of the ids whose found[i] is 0, their positions, and how many there are."""
    slot_hashes, positions = np.empty(ids.size, np.uint64), np.empty(ids.size, np.int64)
    return slot_hashes, positions, int(missing_slot_hashes(ids, seed, found, slot_hashes, positions))
