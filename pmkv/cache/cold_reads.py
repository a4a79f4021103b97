"""Cold reads: whether reads of a table wait for the disk, and how a batch of them waits once.

Whether a page is in memory is known to the system alone, and asking for each page costs as much as reading it. But the
system counts what it reads from disk for each thread. So a table counts as cold while a share of its latest lookups
below the caches made the disk read; then the pages of a batch are started together, index pages first, and a server
takes such a read off its loop.
"""

from __future__ import annotations

import resource

import numpy as np

from ..kernels.readahead import PAGE_BYTES, row_pages, slot_pages, start_reads

MEASURED_IDS = 64  # that were missing, before the average is moved
COLD_IDS = 1 << 13  # ids whose pages are started together: those of more might be dropped before they are used
SMOOTHING = 0.2  # share of the latest ids in the average
COLD_SHARE, WARM_SHARE = 0.02, 0.005  # pages read from disk for each id that was missing: from, and below
STRIDE_PAGES = 4  # pages of rows so far apart are read with those between: in order, a disk is that much faster
BLOCK_BYTES = 512  # the unit in which the system counts


def pages_read() -> float:
    """Return how many pages this thread has made the disk read."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock * BLOCK_BYTES / PAGE_BYTES


class ColdReads:
    """Measures how often lookups of one index stack wait for the disk. Cold at first, as nothing is known then.

    Threads may call it at the same time: a lost count does no harm."""

    __slots__ = ("_missing", "_pages", "is_cold", "pages", "share")

    def __init__(self) -> None:
        self.is_cold, self.share = True, 1.0
        self.pages = 0  # read from disk since the beginning
        self._missing, self._pages = 0, 0.0  # not in the average yet

    def learn(self, pages: float, missing: int) -> None:
        """Update the measure by a batch with so many ids neither in memory nor in the row cache, and `pages` read for
        it."""
        self.pages += int(pages)
        self._missing += missing
        self._pages += pages
        if self._missing >= MEASURED_IDS:
            self.share += SMOOTHING * (min(self._pages / self._missing, 1.0) - self.share)
            self._missing, self._pages = 0, 0.0
            self.is_cold = self.share > (WARM_SHARE if self.is_cold else COLD_SHARE)


def address_of(data: np.ndarray) -> np.uint64:
    """Return where an array is mapped, which begins on a page."""
    return np.uint64(data.__array_interface__["data"][0])


def start_rows(data: np.ndarray, locations: np.ndarray, width: int) -> None:
    """Start to read the pages of the pool on which these rows stand."""
    pages = np.empty(2 * locations.size, np.int64)
    pages = pages[: row_pages(locations, width, pages)]
    pages.sort()
    start_reads(address_of(data), pages, STRIDE_PAGES)


def start_slots(data: np.ndarray, first: int, capacity: int, slot_hashes: np.ndarray) -> None:
    """Start to read the pages of a run that a probe for these slot hashes reads. data: the bytes of its file; first:
    the page where its slots begin."""
    pages = np.empty(slot_hashes.size, np.int64)
    slot_pages(slot_hashes, capacity, first, pages)
    pages.sort()
    start_reads(address_of(data), pages, 1)
