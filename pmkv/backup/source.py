"""Reading a collection of an open view for a backup: its entries in the order of their slot hashes, page by page.

A page holds `locks.state` for a fraction of a millisecond, or a millisecond for keys, and rows and values are read as
users read them, verified. The view must not change meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..engine.collection import Collection
from ..engine.keyspace import Keyspace
from ..engine.table import Table
from ..errors import CorruptionError
from ..index.lookup_batch import lives
from ..kernels.records import FLAG_PARTS
from ..kernels.runs import missing_slot_hashes
from ..runtime.scheduling import yield_cpu
from .chain import SLOT_HASHES, Page
from .entries import KeyEntries, RowEntries

NAMED_KEYS = 512  # keys of a page: the lock is held while their names are read


def source_of(collection: Collection, now: int) -> TableSource | KeyspaceSource:
    """Return what reads a collection. now: keys that expired by then are left out."""
    return TableSource(collection) if isinstance(collection, Table) else KeyspaceSource(collection, now)


class TableSource:
    """Reads a table."""

    def __init__(self, table: Table) -> None:
        self.table, self.name = table, table.stack.tree.name
        self.width, self.seed = table.width, table.stack.tree.seed
        self.decision = table.stack.tree.creation

    def pages(self) -> Iterator[Page]:
        """Yield all ids with their locations, without rows."""
        cursor = 0
        while cursor < SLOT_HASHES:
            self.table._guard()
            with self.table._log.publisher.entry, self.table._log.locks.state:
                self.table._guard()
                window = next((one for one in self.table.stack.walk(cursor) if one[0].size), None)
            if window is None:
                yield SLOT_HASHES, RowEntries.none(self.width)
                return
            slots, _, locations = window
            newest = np.flatnonzero(np.diff(slots, prepend=~slots[:1]))
            newest = newest[lives(locations[newest])]
            cursor = int(slots[-1]) + 1
            yield cursor, RowEntries(slots[newest], locations[newest])
            yield_cpu()

    def sizes(self, entries: RowEntries) -> np.ndarray:
        """Return about how many bytes each entry will take in a piece."""
        return np.full(len(entries), 16 + self.width)

    def filled(self, entries: RowEntries) -> RowEntries:
        """Return the entries with their rows."""
        ids = entries.ids(self.seed)
        rows, found = self.table._gather(ids, np.zeros(self.width, np.uint8), cached=False)
        if not found.all():
            raise CorruptionError(f"row {ids[np.argmin(found)]} of table {self.table.name!r} vanished: run pmkv check")
        return RowEntries(entries.slots, entries.locations, rows.reshape(len(entries), self.width))


class KeyspaceSource:
    """Reads a keyspace."""

    def __init__(self, keyspace: Keyspace, now: int) -> None:
        self.keyspace, self.name, self._now = keyspace, keyspace.stack.tree.name, now
        self.width, self.seed, self.decision = 0, 0, None

    def pages(self) -> Iterator[Page]:
        """Yield all keys with their locations, expiries and flags, without values."""
        cursor = 0
        while cursor < SLOT_HASHES:
            cursor, names = self._names(cursor)
            yield cursor, self._located(names)
            yield_cpu()

    def _names(self, cursor: int) -> tuple[int, list[bytes]]:
        """Return where the next page begins, and the keys of this one, dead ones too."""
        keyspace = self.keyspace
        keyspace._guard()
        with keyspace._log.locks.state:
            keyspace._guard()
            window = next((one for one in keyspace.stack.walk(cursor) if one[0].size), None)
            if window is None:
                return SLOT_HASHES, []
            slots, _, found = window
            take = slots.size
            if take > NAMED_KEYS:
                take = int(np.searchsorted(slots, slots[NAMED_KEYS - 1], "right"))
            return int(slots[take - 1]) + 1, keyspace._names(found[:take])

    def _located(self, names: list[bytes]) -> KeyEntries:
        if not names:
            return KeyEntries.none()
        locations, rows = self.keyspace._locate(names, self._now)
        key64s = self.keyspace._wanted(names).key64s
        slots, places = np.empty(key64s.size, np.uint64), np.empty(key64s.size, np.int64)
        nothing = np.zeros(key64s.size, np.uint64)
        missing_slot_hashes(key64s.view(np.int64), self.keyspace.stack.seed, nothing, slots, places)
        alive = np.flatnonzero(rows[:, 0] >= 0)
        alive = alive[np.argsort(slots[alive], kind="stable")]
        kinds = (rows[:, 3] & ~FLAG_PARTS).astype(np.uint8)
        return KeyEntries(slots, locations, names, rows[:, 2], kinds).take(alive)

    def sizes(self, entries: KeyEntries) -> np.ndarray:
        """Return about how many bytes each entry will take in a piece."""
        lengths, _ = self.keyspace._log.deferring(lambda: self.keyspace.sizes(entries.keys))
        return np.array([(length or 0) + len(key) + 40 for length, key in zip(lengths, entries.keys)], np.int64)

    def filled(self, entries: KeyEntries) -> KeyEntries:
        """Return the entries with their values."""
        _lease = self.keyspace._log.lease
        _, rows = self.keyspace._locate(entries.keys, self._now)
        entries.values = [self.keyspace._value(at, length, flags) for at, length, _, flags in rows.tolist()]
        return entries
