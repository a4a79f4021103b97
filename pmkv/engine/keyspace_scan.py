"""Ordered scans of a keyspace: its keys in the order of their bytes, and which dead keys may leave the directory.

Keys above the run files are kept in a `KeyOrder` in DRAM, built at the first scan; keys in run files stand in the
catalog's directory, which all views share. A scan merges both, page by page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..catalog.lmdb_catalog import Catalog
from ..errors import InvalidError
from ..index.key_order import KeyOrder, after_prefix
from ..index.lookup_batch import lives
from ..kernels.hashing import place_of
from ..runtime.arguments import check_bytes, whole_number
from .byte_batch import merge_sorted

if TYPE_CHECKING:
    from .keyspace import Keyspace

SCAN_PAGE_KEYS = 1000
MAX_STALE_KEYS = 10_000  # keys that an order may hold although they are in run files, before it is built anew
MAX_DEAD_KEYS = 4096  # keys that wait for a checkpoint to remove them: it looks each up with locks.state held

Entry = tuple[bytes, bytes, int]  # key, value, expiry in unix ms or 0


class KeyspaceScan:
    """Scans one keyspace in order; a part of `Keyspace`, whose members it uses."""

    def __init__(self, keyspace: Keyspace, directory: Catalog | None) -> None:
        self._keyspace, self._directory = keyspace, directory
        self.reset()

    def reset(self) -> None:
        """Start anew on other layers. The caller holds locks.state."""
        self._order: KeyOrder | None = None  # keys above the run files; built by the first scan
        self._dead: dict[bytes, None] = {}  # keys of the directory that a scan found dead; ordered
        # The key from which the directory is to be searched for dead keys, None once it was: after a clear it is full
        # of them.
        self._sweep = b"" if self._keyspace.layer and not self._keyspace.stack.runs else None

    @property
    def is_built(self) -> bool:
        """Return whether keys above the run files are kept in order, since a scan: then new ones must be noted."""
        return self._order is not None

    def note(self, keys: Sequence[bytes]) -> None:
        """Add keys that were written. The caller holds locks.state."""
        if self._order is not None:
            self._order.add(keys)

    def forget_order(self) -> None:
        """Drop the order in DRAM; the next scan builds it anew."""
        self._order = None

    def chunks(
        self, prefix: bytes, start: bytes | None, stop: bytes | None, reverse: bool, limit: int | None
    ) -> Iterator[list[Entry]]:
        """Scan, yielding the living entries of one page of keys at a time."""
        for label, given in (("prefix", prefix), ("start", start), ("stop", stop)):
            if given is not None or label == "prefix":
                check_bytes(given, label)
        if limit is not None and whole_number(limit, "limit") < 0:
            raise InvalidError(f"limit={limit}: a number of entries, or None for all")
        low, reverse = max(prefix, start or b""), bool(reverse)
        high = min((bound for bound in (stop, after_prefix(prefix)) if bound is not None), default=None)
        left = limit if limit is not None else float("inf")
        while left > 0 and (high is None or low < high):
            count = int(min(left, SCAN_PAGE_KEYS))
            keys = self._page(low, high, reverse, count)
            if not keys:
                return
            living = self._living(keys)
            yield living[: int(min(left, len(living)))]
            left -= len(living)
            if len(keys) < count:
                return  # the page was not full: there are no more keys
            low, high = (low, keys[-1]) if reverse else (keys[-1] + b"\0", high)

    def _living(self, keys: list[bytes]) -> list[Entry]:
        """Return the living entries of these keys; the dead ones are forgotten."""
        keyspace, _lease = self._keyspace, self._keyspace._log.lease
        looked = keyspace._look(keys, asked=False, counted=False)
        rows = [(key, *row) for key, row in zip(keys, looked, strict=True)]
        if dead := [key for key, at, *_ in rows if at < 0]:
            self._forget(dead)
        return [(key, keyspace._value(at, size, flags), expiry) for key, at, size, expiry, flags in rows if at >= 0]

    def _page(self, low: bytes, high: bytes | None, reverse: bool, count: int) -> list[bytes]:
        """Return the next keys in order; dead ones are among them."""
        keyspace, stack = self._keyspace, self._keyspace.stack
        keyspace._guard()
        with keyspace._log.locks.state:
            keyspace._guard()
            runs, lsn = stack.runs, keyspace._changed
            if self._order is None or len(self._order) > MAX_STALE_KEYS + 2 * stack.count_above:
                self._order = KeyOrder(key for _, _, found in stack.walk_above() for key in keyspace._names(found))
            keys = self._order.chunk(low, high, reverse, count)
        if runs and self._directory is not None:
            # After the order in DRAM: a key that a checkpoint moves meanwhile is seen twice rather than never.
            below = self._directory.keys(keyspace.number, low, high, reverse, count, self._resolve)
            keys = merge_sorted(keys, below, reverse, count)
        keyspace._log.wait_durable(lsn)
        return keys

    def _resolve(self, prefix: bytes, key64: int) -> list[bytes]:
        """Return the keys with this prefix and hash, dead ones too: the directory abbreviates long keys."""
        keyspace = self._keyspace
        slot_hash = place_of(np.uint64(key64), keyspace.stack.seed)
        with keyspace._log.locks.state:
            return [key for key in keyspace._names(keyspace.stack.at(int(slot_hash))) if key.startswith(prefix)]

    # dead keys

    def _forget(self, dead: list[bytes]) -> None:
        """Remove deleted keys from the order, unless they came back meanwhile, and remember them for the directory,
        which they leave at a checkpoint. Keys that only expired stay: a clock that was ahead once must not hide them
        for ever."""
        with self._keyspace._log.locks.state:
            gone = self._deleted(dead)
            if self._order is not None:
                self._order.discard(gone)
            if self._keyspace.stack.runs and len(self._dead) < MAX_DEAD_KEYS:
                self._dead |= dict.fromkeys(gone)

    def _deleted(self, keys: list[bytes]) -> list[bytes]:
        """Return those of the keys that are absent or deleted. The caller holds locks.state."""
        found = self._keyspace.stack.find(self._keyspace._wanted(keys))
        return [key for key, is_alive in zip(keys, lives(found).tolist(), strict=True) if not is_alive]

    def take_dead(self) -> list[tuple[int, bytes, int]]:
        """Take the keys (keyspace, key, hash) that may leave the directory: dead when a scan met them, and dead now.

        The caller holds locks.state."""
        keyspace, candidates, self._dead = self._keyspace, list(self._dead), {}
        if self._sweep is not None and self._directory is not None:
            keys = self._directory.keys(keyspace.number, self._sweep, None, False, MAX_DEAD_KEYS, self._resolve)
            self._sweep = keys[-1] + b"\0" if keys else None
            candidates = [*dict.fromkeys(candidates + keys)]
        gone = self._deleted(candidates) if candidates else []
        hashes = keyspace._wanted(gone).key64s.tolist()
        return [(keyspace.number, key, key64) for key, key64 in zip(gone, hashes, strict=True)]

    def check(self) -> None:
        """Assert the invariants of the order."""
        if self._order is not None:
            self._order.check()
