"""Loads rows that shall be in DRAM: those of pinned tables of `main` that are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..cache.pinned_rows import PinnedRows
from ..errors import CorruptionError, PmkvError
from ..runtime.background import Background
from ..runtime.scheduling import yield_cpu
from .table import Table


class RowLoader:
    """Loads rows by reading them, some thousand at a time: what is read is offered to where it shall be.

    tables: returns the tables of `main`; is_closed: whether the store is closed."""

    def __init__(self, tables: Callable[[], list[Table]], is_closed: Callable[[], bool]) -> None:
        self._tables, self._is_closed = tables, is_closed
        self._is_requested = self._is_running = False

    def request(self, background: Background) -> None:
        """Let the background thread load what is missing, soon."""
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
        """Load all that is missing. Between two steps anything may happen."""
        for table in self._tables():
            yield from self._load(table)

    def _load(self, table: Table) -> Iterator[None]:
        cursor, out = 0, np.empty(0, np.uint8)
        while True:
            with table._log.locks.state:
                pinned = table.chain.rows
                if table.is_gone or not isinstance(pinned, PinnedRows) or pinned.is_complete:
                    return
                ids, cursor = pinned.next_to_load(cursor)
            if ids.size:
                out = out if out.size >= ids.size * table.width else np.empty(ids.size * table.width, np.uint8)
                try:
                    table._gather(ids, table._default(0), out[: ids.size * table.width])
                except CorruptionError:
                    pass  # a read of the damaged row tells of it
                except PmkvError:  # the table was dropped, or the store closed
                    return
            if cursor >= pinned.count:
                return
            yield
