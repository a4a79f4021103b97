"""Group commit: collect the ranges of finished frames and make them durable together.

A flush takes everything that was appended so far and writes it while the next group collects. Every frame up to
`durable` is on the medium; later frames are *pending* and lie in the intervals of `pending()`.

`_flushing` is held by the thread that flushes. It comes before `locks.append`, which comes before `locks.state`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np

from ..errors import FlushError
from ..runtime.locks import StoreLocks
from .access import AccessGuard
from .appender import LogAppender, LogHooks
from .format import ALIGN
from .prefault import Prefault
from .replay import Replay

log = logging.getLogger("pmkv")

NO_RANGES = np.empty((0, 2), np.int64)
FLUSH_PIECE_BYTES = 4 << 20  # a finished piece of a long write is worth a flush of its own from this size on


class MediumErrors:
    """A context manager that ends writing when the medium raises OSError inside it, and raises FlushError instead.

    The kernel reports a write-back error once, perhaps not to the thread whose bytes are lost."""

    def __init__(self, group: GroupCommit) -> None:
        self._group = group

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            self._group.fail(error)
            self._group.announce(self._group.hooks.on_durable)
            raise self._group.failed from error


class GroupCommit:
    """Owns the ranges that are not durable yet, the durable LSN, and the failure of the medium.

    durability: "commit", "interval" or "none"; only with "commit" are frames pending. durable: LSN up to which the
    log is durable. failed: the error that ended writing, or None. flushes: successful flushes of this process.
    """

    def __init__(
        self, appender: LogAppender, locks: StoreLocks, access: AccessGuard, hooks: LogHooks, durability: str
    ) -> None:
        self.appender, self.pool, self.locks, self.access, self.hooks = appender, appender.pool, locks, access, hooks
        self.durability = durability
        self.failed: FlushError | None = None
        self.failing = MediumErrors(self)
        self.flushes = 0
        self._flushing = threading.Lock()
        appender.sink = self

    def resume(self, replay: Replay) -> None:
        """Continue where a replay ended."""
        # `durable` becomes true once `rewrite_unproved` has run, which is before anything is revealed.
        self.durable = self._flushing_lsn = replay.lsn
        self._unproved = replay.undurable
        self._unflushed: list[list[int]] = []  # ranges of finished frames
        self._in_flight: list[list[int]] = []  # ranges being flushed, up to `_flushing_lsn`
        self._prewritten_in_flight = 0  # bytes in flight that `Medium.store` handed to the system
        self._pending: np.ndarray | None = None  # cached result of `pending`, computed at `_pending_lsn`
        self._pending_lsn = 0
        self.prefault = Prefault(replay.position)

    def rewrite_unproved(self) -> None:
        """Make durable again what recovery accepted without proof: it may have seen bytes that were only cached."""
        if unproved := self._unproved + self.pool.unproved_headers:
            with self.failing:
                self.pool.medium.rewrite(unproved)
        self._unproved = []

    def add_range(self, start: int, stop: int) -> None:
        """Add the range of a finished frame to the next group. The caller holds `locks.state`.

        The padding before the frame is included, so that a group consists of few ranges."""
        last = self._unflushed[-1] if self._unflushed else None
        if last is not None and 0 <= start - last[1] < ALIGN:
            last[1] = stop
        else:
            self._unflushed.append([start, stop])
        self._pending = None

    def drop_ranges(self, start: int, stop: int) -> None:
        """Forget what was reported of this part of the pool: the log goes back to before it. The caller holds
        `locks.append` and `locks.state`, so nothing of it is in flight."""
        kept = [[first, min(last, start)] for first, last in self._unflushed if first < start]
        self._unflushed = kept + [[first, last] for first, last in self._unflushed if first >= stop]
        self._pending = None

    def pending(self) -> np.ndarray:
        """Return the intervals of the pool that are not durable, int64[n, 2].

        A result that depends on a location inside one of them must wait. The caller holds `locks.state`."""
        lsn = self.appender.lsn
        if self._pending is None or self._pending_lsn != lsn:
            ranges = self._in_flight + self._unflushed
            if self.appender.open_frame is not None:
                ranges = [*ranges, [self.appender.open_frame[0], self.appender.position]]
            pending = np.array(ranges, np.int64) if ranges and self.durability == "commit" else NO_RANGES
            self._pending, self._pending_lsn = pending, lsn
        return self._pending

    @property
    def caller_holds_lock(self) -> bool:
        """True if the calling thread holds a lock that a flush needs, as it does within a batch."""
        return self.locks.append.is_held or self.locks.state.is_held

    # --- flushing

    def flush(self, lsn: int) -> None:
        """Return when everything up to `lsn` is durable; raise FlushError if it never will be.

        The caller holds neither `locks.append` nor `locks.state`."""
        assert not self.caller_holds_lock, "waiting under the lock for a flush that needs it"
        try:
            if self.durable < lsn:
                self.announce(self.hooks.pace)
            while self.durable < lsn:
                with self._flushing:
                    if self.failed:
                        raise self.failed
                    if self.durable < lsn:
                        self._flush_group()
        except BaseException:
            if not self.failed and self.hooks.kick is not None:
                self.hooks.kick()  # Ctrl-C ends this wait: what was written takes effect soon, without the caller
            raise

    def flush_if_free(self) -> bool:
        """Make everything durable although the caller holds `locks.append` and `locks.state`, outside a batch; return
        False if another thread is flushing, which may wait for these."""
        if not self._flushing.acquire(blocking=False):
            return False
        try:
            while self.durable < self.appender.lsn and not self.failed:
                self._flush_group()
        finally:
            self._flushing.release()
        return True

    def flush_piece(self, lsn: int, before: int = 0) -> None:
        """Start to flush a finished piece of a long write, so that it does not wait in memory for the rest.

        The piece is flushed while the caller writes the next one, once the piece that ended at LSN `before` is
        durable: at most two pieces wait. Does nothing within a batch, which is never flushed in parts."""
        if self.caller_holds_lock:
            return
        if self.durability != "commit":
            self.write_back()
        elif self.hooks.kick is not None and not self.pool.medium.inline:
            self.flush(before)
            if sum(stop - start for start, stop in self._unflushed) >= FLUSH_PIECE_BYTES:
                # Now: a caller that goes on writing would let no other thread take it before the next piece ends.
                with self._flushing:
                    self._take_group()
            self.hooks.kick()
        else:
            self.flush(lsn)

    def _take_group(self) -> None:
        """Move unflushed ranges in flight. The caller holds `_flushing` and no other lock."""
        with self.locks.append, self.locks.state:
            self.access.finish_interrupted()
            assert not self.appender.batch_depth, "a batch is never flushed in parts"
            taken = self._in_flight + self._unflushed
            self._in_flight, self._unflushed, self._flushing_lsn = taken, [], self.appender.lsn
            self._prewritten_in_flight, self.appender.prewritten_bytes = self.appender.prewritten_bytes, 0

    def _flush_group(self) -> None:
        if not self._in_flight:  # else it was taken before, or a flush was interrupted
            self._take_group()
        last, group = self._flushing_lsn, [(start, stop) for start, stop in self._in_flight]
        try:
            self.pool.medium.flush(group)
        except OSError as error:
            self.fail(error)
        else:
            with self.locks.state:
                if not self.failed:  # another operation may have failed meanwhile and reverted memory
                    self.durable, self._in_flight, self._pending = last, [], None
                    self.flushes += 1
        self.announce(self.hooks.on_durable)
        self.announce(self.hooks.on_group)
        self.prefault.follow(group, self._prewritten_in_flight)
        self.prefault_pages()

    @staticmethod
    def announce(hook: Callable[[], None] | None) -> None:
        """Call a hook if there is one. An error of it is logged: it must not end the thread that others wait for."""
        try:
            if hook:
                hook()
        except Exception:
            log.exception("a hook after a flush failed")

    def write_back(self) -> None:
        """Hand the unflushed ranges to the system without a sync: they survive this process, not a loss of power."""
        with self.locks.append, self.locks.state:
            self.access.finish_interrupted()
            group = [(start, stop) for start, stop in self._unflushed]
            try:
                self.pool.medium.flush(group, sync=False)
            except OSError as error:
                self.fail(error)
            prewritten, self._unflushed, self.appender.prewritten_bytes = self.appender.prewritten_bytes, [], 0
        self.announce(self.hooks.on_group)
        self.prefault.follow(group, prewritten)
        if self.hooks.look_ahead and self.prefault.is_due(self.appender.position, self.appender.segment_stop):
            self.hooks.look_ahead()

    def prefault_pages(self) -> None:
        """Tell the medium which pages the log will be stored to next, if that is due."""
        with self.locks.state:
            position, segment_stop = self.appender.position, self.appender.segment_stop
            if self.failed or self.access.closed or not self.prefault.is_due(position, segment_stop):
                return
            start, stop = self.prefault.next(position, segment_stop)
        self.pool.medium.will_write(start, stop)

    def grow(self, capacity: int) -> None:
        """Extend the pool to `capacity` bytes; everything appended is made durable first."""
        with self._flushing, self.locks.append, self.locks.state:
            self.access.finish_interrupted()
            assert not self.appender.batch_depth
            with self.failing:
                self.pool.medium.flush([(start, stop) for start, stop in self._in_flight + self._unflushed])
                self.durable, self._in_flight, self._unflushed, self._pending = self.appender.lsn, [], [], None
                self.pool.grow(capacity)
            self.appender.map_medium()
        self.announce(self.hooks.on_durable)
        self.announce(self.hooks.on_group)

    # --- failure

    def fail(self, error: Exception) -> None:
        """End writing after an error of the medium, and bring memory back to what is durable.

        What the failed flush left on the medium is unknown, so nothing more is written. If memory cannot be brought
        back either, nothing more is read: whoever waits gets FlushError, now and later."""
        with self.locks.append, self.locks.state:
            self.failed = self.failed or FlushError(
                f"the medium refused a flush ({error}): whether the last writes survive is not known; the store is "
                f"read-only since, at LSN {self.durable}; mend the medium and open the store again"
            )
            self.access.readonly = str(self.failed)
            self._in_flight, self._unflushed, self._pending = [], [], None
            try:
                self.appender.drop_open_frame()
                self.pool.medium.revert()
                if self.hooks.on_failure:
                    self.hooks.on_failure()
            except BaseException as second:
                self._end_reading(second)
                if not isinstance(second, Exception):
                    raise
            finally:
                self.appender.lsn = self.durable

    def _end_reading(self, second: BaseException) -> None:
        """Let nothing more be read: an error left memory between what was written and what is durable."""
        self.failed = FlushError(
            f"{self.failed}. Nothing can be read either, since memory could not be brought back to what is durable "
            f"({type(second).__name__}: {second})"
        )
        self.access.readonly = self.access.unreadable = str(self.failed)
        log.error("%s", self.failed)
