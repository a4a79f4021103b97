"""The miss-ratio curve of the row cache: how many lookups more or less DRAM would serve, from a sample of ids.

What is told is the hit ratio of an LRU cache of all rows that are looked up, which the row cache comes close to. The
caller holds locks.state.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..kernels.miss_curve import note_ids

SEED_FACTOR = 0x9E3779B97F4A7C15  # that spreads small numbers over 64 bits
SAMPLE_BITS_MIN = 7  # one id in 128
TRACKED_IDS = 1 << 16  # of the sample
ROW_BYTES = 256  # of rows for which the largest cache is covered; of narrower ones more are forgotten
NOTED_AT_ONCE = 1 << 13  # ids that are gathered before they are looked at
SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the cache whose hit ratios are told, in budgets
SAMPLES_MIN = 200  # before anything is told
SAMPLES_MAX = 1 << 17  # after so many the older ones count half


class CachedTable(Protocol):
    """The rows of one table in DRAM. owner: its number; row_bytes: what one row takes."""

    owner: np.uint64

    @property
    def row_bytes(self) -> int: ...


class MissCurve:
    """Hit ratios of caches of several sizes. budget: bytes of the row cache."""

    def __init__(self, budget: int) -> None:
        rows = SIZES[-1] * budget / ROW_BYTES
        self.bits = max(SAMPLE_BITS_MIN, int(rows / TRACKED_IDS).bit_length())
        self._edges = np.array([int(size * budget) >> self.bits for size in SIZES], np.int64)
        self._counts = np.zeros(len(SIZES) + 1, np.int64)
        self._gathered: list[tuple[np.ndarray, CachedTable]] = []
        self._waiting, self._noted = 0, 0.0  # ids in `_gathered`, and those that `_counts` was sampled from
        self._arrays: tuple[np.ndarray, ...] | None = None  # made with the first ids: most stores in tests need none

    def note(self, ids: np.ndarray, rows: CachedTable) -> None:
        """Update the curve by a lookup of ids of a table."""
        self._gathered.append((ids.copy(), rows))
        self._waiting += ids.size
        if self._waiting >= NOTED_AT_ONCE:
            self._look()

    def _look(self) -> None:
        gathered, self._gathered, self._waiting = self._gathered, [], 0
        if self._arrays is None:
            numbers = 2 * TRACKED_IDS
            keys = np.zeros(2 * numbers, np.uint64), np.zeros(2 * numbers, np.int64)
            last = np.zeros(numbers, np.uint64), np.zeros(numbers, np.int64), np.zeros(numbers + 1, np.int64)
            self._arrays = (*keys, *last, np.zeros(2, np.int64))
        # of one table together: what is looked up between is few beside any cache whose hits are told
        by_table: dict[int, tuple[CachedTable, list[np.ndarray]]] = {}
        for some, rows in gathered:
            by_table.setdefault(int(rows.owner), (rows, []))[1].append(some)
        for owner, (rows, parts) in by_table.items():
            ids = np.concatenate(parts)
            seed = owner * SEED_FACTOR % (1 << 64)  # else id 2 of table 1 would be id 1 of table 2
            self._noted += ids.size
            note_ids(ids, seed, rows.row_bytes, self.bits, *self._arrays, self._edges, self._counts)
        if self._counts.sum() > SAMPLES_MAX:
            self._counts //= 2
            self._noted /= 2

    def ratios(self) -> dict[float, float]:
        """Return the hit ratio by size of the cache, in budgets; nothing while too little is known."""
        self._look()
        sampled, expected = int(self._counts.sum()), self._noted / (1 << self.bits)
        if sampled < SAMPLES_MIN:
            return {}
        # the hottest ids make the difference: they are in the sample or are not, and any cache has them (SHARDS-adj)
        hits = np.cumsum(self._counts[:-1]) + expected - sampled
        return dict(zip(SIZES, np.clip(hits / expected, 0.0, 1.0).tolist()))
