"""Writes that an exception cannot cut in half: a step that appends and changes memory happens wholly, or not at all.

An exception may come anywhere: Ctrl-C, a lack of memory, a mistake in the code. Between an append and the change in
memory that belongs to it, it is treated as a crash at that moment: the log goes back to the last commit, memory is
rebuilt from the log, and a new epoch begins, so that no LSN is used twice. What a crash may leave behind is proved to
be harmless, so what an exception leaves behind is, too.

Only the locks themselves are taken by `with`: CPython delivers no signal between taking a lock and entering the block,
but it may deliver one on the way into an `__exit__` that is written in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from ..errors import AbortedError, InvalidError, PmkvError
from .format import MAX_BATCH
from .group_commit import GroupCommit
from .publishing import BatchPublisher

T = TypeVar("T")


class AtomicWrites:
    """Runs the writes of one log, and takes back those that an exception interrupted."""

    def __init__(self, group: GroupCommit, publisher: BatchPublisher) -> None:
        self._group, self._publisher = group, publisher
        self._appender, self._locks, self._access = group.appender, group.locks, group.access
        self._is_taking_back = False  # by the thread that holds `locks.append`
        self._is_unfinished = False  # it began, and did not end
        self._access.finish_abort, self._access.flush_epoch = self._finish_abort, self._flush_epoch

    def run(self, body: Callable[[], T], since: int | None = None) -> T:
        """Call `body`, which appends and changes memory, and commit; take both back if it raises. Return its result.

        A body that lets others see its work before it ends commits before that. since: the LSN before the first frame,
        by default the present one. The caller holds `locks.append`, and has reserved the room."""
        access = self._access
        was_interrupted = access.interrupted
        if since is None:
            since = self._appender.lsn
        try:
            result = body()
            self._appender.commit()
        except BaseException as error:
            access.interrupted = True  # by no call, on the way into which the next exception could come
            self._abort(since, was_interrupted)
            if self._group.failed and isinstance(error, Exception):
                raise self._group.failed from error
            raise
        return result

    def change_memory(self, body: Callable[[], T]) -> T:
        """Call `body`, which changes what is in memory and appends nothing; rebuild memory if it raises. Return its
        result. The caller holds `locks.state`."""
        try:
            return body()
        except BaseException:
            self._access.interrupted = True
            self._finish_abort()
            raise

    def run_batch(self, body: Callable[[], T], length: int = 0) -> T:
        """Call `body` with `locks.append` and `locks.state` held. Everything that it writes takes effect together, also
        after a crash; nothing does if it raises. Return its result.

        length: bytes of the log that will be written, reserved now."""
        check_length(length)
        with self._locks.append, self._locks.state:
            if length:
                self._appender.reserve_bytes(length)
            return self.run(lambda: self._appender.joined(lambda: self._checked(body)))

    def _checked(self, body: Callable[[], T]) -> T:
        """Call `body`; AbortedError if a write in it was interrupted, and `body` went on nevertheless."""
        result = body()
        if self._access.interrupted:
            raise aborted()
        return result

    def batch(self, length: int = 0) -> Batch:
        """Return a context manager that does for its block what `run_batch` does for a function."""
        check_length(length)
        return Batch(self, length)

    def begin_batch(self, length: int) -> int:
        """Enter a batch, and keep its locks; return the LSN before it."""
        self._locks.append.acquire()
        self._locks.state.acquire()
        try:
            if length:
                self._appender.reserve_bytes(length)
        except BaseException:
            self.release()
            raise
        self._appender.batch_depth += 1
        return self._appender.lsn

    def end_batch(self, since: int, error: BaseException | None) -> None:
        """Leave a batch that began after the LSN `since`, and raise `error`, if there is one, with nothing written."""

        def finish() -> None:
            self._appender.finish_batch()
            if error is not None:
                raise error
            self._checked(lambda: None)

        try:
            self._appender.batch_depth -= 1
            self.run(finish, since)
        finally:
            self.release()

    def release(self) -> None:
        """Release the locks of a batch."""
        self._locks.state.release()
        self._locks.append.release()

    # taking back

    def _abort(self, since: int, was_interrupted: bool) -> None:
        """Take back what was appended since the last commit, if anything was since the LSN `since`.

        Within a batch, its end does it: `interrupted` stays set until then. The caller holds `locks.append`."""
        appender = self._appender
        is_whole = appender.lsn == since if appender.batch_depth else appender.is_committed
        if is_whole and not was_interrupted and not self._is_unfinished:
            self._access.interrupted = False
        elif not appender.batch_depth:
            self._take_back()

    def _take_back(self) -> None:
        """Bring log and memory back to the last commit. The caller holds `locks.append`, outside a batch."""
        with self._locks.state:
            self._is_taking_back = self._is_unfinished = True
            try:
                self._publisher.forget_batch()
                if not self._group.failed:  # else the failure has brought memory back, and nothing is appended again
                    self._cut()
                self._access.interrupted = self._is_unfinished = False
            finally:
                self._is_taking_back = False

    def _cut(self) -> None:
        hooks = self._group.hooks
        self._appender.cut()
        if self._access.closed:  # by a close that goes on: memory must not be checkpointed, and is made anew at opening
            self._access.readonly = self._access.closed
            return
        try:
            if hooks.on_cut:
                hooks.on_cut()
            self._appender.begin_epoch()
            self._access.new_epoch = self._appender.lsn
        except PmkvError as error:
            self._group.fail(OSError(f"a write was interrupted, and cannot be taken back: {error}"))
        else:
            if hooks.on_aborted:
                hooks.on_aborted()
            if self._group.flush_if_free():  # before anybody sees its LSN: a crash could give that out again
                self._access.new_epoch = 0

    def _finish_abort(self) -> None:
        """Finish an abort that was interrupted; AbortedError within a batch whose end will take it back."""
        append, state = self._locks.append, self._locks.state
        if append.is_held:
            if self._appender.batch_depth:
                raise aborted()
            if not self._is_taking_back:
                self._take_back()
        elif not append.acquire(blocking=not state.is_held):  # who holds `locks.state` must not wait for a writer
            raise AbortedError("a write was interrupted and is being taken back: try again")
        else:
            try:
                if self._access.interrupted:
                    self._take_back()
            finally:
                append.release()

    def _flush_epoch(self) -> None:
        """Wait until the epoch that began last is durable, unless the caller holds a lock that a flush needs."""
        if not self._group.caller_holds_lock:
            self._group.flush(self._access.new_epoch)
            self._access.new_epoch = 0


class Batch:
    """Runs a block as one atomic write, with the locks of a writer held."""

    def __init__(self, writes: AtomicWrites, length: int) -> None:
        self._writes, self._length = writes, length

    def __enter__(self) -> None:
        self._since = self._writes.begin_batch(self._length)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writes.end_batch(self._since, error)
        except BaseException as raised:
            if raised is not error:
                raise


def check_length(length: int) -> None:
    """Raise InvalidError if a batch is too long to be atomic."""
    if length > MAX_BATCH:
        raise InvalidError(
            f"a batch of {length:,} bytes is too long to be atomic: at most {MAX_BATCH:,}; write it in pieces"
        )


def aborted() -> AbortedError:
    """Return the error for whoever goes on in a batch of which a write was interrupted."""
    return AbortedError("an earlier write of this batch was interrupted, so nothing of the batch is written")
