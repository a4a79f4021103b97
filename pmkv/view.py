"""A view: what can be read by a name, and if it is a head, written: `main` (which is the store itself), a branch, a
snapshot, or `undo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .engine.engine import Engine
from .engine.keyspace import Keyspace, Pairs
from .engine.one_process import OneProcess
from .engine.open_view import OpenView
from .engine.table import Table
from .engine.transaction import Transaction
from .engine.version_plan import KeyspaceChoice, TableNames
from .versions.view_set import ViewInfo


class View(OneProcess):
    """Safe for threads. Once it is deleted, its methods, and those of its tables and keyspaces, raise UnknownViewError;
    writing to a snapshot raises ReadOnlyError."""

    def __init__(self, engine: Engine, open_view: OpenView) -> None:
        self._engine, self._log, self._open_view = engine, engine.log, open_view

    @property
    def name(self) -> str:
        return self._open_view.view.name

    @property
    def kind(self) -> str:
        """ "main", "branch", "snapshot" or "undo"."""
        return self._open_view.view.kind

    @property
    def info(self) -> ViewInfo:
        """Return facts about this view: its kind, age, base and how much was written to it."""
        return self._engine.view_info(self._usable)

    @property
    def _usable(self) -> str:
        """Return the name of the view. UnknownViewError: it was deleted, and another view may have the name now."""
        self._open_view.guard()
        return self._open_view.view.name

    # versions of it

    def snapshot(self, name: str) -> None:
        """Keep the present state under a name: a snapshot, which never changes, until it is deleted."""
        self._engine.versions.snapshot(name, self._usable)

    def rollback(self, name: str, tables: TableNames = None, keys: KeyspaceChoice = None) -> bool:
        """Return to the state of a snapshot, at once; the state of `main` before is kept as the view `undo`. Return
        whether that changed anything: if not, `undo` stays as it is.

        tables: only these, by name; keys: numbers of keyspaces, or may they be rolled back (None: unless tables are
        named)."""
        return self._engine.versions.rollback(name, tables, keys, self._usable)

    # keyspaces; the view itself is keyspace 0

    def keyspace(self, number: int) -> Keyspace:
        """Return one of the 16 keyspaces."""
        return self._open_view.keyspace(number)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        return self.keyspace(0).get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of several keys as they are at one moment, None for absent keys."""
        return self.keyspace(0).get_many(keys)

    def put(self, key: bytes, value: bytes, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Store one value. ttl: seconds from now; expire_at: unix ms."""
        self.keyspace(0).put(key, value, ttl, expire_at=expire_at)

    def put_many(self, items: Pairs, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Store many values at once, up to 16 MiB atomically."""
        self.keyspace(0).put_many(items, ttl, expire_at=expire_at)

    def delete(self, key: bytes) -> bool:
        """Delete a key; return whether it existed."""
        return self.keyspace(0).delete(key)

    def scan(
        self,
        prefix: bytes = b"",
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in the order of keys."""
        return self.keyspace(0).scan(prefix, start, stop, reverse, limit)

    def flush_all(self) -> None:
        """Empty all keyspaces at once; tables stay."""
        self._engine.clear_all(self._usable)

    # tables

    def create_table(
        self,
        name: str,
        dtype: npt.DTypeLike,
        rows: int | None = None,
        *,
        exist_ok: bool = False,
        default: Any = None,
        codec: str | None = None,
        dram: int | float | str | None = None,
    ) -> Table:
        """Create a table of rows of any fixed-size NumPy dtype. rows=N: the ids are 0 to N - 1 (dense).

        codec: how rows of f4 are stored: "int8" or "int4" with scale and bias a row, or narrower floats, "f2",
        "bfloat16", "float8_e4m3fn" or "float8_e5m2"; None: as they are.

        default: what stands for rows that were never written: "zeros", a value, or numbers drawn by id, {"uniform":
        (low, high), "seed": n} or {"normal": (mean, deviation), "seed": n}; with "create": True the first read writes
        them. dram: how much DRAM its rows may count on, as of `Table.set_dram`. exist_ok: return an existing table of
        equal dtype, shape, rows, default and codec. ExistsError: the name is taken."""
        return self._engine.create_table(name, dtype, rows, self._usable, exist_ok, default, codec, dram)

    def restore_table(self, decision: dict[str, Any]) -> None:
        """Create a table by the decision that created it in another store, as a backup keeps it."""
        self._engine.restore_table(decision, self._usable)

    def table(self, name: str) -> Table:
        """Return the table of this name. UnknownNameError: there is none."""
        return self._open_view.table(name)

    def tables(self) -> dict[str, Table]:
        """Return all tables by name."""
        self._open_view.guard()
        tables = dict(self._open_view.tables)
        self._engine.settle_decisions()
        return tables

    def drop_table(self, name: str) -> None:
        """Remove a table with all its rows."""
        self._engine.drop_table(name, self._usable)

    def gather(self, wanted: Mapping[str, npt.ArrayLike], default: Any = None) -> dict[str, np.ndarray]:
        """Read rows of several tables at one moment: {name: ids} to {name: rows}."""
        return self._open_view.gather(wanted, default)

    def pool(self, wanted: Mapping[str, tuple[npt.ArrayLike, ...]], mode: str = "sum") -> dict[str, np.ndarray]:
        """Pool rows of several tables at one moment: {name: (ids, offsets[, weights])} to {name: rows}."""
        return self._open_view.pool_many(wanted, mode)

    def transaction(self) -> Transaction:
        """Collect the writes of a `with` block and apply them together at its end; an exception writes nothing.
        ConflictError: a watched key changed."""
        self._log.guard_write()
        self._open_view.guard()
        return Transaction(self._engine, self._open_view)
