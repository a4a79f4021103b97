"""Loads rows that shall be in DRAM: those of pinned tables of `main` that are not there yet, and after the start those
that were in the row cache before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..cache.cold_reads import start_rows
from ..cache.kept_ids import KeptIds
from ..cache.pinned_rows import PinnedRows
from ..cache.row_cache import RowCache
from ..errors import CorruptionError, PmkvError
from ..index.lookup_batch import IdBatch
from ..kernels import location
from ..runtime.background import Background
from ..runtime.scheduling import yield_cpu
from .table import Table

NO_IDS = np.empty(0, np.int64)
FORMER_IDS = 1 << 12  # loaded at a time
SETS_AT_ONCE = 1 << 12  # of a row cache, whose ids are looked at under one hold of locks.state


def pieces(count: int) -> Iterator[slice]:
    """Yield slices of so many ids that are loaded, some thousand each."""
    return (slice(first, first + FORMER_IDS) for first in range(0, count, FORMER_IDS))


def cached_ids(table: Table) -> np.ndarray:
    """Return the ids of a table's rows in the row cache, in ascending order. It may change meanwhile."""
    found, first = [NO_IDS], 0
    while True:
        with table._log.locks.state:
            rows = table.stack.rows
            if not isinstance(rows, RowCache) or first >= rows.sets:
                break
            found.append(rows.ids_in(first, first + SETS_AT_ONCE))
        first += SETS_AT_ONCE
    return np.unique(np.concatenate(found))


class RowLoader:
    """Loads rows by reading them, some thousand at a time: what is read is offered to where it shall be.

    tables: returns the tables of `main`; is_closed: whether the store is closed."""

    def __init__(
        self, tables: Callable[[], list[Table]], is_closed: Callable[[], bool], kept: KeptIds | None = None
    ) -> None:
        """kept: the file of ids that the row cache had."""
        self._tables, self._is_closed, self._kept = tables, is_closed, kept
        self._ids_to_load: dict[int, np.ndarray] | None = None  # what is still to be loaded, once the file was read
        self._is_requested = self._is_running = False

    def request(self, background: Background) -> None:
        """Ask the background thread to load the rows that are missing."""
        if not self._is_requested:
            self._is_requested = True
            background.submit(lambda: self._run(background))

    def _run(self, background: Background) -> None:
        if self._is_running:  # it was submitted during a run, which looks once more at its end
            return
        self._is_running = True
        try:
            while self._is_requested and not self._is_closed():
                self._is_requested = False
                for _ in self.load():
                    yield_cpu()
                    background.catch_up()
                    if self._is_closed():
                        return
        finally:
            self._is_running = False

    def load(self) -> Iterator[None]:
        """Load all rows that are missing, in steps: the store may change in any way between two of them."""
        if self._ids_to_load is None:
            self._ids_to_load = self._kept.read() if self._kept is not None else {}
        tables = self._tables()
        for table in tables:
            yield from self._load(table)
        for table in tables:
            yield from self._load_saved(table, self._ids_to_load.pop(table.id, NO_IDS))

    def keep(self, now: bool = False) -> None:
        """Write the ids of cached rows to the file, if that is due or `now`, and those that the file had are loaded."""
        is_loaded = self._ids_to_load is not None and not self._ids_to_load and not self._is_running
        if self._kept is None or not is_loaded or not (now or self._kept.is_due):
            return
        found = {table.id: cached_ids(table) for table in self._tables()}
        self._kept.write({number: ids for number, ids in found.items() if ids.size})

    def _load_saved(self, table: Table, ids: np.ndarray) -> Iterator[None]:
        """Load rows of a table that the row cache had before the start, in the order in which they stand in the pool,
        while the disk reads the next ones already."""
        out, found = np.empty(FORMER_IDS * table.width, np.uint8), np.empty(ids.size, np.uint64)
        for piece in pieces(ids.size):
            try:
                found[piece] = table._look_up(IdBatch(ids[piece]))[0]
            except PmkvError:  # the index is damaged, or the table was dropped, or the store closed
                return
            yield
        order = np.argsort(found & location.OFFSET_MASK)
        ids, found = ids[order], found[order]
        for piece in pieces(ids.size):
            some = ids[piece]
            with table._log.locks.state:
                if table.is_gone or not table.stack.runs or not isinstance(table.stack.rows, RowCache):
                    return
                table.stack.rows.expect(ids.size)
            start_rows(table._log.data, found[piece.stop : piece.stop + FORMER_IDS], table.width)
            try:
                table._gather(some, table._default(0), out[: some.size * table.width], load=True)
            except CorruptionError:
                pass  # a read of the damaged row tells of it
            except PmkvError:  # the table was dropped, or the store closed
                return
            yield

    def _load(self, table: Table) -> Iterator[None]:
        cursor, out = 0, np.empty(0, np.uint8)
        while True:
            with table._log.locks.state:
                pinned = table.stack.rows
                if table.is_gone or not isinstance(pinned, PinnedRows) or pinned.is_complete:
                    return
                ids, cursor = pinned.next_to_load(cursor)
            if ids.size:
                out = out if out.size >= ids.size * table.width else np.empty(ids.size * table.width, np.uint8)
                try:
                    table._log.wait_durable(table.stack.top.visible_since)  # until then reads show the previous version
                    table._gather(ids, table._default(0), out[: ids.size * table.width], load=True)
                except CorruptionError:
                    pass  # a read of the damaged row tells of it
                except PmkvError:  # the table was dropped, or the store closed
                    return
            if cursor >= pinned.count:
                return
            yield
