"""Pinned rows: all rows of a dense table in DRAM, addressed by id, so that a read needs neither index nor log.

They stand in an index stack in place of a row cache, with the same face and the same rules: memtables are asked first;
what is offered must be what the runs say now; ids written or deleted are forgotten under the same hold of the lock as
the write, and come back once they are in a run and are read or loaded. Absent ids are known, too.

The whole is reserved in the `RowBudget`, and taken from it a block of ids at a time, as the loader goes on.
"""

from __future__ import annotations

import numpy as np

from ..kernels import pinned_rows
from ..kernels.pinned_rows import ABSENT, PRESENT, UNKNOWN
from .row_cache import HUGE_PAGES_FROM, AllCopied, Hits, RowBudget, reserve, use_huge_pages

WORD_BYTES = 8
PINNED_BLOCK_BYTES = 1 << 20  # taken from the budget at a time
TAKEN_IDS, TAKEN_BYTES = 1 << 12, 1 << 20  # of a batch whose rows are copied under the lock
LOADED_IDS = 1 << 12  # ids that are loaded at a time
SEARCHED_IDS = 1 << 18  # ids among which the next to be loaded are searched at a time


def pinned_bytes(width: int, count: int) -> int:
    """Return the bytes that `count` rows of this width take."""
    return count * (-(-width // 8) * 8 + WORD_BYTES)


class PinnedHits(Hits):
    """Holds what one lookup found: see `row_cache.RowHits`, whose methods these are."""

    __slots__ = ("_changes", "_ids", "_pinned", "_stamps", "_words", "rows", "slots", "stride")

    def __init__(self, pinned: PinnedRows, ids: np.ndarray, stamps: np.ndarray, missed: np.ndarray, count: int) -> None:
        """stamps: empty if the rows were copied during the lookup."""
        self._pinned, self._changes, self._words = pinned, pinned.changes, pinned.words
        self.rows, self.stride, self._ids, self.slots, self._stamps = pinned.rows, pinned.stride, ids, ids, stamps
        super().__init__(missed, count)

    def copy_to(self, out: np.ndarray, found: np.ndarray) -> int:
        """Copy the rows of all hits to `out`, uint8[n * width]. Where a row was changed since the lookup, set found[i]
        to 0, so that it is looked up on file. Return how many there were."""
        if not self.count or not self._stamps.size:
            return 0
        lost = pinned_rows.copy_pinned(
            self._words, self.rows, self.stride, self._pinned.width, self._ids, self._stamps, found, out
        )
        return self._lose(lost, found)

    def drop_changed(self, found: np.ndarray) -> int:
        """Check that the rows that were read in place did not change since the lookup. Where one did, set found[i]
        to 0. Return how many there were."""
        if not self.count or self._pinned.changes == self._changes:
            return 0
        return self._lose(pinned_rows.drop_changed_pinned(self._words, self._ids, self._stamps, found), found)


class PinnedRows:
    """All rows of a dense table of `count` ids. The caller holds locks.state; `PinnedHits` need no lock."""

    keeps_absent, can_shrink = True, False

    def __init__(self, budget: RowBudget, width: int, count: int, owner: int) -> None:
        """owner: the number of the table, which the checks of its rows cover."""
        self._budget, self.width, self.count, self.owner = budget, width, count, np.uint64(owner)
        self.stride = -(-width // 8) * 8
        near = budget.nodes.bind_near
        self.words = near(reserve(count * WORD_BYTES)).view(np.uint64)
        self.rows = near(reserve(count * self.stride))
        if self.rows.nbytes >= HUGE_PAGES_FROM:
            use_huge_pages(self.rows)
            use_huge_pages(self.words)
        self.reserved, self.nbytes = pinned_bytes(width, count), 0
        self.hits = self.misses = self.admitted = self.evicted = 0
        self.known = 0  # ids of which it is known whether there is a row
        self.changes = 0  # goes up before rows are changed
        self._limit = 0  # ids below this one have memory
        self._stamp = self._floor = 1
        budget.sharers.add(self)
        self._take_block()
        budget.need()

    def find(self, ids: np.ndarray, found: np.ndarray, out: np.ndarray | None = None) -> PinnedHits | AllCopied:
        """Do as `RowCache.find`. Ids of which it is known that there is no row are not missed."""
        if out is not None and ids.size <= TAKEN_IDS and out.size <= TAKEN_BYTES:
            missed, stamps = np.empty(ids.size, np.int64), np.empty(0, np.uint64)
            hits, missing = pinned_rows.take_pinned(
                self.words, self.rows, self.stride, self.width, self._floor, ids, found, missed, out
            )
            if hits == ids.size:
                return AllCopied(hits)
        else:
            stamps, missed = np.empty(ids.size, np.uint64), np.empty(ids.size, np.int64)
            hits, missing = pinned_rows.find_pinned(self.words, self._floor, ids, found, stamps, missed)
        return PinnedHits(self, ids, stamps, missed[:missing], hits)

    def note(self, ids: np.ndarray, hits: PinnedHits | AllCopied) -> None:
        """Do as `RowCache.note`."""
        self._budget.curve.note(ids, self)
        self.hits += hits.count
        self.misses += hits.missed.size

    @property
    def row_bytes(self) -> int:
        """Return the bytes that a row takes."""
        return self.stride + WORD_BYTES

    def lacks(self, ids: np.ndarray, found: np.ndarray) -> bool:
        """Return whether one of the ids whose found[i] is 0 is unknown. Counts nothing."""
        stamps, missed = np.empty(ids.size, np.uint64), np.empty(ids.size, np.int64)
        return bool(pinned_rows.find_pinned(self.words, self._floor, ids, found, stamps, missed)[1])

    def wants(self) -> bool:
        """Return True: what was found on file should be offered."""
        return True

    def admit(self, ids: np.ndarray, locations: np.ndarray, which: np.ndarray, rows: np.ndarray) -> None:
        """Store the row of ids[i], rows[i * width :], for each i of `which`, or that there is none."""
        self._budget.release_some()
        if self._limit < self.count:
            self._take_block()
        self.changes += 1
        filled = pinned_rows.fill_pinned(
            self.words, self.rows, self.stride, self.width, self._floor, self._limit, ids, locations, self.owner,
            which, rows, self._stamp,
        )  # fmt: skip
        self._stamp += filled
        self.known += filled
        self.admitted += filled

    def forget(self, ids: np.ndarray) -> None:
        """Forget ids that were written or deleted."""
        self.changes += 1
        self.known -= pinned_rows.forget_pinned(self.words, self._floor, ids)

    # loading

    @property
    def is_complete(self) -> bool:
        """Return whether something is known of every id."""
        return self.known == self.count

    def next_to_load(self, cursor: int) -> tuple[np.ndarray, int]:
        """Return some ids of which nothing is known, from a cursor on, and the next cursor; `count` is the end.

        Takes memory for them from the budget, if need be from other caches."""
        while cursor >= self._limit < self.count:
            if not self._take_block():
                return np.empty(0, np.int64), self.count
        ids = np.empty(LOADED_IDS, np.int64)
        stop = min(self._limit, cursor + SEARCHED_IDS)
        found, cursor = pinned_rows.ids_in_state(self.words, self._floor, cursor, stop, UNKNOWN, ids)
        return ids[:found], cursor

    def _take_block(self) -> bool:
        """Take memory for some more ids from the budget; return False if there is none left."""
        block = min(max(PINNED_BLOCK_BYTES // (self.stride + WORD_BYTES), 1), self.count - self._limit)
        nbytes = block * (self.stride + WORD_BYTES)
        if not self._budget.take_over(nbytes, self):
            return False
        self.nbytes += nbytes
        self._limit += block
        return True

    # figures

    def end_period(self) -> None:
        """Begin a new period of counting: nothing is counted, as these rows stay."""

    def hits_per_byte(self) -> float:
        """Return a number that no cache reaches: these rows stay."""
        return float("inf")

    def expected_hits(self) -> float:
        """Return the same number as `hits_per_byte`, so that no cache takes these bytes over."""
        return float("inf")

    def shrink(self, nbytes: int) -> None:
        """Do nothing: reserved bytes are not given to others."""

    def figures(self) -> dict[str, int]:
        """Return statistics by name."""
        return {
            "rows": len(self),
            "bytes": self.nbytes,
            "reserved": self.reserved,
            "hits": self.hits,
            "misses": self.misses,
            "fills": self.admitted,
            "evictions": self.evicted,
        }

    def __len__(self) -> int:
        return self.ids().size

    def ids(self) -> np.ndarray:
        """Return the ids of all rows here."""
        ids = np.empty(self.known, np.int64)
        return ids[: pinned_rows.ids_in_state(self.words, self._floor, 0, self._limit, PRESENT, ids)[0]]

    def clear(self) -> None:
        """Forget all ids at once."""
        self.changes += 1
        self._floor, self.known = self._stamp, 0
        self._budget.need()

    def close(self) -> None:
        """Give the memory up. Readers may still copy from the arrays that they hold."""
        self.changes += 1
        self._budget.give(self.nbytes)
        self._budget.sharers.discard(self)
        self.words, self.rows = self.words[:0].copy(), self.rows[:0].copy()  # the curve may refer to this object yet
        self.reserved = self.nbytes = self._limit = self.known = self.count = 0

    def check(self) -> None:
        """Assert that the bytes are accounted for, and what is known counted."""
        assert self.nbytes == self._limit * (self.stride + WORD_BYTES) <= self._budget.used <= self._budget.limit
        ids = np.empty(self.count, np.int64)
        known = [
            pinned_rows.ids_in_state(self.words, self._floor, 0, self.count, state, ids)[0]
            for state in (PRESENT, ABSENT)
        ]
        assert sum(known) == self.known <= self._limit
        assert (self.words >> np.uint64(2) < self._stamp).all()
