"""The store: an engine on a data directory, with its lock, its threads and its life: open, serve, close.

A data directory holds `pool` (the log), `catalog` and `runs` (indexes of what is in it), `pmkv.json` (which pool
belongs here) and `lock` (who has it open).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

from . import data_directory
from .backup.backup_manifest import Backup
from .backup.held import drop_held
from .backup.target import open_target
from .backup.writer import BackupReport, Progress, no_progress, write_backup
from .cache.kept_ids import KeptIds
from .cache.row_cache import is_switched_off
from .engine.byte_batch import log_bytes
from .engine.engine import Engine
from .engine.following import Follower
from .engine.lookup_counts import LookupCounts
from .engine.row_loader import RowLoader
from .engine.version_plan import KeyspaceChoice, TableNames
from .errors import CorruptionError, FlushError, FullError, InvalidError, LockedError
from .follow_thread import FollowThread
from .log.durability import DurabilityWait
from .log.flusher import Flusher
from .log.format import epoch_of
from .log.log import Log
from .log.segments import hold_back_emptied
from .maintenance.scheduler import MaintenanceScheduler
from .maintenance.space import PinReport
from .runtime.arguments import place_of
from .runtime.background import Background
from .runtime.memory_limit import default_dram, memory_limit
from .runtime.memory_nodes import memory_nodes
from .runtime.sizes import parse_size
from .stats import Stats, stats_of
from .versions.view_set import MAIN, ViewInfo
from .view import View

AUTO = "auto"
CACHE_SHARE = 4  # the location cache takes one part in so many of the DRAM budget, the row cache the rest
READER_ATTEMPTS = 3  # openings of a readonly store beside a writer, before damage is believed

_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def open_store(
    path: str | os.PathLike[str] | None = None,
    *,
    capacity: int | str | None = None,
    dram: int | str = "auto",
    dram_nodes: int | str | None = None,
    far_nodes: int | str | None = None,
    durability: str = "commit",
    pool: str | os.PathLike[str] = "auto",
    require: str = "page",
    readonly: bool = False,
    verify_reads: bool = True,
    follow: bool = True,
) -> Store:
    """Create or recover a store.

    path: the data directory (not needed with pool=":memory:"); capacity: bytes of the pool, a larger one than
    before grows it, None leaves it as it is (16 GiB when new);
    dram: budget of what is cached, "auto" for half of the control group's memory limit, 1 GiB if there is none;
    dram_nodes: NUMA nodes of indexes and caches, as numactl names them ("0", "0-3", "0,2", "all", "!1"); far_nodes: of
    the rows of the row cache, such as a CXL node; None: any;
    durability: "commit" (an acknowledged write survives a loss of power),
    "interval" (synced once a second)
    or "none"; pool: "auto" (a file in the directory), a path, "/dev/dax0.0" or ":memory:"; require: the coarsest
    granularity
    accepted, "page", "cache_line" or "byte"; verify_reads: check every row and record read against its location's
    checksum; follow: a readonly store shows what another process writes by itself, within about 50 ms; False: when
    `refresh` is called.

    LockedError: another process has it; FormatError: written by another version, or not a pool; CorruptionError:
    damaged."""
    budget = default_dram(memory_limit()) if dram == AUTO else parse_size(dram)
    nodes = memory_nodes(dram_nodes, far_nodes)
    attempts = READER_ATTEMPTS if readonly else 1
    size = None if capacity is None else parse_size(capacity)
    while True:
        attempts -= 1
        place = data_directory.DataDirectory(path, pool, size, require, readonly)
        try:
            found, cache_bytes = place.open_pool(), budget // CACHE_SHARE
            rows = budget - cache_bytes if place.reads_from_disk and not is_switched_off() else 0
            memory = {"cache_bytes": cache_bytes, "rows": rows, "nodes": nodes}
            engine = Engine(found, durability, readonly, verify_reads, files=place.open_files(), **memory)
            return Store(place, engine, budget, follow)
        except BaseException as error:
            place.close()
            if isinstance(error, CorruptionError) and not attempts:
                place.put_catalog_back()
            # beside a writer, what was read first and what was read last may not belong together
            if not (attempts and isinstance(error, CorruptionError)):
                raise


class Store(View):
    """One open data directory, and its view `main`. Safe for threads; not for forked children, which get
    ClosedError."""

    def __init__(self, place: data_directory.DataDirectory, engine: Engine, dram: int, follow: bool = False) -> None:
        super().__init__(engine, engine.main)
        self._place, self.dram = place, dram
        self._flusher, self._background = Flusher(self._log), (background := Background())
        self._backing_up, self._closing = threading.Lock(), threading.RLock()
        # nothing that threads hold refers to this object, so that it notices when a program drops it
        if place.path is not None and not engine.log.readonly:
            engine.pool.leases.may_reuse = lambda commit: not place.has_readers_before(commit)
            hold_back_emptied(engine.pool, engine.maintenance.catalog.commits if engine.maintenance else 0)
        engine.pool.on_take = lambda: prepare_ahead(engine.log, background)
        kept = KeptIds(place.path / "row_ids") if place.path is not None and not engine.log.readonly else None
        self._loader = loader = RowLoader(lambda: list(engine.tables.values()), lambda: bool(engine.log.closed), kept)
        self._log.hooks.what_pins_most = PinReport(self._log, lambda: engine.view_set)
        self._maintenance: MaintenanceScheduler | None = None
        if engine.maintenance is not None:
            self._maintenance = MaintenanceScheduler(
                self._log, engine.maintenance, self._background,
                lambda: engine.replay_cost, lambda: engine.view_set.seals, lambda: engine.view_set.releases,
                lambda: engine.since_checkpoint, engine.is_cold,
            )  # fmt: skip
        maintenance = self._maintenance
        if engine.dram.rows is not None:  # rows are found by the runs, so these are read first
            engine.dram.rows.on_need = lambda: (
                loader.request(background) if maintenance is None or not maintenance.is_cold else None
            )
        self._follower = Follower(engine, place) if self.readonly else None
        self._follow_thread = FollowThread(self) if self.readonly and follow else None
        if self._follow_thread is not None:
            self._follow_thread.start()
        if not self.readonly:
            self._flusher.start()
            self._background.start()
            engine.pool.on_take()
            if self._maintenance is not None:
                self._maintenance.on_checkpoint = loader.keep
                if engine.dram.rows is not None:
                    self._maintenance.on_warm = engine.dram.rows.need
                self._maintenance.start()
            if engine.dram.rows is not None:
                engine.dram.rows.need()
            with contextlib.suppress(FullError):
                drop_held(engine)  # what a backup held when its process was killed
        _open_stores.add(self)

    # views

    def view(self, name: str) -> View:
        """Return the view of this name. UnknownViewError: there is none."""
        return self if isinstance(name, str) and name == MAIN else View(self._engine, self._engine.view(name))

    def views(self) -> dict[str, ViewInfo]:
        """Return all views by name: `main`, then branches, snapshots and `undo` by age."""
        return self._engine.views()

    def view_info(self, name: str) -> ViewInfo:
        """Return facts about one view: its kind, age, base and how much was written to it."""
        return self._engine.view_info(name)

    def branch(self, name: str, at: str = MAIN) -> View:
        """Create a branch: a view that begins as the view `at` is now, and is written like a store."""
        return View(self._engine, self._engine.versions.branch(name, at))

    def promote(self, name: str, tables: TableNames = None, keys: KeyspaceChoice = None, force: bool = False) -> None:
        """Give `main`, at once, what a branch wrote, created or dropped; the state before stays as the view `undo`.

        tables: only these, by name; keys: numbers of keyspaces, or may those that it wrote be taken (None: unless
        tables are named). ConflictError: `main` wrote to one of them since the branch was cut or promoted, and nothing
        was changed; force: that is dropped."""
        self._engine.versions.promote(name, tables, keys, force)

    def undo(self, force: bool = False) -> None:
        """Bring back what the last promote or rollback of `main` exchanged. UnknownViewError: there was none since the
        last undo. ConflictError: it was written to since, and nothing was changed; force: that is dropped."""
        self._engine.versions.undo(force)

    def delete_view(self, name: str) -> None:
        """Delete a branch, a snapshot or `undo`. Views that were cut from it stay as they are."""
        self._engine.versions.delete_view(name)

    @property
    def main_changes(self) -> tuple[int, int]:
        """Return how often `main` was promoted, rolled back or undone, and the LSN of the last: what depends on it may
        be revealed once that is durable."""
        return self._engine.main_changes

    def on_switch(self, callback: Callable[[], None]) -> None:
        """Call this after every promotion, rollback and undo of `main`, from whatever thread did it, perhaps before it
        is durable, and under the store's lock."""
        self._engine.versions.on_main_changed = callback

    # several writes at once, and waiting

    def batch(self, reserve: int = 0) -> contextlib.AbstractContextManager[None]:
        """Everything written inside, by this thread, takes effect together, after a crash too; other writers wait
        meanwhile.

        reserve: an upper bound of what it takes in the log (the sum of `log_bytes` of its writes), so that a full pool
        is noticed first."""
        return self._engine.batch(reserve)

    def deferred(self, may_await_space: bool = False) -> contextlib.AbstractContextManager[DurabilityWait]:
        """Calls of this thread inside do not wait until they are durable; `.lsn` of the object says what their
        results depend on.

        may_await_space: a write that finds the pool full waits, as without `deferred`, until the cleaner has made
        room; else it raises FullError at once."""
        return self._log.deferred(may_await_space)

    def await_space(self, frees: bool = False) -> bool:
        """Wait for a moment while the cleaner makes room for a write that has raised FullError; return whether trying
        again is of use. frees: that write makes something dead, as a delete does."""
        return self._log.await_space(frees)

    def wait(self, lsn: int) -> None:
        """Wait until everything up to this LSN is durable."""
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
            with contextlib.suppress(FlushError):  # everyone who waits is told by on_durable
                log.flush(log.lsn)
        elif log.durable < log.lsn:
            self._flusher.kick()

    def on_durable(self, callback: Callable[[], None]) -> None:
        """Call this after every flush, and after a failure, from whatever thread flushed."""
        self._log.on_durable = callback

    @property
    def durable_lsn(self) -> int:
        """Return the LSN up to which everything is durable."""
        return self._log.durable

    @property
    def failed(self) -> Exception | None:
        """Return why the store takes no more writes: the error of a failed flush, or None."""
        return self._log.failed

    @property
    def version(self) -> tuple[int, int]:
        """(promotions, rollbacks and undos of `main` so far, LSN). What is read after it is of that one or later."""
        promotions, lsn = self._engine.main_changes
        if self._log.durability == "commit":  # else readers are shown the last switch already
            self._log.wait_durable(lsn)
        return promotions, self._log.lsn

    # what it is

    @property
    def lookups(self) -> LookupCounts:
        """Return the counters of keys that were asked for since the store was opened."""
        return self._engine.context.lookups

    def log_bytes(self, count: int, length: int) -> int:
        """Return the most bytes of the log that one write of `count` records takes, whose keys and values, or ids and
        rows, are `length` bytes: what `batch` may reserve."""
        return log_bytes(self._log, count, length)

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
        """Return the granularity that the medium really gives: "page", "cache_line" or "byte"."""
        return self._engine.pool.medium.granularity.word

    @property
    def capacity(self) -> int:
        """Return the bytes of the pool."""
        return int(self._engine.pool.medium.data.size)

    @property
    def epoch(self) -> int:
        """Return how many times the store was opened for writing."""
        return epoch_of(self._log.lsn)

    def stats(self) -> Stats:
        """Return the statistics of this moment."""
        self._log.guard_read()
        return stats_of(self._engine, self.path)

    def check(self) -> None:
        """Assert every invariant of memory, and verify every live byte on the medium."""
        self._log.guard_read()
        self._engine.check()

    # its life

    def refresh(self) -> bool:
        """Show what the writer of the directory has made since, in a readonly store; return whether there was anything.

        Only whole batches are shown; tables, keyspaces and views that a program holds stay the same objects. A store
        that was opened for writing shows everything already."""
        self._log.guard_read()
        return self._follower is not None and self._follower.refresh() > 0

    def follow(self) -> None:
        """Do as `refresh` if there seems to be something; for the thread that calls it again and again."""
        if self._follower is not None and not self._log.closed and self._follower.has_news():
            self._follower.refresh()

    def grow(self, capacity: int | str) -> None:
        """Make the pool larger, to `capacity` bytes, while it is used."""
        self._log.guard_write()
        if self._log.caller_holds_lock:
            raise InvalidError("a pool cannot grow within a batch: what is written of it would have to be flushed")
        size = parse_size(capacity)
        if size > self.capacity:
            self._log.grow(size)
        prepare_ahead(self._log, self._background)

    def compact(self) -> int:
        """Give back all the space of what nobody needs, while the store serves; return how many bytes of the pool that
        freed. A store in memory has no catalog and gives nothing back."""
        self._log.guard_write()
        if self._log.caller_holds_lock:
            raise InvalidError("space cannot be given back within a batch: nothing is complete before its end")
        return self._maintenance.compact() if self._maintenance is not None else 0

    def checkpoint(self) -> None:
        """Take a checkpoint: when this returns, a restart replays nothing that was written before the call.
        A store in memory has no catalog and returns at once."""
        self._log.guard_write()
        if self._log.caller_holds_lock:
            raise InvalidError("a checkpoint cannot be taken within a batch: nothing is complete before its end")
        if self._maintenance is not None:
            self._maintenance.checkpoint()

    def backup(
        self,
        target: str | os.PathLike[str],
        view: str | None = MAIN,
        since: str | os.PathLike[str] | BackupReport | None = None,
        *,
        progress: Progress = no_progress,
    ) -> BackupReport:
        """Write a backup of one view, or of all (None), to a directory or a URL, while the store is used.

        It takes the place of an earlier one there once it is complete. since: an earlier backup of this store, its
        place or report: only what changed since then is written, and a restore needs both. progress: called with how
        many entries were looked at, and of how many. `pmkv.restore` makes a store of it."""
        self._log.guard_read()
        if self._log.caller_holds_lock:
            raise InvalidError("a backup cannot be written within a batch: it would stop all other writers")
        if not self._backing_up.acquire(blocking=False):
            raise LockedError("a backup of this store is under way: wait for its end")
        try:
            before = since.manifest if isinstance(since, BackupReport) else since
            earlier = Backup.open(place_of(before, "since")) if before is not None else None
            follower = self._follower  # must not follow meanwhile: a backup is of one state
            with follower.standing_still() if follower is not None else contextlib.nullcontext():
                return write_backup(self._engine, open_target(target), view, earlier, progress)
        finally:
            self._backing_up.release()

    @property
    def checkpointed_at(self) -> int:
        """Return the time of the last checkpoint of this process, in unix ms; 0 for none."""
        return self._engine.maintenance.checkpointed_at if self._engine.maintenance else 0

    @property
    def is_cold(self) -> bool:
        """Return whether a read may have to wait for the disk, as runs were not read since the store was opened."""
        return self._maintenance is not None and self._maintenance.is_cold

    def close(self, checkpoint: bool = True) -> None:
        """Make everything durable and let go of the directory. A closed store raises ClosedError; closing twice is
        fine, and needed after Ctrl-C: while threads use the directory, it stays locked. checkpoint: take one, if it
        saves the next opening something."""
        if not self._place.is_open:
            return
        if self._log.caller_holds_lock:
            raise InvalidError("a store cannot be closed within a batch")
        with self._closing:
            if not self._log.closed:
                with self._log.locks.append, self._log.locks.state:
                    self._log.access.finish_interrupted()  # what is closed cannot be brought back
                    self._log.closed = "the store is closed"  # who comes later is told so; who waits is still served
            try:
                self._end(checkpoint)
            finally:
                if self._background.ident is None or (self._flusher.has_ended and self._background.has_ended):
                    self._place.close()

    def _end(self, checkpoint: bool) -> None:
        """End the threads, and make durable what there is. May be called again after an exception."""
        if self._follow_thread is not None:
            self._follow_thread.stop()
        if self._background.ident is None:
            return  # no thread was started
        if self._maintenance is not None:
            self._maintenance.begin_closing()
        self._flusher.stop()
        self._background.stop()
        self._log.flush(self._log.lsn)
        if checkpoint and self._maintenance is not None:
            self._maintenance.checkpoint_at_close()
        if checkpoint and self._engine.dram.rows is not None:
            self._loader.keep(now=True)
        with contextlib.suppress(FullError):
            self._log.mark()

    def forked(self) -> None:
        """Close this copy of the store in a forked child: the store belongs to the parent."""
        self._log.renew_locks()
        self._log.closed = "the store was opened by the parent process: a forked child must open its own"
        self._place.close(forked=True)  # a child that outlives its parent must not keep the directory locked

    def __del__(self) -> None:
        if sys is None or sys.is_finalizing():  # modules are gone, or go
            return
        if hasattr(self, "_place") and not (self._log.closed or self.readonly):
            warnings.warn(
                f"the store in {self.path or 'memory'} was dropped without close(): its threads go on, and its "
                "directory stays locked until the process ends",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare_ahead(log: Log, background: Background) -> None:
    """Let a background thread prepare one segment after another, so that closing has to wait for one at most."""

    def prepare() -> None:
        if log.preallocate_segment():
            background.submit(prepare)

    background.submit(prepare)


def _disown() -> None:
    for store in list(_open_stores):
        store.forked()


os.register_at_fork(after_in_child=_disown)
