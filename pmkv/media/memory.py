"""DRAM as a medium: nothing survives the process, so flushes do nothing. For caches, tests and benchmarks."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from ..errors import FullError
from .base import Granularity, Range


class MemoryMedium:
    """A medium of `capacity` bytes of memory; the system provides each page at its first store."""

    granularity = Granularity.BYTE
    inline = True

    def __init__(self, capacity: int) -> None:
        self.data = self._allocate(capacity)

    @staticmethod
    def _allocate(capacity: int) -> np.ndarray:
        try:
            return np.frombuffer(
                mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000), np.uint8
            )
        except OSError as error:
            raise FullError(f"{capacity:,} bytes of memory are not to be had: {error.strerror}") from error

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        self.data[start:stop] = 0

    def discard(self, start: int, stop: int) -> bool:
        self.data[start:stop] = 0
        return True

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        pass

    def store(self, at: int, raw: np.ndarray) -> int:
        self.data[at : at + raw.size] = raw
        return 0

    def will_write(self, start: int, stop: int) -> None:
        """Do nothing: the first store to a page is cheap."""

    def written(self, start: int, stop: int) -> list[Range]:
        return [(start, stop)]

    def will_read(self, start: int, stop: int) -> None:
        pass

    def rewrite(self, ranges: Sequence[Range]) -> None:
        pass

    def revert(self) -> None:
        pass

    def grow(self, capacity: int) -> None:
        larger = self._allocate(capacity)
        larger[: self.data.size] = self.data
        self.data = larger

    def close(self) -> None:
        pass
