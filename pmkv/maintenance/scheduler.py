"""When checkpoints, compactions and passes of the cleaner run: in a store's background thread, as the log grows, free
space gets short, or writers rest.

`Maintenance` knows how these are made, and `cleaning_schedule` when a pass is due; this module starts them, slows
writers down that outrun them, and retries after errors. The log holds everything until a checkpoint has been committed,
so a failure costs time at the next opening and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator

from ..errors import ClosedError, PmkvError
from ..log.log import Log
from ..runtime.background import Background
from ..runtime.scheduling import yield_cpu
from .cleaning_schedule import CleaningSchedule, SinceCheckpoint
from .committed import Steps
from .maintenance import Maintenance

CHECKPOINT_DUE_S = 0.1  # seconds of replay after which a checkpoint is due
IDLE_DUE_DIVISOR = 5  # an idle store checkpoints so much sooner: it restarts faster and reads one run less in DRAM
DUE_AT_CLOSE_S = 0.005  # seconds of replay after which closing takes a checkpoint
CLOSE_LIMIT_S = 1.5  # seconds of closing after which an unfinished checkpoint is given up
MAX_SEALS = 8  # seals after which a checkpoint is due: each leaves one more frozen memtable for reads to probe
RETRY_S = 5.0  # seconds before a failed checkpoint or compaction is tried again
THROTTLE_ABOVE_S = 2 * CHECKPOINT_DUE_S  # seconds of replay above which each flush waits: checkpoints do not keep up
PASS_POLL_S = 0.005  # a writer that waits for the end of a pass looks so often
FULL_POLL_S = 0.1  # a writer that found no room tries again after so long, or after a pass of the cleaner
THROTTLE_SHARE, MAX_THROTTLE_S = 0.5, 0.05  # a flush waits for this share of the excess, for at most so many seconds
# Compactions have this many times the last checkpoint's duration before the next checkpoint: otherwise runs pile up,
# and checkpoints, which probe each run, take ever longer.
COMPACTION_TIME_RATIO = 1.0
# Holds the answer of the background thread. No Future: the `__exit__` of its lock is written in Python, so that Ctrl-C
# may come on the way into it, and leave the lock taken; the background thread would wait for ever.
Request = queue.SimpleQueue[int | BaseException]
log = logging.getLogger("pmkv")


class MaintenanceScheduler:
    """Schedules the checkpoints, compactions and passes of one store. `checkpoint` and `compact` may be called by any
    thread; the rest runs in the background thread, in the thread that flushes, or in the one that closes the store."""

    def __init__(
        self,
        store_log: Log,
        checkpointer: Maintenance,
        background: Background,
        replay_seconds: Callable[[], float],
        seals: Callable[[], int],
        releases: Callable[[], int],
        since_checkpoint: SinceCheckpoint,
        is_cold: bool,
    ) -> None:
        """replay_seconds: estimates a replay from the last checkpoint; seals, releases: count seals, and decisions that
        release something, since the last checkpoint; since_checkpoint: returns records and bytes written; is_cold: the
        catalog names runs that were not read yet."""
        self._log, self._checkpointer, self._background = store_log, checkpointer, background
        self._replay_seconds, self._seals, self._releases = replay_seconds, seals, releases
        self.cleaning = CleaningSchedule(store_log, checkpointer.cleaner, since_checkpoint)
        self.is_cold = is_cold  # runs were not read since the store was opened: a read may wait for the disk
        self._passes = 0  # passes that have ended; a writer may wait for the next one
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()  # checkpoints that callers wait for
        self._compact_requests: queue.SimpleQueue[Request] = queue.SimpleQueue()  # likewise, passes of the cleaner
        self._checkpoint_is_due = False
        self._compact_until = 0.0  # monotonic clock
        self._close_deadline = math.inf  # monotonic clock
        self.on_checkpoint: Callable[[], None] | None = None  # called after each one
        self.on_warm: Callable[[], None] | None = None  # called once all runs were read after the start
        self._silent_until = 0.0  # monotonic clock: one failure in so long is logged
        self._retry_at = 0.0  # monotonic clock: a failure is not repeated at every flush

    def start(self) -> None:
        """Begin: warm the runs up, and take a checkpoint if the replay at opening was long."""
        self._checkpointer.pause = self._check_close_deadline
        self._log.on_group, self._log.hooks.pace = self._plan, self._pace
        self._log.hooks.await_space = self._await_space
        self._background.submit(self._warm)
        self._plan()

    def checkpoint(self) -> None:
        """Return once everything written before this call is checkpointed. Raises the checkpoint's error."""
        self._ask(self._requests)

    def compact(self) -> int:
        """Give back all the space that passes of the cleaner can gain; return how many bytes that is. Raises the error
        of a pass."""
        return self._ask(self._compact_requests)

    def _ask(self, requests: queue.SimpleQueue[Request]) -> int:
        """Let the background thread grant a request; return what it answers, or raise that."""
        request: Request = queue.SimpleQueue()
        requests.put(request)
        self._background.submit(self._run)
        while True:
            try:
                answer = request.get(timeout=1)
            except queue.Empty:
                self._log.guard_write()  # the store may have been closed: nobody is left to grant the request
            else:
                if isinstance(answer, BaseException):
                    raise answer
                return answer

    # when

    def _pace(self) -> None:
        """Slow writers down if checkpoints or the cleaner do not keep up.

        Runs in the thread that is about to flush, which writers wait for, and never in a server's event loop; nor in
        the background thread, for which they wait. It holds no lock, as a checkpoint may have to flush meanwhile."""
        is_paced = self._log.durability == "commit" and not self._log.pool.medium.inline
        if is_paced and threading.current_thread() is not self._background:
            wait = max(min(self._excess * THROTTLE_SHARE, MAX_THROTTLE_S), self.cleaning.pace())
            if wait > 0:
                time.sleep(wait)

    def _await_space(self, frees: bool) -> bool:
        """Let a writer that found no room wait for the end of a pass, or a moment. Return whether there is hope: passes
        gain something, or something has become dead since. frees: the write makes something dead itself."""
        self.cleaning.is_demanded, passes, until = True, self._passes, time.monotonic() + FULL_POLL_S
        self._background.submit(self._run)
        if not (frees or self._may_gain):
            return False
        while self._passes == passes and time.monotonic() < until:
            time.sleep(PASS_POLL_S)
        self._log.guard_write()
        return frees or self._may_gain

    @property
    def _may_gain(self) -> bool:
        """Return whether a pass may gain something: the last ones did, or something has become dead since."""
        return not self.cleaning.is_vain or self._may_have_died

    @property
    def _may_have_died(self) -> bool:
        """Return whether a segment's worth of bytes may have died by writes or decisions since the last checkpoint."""
        return self.cleaning.is_worth_checkpoint or self._releases() > 0

    @property
    def _excess(self) -> float:
        """Seconds of replay above the limit; 0 while checkpoints fail, as waiting for them is no use."""
        return self._replay_seconds() - THROTTLE_ABOVE_S if self._checkpointer.error is None else 0.0

    def _plan(self) -> None:
        """Submit a checkpoint if one is due; or only compactions, if the store is idle and has some left to do."""
        due = CHECKPOINT_DUE_S / IDLE_DUE_DIVISOR if self._log.is_idle else CHECKPOINT_DUE_S
        is_due = self._replay_seconds() > due or self._seals() > MAX_SEALS
        may_compact = self._log.is_idle and self._checkpointer.may_compact_at_rest
        if self._log.is_idle and self._may_have_died:
            is_due = True  # what was dropped or written over gives nothing back before a checkpoint
        is_due = is_due or self.cleaning.awaits_checkpoint
        may_clean = self.cleaning.due() is not None
        if self._checkpoint_is_due or not (is_due or may_compact or may_clean) or self._log.readonly:
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
        self._clean_if_due()
        with contextlib.closing(self._guarded(self._checkpointer.compact())) as steps:
            for _ in steps:
                self._background.catch_up()
                self._checkpoint_if_due()
                if self.cleaning.is_pressing:
                    break  # a pass writes these runs, too
        self._checkpoint_if_due()
        self._clean_if_due()
        if not self._checkpointer.is_compacting:  # else this runs within a pass
            self._plan()  # for what became due meanwhile: there may be no later flush to notice it

    def _clean_if_due(self) -> None:
        """Let the cleaner run passes while they are due and give something; checkpoints that become due go first."""
        if self.cleaning.awaits_checkpoint:
            self._checkpoint_is_due = True
            self._checkpoint_if_due()
        while not (self._checkpointer.is_compacting or self._compact_requests.empty()):
            self._compact_for(self._compact_requests.get_nowait())
        while (due := self.cleaning.due()) is not None and not (self._log.closed or self._log.failed):
            if self.cleaning.needs_checkpoint:
                self._checkpoint_is_due = True
                self._checkpoint_if_due()
            begun, before, moved = time.monotonic(), self._segments_gained, self._bytes_gained
            for _ in self._guarded(self._checkpointer.clean(due.wanted, due.min_win)):
                self._background.catch_up()
                self._checkpoint_if_due()
            gained = self._bytes_gained - moved
            self.cleaning.note(due, gained, self._segments_gained - before, time.monotonic() - begun)
            self._passes += 1
            self._checkpoint_if_due()
            if gained <= 0:
                break  # compactions are next, even if each checkpoint makes another pass due

    @property
    def _segments_gained(self) -> int:
        """Return how many segments passes of the cleaner have freed beyond those that they filled."""
        return self._checkpointer.cleaner.totals.freed - self._log.mover.taken

    @property
    def _bytes_gained(self) -> int:
        """Return how many bytes passes of the cleaner have freed beyond those that they moved."""
        return self._checkpointer.cleaner.totals.freed * self._log.pool.segment_size - self._log.mover.written

    def _compact_for(self, request: Request) -> None:
        """Run passes until one gives nothing, and tell who waits for it."""
        pool, first, before = self._log.pool, self._segments_gained, -math.inf
        try:
            self._take_checkpoint()
            while self._segments_gained > before:
                before = self._segments_gained
                with contextlib.closing(self._checkpointer.clean()) as steps:
                    for _ in steps:
                        self._check_close_deadline()
                        self._checkpoint_if_due()
        except BaseException as error:
            request.put(error)
            if not isinstance(error, PmkvError | OSError):
                raise
        else:
            request.put(max(0, self._segments_gained - first) * pool.segment_size)

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
            answer: BaseException | int = error
            if not isinstance(error, PmkvError | OSError):
                raise
            self._note_failure(error)
        else:
            answer = 0
        finally:
            self._checkpoint_is_due = False
            self._compact_until = time.monotonic() + COMPACTION_TIME_RATIO * (time.monotonic() - begun)
            for request in requests:
                request.put(answer)
        self._plan()  # for writes made meanwhile: there may be no later flush to notice them

    def _take_checkpoint(self) -> None:
        if self._may_have_died:
            self.cleaning.expect_gain()
        with contextlib.closing(self._checkpointer.checkpoint()) as steps:
            for _ in steps:
                yield_cpu()
                self._check_close_deadline()
        if self.on_checkpoint is not None:
            self.on_checkpoint()

    def _guarded(self, steps: Steps) -> Generator[None, None, None]:
        """Run steps until the store is closed or failed, or one of them raises."""
        try:
            with contextlib.closing(steps):
                for _ in steps:
                    yield_cpu()
                    yield
                    if self._log.closed or self._log.failed:
                        return
        except (PmkvError, OSError) as error:
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        self._checkpointer.error = str(error)
        now = time.monotonic()
        self._retry_at = now + RETRY_S
        self._background.submit_later(self._run, RETRY_S + 0.1)  # there may be no later flush to try it again
        if now >= self._silent_until:  # writers that wait for room ask for a pass again and again
            self._silent_until = now + RETRY_S
            log.warning("a checkpoint, compaction or cleaning was not finished, and will be tried again: %s", error)

    def _warm(self) -> None:
        for _ in self._guarded(self._checkpointer.warm()):
            self._background.catch_up()
        self.is_cold = False
        if self.on_warm is not None:
            self.on_warm()
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
