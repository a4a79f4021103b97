"""The store: an engine on a data directory, with its lock, its threads and its life: open, serve, close.

A data directory holds `pool` (the log), `catalog` and `runs` (indexes of what is in it), `pmkv.json` (which pool
belongs here) and `lock` (who has it open).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from . import data_directory
from .engine.engine import Engine
from .engine.version_plan import KeyspaceChoice, TableNames
from .errors import ClosedError, CorruptionError, FlushError, FullError, InvalidError, PmkvError
from .log.durability import DurabilityWait
from .log.flusher import Flusher
from .log.format import epoch_of
from .log.publishing import BatchPublisher
from .runtime.background import Background
from .runtime.locks import StoreLocks
from .runtime.scheduling import yield_cpu
from .runtime.sizes import parse_size
from .stats import Stats, stats_of
from .versions.view_set import MAIN, ViewInfo
from .view import View

HOT_SHARE = 4  # of the DRAM budget, hot words take one in so many parts
DUE = 0.1  # seconds of replay, beyond which a checkpoint is taken
AT_REST = 5  # where nobody writes, so many times less: the next start has less to do, and reads one run less to ask
MOST_SEALS = 8  # versions, beyond which a checkpoint is taken too: each left one more run for reads to ask in DRAM
READER_ATTEMPTS = 3
RETRY = 5.0  # seconds after which a checkpoint that failed is tried again
BEHIND = 2 * DUE  # seconds of replay, beyond which writers are held up: checkpoints do not keep pace with them
HOLD_UP, LONGEST = 0.5, 0.05  # at every group for so much of what is beyond, but no more seconds
DUE_AT_END = 0.005  # the same when the store is closed
# Times what a checkpoint took, a fold has before the next one: else runs pile up, and checkpoints, which ask each of
# them, take ever longer.
FOLDING = 1.0
CLOSING = 1.5  # seconds of closing, after which a checkpoint that is not written yet is left undone
log = logging.getLogger("pmkv")

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
    budget, attempts = parse_size(dram), READER_ATTEMPTS if readonly else 1
    while True:
        attempts -= 1
        place = data_directory.DataDirectory(path, pool, parse_size(capacity), require, readonly)
        try:
            found, hot = place.open_pool(), budget // HOT_SHARE
            engine = Engine(found, durability, readonly, verify_reads, files=place.open_files(), hot=hot)
            return Store(place, engine, budget)
        except BaseException as error:
            place.close()
            # beside a writer, what was read first and what was read last may not belong together
            if not (attempts and isinstance(error, CorruptionError)):
                raise


class Store(View):
    """One open data directory, and its view `main`. Safe for threads; not for forked children, which get
    ClosedError."""

    def __init__(self, place: data_directory.DataDirectory, engine: Engine, dram: int) -> None:
        super().__init__(engine, engine.main)
        self._place, self.dram = place, dram
        self._flusher, self._background = Flusher(self._log), Background()
        engine.pool.on_take = lambda: self._background.submit(self._prepare_ahead)
        self._wanted: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()  # checkpoints that somebody waits for
        self._upkeep_is_due = False
        self._fold_until = 0.0  # by the monotonic clock
        self._deadline = math.inf  # of checkpoints, once the store is being closed
        self.is_cold = engine.is_cold  # are there indexes on file that were not read yet, so that a look may wait?
        self._retry_upkeep_at = 0.0  # by the monotonic clock: what failed is not tried again at every group
        if not self.readonly:
            self._flusher.start()
            self._background.start()
            engine.pool.on_take()
            if engine.upkeep is not None:
                engine.upkeep.pause = self._look_at_deadline
                self._log.on_group = self._look_at_upkeep
                self._background.submit(self._warm)
                self._plan_upkeep()  # a replay that took long is not to be repeated
        _open_stores.add(self)

    # views

    def view(self, name: str) -> View:
        """What can be read by this name. UnknownViewError: nothing."""
        return self if name == MAIN else View(self._engine, self._engine.view(name))

    def views(self) -> dict[str, ViewInfo]:
        """All views by name: `main`, then branches, snapshots and `undo` by age."""
        return self._engine.views()

    def view_info(self, name: str) -> ViewInfo:
        """Of one view."""
        return self._engine.view_info(name)

    def branch(self, name: str, at: str = MAIN) -> View:
        """A new head, which begins as the view `at` is now, and is written like a store."""
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
        """Forget a branch, a snapshot or `undo`; what others stand on stays."""
        self._engine.versions.delete_view(name)

    @property
    def switches(self) -> tuple[int, int]:
        """Promotions, rollbacks and undos of `main` so far, and the LSN of the last: what depends on it may be revealed
        once that is durable."""
        return self._engine.switches

    def on_switch(self, callback: Callable[[], None]) -> None:
        """Call this after every promotion, rollback and undo of `main`, from whatever thread did it, perhaps before it
        is durable, and under the store's lock."""
        self._engine.versions.on_main_changed = callback

    # several writes at once, and waiting

    def batch(self, reserve: int = 0) -> contextlib.AbstractContextManager[None]:
        """Everything written inside, by this thread, takes effect together, after a crash too; other writers wait
        meanwhile.

        reserve: an upper bound of what it takes in the log (bytes of keys and values and 256 a command), so that a
        full pool is noticed first."""
        return self._engine.batch(reserve)

    def deferred(self) -> contextlib.AbstractContextManager[DurabilityWait]:
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
            with contextlib.suppress(FlushError):  # everyone who waits is told by on_durable
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
        """(promotions, rollbacks and undos of `main` so far, LSN). What is read after it is of that one or later."""
        promotions, lsn = self._engine.switches
        if self._log.durability == "commit":  # else readers are shown the last switch already
            self._log.settle(lsn)
        return promotions, self._log.lsn

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
        if self._log.is_locked_by_me:
            raise InvalidError("a pool cannot grow within a batch: what is written of it would have to be flushed")
        size = parse_size(capacity)
        if size > self.capacity:
            self._log.grow(size)
        self._background.submit(self._prepare_ahead)

    def _prepare_ahead(self) -> None:
        """One segment after another, so that closing has to wait for one at most."""
        if self._log.preallocate_segment():
            self._background.submit(self._prepare_ahead)

    # upkeep, in the background

    def checkpoint(self) -> None:
        """Return when everything written before this call is in the catalog, so that a restart replays nothing of it.
        A store in memory has none, and needs none."""
        self._log.guard_write()
        if self._log.is_locked_by_me:
            raise InvalidError("a checkpoint cannot be taken within a batch: nothing is complete before its end")
        if self._engine.upkeep is None:
            return
        wish: Future[None] = Future()
        self._wanted.put(wish)
        self._background.submit(self._run_upkeep)
        while not wish.done():
            with contextlib.suppress(TimeoutError):
                wish.result(timeout=1)
                return
            self._log.guard_write()  # closed meanwhile: nobody is left to grant it
        wish.result()

    @property
    def checkpointed_at(self) -> int:
        """When the last checkpoint of this process was taken, unix ms; 0 for never."""
        return self._engine.upkeep.checkpointed_at if self._engine.upkeep else 0

    def _look_at_upkeep(self) -> None:
        # in the thread that flushes, and that writers wait for: never a server's loop
        if self._log.durability == "commit" and not self._engine.pool.medium.inline and self._behind > 0:
            time.sleep(min(self._behind * HOLD_UP, LONGEST))
        self._plan_upkeep()

    @property
    def _behind(self) -> float:
        """Seconds of replay beyond what is let pass. Where checkpoints fail, to wait for them is no use."""
        return self._engine.replay_cost - BEHIND if self._engine.upkeep.error is None else 0.0

    def _plan_upkeep(self) -> None:
        """A checkpoint, if it is due; folds alone, where nobody writes and something was committed since the last."""
        due = DUE / AT_REST if self._log.is_idle else DUE
        is_due = self._engine.replay_cost > due or self._engine.heads.seals > MOST_SEALS
        may_fold = self._log.is_idle and self._engine.upkeep.may_fold_at_rest
        if self._upkeep_is_due or not (is_due or may_fold) or self._log.readonly:
            return
        if time.monotonic() >= self._retry_upkeep_at:
            self._upkeep_is_due = is_due
            self._background.submit(self._run_upkeep)

    def _run_upkeep(self) -> None:
        """Checkpoints that are wished for or due; then folds, and whatever becomes due beside them."""
        self._checkpoint_if_due()
        if self.is_cold:  # who reads waits for the warm-up, nobody for a fold
            return
        for _ in self._guarded(self._engine.upkeep.fold()):
            self._background.catch_up()
            self._checkpoint_if_due()
        self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        wishes = []
        with contextlib.suppress(queue.Empty):
            while True:
                wishes.append(self._wanted.get_nowait())
        begun = time.monotonic()
        folds_first = self._engine.upkeep.folding and begun < self._fold_until
        if not wishes and (folds_first or not self._upkeep_is_due):
            return
        try:
            self._take_checkpoint()
        except BaseException as error:
            for wish in wishes:
                wish.set_exception(error)
            if not isinstance(error, PmkvError | OSError):
                raise
            self._upkeep_failed(error)
        finally:
            self._upkeep_is_due = False
            self._fold_until = time.monotonic() + FOLDING * (time.monotonic() - begun)
        for wish in wishes:
            if not wish.done():
                wish.set_result(None)
        self._plan_upkeep()  # of what was written meanwhile: perhaps nobody writes again

    def _take_checkpoint(self) -> None:
        with contextlib.closing(self._engine.upkeep.checkpoint()) as steps:
            for _ in steps:
                yield_cpu()
                self._look_at_deadline()

    def _look_at_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise ClosedError("the store is being closed: what is not written yet is left to the log")

    def _guarded(self, steps: Iterator[None]) -> Iterator[None]:
        """Steps of upkeep, until the store is closed, or one of them fails."""
        try:
            for _ in steps:
                yield_cpu()
                yield
                if self._log.closed or self._log.failed:
                    return
        except (PmkvError, OSError) as error:
            self._upkeep_failed(error)

    def _upkeep_failed(self, error: Exception) -> None:
        """The log still holds everything: the store goes on, and the next checkpoint tries again."""
        self._engine.upkeep.error = str(error)
        self._retry_upkeep_at = time.monotonic() + RETRY
        log.warning("a checkpoint or fold was not finished, and will be tried again: %s", error)

    def _warm(self) -> None:
        for _ in self._guarded(self._engine.upkeep.warm()):
            self._background.catch_up()
        self.is_cold = False
        self._background.submit(self._run_upkeep)

    def close(self, checkpoint: bool = True) -> None:
        """Make everything durable and let go of the directory. A closed store raises ClosedError; closing twice is
        fine. checkpoint: take one, if it saves the next opening something."""
        if self._log.closed:
            return
        if self._log.is_locked_by_me:
            raise InvalidError("a store cannot be closed within a batch")
        with self._log.locks.append, self._log.locks.state:
            if self._log.closed:
                return
            self._log.closed = "the store is closed"  # who comes later is told so; who waits is still served
        try:
            if self._flusher.is_alive():
                self._deadline = time.monotonic() + CLOSING
                self._flusher.stop()
                self._background.stop()
                self._log.flush(self._log.lsn)
                if checkpoint and self._engine.replay_cost > DUE_AT_END and not self._log.readonly:
                    self._checkpoint_at_end()
                with contextlib.suppress(FullError):
                    self._log.mark()
        finally:
            self._place.close()

    def _checkpoint_at_end(self) -> None:
        try:
            self._take_checkpoint()
        except (PmkvError, OSError) as error:
            self._upkeep_failed(error)

    def forked(self) -> None:
        """In a forked child: the store is the parent's."""
        self._log.locks = StoreLocks()  # other threads of the parent may have held the old ones
        self._log.publisher = BatchPublisher(self._log.locks)
        self._log.closed = "the store was opened by the parent process: a forked child must open its own"
        self._place.close(forked=True)  # a child that outlives its parent must not keep the directory locked

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _disown() -> None:
    for store in list(_open_stores):
        store.forked()


os.register_at_fork(after_in_child=_disown)
