"""The log: appends frames, gathers them into groups, makes groups durable, and says who has to wait for what.

What defines time: the LSN. What is true: every frame up to `durable` is on the medium; frames above it are *pending*,
and lie in the intervals of `pending()`. What commit means: nothing that depends on these is revealed. `append` (begin,
fill the body, end) and `flush` are separate: a flush takes what many appended, and writes it while the next gathers.

Threads: who appends holds `writing` from the first look to the last frame: nobody else does, and no group is taken.
What readers look at (indexes, chains, what is pending) is looked at and changed under `lock`; but who fills a long body
or enters a long batch goes without, while others read. The order is `_flushing`, `writing`, `entering.turn`, `lock`.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..errors import ClosedError, FlushError, InvalidError, ReadOnlyError
from ..runtime.locks import StoreLocks
from .durability import DurabilityWait, ThreadState
from .format import (
    ALIGN,
    EPOCH_SHIFT,
    FRAME_HEADER,
    MAX_BATCH,
    MAX_FRAME,
    MAX_KEY,
    NEXT,
    Flag,
    Kind,
    check_frame,
    epoch_of,
    frame_size,
    pack_frame,
)
from .prefault import Prefault
from .publishing import BatchPublisher
from .replay import LogEnd, Replay
from .segments import Pool, Reserve

HEADER = FRAME_HEADER.itemsize
MORE = Flag.MORE.value  # a plain number: arithmetic on flags costs more than a frame's checksum
NEXT_SIZE = frame_size(NEXT.size)  # kept free at the end of every segment
NOTHING = np.empty((0, 2), np.int64)
LARGE = 64 << 10  # bytes of a body that are stored by the medium's own way
LONG = 4 << 20  # bytes of a piece that is worth a flush of its own
DURABILITIES = ("commit", "interval", "none")


def unix_ms() -> int:
    """The wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


class Log:
    """One log on one pool. `resume` continues where a replay ended; `open_epoch` then makes it ready for writing."""

    def __init__(
        self,
        pool: Pool,
        durability: str = "commit",
        now: Callable[[], int] = unix_ms,
        locks: StoreLocks | None = None,
    ) -> None:
        if durability not in DURABILITIES:
            raise InvalidError(f"durability={durability!r}: choose one of {', '.join(DURABILITIES)}")
        self.pool, self.durability, self.now = pool, durability, now
        pool.fill = durability == "commit"
        self.frame_limit = min(MAX_FRAME, pool.segment_size // 4)  # longer bodies are cut where they can be
        self.locks = locks or StoreLocks()
        self.publisher = BatchPublisher(self.locks)
        self._flushing = threading.Lock()
        self.waiting = ThreadState()
        self.failed: FlushError | None = None
        self.closed: str | None = None  # why nothing may be done any more
        self.readonly: str | None = None  # why nothing may be written
        self.on_durable: Callable[[], None] | None = None  # after each flush, and after a failure; from any thread
        self.on_failure: Callable[[], None] | None = None  # bring memory back to what is durable; under the lock
        self.on_group: Callable[[], None] | None = None  # a group left this process; from any thread
        self.on_busy: Callable[[], None] | None = None  # the first frame after a MARK was appended
        self.kick: Callable[[], None] | None = None  # have another thread flush what was appended
        self.look_ahead: Callable[[], None] | None = None  # have another thread `prefault_pages`
        self.flushes, self.appended = 0, (0, 0, 0)  # by this process; frames, records or rows, bytes of bodies
        self._remap()

    def resume(self, replay: Replay) -> None:
        """Stand where the replay ended."""
        self.lsn, self.previous, self.position = replay.lsn, replay.previous, replay.position
        self._last = self._batch = 0  # where the last frame stands; batches around what is appended
        # durable once what was accepted without proof is rewritten: open_epoch does, before anything is revealed
        self.durable = replay.lsn
        self._unproved = replay.undurable
        self._last_is_mark = replay.is_marked
        self._segment = replay.segments[-1] if replay.segments else -1
        self._stop = self.pool.stop(self._segment) if replay.segments else 0
        self._open: tuple[int, int] | None = None  # the last frame of a batch waits for its checksum: is there more?
        self._filling = self._more = False  # it was begun and not ended; the frame before said that there is more
        self._gathered: list[list[int]] = []
        self._in_flight: list[list[int]] = []  # what was taken to be made durable,
        self._taken = self.whole = self.lsn  # up to this LSN; and of the last frame behind which nothing is unfinished
        self._ahead = Prefault(self.position)
        self._handed = self._handed_over = 0  # bytes gathered, and in flight, that were stored the medium's own way
        self._pending: np.ndarray | None = NOTHING

    def _remap(self) -> None:
        self.data = self.pool.medium.data
        self._view = memoryview(self.data)

    # appending

    def open_epoch(self) -> None:
        """Make durable again what recovery accepted, then begin a new epoch, so that no LSN is ever used twice."""
        if unproved := self._unproved + self.pool.unproved_headers:
            with self._failing():
                self.pool.medium.rewrite(unproved)
        self._unproved = []
        with self.locks.append, self.locks.state:
            self.lsn = ((epoch_of(self.lsn) + 1) << EPOCH_SHIFT) - 1
            body = self.begin(Kind.OPEN, 16, purpose=Reserve.LOG)
            self._view[body : body + 16] = secrets.token_bytes(16)
            self.end()
        self._flush_group()
        if self.failed:
            raise self.failed

    def begin(
        self, kind: Kind, length: int, *, table: int = 0, layer: int = 0, count: int = 0, flags: int = 0,
        purpose: Reserve = Reserve.WRITE,
    ) -> int:  # fmt: skip
        """Place a frame; returns where its body goes. Who calls fills it, then calls `end`; all under `writing`."""
        self.locks.append.assert_held()
        self._finish(MORE if self._batch else 0)
        with self.locks.state:
            if self.position + frame_size(length) + NEXT_SIZE > self._stop:
                self._next_segment(purpose)
            return self._place(kind, flags, table, count, length, layer)

    def _place(self, kind: int, flags: int, table: int, count: int, length: int, layer: int) -> int:
        start, lsn = self.position, self.lsn + 1
        header = pack_frame(kind, flags, table, count, length, layer, lsn, self.durable, self.now(), self.previous)
        self._view[start : start + HEADER] = header
        end = start + frame_size(length)
        # no call in between: an interrupt finds all of it done, or nothing
        self._open, self._filling, self._pending, self.lsn, self.position = (start, length), True, None, lsn, end
        frames, records, written = self.appended
        self.appended = frames + 1, records + count, written + length
        if self._last_is_mark and self.on_busy:
            self.on_busy()
        self._last_is_mark = kind == Kind.MARK
        return start + HEADER

    def store(self, at: int, raw: np.ndarray) -> None:
        """Fill some of the body (uint8)."""
        if raw.size < LARGE:
            self.data[at : at + raw.size] = raw
            return
        with self._failing():
            handed = self.pool.medium.store(at, raw)
        self._handed += handed

    def end(self) -> int:
        """The body stands. Returns the frame's LSN."""
        self._filling = False
        if not self._batch:
            self._finish(0)
            self.whole = self.lsn
        return self.lsn

    def _finish(self, more: int) -> None:
        """Give the last frame its checksum, once it is known whether its batch goes on behind it. One that was begun
        and never ended (Ctrl-C comes anywhere) becomes a MARK, which says nothing."""
        if self._open is None:
            return
        start, length = self._open
        if self._filling:
            self._view[start + 10] = Kind.MARK
        self._view[start + 11] = self._view[start + 11] & ~MORE | more
        check = check_frame(self._view, start, length, self.pool.seed(self._segment))
        self._view[start : start + 8] = check.to_bytes(8, "little")
        with self.locks.state:
            self._gather(start, start + HEADER + length)
            self.previous, self._last, self._more, self._open = check, start, bool(more), None

    def _gather(self, start: int, stop: int) -> None:
        """A frame belongs to the group; the padding before it does too, so that a group is few ranges."""
        last = self._gathered[-1] if self._gathered else None
        if last is not None and 0 <= start - last[1] < ALIGN:
            last[1] = stop
        else:
            self._gathered.append([start, stop])
        self._pending = None

    def _next_segment(self, purpose: Reserve) -> None:
        """Leave the segment with a NEXT frame (part of the batch, if there is one)."""
        with self._failing():
            index = self.pool.take(purpose)
        if self._segment >= 0:
            body = self._place(Kind.NEXT, 0, 0, 0, NEXT.size, 0)
            NEXT.pack_into(self._view, body, index, self.pool.generations[index])
            self._filling = False
            self._finish(MORE if self._batch else 0)
        self._segment, self._stop = index, self.pool.stop(index)
        self.position = self._ahead.ready_to = self.pool.start(index) + ALIGN

    def reserve(self, lengths: Sequence[int], purpose: Reserve = Reserve.WRITE) -> None:
        """Have room for frames with these bodies, one after the other, before the first of them is begun.
        FullError: nothing was changed."""
        self.guard_write()  # again, under the lock: it may have failed or been closed since
        position, stop, segments = self.position, self._stop, 0
        room = self.pool.segment_size - ALIGN - NEXT_SIZE
        for length in lengths:
            size = frame_size(length)
            if size > room:
                raise InvalidError(
                    f"{length:,} bytes do not fit in one frame: segments of this pool hold {room - HEADER:,}; "
                    "use a larger pool"
                )
            if position + size + NEXT_SIZE > stop:
                segments += 1
                position, stop = 0, room + NEXT_SIZE
            position += size
        self._make_ready(segments, purpose)

    def reserve_bytes(self, length: int) -> None:
        """Have room for frames that take so many bytes, none with a body beyond `frame_limit` and a key. FullError."""
        # one frame may be so long, and stay unused at a segment's end; of two segments in a row more than one is used
        waste, room = frame_size(self.frame_limit + MAX_KEY + ALIGN), self.pool.segment_size - ALIGN - NEXT_SIZE
        left = length - max(0, self._stop - self.position - NEXT_SIZE - waste)
        segments = max(0, min(-(-left // max(1, room - waste)), -(-2 * left // room) + 1) if left > 0 else 0)
        self._make_ready(segments, Reserve.WRITE)

    def _make_ready(self, segments: int, purpose: Reserve) -> None:
        if segments == 0 and self.pool.has_kept_back(purpose):
            self.pool.admit(purpose)
            return
        with self._failing():
            self.pool.make_ready(segments, purpose)

    def preallocate_segment(self) -> bool:
        """Prepare a segment, if one is due, before it is needed: for a background thread, which holds no lock."""
        with self._failing():
            return self.pool.preallocate_segment()

    @contextlib.contextmanager
    def batch(self, length: int = 0) -> Iterator[None]:
        """All frames appended inside take effect together, after a crash too; other writers are kept out meanwhile.

        length: bytes of the log that will be written, reserved now. What was written before the body raised stays."""
        if length > MAX_BATCH:
            raise InvalidError(
                f"a batch of {length:,} bytes is too long to be atomic: at most {MAX_BATCH:,}; write it in pieces"
            )
        with self.locks.append, self.locks.state:
            if length:
                self.reserve_bytes(length)
            with self.joined():
                yield

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """The same under `writing` alone, for who enters all of it into an index at once, behind the last frame."""
        self._batch += 1
        try:
            yield
        finally:
            self._batch -= 1
            if not self._batch:
                self._end_batch()

    def _end_batch(self) -> None:
        if self._more and self._open is None:  # there was to be more, and it did not come
            self.begin(Kind.MARK, 0, purpose=Reserve.LOG)
            self._filling = False
        self._finish(0)
        self.whole = self.lsn

    # durability

    def pending(self) -> np.ndarray:
        """Intervals of the pool, int64[n, 2], that are not durable; whoever finds a location in them has to
        `settle`. Under the lock."""
        if self._pending is None:
            ranges = self._in_flight + self._gathered
            if self._open is not None:
                ranges = [*ranges, [self._open[0], self.position]]
            self._pending = np.array(ranges, np.int64) if ranges and self.durability == "commit" else NOTHING
        return self._pending

    def depends(self, waiting: int, since: int) -> int:
        """The LSN that a read has to settle, which met so many pending locations: else that of the decision by which
        its view has what it has, as what is absent may be so by a clear that is pending itself. Under the lock."""
        if self.durability != "commit":
            return 0
        return self.lsn if waiting else since

    @contextlib.contextmanager
    def deferred(self) -> Iterator[DurabilityWait]:
        """Calls of this thread inside do not wait; the object yielded collects what they would have waited for."""
        outer = self.waiting.deferral
        self.waiting.deferral = inner = DurabilityWait(self.waiting.seen)
        try:  # a generator, which ends with its frame: a class may be interrupted (Ctrl-C) on its way into __exit__
            yield inner
        except BaseException:
            self.waiting.deferral = outer
            if not self.failed:
                self.wait_durable_if_free(inner.lsn)  # an error, too, tells of what is pending
            raise
        finally:
            self.waiting.deferral = outer

    def settle(self, lsn: int) -> None:
        """A result depends on everything up to this LSN: wait until it may be revealed, or note it where waiting
        is deferred."""
        deferral = self.waiting.deferral
        if self.waiting.stretch.is_long() and deferral is None and not self.is_locked_by_me:
            self.waiting.stretch.yield_gil()
        if lsn <= self.durable:
            return
        if self.durability != "commit":
            if deferral is None and not self.is_locked_by_me:  # as within a batch, whose frames are not handed out yet
                self.write_back()
        elif deferral is not None:
            deferral.lsn = max(deferral.lsn, lsn)
        else:
            self.flush(lsn)

    def wait_durable_if_free(self, lsn: int) -> None:
        """`settle`, unless this thread would have to wait for a flush that needs the lock it holds."""
        if self.waiting.deferral is not None or not self.is_locked_by_me:
            self.settle(lsn)

    def flush_piece(self, lsn: int, before: int = 0) -> None:
        """A piece of something long is written: do not let it wait in memory for the rest (in a batch it has to). It is
        made durable beside the next one, once the piece `before` is: more than two never wait."""
        if self.is_locked_by_me:
            return
        if self.durability != "commit":
            self.write_back()
        elif self.kick is not None and not self.pool.medium.inline:
            self.flush(before)
            if sum(stop - start for start, stop in self._gathered) >= LONG:
                with self._flushing:  # now: who goes on writing lets nobody take it before the next piece is complete
                    self._take()
            self.kick()
        else:
            self.flush(lsn)

    @property
    def is_locked_by_me(self) -> bool:
        """Does this thread hold what a flush needs, as within a batch?"""
        return self.locks.append.is_held or self.locks.state.is_held

    def flush(self, lsn: int) -> None:
        """Return when everything up to this LSN is durable. Raises FlushError when it never will be. Never under
        the lock."""
        assert not self.is_locked_by_me, "waiting under the lock for a flush that needs it"
        while self.durable < lsn:
            with self._flushing:
                if self.failed:
                    raise self.failed
                if self.durable < lsn:
                    self._flush_group()

    def _take(self) -> None:
        """What was gathered is next. By who holds `_flushing`, and nothing else."""
        with self.locks.append, self.locks.state:
            assert not self._batch, "a batch is never flushed in parts"
            self._finish(0)
            self._in_flight, self._gathered, self._taken = self._in_flight + self._gathered, [], self.lsn
            self._handed, self._handed_over = 0, self._handed

    def _flush_group(self) -> None:
        if not self._in_flight:  # else it was taken before, or a flush was interrupted
            self._take()
        last, group = self._taken, [(start, stop) for start, stop in self._in_flight]
        try:
            self.pool.medium.flush(group)
        except OSError as error:
            self._fail(error)
        else:
            with self.locks.state:
                if not self.failed:  # something else failed meanwhile, and took memory back
                    self.durable, self._in_flight, self._pending = last, [], None
                    self.flushes += 1
        for told in (self.on_durable, self.on_group):
            if told:
                told()
        self._ahead.follow(group, self._handed_over)
        self.prefault_pages()

    def prefault_pages(self) -> None:
        """Tell the medium where the log goes on."""
        with self.locks.state:
            if self.failed or self.closed or not self._ahead.is_due(self.position, self._stop):
                return
            start, stop = self._ahead.next(self.position, self._stop)
        self.pool.medium.will_write(start, stop)

    def write_back(self) -> None:
        """Hand what was gathered to the system, without a sync: it survives this process, not a loss of power."""
        with self.locks.append, self.locks.state:
            group = [(start, stop) for start, stop in self._gathered]
            try:
                self.pool.medium.flush(group, sync=False)
            except OSError as error:
                self._fail(error)
            self._gathered, self._handed, handed = [], 0, self._handed
        if self.on_group:
            self.on_group()
        self._ahead.follow(group, handed)
        if self.look_ahead and self._ahead.is_due(self.position, self._stop):
            self.look_ahead()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Any error of the medium ends writing: the kernel tells it once, perhaps not to those whose bytes are lost."""
        try:
            yield
        except OSError as error:
            self._fail(error)
            if self.on_durable:
                self.on_durable()
            raise self.failed from error

    def _fail(self, error: OSError) -> None:
        """Nothing that pretends: what is durable of the group is unknown, so memory goes back and nothing more is
        written."""
        with self.locks.append, self.locks.state:
            self.failed = self.failed or FlushError(
                f"the medium refused a flush ({error}): whether the last writes survive is not known; the store is "
                f"read-only since, at LSN {self.durable}; mend the medium and open the store again"
            )
            self.readonly = str(self.failed)
            self._in_flight, self._gathered, self._open, self._pending = [], [], None, NOTHING
            self._filling = self._more = False
            self.pool.medium.revert()
            if self.on_failure:
                self.on_failure()
            self.lsn = self.durable

    def end_here(self) -> LogEnd:
        """The place behind the last frame. Under the lock, never within a batch: there a checkpoint may rotate."""
        assert not self._batch, "a batch is never cut"
        assert not self.failed, "behind what is durable nothing is complete"
        self._finish(0)
        segments = [[index, self.pool.generations[index]] for index in self.pool.taken]
        return LogEnd(self.lsn, self.previous, self._last, self.position, segments)

    def mark(self) -> None:
        """Write down how far the log is durable, unless it says so: makes the last acknowledged frame provable."""
        with self.locks.append, self.locks.state:
            if self._last_is_mark or self.failed or self.readonly or self._batch or self.durable < self.lsn:
                return
            self.begin(Kind.MARK, 0, purpose=Reserve.LOG)
            self.end()
        self.flush(self.lsn)

    @property
    def is_idle(self) -> bool:
        """Everything is durable, and a MARK says so."""
        return self._last_is_mark and self.durable == self.lsn

    def grow(self, capacity: int) -> None:
        """Extend the pool to `capacity` bytes."""
        with self._flushing, self.locks.append, self.locks.state:
            assert not self._batch
            self._finish(0)  # the header of a frame that was interrupted would be lost with the old mapping
            with self._failing():
                self.pool.medium.flush([(start, stop) for start, stop in self._in_flight + self._gathered])
                self.durable, self._in_flight, self._gathered, self._pending = self.lsn, [], [], None
                self.pool.grow(capacity)
            self._remap()
        for told in (self.on_durable, self.on_group):
            if told:
                told()

    # who may do what

    def guard_read(self) -> None:
        if self.closed:
            raise ClosedError(self.closed)

    def guard_write(self) -> None:
        if self.closed:
            raise ClosedError(self.closed)
        if self.readonly:
            raise ReadOnlyError(self.readonly)

    def check(self) -> None:
        """The log's own invariants."""
        self.pool.check()
        assert self.durable <= self.lsn
        assert self._segment < 0 or self.pool.start(self._segment) + ALIGN <= self.position <= self._stop - NEXT_SIZE
        assert self._segment < 0 or self.pool.taken[-1] == self._segment
