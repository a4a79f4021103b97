"""When checkpoints and compactions run: in a store's background thread, as the log grows or its writers rest.

`Maintenance` knows how a checkpoint and a compaction are made; this module only decides when, slows writers down that
outrun checkpoints, and retries after errors. The log holds everything until a checkpoint has been committed, so a
failure costs time at the next opening and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from ..errors import ClosedError, PmkvError
from ..log.log import Log
from ..runtime.background import Background
from ..runtime.scheduling import yield_cpu
from .maintenance import Maintenance

CHECKPOINT_DUE_S = 0.1  # seconds of replay after which a checkpoint is due
IDLE_DUE_DIVISOR = 5  # an idle store checkpoints so much sooner: it restarts faster and reads one run less in DRAM
DUE_AT_CLOSE_S = 0.005  # seconds of replay after which closing takes a checkpoint
CLOSE_LIMIT_S = 1.5  # seconds of closing after which an unfinished checkpoint is given up
MAX_SEALS = 8  # seals after which a checkpoint is due: each leaves one more frozen memtable for reads to probe
RETRY_S = 5.0  # seconds before a failed checkpoint or compaction is tried again
THROTTLE_ABOVE_S = 2 * CHECKPOINT_DUE_S  # seconds of replay above which each flush waits: checkpoints do not keep up
THROTTLE_SHARE, MAX_THROTTLE_S = 0.5, 0.05  # a flush waits for this share of the excess, for at most so many seconds
# Compactions have this many times the last checkpoint's duration before the next checkpoint: otherwise runs pile up,
# and checkpoints, which probe each run, take ever longer.
COMPACTION_TIME_RATIO = 1.0
log = logging.getLogger("pmkv")


class MaintenanceScheduler:
    """Schedules the checkpoints and compactions of one store. `checkpoint` may be called by any thread; the rest runs
    in the background thread, in the thread that flushes, or in the one that closes the store."""

    def __init__(
        self,
        store_log: Log,
        checkpointer: Maintenance,
        background: Background,
        replay_seconds: Callable[[], float],
        seals: Callable[[], int],
        is_cold: bool,
    ) -> None:
        """replay_seconds: estimates a replay from the last checkpoint; seals: counts seals since the last checkpoint;
        is_cold: the catalog names runs that were not read yet."""
        self._log, self._checkpointer, self._background = store_log, checkpointer, background
        self._replay_seconds, self._seals = replay_seconds, seals
        self.is_cold = is_cold  # runs were not read since the store was opened: a read may wait for the disk
        self._requests: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()  # checkpoints that callers wait for
        self._checkpoint_is_due = False
        self._compact_until = 0.0  # monotonic clock
        self._close_deadline = math.inf  # monotonic clock
        self.on_checkpoint: Callable[[], None] | None = None  # called after each one
        self._retry_at = 0.0  # monotonic clock: a failure is not repeated at every flush

    def start(self) -> None:
        """Begin: warm the runs up, and take a checkpoint if the replay at opening was long."""
        self._checkpointer.pause = self._check_close_deadline
        self._log.on_group = self._after_flush
        self._background.submit(self._warm)
        self._plan()

    def checkpoint(self) -> None:
        """Return once everything written before this call is checkpointed. Raises the checkpoint's error."""
        request: Future[None] = Future()
        self._requests.put(request)
        self._background.submit(self._run)
        while not request.done():
            with contextlib.suppress(TimeoutError):
                request.result(timeout=1)
                return
            self._log.guard_write()  # the store was closed meanwhile: nobody is left to grant the request
        request.result()

    # when

    def _after_flush(self) -> None:
        """Slow writers down if checkpoints do not keep up, and plan the next one.

        Runs in the thread that flushes, which writers wait for, and never in a server's event loop."""
        if self._log.durability == "commit" and not self._log.pool.medium.inline and self._excess > 0:
            time.sleep(min(self._excess * THROTTLE_SHARE, MAX_THROTTLE_S))
        self._plan()

    @property
    def _excess(self) -> float:
        """Seconds of replay above the limit; 0 while checkpoints fail, as waiting for them is no use."""
        return self._replay_seconds() - THROTTLE_ABOVE_S if self._checkpointer.error is None else 0.0

    def _plan(self) -> None:
        """Submit a checkpoint if one is due; or only compactions, if the store is idle and has some left to do."""
        due = CHECKPOINT_DUE_S / IDLE_DUE_DIVISOR if self._log.is_idle else CHECKPOINT_DUE_S
        is_due = self._replay_seconds() > due or self._seals() > MAX_SEALS
        may_compact = self._log.is_idle and self._checkpointer.may_compact_at_rest
        if self._checkpoint_is_due or not (is_due or may_compact) or self._log.readonly:
            return
        if time.monotonic() >= self._retry_at:
            self._checkpoint_is_due = is_due
            self._background.submit(self._run)

    # what runs in the background

    def _run(self) -> None:
        """Take a requested or due checkpoint, then compact; checkpoints that become due meanwhile go first."""
        self._checkpoint_if_due()
        if self.is_cold:  # readers wait for the warm-up, and nobody for a compaction
            return
        for _ in self._guarded(self._checkpointer.compact()):
            self._background.catch_up()
            self._checkpoint_if_due()
        self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        requests = []
        with contextlib.suppress(queue.Empty):
            while True:
                requests.append(self._requests.get_nowait())
        begun = time.monotonic()
        compaction_first = self._checkpointer.is_compacting and begun < self._compact_until
        if not requests and (compaction_first or not self._checkpoint_is_due):
            return
        try:
            self._take_checkpoint()
        except BaseException as error:
            for request in requests:
                request.set_exception(error)
            if not isinstance(error, PmkvError | OSError):
                raise
            self._note_failure(error)
        finally:
            self._checkpoint_is_due = False
            self._compact_until = time.monotonic() + COMPACTION_TIME_RATIO * (time.monotonic() - begun)
        for request in requests:
            if not request.done():
                request.set_result(None)
        self._plan()  # for writes made meanwhile: there may be no later flush to notice them

    def _take_checkpoint(self) -> None:
        with contextlib.closing(self._checkpointer.checkpoint()) as steps:
            for _ in steps:
                yield_cpu()
                self._check_close_deadline()
        if self.on_checkpoint is not None:
            self.on_checkpoint()

    def _guarded(self, steps: Iterator[None]) -> Iterator[None]:
        """Run steps until the store is closed or failed, or one of them raises."""
        try:
            for _ in steps:
                yield_cpu()
                yield
                if self._log.closed or self._log.failed:
                    return
        except (PmkvError, OSError) as error:
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        self._checkpointer.error = str(error)
        self._retry_at = time.monotonic() + RETRY_S
        log.warning("a checkpoint or fold was not finished, and will be tried again: %s", error)

    def _warm(self) -> None:
        for _ in self._guarded(self._checkpointer.warm()):
            self._background.catch_up()
        self.is_cold = False
        self._background.submit(self._run)

    # the end

    def begin_closing(self) -> None:
        """Give a checkpoint under way a deadline."""
        self._close_deadline = time.monotonic() + CLOSE_LIMIT_S

    def _check_close_deadline(self) -> None:
        if time.monotonic() > self._close_deadline:
            raise ClosedError("the store is being closed: what is not written yet is left to the log")

    def checkpoint_at_close(self) -> None:
        """Take a last checkpoint if it spares the next opening a replay. The background thread has ended."""
        if self._replay_seconds() > DUE_AT_CLOSE_S and not self._log.readonly:
            try:
                self._take_checkpoint()
            except (PmkvError, OSError) as error:
                self._note_failure(error)
