"""A transaction: writes are collected, seen by its own reads, and applied in one batch at the end.

Reads see the store as it is at that moment, overlaid with what was written inside. Nothing conflicts but keys that
were watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConflictError
from ..log.format import frame_size
from ..log.room import with_room
from ..runtime.arguments import check_text, columns_of_pairs
from .array_forms import as_id_array, in_form, out_array
from .byte_batch import check_keys, log_bytes
from .casting import add_rows
from .engine import Engine
from .keyspace import Keyspace, Pairs
from .one_process import OneProcess
from .open_view import OpenView
from .table import Table, check_adds
from .watches import Watch

RECORD_OVERHEAD = 256  # more than a frame's and a record's headers and padding take


class Transaction(OneProcess):
    """Collect the writes of one transaction; `Store.transaction` and `View.transaction` yield it."""

    def __init__(self, engine: Engine, open_view: OpenView | None = None) -> None:
        """open_view: of the view, None for `main`."""
        self._engine, self._open_view = engine, open_view or engine.main
        self._keyspaces: dict[int, KeyspaceWrites] = {}
        self._tables: dict[str, TableWrites] = {}
        self._watch = Watch()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.release()

    def keyspace(self, number: int) -> KeyspaceWrites:
        """Keyspace `number` as this transaction sees it."""
        keyspace = self._open_view.keyspace(number)
        return self._keyspaces.setdefault(number, KeyspaceWrites(keyspace))

    def table(self, name: str) -> TableWrites:
        """A table as this transaction sees it."""
        check_text(name, "the name of a table")
        if name not in self._tables:
            self._tables[name] = TableWrites(self._open_view.table(name))
        return self._tables[name]

    def get(self, key: bytes) -> bytes | None:
        return self.keyspace(0).get(key)

    def put(self, key: bytes, value: bytes, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        self.keyspace(0).put(key, value, ttl, expire_at=expire_at)

    def put_many(self, items: Pairs, ttl: float | None = None) -> None:
        self.keyspace(0).put_many(items, ttl)

    def delete(self, key: bytes) -> bool:
        return self.keyspace(0).delete(key)

    def watch(self, key: bytes, keyspace: int = 0) -> None:
        """If anyone writes this key before the end, the transaction raises ConflictError and writes nothing."""
        check_keys([key])
        self._watch.add(self._open_view.keyspace(keyspace), key)

    def release(self) -> None:
        """Watch no key any more: the transaction is over."""
        self._watch.release()

    def commit(self) -> None:
        """Apply everything in one batch."""
        log = self._engine.log
        parts = [*self._keyspaces.values(), *self._tables.values()]
        try:
            _, lsn = with_room(log, lambda: log.exclusively(lambda: self._apply(parts)))
        except ConflictError:
            log.wait_durable(log.lsn)  # whatever it conflicts with may be pending
            raise
        log.wait_durable(lsn if log.durability == "commit" else log.lsn)

    def _apply(self, parts: list[KeyspaceWrites | TableWrites]) -> None:
        """Write everything, unless something conflicts. The caller holds locks.append and locks.state."""
        self._refuse_conflicts()
        if all(part.is_empty for part in parts):
            return

        def write() -> None:
            for part in parts:
                part.apply()

        self._engine.log.guard_write()
        self._engine.log.run_batch(write, sum(part.size for part in parts))

    def _refuse_conflicts(self) -> None:
        """Raise ConflictError if a watched key was written or a used table dropped. The caller holds locks.state."""
        if (key := self._watch.changed_key()) is not None:
            raise ConflictError(
                f"key {key!r} was written by another since this transaction watched it; nothing was written, try again"
            )
        for name, writes in self._tables.items():
            if writes.is_gone:
                raise ConflictError(
                    f"table {name!r} was dropped by another since this transaction used it; nothing was written"
                )


class KeyspaceWrites(OneProcess):
    """A keyspace with writes on top."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._writes: dict[bytes, tuple[bytes, int] | None] = {}  # value and expiry, or None: deleted

    def get(self, key: bytes) -> bytes | None:
        """The value, as written here or as stored."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several keys."""
        check_keys(keys)
        stored = self._keyspace.as_writer(lambda: self._keyspace.get_many(keys))
        return [self._own(key) if key in self._writes else value for key, value in zip(keys, stored, strict=True)]

    def _own(self, key: bytes) -> bytes | None:
        write = self._writes[key]
        return write[0] if write and self._keyspace.is_future(write[1]) else None

    def put(self, key: bytes, value: bytes, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Write a value at the end of the transaction."""
        self._keyspace.check_item(key, value)
        self._writes[key] = (bytes(value), self._keyspace.deadline(ttl, expire_at))

    def put_many(self, items: Pairs, ttl: float | None = None) -> None:
        """Write several values."""
        for key, value in zip(*columns_of_pairs(items)):
            self.put(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        """Delete at the end; was it there?"""
        check_keys([key])
        if key in self._writes:
            there = self._own(key) is not None
        else:
            there = self._keyspace.as_writer(lambda: key in self._keyspace)
        self._writes[key] = None
        return there

    @property
    def size(self) -> int:
        """An upper bound of what its puts take in the log; deletes find room in a full pool, too."""
        lengths = [len(key) + len(write[0]) for key, write in self._writes.items() if write is not None]
        return log_bytes(self._keyspace._log, len(lengths), sum(lengths)) if lengths else 0

    @property
    def is_empty(self) -> bool:
        return not self._writes

    def apply(self) -> None:
        """Write it all, in the batch of the transaction."""
        puts = {key: write for key, write in self._writes.items() if write is not None}
        gone = [key for key, write in self._writes.items() if write is None]
        if puts:
            self._keyspace.put_entries(
                list(puts), [write[0] for write in puts.values()], [write[1] for write in puts.values()]
            )
        if gone:
            self._keyspace.delete_many(gone)


class TableWrites(OneProcess):
    """A table with writes on top."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._writes: list[tuple[np.ndarray, np.ndarray | None]] = []  # ids, rows as stored or None: deleted; in order

    @property
    def is_gone(self) -> bool:
        """Was the table dropped meanwhile?"""
        return self._table.is_gone

    def get(
        self, ids: npt.ArrayLike, default: Any = None, return_found: bool = False, out: Any = None, as_: str = "numpy"
    ) -> Any:
        """Rows, as written here or as stored. out, as_: as those of `Table.get`. Writes no absent rows, whatever the
        table's default: a transaction that is given up has written nothing."""
        wanted, shape = as_id_array(ids, f"ids of table {self._table.name!r}")
        rows, found = self._table.as_writer(lambda: self._table.get(wanted, 0, return_found=True))
        absent = self._table.absent_rows(wanted, default)
        rows[~found] = absent[~found]
        for written, raw in self._writes:
            values = None if raw is None else self._table.decoded(raw, written.shape)
            place = {int(one): at for at, one in enumerate(written)}  # the last of equal ids wins
            hits = [(at, place[int(one)]) for at, one in enumerate(wanted) if int(one) in place]
            for at, source in hits:
                rows[at], found[at] = (absent[at], False) if values is None else (values[source], True)
        rows, found = rows.reshape((*shape, *self._table.shape)), in_form(found.reshape(shape), as_)
        if out is None:
            result = in_form(rows, as_)
        else:
            out_array(out, rows.shape, rows.dtype, f"out= of table {self._table.name!r}")[...] = rows
            result = out
        return (result, found) if return_found else result

    def contains(self, ids: npt.ArrayLike) -> np.ndarray:
        """Return bool of the shape of the ids: which are there."""
        return self.get(ids, return_found=True)[1]

    def ids_of(self, keys: Any, keep: bool = True) -> np.ndarray:
        """Return the ids of entities as `Table.ids_of` does; keys are kept at once, committed or not."""
        return self._table.ids_of(keys, keep)

    def put(self, ids: npt.ArrayLike, rows: npt.ArrayLike) -> None:
        """Write rows at the end of the transaction."""
        self._writes.append(self._table.check_rows(ids, rows))

    def add(self, ids: npt.ArrayLike, rows: npt.ArrayLike) -> None:
        """Add to rows as this transaction sees them; equal ids add up."""
        check_adds(self._table)
        some, raw = self._table.check_rows(ids, rows)
        unique, where = np.unique(some, return_inverse=True)
        change, current = self._table.decoded(raw, some.shape), self.get(unique)
        total = add_rows(current, where, change, f"a sum in table {self._table.name!r}")
        self.put(unique, total)

    def delete(self, ids: npt.ArrayLike) -> int:
        """Delete at the end; how many were there?"""
        some, _ = as_id_array(ids, f"ids of table {self._table.name!r}")
        there = np.unique(some[self.contains(some)])
        self._writes.append((there, None))
        return int(there.size)

    @property
    def size(self) -> int:
        """An upper bound of what its puts take in the log; deletes find room in a full pool, too."""
        puts = (ids.size for ids, rows in self._writes if rows is not None)
        return sum(2 * frame_size(RECORD_OVERHEAD) + size * (8 + self._table.width) * 9 // 8 for size in puts)

    @property
    def is_empty(self) -> bool:
        return not self._writes

    def apply(self) -> None:
        """Write it all, in the batch of the transaction."""
        for ids, rows in self._writes:
            if rows is None:
                self._table.delete(ids)
            else:
                self._table.put_stored(ids, rows)
