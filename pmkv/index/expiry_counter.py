"""Counts times up to a moment, of which more are added with every write: the expiries of a memtable's records.

Nothing is ever taken away. What overwritten records had is counted apart, and one count subtracted from the other.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

RECENT = 1024  # times that are not sorted yet
SORTED_TOGETHER = 1 << 16  # at most: sorting more would hold up a write


class ExpiryCounter:
    """Times in unix ms. The caller of `add` and `count_until` holds locks.state."""

    def __init__(self) -> None:
        self._parts: tuple[tuple[np.ndarray, ...], list[int]] = (), []  # sorted arrays, and recent times in no order

    def add(self, times: list[int]) -> None:
        """Add times, in any order."""
        arrays, recent = self._parts
        recent += times
        if len(recent) > RECENT:
            together = np.sort(np.array(recent, np.int64))
            while arrays and arrays[-1].size <= together.size <= SORTED_TOGETHER:
                together, arrays = np.sort(np.concatenate([arrays[-1], together]), kind="stable"), arrays[:-1]
            self._parts = (*arrays, together), []  # at once: others may be reading

    def count_until(self, now: int) -> int:
        """Return how many of them are at `now` or before it."""
        arrays, recent = self._parts
        recent.sort()  # the next time this is quick
        return sum(int(np.searchsorted(array, now, "right")) for array in arrays) + bisect_right(recent, now)

    def values(self) -> np.ndarray:
        """Return all times, int64, in no order."""
        arrays, recent = self._parts
        return np.concatenate([*arrays, np.array(recent, np.int64)])

    def __bool__(self) -> bool:
        return any(self._parts)
