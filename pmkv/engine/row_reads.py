"""Reads of rows: ids are looked up under locks.state, then their rows are copied, or pooled where they stand.

A read of several tables looks all of them up in one hold of the lock, so that all are of one moment, and reads the rows
after it. Rows stand in the row cache, or in the log; of these, each is verified against its location. What several
tables have on the disk is started together, so that a read waits twice, however many tables it is of: for pages of the
indexes, and for pages of the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..cache.cold_reads import COLD_IDS, pages_read, start_rows
from ..cache.row_cache import AllCopied
from ..errors import CorruptionError
from ..index.lookup_batch import IdBatch, lives
from ..index.run import Run
from ..kernels import location
from ..kernels.narrow_rows import pool_narrow_in_place
from ..kernels.records import gather_rows
from ..kernels.reduce import MODES, pool_in_place
from ..runtime.switches import is_on
from ..versions.index_stack import IndexStack
from .pooling import Bags

if TYPE_CHECKING:
    from .table import Table

NO_ROWS, NO_SLOTS = np.empty(0, np.uint8), np.empty(0, np.int64)
WALKED_IDS = 2048  # so many ids, each the one after the last, are part of a walk: a verification, an export, a copy
GATHERED_SHARE = 8  # of the ids, one in so many that must be offered to the row cache: then all rows are copied first

POOLS_IN_PLACE = is_on("POOL_IN_PLACE")


def is_walk(ids: np.ndarray) -> bool:
    """Return whether ids are many, each the one after the last."""
    return ids.size >= WALKED_IDS and int(ids[-1]) - int(ids[0]) == ids.size - 1 and bool((np.diff(ids) == 1).all())


class RowRead:
    """One read of ids of a table. `begin` looks them up, then one of `rows` and `pool` ends it, once.

    ids: int64[n]; out: uint8[n * width], where the rows go; None: they are not needed as they are. cached: whether the
    row cache is asked, and offered what was found on file."""

    __slots__ = ("_is_located", "_lease", "_runs", "_stack", "batch", "data", "found", "lsn", "table")

    def __init__(self, table: Table, ids: np.ndarray, out: np.ndarray | None = None, cached: bool = True) -> None:
        self._lease = table._log.lease  # before the lookup, and until the rows were read
        self.table, self.batch = table, IdBatch(ids, out, cached)
        self.found, self.data, self.lsn = NO_SLOTS.view(np.uint64), NO_ROWS, 0
        self._stack: IndexStack | None = None
        self._runs: tuple[Run, ...] = ()
        self._is_located = False  # by `locate`

    def begin(self) -> None:
        """Look the ids up in memory, and note what it depends on. The caller holds locks.state."""
        self.found, self.lsn, self.data, self._stack, self._runs = self.table._find_in_memory(self.batch)
        log = self.table._log
        if self.lsn > log.durable:
            log.wait_durable(self.lsn)  # of a read of several tables: the next ones must not be older

    def begin_alone(self) -> None:
        """Look the ids up when no other table is read."""
        self.table._guard()
        found = self.table._log.publisher.read(lambda: self.table._find_in_memory(self.batch))
        self.found, self.lsn, self.data, self._stack, self._runs = found

    @property
    def missing(self) -> int:
        """Return how many ids neither memory nor the row cache has."""
        return self.batch.hits.missed.size if self.batch.hits is not None else 0

    def start(self) -> None:
        """Start to read the index pages of what is missing. None of these three is needed, or needs a lock."""
        if self._stack is not None and self.missing:
            before = pages_read()
            self._stack.start_on_disk(self.batch, self.found, self._runs)
            self.batch.pages += pages_read() - before

    def locate(self) -> None:
        """Look up on file what is missing, and start to read the pages where the rows stand."""
        if self.batch.is_started:
            self._find_on_disk()
            self._is_located = True
            before = pages_read()
            start_rows(self.data, self.found, self.table.width)
            self.batch.pages += pages_read() - before

    def rows(self, default: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows as uint8[n * width], `default` where there is none, and found as uint8[n]."""
        batch = self.batch
        assert batch.out is not None
        if isinstance(batch.hits, AllCopied):  # mostly, of short reads of hot rows
            return batch.out, np.ones(self.found.size, np.uint8)
        if (batch.hits is not None and batch.hits.copy_to(batch.out, self.found)) or not self._is_located:
            self._find_on_disk()
        return self._gather(batch.out, default)

    def _gather(self, out: np.ndarray, default: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copy the rows of the log to `out`, which has those of the row cache; return `rows`."""
        batch, found, table = self.batch, self.found, self.table
        present, width = np.empty(found.size, np.uint8), table.width
        if batch.hits is not None and batch.hits.count == found.size:
            present[:] = 1
            return out, present
        before, must_start = pages_read(), batch.cold and not self._is_located
        step = COLD_IDS if must_start else max(found.size, 1)
        for first in range(0, found.size, step):
            part, rows = slice(first, first + step), slice(first * width, (first + step) * width)
            if must_start:
                start_rows(self.data, found[part], width)
            bad = gather_rows(
                self.data, found[part], batch.ids[part], width, table._owner, default, table._verify, out[rows],
                present[part],
            )  # fmt: skip
            if bad >= 0:
                self._complain(first + bad)
        batch.pages += pages_read() - before
        if batch.offer is not None and batch.hits is not None:
            batch.offer(batch, found, batch.hits.missed, out)
        return out, present

    def pool(self, bags: Bags) -> np.ndarray:
        """Return the rows reduced, one row for each bag."""
        if not self._is_located:
            self._find_on_disk()
        return self._pool_in_place(bags) if self._may_pool_in_place(bags) else self._pool_gathered(bags)

    def _may_pool_in_place(self, bags: Bags) -> bool:
        """Return whether rows are numbers as they stand, and few of them must be offered to the row cache."""
        batch, table, found = self.batch, self.table, self.found
        if (
            not POOLS_IN_PLACE
            or (table._codec.format is None and table.dtype != bags.real)
            or batch.cold
            or not (table._initial is None or found.all())
        ):
            return False
        if batch.offer is None or batch.hits is None:
            return True
        most, missed = found.size // GATHERED_SHARE, batch.hits.missed
        return missed.size <= most or np.count_nonzero(lives(found[missed])) <= most

    def _pool_gathered(self, bags: Bags) -> np.ndarray:
        """Pool copies of the rows: of other dtypes, or as some come from the disk, or some are what stands for absent
        ones."""
        table, ids, hits = self.table, self.batch.ids, self.batch.hits
        out = np.empty(ids.size * table.width, np.uint8)
        if hits is not None and hits.copy_to(out, self.found):
            self._find_on_disk()
        raw, found = self._gather(out, table._default(0))
        if table._initial is not None:
            table._initialize(ids, raw, found)
            found[:] = 1
        return table._codec.pool(raw, found, bags.weights, bags.mode, bags.starts, bags.real)

    def _pool_in_place(self, bags: Bags) -> np.ndarray:
        """Pool rows where they stand, once more if the row cache has changed one meanwhile."""
        batch, found, hits = self.batch, self.found, self.batch.hits
        while True:
            pooled, before = bags.zeros(), pages_read() if self.missing else 0.0
            bad = self._reduce(bags, pooled)
            if self.missing:
                batch.pages += pages_read() - before
            if bad >= 0:
                self._complain(bad)
            if hits is None or not hits.drop_changed(found):
                break
            self._find_on_disk()
        if batch.offer is not None and hits is not None and hits.missed.size:
            self._offer(hits.missed)
        return pooled

    def _reduce(self, bags: Bags, pooled: np.ndarray) -> int:
        """Add rows where they stand to `pooled`; return the first damaged one, or -1."""
        table, data, hits = self.table, self.data, self.batch.hits
        cached, slots, stride = (hits.rows, hits.slots, hits.stride) if hits is not None else (NO_ROWS, NO_SLOTS, 0)
        form = table._codec.format
        if form is not None:
            row = np.empty(bags.elements, np.float32)
            return pool_narrow_in_place(
                form, data, cached, stride, self.found, slots, self.batch.ids, table.width, table._owner, table._verify,
                bags.weights, MODES[bags.mode], bags.starts, row, pooled,
            )  # fmt: skip
        return pool_in_place(
            data, data.view(bags.real), cached, cached.view(bags.real), stride, self.found, slots, self.batch.ids,
            table.width, table._owner, table._verify, bags.weights, MODES[bags.mode], bags.starts, pooled,
        )  # fmt: skip

    def _offer(self, missed: np.ndarray) -> None:
        """Offer the rows at these positions to the row cache."""
        batch, table, found = self.batch, self.table, self.found[missed]
        some, out, present = batch.some(missed), *(np.empty(missed.size * n, np.uint8) for n in (table.width, 1))
        gather_rows(self.data, found, some.ids, table.width, table._owner, table._default(0), False, out, present)
        some.stamp, some.pages = batch.stamp, batch.pages
        if batch.offer is not None:
            batch.offer(some, found, np.arange(missed.size), out)

    def _find_on_disk(self) -> None:
        """Look up on file what memory has not."""
        if self._runs and self._stack is not None:
            before = pages_read() if self.missing else 0.0
            self._stack.find_on_disk(self.batch, self.found, self._runs, self.table._log.locks.state)
            if self.missing:
                self.batch.pages += pages_read() - before

    def _complain(self, bad: int) -> None:
        table, where = self.table, self.found[bad]
        if table._log.failed:  # what was found was pending when the flush failed, and is gone
            raise table._log.failed
        raise CorruptionError(
            f"row {int(self.batch.ids[bad])} of table {table.name!r}, at offset "
            f"{int(where & location.OFFSET_MASK):,} of the pool, is damaged: "
            "its check does not hold; restore a backup, or write the row again"
        )


def started_together(reads: Sequence[RowRead]) -> Iterator[RowRead]:
    """Yield all reads, to be ended in turn; of some at a time, what may be on the disk is started together before."""
    first = 0
    while first < len(reads):
        stop, missing = first + 1, reads[first].missing
        while stop < len(reads) and missing + reads[stop].missing <= COLD_IDS:
            missing += reads[stop].missing
            stop += 1
        if stop > first + 1 and 0 < missing <= COLD_IDS:  # one read starts by itself what it needs
            for read in reads[first:stop]:
                read.start()
            for read in reads[first:stop]:
                read.locate()
        yield from reads[first:stop]
        first = stop
