"""Whether a log may still be read and written, and the reason when it may not."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ClosedError, FlushError, ReadOnlyError


class AccessGuard:
    """The access state of one log. Each reason becomes the message of the error that a refused caller gets.

    closed: why nothing may be done any more, or None. readonly: why nothing may be written, or None. unreadable: why
    nothing may be read although the log is open, or None: memory shows something else than what is durable.
    interrupted: an exception came between an append and the change in memory that belongs to it, and `finish_abort`,
    which takes both back, was not called yet, or was interrupted itself.
    new_epoch: the LSN that began an epoch after that and may not be durable yet, or 0; `flush_epoch` waits for it, so
    that a crash cannot give its LSNs out again.
    """

    def __init__(self) -> None:
        self.closed: str | None = None
        self.readonly: str | None = None
        self.unreadable: str | None = None
        self.interrupted = False
        self.new_epoch = 0
        self.finish_abort: Callable[[], None] = lambda: None
        self.flush_epoch: Callable[[], None] = lambda: None

    def guard_read(self) -> None:
        """Raise ClosedError if the log is closed, FlushError if memory cannot be trusted after a failed flush. Finish
        an abort that was interrupted."""
        if self.closed:
            raise ClosedError(self.closed)
        if self.unreadable:
            raise FlushError(self.unreadable)
        if self.interrupted:
            self.finish_abort()

    def finish_interrupted(self) -> None:
        """Finish taking back a write, if an exception interrupted that before."""
        if self.interrupted:
            self.finish_abort()

    def guard_write(self) -> None:
        """Raise ClosedError if the log is closed, ReadOnlyError if nothing may be written. Finish an abort, too."""
        if self.closed:
            raise ClosedError(self.closed)
        if self.readonly:
            raise ReadOnlyError(self.readonly)
        if self.interrupted:
            self.finish_abort()
        if self.new_epoch:
            self.flush_epoch()
