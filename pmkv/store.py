"""The store: an engine on a data directory, with its lock, its threads and its life: open, serve, close.

A data directory holds `pool` (the log), `pmkv.json` (which pool belongs here) and `lock` (who has it open).
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import directory
from .background import Background
from .engine import Engine
from .errors import FullError, InvalidError
from .keyspace import Keyspace, Pairs
from .log.flusher import Flusher
from .log.format import epoch_of
from .log.writer import Deferral
from .sizes import parse_size
from .stats import Stats, stats_of
from .table import Table
from .transaction import Transaction

_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def open_store(
    path: str | os.PathLike[str] | None = None,
    *,
    capacity: int | str = "16GiB",
    dram: int | str = "1GiB",
    durability: str = "commit",
    pool: str | os.PathLike[str] = "auto",
    require: str = "page",
    readonly: bool = False,
    verify_reads: bool = True,
) -> Store:
    """Create or recover a store.

    path: the data directory (not needed with pool=":memory:"); capacity: bytes of the pool, a larger one than
    before grows it;
    dram: budget of what is cached; durability: "commit" (an acknowledged write survives a loss of power),
    "interval" (synced once a second)
    or "none"; pool: "auto" (a file in the directory), a path, "/dev/dax0.0" or ":memory:"; require: the coarsest
    granularity
    accepted, "page", "cache_line" or "byte"; verify_reads: check every row and record read against its location's
    checksum.

    LockedError: another process has it; FormatError: written by another version, or not a pool; CorruptionError:
    damaged."""
    place = directory.Directory(path, pool, parse_size(capacity), require, readonly)
    try:
        engine = Engine(place.open_pool(), durability, readonly, verify_reads)
        return Store(place, engine, parse_size(dram))
    except BaseException:
        place.close()
        raise


class Store:
    """One open data directory. Safe for threads; not for forked children, which get ClosedError."""

    def __init__(self, place: directory.Directory, engine: Engine, dram: int) -> None:
        self._place, self._engine, self._log, self.dram = place, engine, engine.log, dram
        self._flusher, self._background = Flusher(self._log), Background()
        engine.pool.on_take = lambda: self._background.submit(self._prepare_ahead)
        if not self.readonly:
            self._flusher.start()
            self._background.start()
            engine.pool.on_take()
        _open_stores.add(self)

    # keyspaces; the store itself is keyspace 0

    def keyspace(self, number: int) -> Keyspace:
        """One of the 16 keyspaces."""
        return self._engine.keyspace(number)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        return self._engine.keyspaces[0].get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several keys, of one moment."""
        return self._engine.keyspaces[0].get_many(keys)

    def put(self, key: bytes, value: bytes, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Store one value. ttl: seconds from now; expire_at: unix ms."""
        self._engine.keyspaces[0].put(key, value, ttl, expire_at=expire_at)

    def put_many(self, items: Pairs, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Store many values at once, up to 16 MiB atomically."""
        self._engine.keyspaces[0].put_many(items, ttl, expire_at=expire_at)

    def delete(self, key: bytes) -> bool:
        """Was it there?"""
        return self._engine.keyspaces[0].delete(key)

    def scan(
        self,
        prefix: bytes = b"",
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in the order of keys."""
        return self._engine.keyspaces[0].scan(prefix, start, stop, reverse, limit)

    def flush_all(self) -> None:
        """Empty all keyspaces at once; tables stay."""
        self._engine.clear_all()

    # tables

    def create_table(self, name: str, dtype: npt.DTypeLike, rows: int | None = None) -> Table:
        """A new table of rows of any fixed-size NumPy dtype; rows=N: ids are 0 to N - 1 (dense). ExistsError: the
        name is taken."""
        return self._engine.create_table(name, dtype, rows)

    def table(self, name: str) -> Table:
        """The table of this name. UnknownNameError: there is none."""
        return self._engine.table(name)

    def tables(self) -> dict[str, Table]:
        """All tables by name."""
        self._log.guard_read()
        return dict(self._engine.tables)

    def drop_table(self, name: str) -> None:
        """Remove a table with all its rows."""
        self._engine.drop_table(name)

    def gather(self, wanted: Mapping[str, npt.ArrayLike], default: Any = 0.0) -> dict[str, np.ndarray]:
        """Rows of several tables, of one moment: {name: ids} to {name: rows}."""
        return self._engine.gather(wanted, default)

    def pool(self, wanted: Mapping[str, tuple[npt.ArrayLike, ...]], mode: str = "sum") -> dict[str, np.ndarray]:
        """Pooled rows of several tables, of one moment: {name: (ids, offsets[, weights])} to {name: rows}."""
        return self._engine.pool_many(wanted, mode)

    # several writes at once, and waiting

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Writes inside are collected and applied together at the end; an exception writes nothing. ConflictError:
        a watched key changed."""
        self._log.guard_write()
        transaction = Transaction(self._engine)
        yield transaction
        transaction.commit()

    def batch(self, reserve: int = 0) -> contextlib.AbstractContextManager[None]:
        """Everything written inside, by this thread, takes effect together, after a crash too; other writers wait
        meanwhile.

        reserve: an upper bound of what it takes in the log (bytes of keys and values and 256 a command), so that a
        full pool is noticed first."""
        return self._engine.batch(reserve)

    def deferred(self) -> contextlib.AbstractContextManager[Deferral]:
        """Calls of this thread inside do not wait until they are durable; `.lsn` of the object says what their
        results depend on."""
        return self._log.deferred()

    def wait(self, lsn: int) -> None:
        """Return when everything up to this LSN is durable."""
        if lsn > self._log.lsn and not self._log.failed:
            raise InvalidError(f"LSN {lsn} was never given out; the last one is {self._log.lsn}")
        if self._log.durability == "commit":
            self._log.flush(lsn)

    def flush_soon(self) -> None:
        """Begin to make durable what was written under `deferred`; `on_durable` tells when it is."""
        log = self._log
        if log.durability != "commit":
            log.write_back()
        elif self._engine.pool.medium.inline:
            log.flush(log.lsn)
        elif log.durable < log.lsn:
            self._flusher.kick()

    def on_durable(self, callback: Callable[[], None]) -> None:
        """Call this after every flush, and after a failure, from whatever thread flushed."""
        self._log.on_durable = callback

    @property
    def durable_lsn(self) -> int:
        """Everything up to this LSN is durable."""
        return self._log.durable

    @property
    def failed(self) -> Exception | None:
        """Why the store takes no more writes, if a flush failed."""
        return self._log.failed

    @property
    def version(self) -> tuple[int, int]:
        """(promotions and rollbacks so far, LSN)."""
        return 0, self._log.lsn

    # what it is

    @property
    def path(self) -> Path | None:
        return self._place.path

    @property
    def readonly(self) -> bool:
        return self._log.readonly is not None

    @property
    def durability(self) -> str:
        return self._log.durability

    @property
    def granularity(self) -> str:
        """What the medium really gives: "page", "cache_line" or "byte"."""
        return self._engine.pool.medium.granularity.word

    @property
    def capacity(self) -> int:
        """Bytes of the pool."""
        return int(self._engine.pool.medium.data.size)

    @property
    def epoch(self) -> int:
        """How many times the store was opened for writing."""
        return epoch_of(self._log.lsn)

    def stats(self) -> Stats:
        """Figures of this moment."""
        self._log.guard_read()
        return stats_of(self._engine, self.path)

    def check(self) -> None:
        """Assert every invariant, of what is in memory and of every live byte on the medium."""
        self._log.guard_read()
        self._engine.check()

    # its life

    def grow(self, capacity: int | str) -> None:
        """Make the pool larger, while it is used."""
        self._log.guard_write()
        size = parse_size(capacity)
        if size > self.capacity:
            self._log.grow(size)
        self._background.submit(self._prepare_ahead)

    def _prepare_ahead(self) -> None:
        """One segment after another, so that closing has to wait for one at most."""
        if self._log.prepare_ahead():
            self._background.submit(self._prepare_ahead)

    def close(self) -> None:
        """Make everything durable and let go of the directory. A closed store raises ClosedError; closing twice is
        fine."""
        with self._log.lock:
            if self._log.closed:
                return
            self._log.closed = "the store is closed"  # who comes later is told so; who waits is still served
        try:
            if self._flusher.is_alive():
                self._flusher.stop()
                self._background.stop()
                self._log.flush(self._log.lsn)
                with contextlib.suppress(FullError):
                    self._log.mark()
        finally:
            self._place.close()

    def forked(self) -> None:
        """In a forked child: the store is the parent's."""
        self._log.closed = "the store was opened by the parent process: a forked child must open its own"
        self._place.close()  # a child that outlives its parent must not keep the directory locked

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _disown() -> None:
    for store in list(_open_stores):
        store.forked()


os.register_at_fork(after_in_child=_disown)
