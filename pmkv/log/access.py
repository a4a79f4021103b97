"""Whether a log may still be read and written, and the reason when it may not."""

from __future__ import annotations

from ..errors import ClosedError, FlushError, ReadOnlyError


class AccessGuard:
    """The access state of one log. Each reason becomes the message of the error that a refused caller gets.

    closed: why nothing may be done any more, or None. readonly: why nothing may be written, or None. unreadable: why
    nothing may be read although the log is open, or None: memory shows something else than what is durable.
    """

    def __init__(self) -> None:
        self.closed: str | None = None
        self.readonly: str | None = None
        self.unreadable: str | None = None

    def guard_read(self) -> None:
        """Raise ClosedError if the log is closed, FlushError if memory cannot be trusted after a failed flush."""
        if self.closed:
            raise ClosedError(self.closed)
        if self.unreadable:
            raise FlushError(self.unreadable)

    def guard_write(self) -> None:
        """Raise ClosedError if the log is closed, ReadOnlyError if nothing may be written."""
        if self.closed:
            raise ClosedError(self.closed)
        if self.readonly:
            raise ReadOnlyError(self.readonly)
