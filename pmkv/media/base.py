"""What the engine asks of a medium, and what it may assume of one.

A medium is one range of bytes that persists, seen as `data`, a flat uint8 array:

- What is stored into `data` is seen at once by every reader of `data` in this process.
- Nothing stored is durable before `flush` of its range returns; but it may become durable at any moment
  before, in any order, in units of 8 bytes (BYTE, CACHE_LINE) or torn anywhere (PAGE).
- Bytes outside a flushed range are not touched by `flush`.
- Between two flushes of a range, the engine only appends: below the end of a flushed range nothing is stored again
  until `prepare` recycles the range. (A plain file relies on it to drop its private copies of flushed pages.)
- After a failed flush, what is durable of its ranges is unknown, and a second flush proves nothing, unless the bytes
  are written again (`rewrite`).
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
        return self.name.lower()


class Medium(Protocol):
    """Ten methods; the seam between the engine and files, persistent memory and crash tests."""

    granularity: Granularity
    data: np.ndarray  # uint8[capacity], readable and writable; replaced by `grow`, old arrays stay readable
    inline: bool  # flush is a matter of microseconds: do it on the caller's thread

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        """Reserve the range (whole pages), fill it with zeros, durably; FullError changes nothing. fill=False: where
        the file system can answer for the zeros of a range that was never written, it may: quickly, but then each
        flush there waits for its metadata."""

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        """Make the ranges durable, and what was flushed with sync=False before (that takes it out of this process only,
        so that it survives its death). OSError on failure."""

    def store(self, at: int, raw: np.ndarray) -> int:
        """`data[at : at + raw.size] = raw`, of much (uint8). Where a store costs something for each page, the medium
        may hand whole pages to the system, where they survive the process, but not a loss of power. Returns how many
        bytes it did so with: their pages need not have been made ready. OSError on failure."""

    def written(self, start: int, stop: int) -> Iterable[Range]:
        """Parts of the range, ascending, outside of which nothing but zeros is on the medium."""

    def will_read(self, start: int, stop: int) -> None:
        """A hint: the range is about to be read from end to end."""

    def will_write(self, start: int, stop: int) -> None:
        """A hint: the range, nothing of which was stored yet since `prepare`, is about to be."""

    def rewrite(self, ranges: Sequence[Range]) -> None:
        """Write bytes that are visible but perhaps not durable (found at recovery) once more, and make them durable."""

    def revert(self) -> None:
        """After a failed flush: forget what this process stored but did not flush; `data` shows the medium again."""

    def grow(self, capacity: int) -> None:
        """Extend to `capacity` bytes; the new range is not reserved yet. FullError when it cannot be. Nothing stored
        may be unflushed meanwhile: a new private mapping would not show it."""

    def close(self) -> None:
        """Give everything back. Flushes nothing."""
