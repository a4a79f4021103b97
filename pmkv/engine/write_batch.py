"""A batch of writes as a context manager: for programs that write several things in one block, as a server does.

An exception on the way into `__exit__`, which only a signal can raise, would leave the batch open: a program with a
handler for Ctrl-C uses transactions, or keeps signals away, as the server's event loop does.
"""

from __future__ import annotations

from types import TracebackType

from ..log.durability import DurabilityWait
from ..log.log import Log
from ..log.room import with_room


class WriteBatch:
    """Makes the writes of a block take effect together, and waits at its end until they are durable."""

    def __init__(self, log: Log, length: int) -> None:
        log.guard_write()
        self._log, self._batch = log, log.batch(length)

    def __enter__(self) -> None:
        thread = self._log.thread
        self._outer, may_await_space = thread.durability_wait, self._log.may_await_space
        self._inner = DurabilityWait(thread.min_lsn, may_await_space)
        try:
            thread.durability_wait = self._inner
            with_room(self._log, self._batch.__enter__)
        except BaseException:
            thread.durability_wait = self._outer
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        log = self._log
        try:
            self._batch.__exit__(kind, error, trace)
        finally:  # an error, too, may reveal what is pending
            log.thread.durability_wait = self._outer
            log.wait_durable(self._inner.lsn if log.durability == "commit" else log.lsn)
