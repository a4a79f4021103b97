"""Keys in order, for range scans: a superset of the live keys, sorted only when a scan asks.

Most stores are never scanned in order, so nothing is kept before the first scan; from then on new keys wait in a list
that the next scan sorts in. The caller holds locks.state, looks each key up, and reports dead keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from sortedcontainers import SortedSet


class KeyOrder:
    """Byte keys in ascending order of their bytes."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._sorted = SortedSet(keys)
        self._waiting: list[bytes] = []

    def __len__(self) -> int:
        return len(self._sorted) + len(self._waiting)

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys that may be new, in O(1) each."""
        self._waiting.extend(keys)

    def discard(self, keys: Iterable[bytes]) -> None:
        """Remove keys that a lookup found dead, in O(log n) each."""
        for key in keys:
            self._sorted.discard(key)

    def chunk(self, start: bytes | None, stop: bytes | None, reverse: bool, count: int) -> list[bytes]:
        """Return up to `count` keys of [start, stop), from the lower end, or from the upper one if `reverse`."""
        if self._waiting:
            self._sorted.update(self._waiting)
            self._waiting.clear()
        return list(islice(self._sorted.irange(start, stop, inclusive=(True, False), reverse=reverse), count))

    def check(self) -> None:
        """Assert that keys are in order and unique."""
        self._sorted._check()


def after_prefix(prefix: bytes) -> bytes | None:
    """Return the first key after all that begin with `prefix`; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
