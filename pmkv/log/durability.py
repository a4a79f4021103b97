"""Decide which results must wait until the log is durable, and wait for them.

No result may reveal what a power cut could take back. Every operation therefore ends in `wait_durable` with the LSN
that its result depends on. Within `deferred`, the calls of a thread do not wait; the LSNs are collected instead.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..runtime.scheduling import FairShare
from .group_commit import GroupCommit

T = TypeVar("T")


class DurabilityWait:
    """A wait that a thread has put off.

    lsn: the highest LSN that must be durable before the results may be revealed, 0 for none.
    min_lsn: the same of earlier results; later reads must not show an older state than this.
    may_await_space: a write that finds the pool full may nevertheless wait for the cleaner.
    """

    __slots__ = ("lsn", "may_await_space", "min_lsn")

    def __init__(self, min_lsn: int = 0, may_await_space: bool = False) -> None:
        self.lsn, self.min_lsn, self.may_await_space = 0, min_lsn, may_await_space


class ThreadState(threading.local):
    """State of one thread: the deferred wait it is in, if any, and how long it has run without a pause."""

    durability_wait: DurabilityWait | None = None

    def __init__(self) -> None:
        self.fair_share = FairShare()

    @property
    def min_lsn(self) -> int:
        """The LSN whose state, or a later one, every read of this thread must show; 0 for any."""
        return max(self.durability_wait.lsn, self.durability_wait.min_lsn) if self.durability_wait is not None else 0


class DurabilityGate:
    """Lets results pass once everything that they depend on is durable. The only place where operations wait."""

    def __init__(self, group: GroupCommit) -> None:
        self._group, self._durability = group, group.durability
        self.thread = ThreadState()

    def durability_of(self, pending: int, since: int) -> int:
        """Return the LSN that a read must wait for.

        That is the newest LSN if the read found `pending` > 0 pending locations. Otherwise it is `since`, the LSN of
        the decision that made the layer visible: a miss may come from a clear that is itself pending. The caller
        holds `locks.state`."""
        if self._durability != "commit":
            return 0
        return self._group.appender.lsn if pending else since

    def deferring(self, body: Callable[[], T], min_lsn: int = 0) -> tuple[T, int]:
        """Call `body`, whose waits are put off; return its result and the LSN to wait for.

        min_lsn: reads inside must not show an older state than this.

        The engine uses this form and not `deferred`: an exception on the way into an `__exit__` written in Python would
        leave the durability wait in place, and no later write of the thread would wait."""
        thread, outer = self.thread, self.thread.durability_wait
        inner = DurabilityWait(max(thread.min_lsn, min_lsn))
        try:
            thread.durability_wait = inner
            result = body()
        except BaseException:
            thread.durability_wait = outer
            if not self._group.failed:
                self.wait_durable_if_free(inner.lsn)  # an error, too, reveals what is pending
            raise
        finally:
            thread.durability_wait = outer
        return result, inner.lsn

    @contextlib.contextmanager
    def deferred(self, may_await_space: bool = False) -> Iterator[DurabilityWait]:
        """Let calls of this thread inside not wait until they are durable; yield the object that collects what they
        would wait for. may_await_space: they may wait until there is room in the pool."""
        outer = self.thread.durability_wait
        self.thread.durability_wait = inner = DurabilityWait(self.thread.min_lsn, may_await_space)
        try:
            yield inner
        except BaseException:
            self.thread.durability_wait = outer
            if not self._group.failed:
                self.wait_durable_if_free(inner.lsn)  # an error, too, reveals what is pending
            raise
        finally:
            self.thread.durability_wait = outer

    def wait_durable(self, lsn: int) -> None:
        """Return when a result that depends on everything up to `lsn` may be revealed.

        Within `deferred` only record the LSN. Raises FlushError if it never will be durable."""
        durability_wait = self.thread.durability_wait
        if self.thread.fair_share.is_long() and durability_wait is None and not self._group.caller_holds_lock:
            self.thread.fair_share.yield_gil()
        if lsn <= self._group.durable:
            return
        if self._durability != "commit":
            if durability_wait is None and not self._group.caller_holds_lock:
                self._group.write_back()  # not within a batch, whose frames are not handed out yet
        elif durability_wait is not None:
            durability_wait.lsn = max(durability_wait.lsn, lsn)
        else:
            self._group.flush(lsn)

    def wait_durable_if_free(self, lsn: int) -> None:
        """Call `wait_durable`, unless this thread would wait for a flush that needs a lock which it holds."""
        if self.thread.durability_wait is not None or not self._group.caller_holds_lock:
            self.wait_durable(lsn)
