"""The rows of one table, whoever holds it (an embedded store or view of pmkv, or a client), and steps that write them.

Embedded stores are recognised by what they can do, so that nothing of pmkv is imported here. `write_step` writes rows
of several tables with the number of a training step, so that a restart finds the state of one step:

- up to ATOMIC_BYTES in one transaction (embedded) or one MULTI (over the network);
- more of it first into one value, the journal, which is written as a whole, then into the tables piece by piece; the
  step counts once the journal is deleted. `finish_step` does that again after a crash. Readers may see a part of the
  rows meanwhile.
"""

from __future__ import annotations

import importlib
import json
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import DTypeLike

from . import requests
from .requests import blob
from .sync import Client, connect

ATOMIC_BYTES = 8 << 20  # of rows in one transaction: well below the longest atomic batch of the log
COPY_BYTES = 8 << 20  # of rows read or written at a time when a whole table is
JOURNAL_BYTES = 256 << 20  # most bytes of one journal: a value of the server ends at 512 MiB
PREFIX = "pmkv.torch/"  # of the keys that hold steps and journals

Writes = Sequence[tuple["RowSource", np.ndarray, np.ndarray]]  # table, distinct ids, rows


def open_store(place: Any) -> Any:
    """Return the store of a URL (a client), of a directory (embedded; needs pmkv), or what was given if it is one."""
    if not isinstance(place, str):
        return place
    if urlsplit(place).scheme:
        return connect(place)
    return importlib.import_module("pmkv").open(place)


class TableChanges:
    """A record of the changes of a table in this process, which all sources of that table share.

    written: ids written since somebody began to read ahead; watchers: how many read ahead; kept: distinct ids in order,
    and their rows, which a step changes."""

    _known: weakref.WeakKeyDictionary[Any, dict[str, TableChanges]] = weakref.WeakKeyDictionary()  # by store and name

    def __init__(self) -> None:
        self.written: list[np.ndarray] = []
        self.watchers = 0
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, store: Any, name: str) -> TableChanges:
        """Return those of a table of a store, or of a table that was given without its store."""
        owner = getattr(store.table, "_client", store.table) if isinstance(store, OneTable) else store
        return cls._known.setdefault(owner, {}).setdefault(name, cls())


class RowSource:
    """One table of rows of a fixed number of floats, dense: its ids are 0 to rows - 1; an absent row is zeros.

    store: a URL, a Client, or an embedded store or view. The table is created if it is not there. codec: how it stores
    rows."""

    def __init__(
        self, store: Any, name: str, rows: int, dim: int, dtype: DTypeLike = "f4", codec: str | None = None
    ) -> None:
        self.store, self.name, self.rows, self.dim = open_store(store), name, rows, dim
        if hasattr(self.store, "row_dtype"):
            self.store = OneTable(self.store)
            self.name = self.store.table.name
        self.table = self.store.create_table(name, (np.dtype(dtype), dim), rows=rows, exist_ok=True, codec=codec)
        self.changes = TableChanges.of(self.store, self.name)

    def __repr__(self) -> str:
        return f"<table {self.name!r} of {self.rows:,} rows of {self.dim} {self.dtype}>"

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.table.dtype

    def check(self, ids: np.ndarray) -> np.ndarray:
        """Return ids as int64. IndexError: one is out of range."""
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= self.rows):
            bad = ids[(ids < 0) | (ids >= self.rows)][0]
            raise IndexError(f"index {bad} is out of range: table {self.name!r} has {self.rows} rows")
        return ids.astype(np.int64, copy=False)

    def get(self, ids: np.ndarray) -> np.ndarray:
        """Return rows of ids, (n, dim)."""
        return self.table.get(ids)

    def put(self, ids: np.ndarray, rows: np.ndarray) -> None:
        self.table.put(ids, rows)
        self.note(ids)

    def keep(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Keep rows that were read to be changed, until something is written: who trains a table is its one writer."""
        self.changes.kept = ids, rows

    def kept(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the rows that are kept of just these ids, which must not be changed in place; None: there are none."""
        kept = self.changes.kept
        return kept[1] if kept is not None and np.array_equal(kept[0], ids) else None

    def note(self, ids: np.ndarray) -> None:
        """Remember ids that were written, so that a read made ahead of time is corrected."""
        self.changes.kept = None
        if self.changes.watchers:
            self.changes.written.append(ids)

    def batches(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of ranges of ids, COPY_BYTES of rows each."""
        step = max(1, COPY_BYTES // (self.dim * self.dtype.itemsize))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def is_whole(self) -> bool:
        """Return whether every row was written."""
        return len(self.table) == self.rows


class OneTable:
    """A table that was given without its store: what is written to it is no part of a step."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def create_table(
        self, name: str, dtype: Any, rows: int | None = None, exist_ok: bool = True, codec: str | None = None
    ) -> Any:
        """Return the table. ValueError: it has another dtype, or too few ids."""
        fits = self.table.row_dtype == np.dtype(dtype) and self.table.rows in (None, rows)
        if not fits:
            raise ValueError(
                f"table {self.table.name!r} holds rows of {self.table.row_dtype}, rows={self.table.rows}; asked for "
                f"was {np.dtype(dtype)}, rows={rows}"
            )
        return self.table

    def gather(self, ids: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read rows, as a store does of several tables."""
        return {name: self.table.get(some) for name, some in ids.items()}


def write_step(store: Any, writes: Writes, name: str | None = None, step: int = 0, attach: bytes = b"") -> None:
    """Write rows of tables of one store, and, where a name is given, that they are those of this step.

    attach: what else belongs to the step, such as the dense part of a model."""
    if isinstance(store, OneTable):
        if name is not None:
            raise ValueError("steps are written to a store: give the store instead of a table")
        _write_in_pieces(store, writes)
        return
    items = {} if name is None else {step_key(name): b"%d\n" % step + attach}
    size = sum(ids.nbytes + rows.nbytes for _, ids, rows in writes) + len(attach)
    if size <= ATOMIC_BYTES:
        _write_at_once(store, writes, items)
    elif name is None:
        _write_in_pieces(store, writes)
    else:
        _write_by_journal(store, writes, name, items)
    for source, ids, _ in writes:
        source.note(ids)


def _write_at_once(store: Any, writes: Writes, items: dict[bytes, bytes], gone: bytes | None = None) -> None:
    if not isinstance(store, Client):
        with store.transaction() as transaction:
            for source, ids, rows in writes:
                transaction.table(source.name).put(ids, rows)
            transaction.put_many(items)
            if gone is not None:
                transaction.delete(gone)
        return
    with store.pipeline(transaction=True) as pipe:
        for source, ids, rows in writes:
            stored = np.ascontiguousarray(rows, source.dtype)
            pipe.execute_command("TABLE.PUT", source.name, blob(np.ascontiguousarray(ids, "<i8")), blob(stored))
        for key, value in items.items():
            pipe.set(key, value)
        if gone is not None:
            pipe.delete(gone)
        pipe.execute()


def _write_in_pieces(store: Any, writes: Writes) -> None:
    if isinstance(store, Client):  # all puts are sent before the first reply is waited for
        puts = [requests.put(source.table._info, ids, rows) for source, ids, rows in writes]
        store.run(requests.Request([call for put in puts for call in put.calls], lambda replies: None, stream=True))
        return
    for source, ids, rows in writes:
        source.table.put(ids, rows)


def _write_by_journal(store: Any, writes: Writes, name: str, items: dict[bytes, bytes]) -> None:
    """Write a step that is longer than a transaction, so that a crash leaves all of it or none."""
    packed = _packed(writes, items[step_key(name)])
    if len(packed) > JOURNAL_BYTES:
        raise ValueError(
            f"step {name!r} writes {len(packed):,} bytes of rows; at most {JOURNAL_BYTES:,} are written as one step: "
            "use smaller batches"
        )
    _set(store, journal_key(name), packed)
    _write_in_pieces(store, writes)
    _write_at_once(store, [], items, journal_key(name))


def finish_step(store: Any, name: str, sources: dict[str, RowSource]) -> tuple[int, bytes]:
    """Finish the step that a crash interrupted, and return the number of the last step and what was attached to it.

    sources: the tables by name. KeyError: the interrupted step wrote to another one."""
    packed = store.get(journal_key(name))
    if packed is not None:
        writes, marker = _unpacked(packed, sources)
        _write_in_pieces(store, writes)
        _write_at_once(store, [], {step_key(name): marker}, journal_key(name))
    number, _, attach = (store.get(step_key(name)) or b"0\n").partition(b"\n")
    return int(number), attach


def step_key(name: str) -> bytes:
    """Return the key of the step of this name."""
    return f"{PREFIX}{name}/step".encode()


def journal_key(name: str) -> bytes:
    """Return the key of the journal of this name."""
    return f"{PREFIX}{name}/journal".encode()


def _set(store: Any, key: bytes, value: bytes) -> None:
    if isinstance(store, Client):
        store.set(key, value)
    else:
        store.put(key, value)


def _packed(writes: Writes, marker: bytes) -> bytes:
    """Return a journal: a line of JSON that says what follows, the marker of the step, then ids and rows."""
    parts = [{"table": source.name, "ids": len(ids)} for source, ids, _ in writes]
    head = json.dumps({"marker": len(marker), "writes": parts}).encode()
    arrays = [
        blob(array)
        for source, ids, rows in writes
        for array in (np.ascontiguousarray(ids, "<i8"), np.ascontiguousarray(rows, source.dtype))
    ]
    return b"".join([head, b"\n", marker, *arrays])


def _unpacked(packed: bytes, sources: dict[str, RowSource]) -> tuple[Writes, bytes]:
    head, _, rest = packed.partition(b"\n")
    described = json.loads(head)
    writes, at = [], described["marker"]
    for part in described["writes"]:
        source, count = sources[part["table"]], part["ids"]
        ids = np.frombuffer(rest, "<i8", count, at)
        at += ids.nbytes
        rows = np.frombuffer(rest, source.dtype, count * source.dim, at).reshape(count, source.dim)
        at += rows.nbytes
        writes.append((source, ids, rows))
    return writes, rest[: described["marker"]]
