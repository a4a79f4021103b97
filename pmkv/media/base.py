"""The interface of a medium: what the engine asks of it, and what the engine may assume.

A medium is one range of bytes that persists, seen as `data`, a flat uint8 array:

- Every reader of `data` in this process sees a store into `data` at once.
- No store is durable before `flush` of its range returns; but it may become durable at any moment before, in any
  order, in units of 8 bytes (BYTE, CACHE_LINE) or torn anywhere (PAGE).
- `flush` does not touch bytes outside the flushed range.
- Between two flushes of a range, the engine only appends: below the end of a flushed range nothing is stored again
  until `prepare` recycles the range. (A plain file relies on it to drop its private copies of flushed pages.)
- After a failed flush, it is unknown which bytes of its ranges are durable, and a second flush proves nothing, unless
  the bytes are written again (`rewrite`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

Range = tuple[int, int]  # [start, stop) in bytes of the medium


class Granularity(enum.IntEnum):
    """The unit that reaches the medium whole. A smaller one promises more."""

    BYTE = 8  # eADR: a store is persistent once it is visible; 8-byte units
    CACHE_LINE = 64  # DAX: a flushed cache line
    PAGE = 4096  # a plain file: anything may be torn until it is synced

    @property
    def word(self) -> str:
        """Return the name that options and reports use."""
        return self.name.lower()


class Medium(Protocol):
    """The seam between the engine and files, persistent memory and crash tests."""

    granularity: Granularity
    data: np.ndarray  # uint8[capacity], readable and writable; replaced by `grow`, old arrays stay readable
    inline: bool  # flush takes microseconds, so the calling thread does it

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        """Reserve the range (whole pages) and fill it with zeros, durably; FullError changes nothing.

        fill=False: if the file system itself guarantees zeros in a range that was never written, no zeros are written.
        This is fast, but each flush of the range then waits for the metadata of the file system."""

    def discard(self, start: int, stop: int) -> bool:
        """Give the range (whole pages) back to the system where that is possible; it must be prepared before it is
        stored to again. Until then, a power cut may bring any of its bytes back. Return whether it reads as zeros."""

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        """Make the ranges durable, and everything flushed with sync=False before. OSError on failure.

        sync=False: only take the bytes out of this process, so that they survive its death."""

    def store(self, at: int, raw: np.ndarray) -> int:
        """Set `data[at : at + raw.size] = raw` for a large `raw` (uint8). OSError on failure.

        Where a store costs something for each page, the medium may write whole pages to the system, where they survive
        the process but not a power cut. Return how many bytes were written that way: their pages need no
        `will_write`."""

    def written(self, start: int, stop: int) -> Iterable[Range]:
        """Yield parts of the range, ascending; outside of them the medium has nothing but zeros."""

    def will_read(self, start: int, stop: int) -> None:
        """Hint that the range is about to be read from end to end."""

    def will_write(self, start: int, stop: int) -> None:
        """Hint that the range is about to be stored to, for the first time since `prepare`."""

    def rewrite(self, ranges: Sequence[Range]) -> None:
        """Write bytes that are visible but perhaps not durable (found at recovery) once more, and make them durable."""

    def revert(self) -> None:
        """Forget, after a failed flush, what this process stored but did not flush; `data` shows the medium again."""

    def grow(self, capacity: int) -> None:
        """Extend to `capacity` bytes; the new range is not reserved yet. FullError when that is impossible.

        No store may be unflushed meanwhile: a new private mapping would not show it."""

    def close(self) -> None:
        """Release all resources. Flushes nothing."""
