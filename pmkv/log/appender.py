"""Append frames to the log: place them, link them, group them into batches, and move on to the next segment.

A frame is appended in three steps, all under `locks.append`: `begin` places its header and returns where the body
goes, the caller fills the body, `end` marks it complete. The frame's checksum is computed when the next frame begins
or the batch ends, because only then is it known whether the frame's MORE flag must be set.

The appender knows nothing of durability. It reports the range of each finished frame to a `FrameSink` (the group
commit), which decides when to flush it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from ..errors import InvalidError
from ..runtime.locks import StoreLocks
from .access import AccessGuard
from .format import (
    ALIGN,
    EPOCH_SHIFT,
    FRAME_HEADER,
    MAX_KEY,
    NEXT,
    WORTH_SHARE,
    Flag,
    Kind,
    check_frame,
    epoch_of,
    frame_size,
    pack_frame,
)
from .replay import LogEnd, MovedEnd, Replay
from .segments import Pool, Reserve

HEADER_BYTES = FRAME_HEADER.itemsize
MORE = Flag.MORE.value  # a plain int: arithmetic on enum flags costs more than a frame's checksum
NEXT_FRAME_BYTES = frame_size(NEXT.size)  # kept free at the end of every segment
LARGE_BODY_BYTES = 64 << 10  # larger slices of a body go through `Medium.store`
NONCE_BYTES = 16

T = TypeVar("T")


@dataclass
class LogHooks:
    """Callbacks of one log; None: nobody listens.

    on_durable: called after each flush and after a failure, by any thread, without locks.
    on_failure: brings memory back to the durable state; called under `locks.append` and `locks.state`.
    on_cut: brings memory back to what the log holds since `cut`; called under the same locks.
    on_aborted: called under the same locks when an epoch has begun after that; every read must wait for it.
    on_group: called after a group has left this process, by any thread.
    pace: called by a thread that is about to flush, without locks: waits while the log grows too fast.
    on_busy: called when the first frame after a MARK has been appended.
    kick: asks another thread to flush what has been appended.
    look_ahead: asks another thread to call `prefault_pages`.
    await_space: waits for a moment while a cleaner makes room, and returns whether it may; its argument says whether
        the write that waits makes something dead itself.
    what_pins_most: returns a sentence about the views that pin most, for the error about a full pool.
    """

    on_durable: Callable[[], None] | None = None
    on_failure: Callable[[], None] | None = None
    on_cut: Callable[[], None] | None = None
    on_aborted: Callable[[], None] | None = None
    on_group: Callable[[], None] | None = None
    pace: Callable[[], None] | None = None
    on_busy: Callable[[], None] | None = None
    kick: Callable[[], None] | None = None
    look_ahead: Callable[[], None] | None = None
    await_space: Callable[[bool], bool] | None = None
    what_pins_most: Callable[[], str] | None = None


class FrameSink(Protocol):
    """The part of the group commit that an appender reports to."""

    durable: int  # LSN up to which the log is durable; every frame header carries it
    failing: contextlib.AbstractContextManager[None]  # turns an OSError of the medium into a failed log

    def add_range(self, start: int, stop: int) -> None:
        """Take over the range of a finished frame. The caller holds `locks.state`."""

    def drop_ranges(self, start: int, stop: int) -> None:
        """Forget what was reported of this part of the pool. The caller holds `locks.state`."""


class CommitPoint(NamedTuple):
    """A place in the log up to which memory and log agree: everything before it is whole.

    taken: how many segments the log had. The other fields are those of the appender."""

    lsn: int
    previous: int
    position: int
    last_offset: int
    segment: int
    segment_stop: int
    last_is_mark: bool
    taken: int


class LogAppender:
    """Appends frames to a pool. `resume` must be called before the first frame.

    lsn, previous, position: LSN and checksum of the last frame, and the offset where the next one goes.
    segment_stop: offset where the current segment ends, 0 before the first one.
    committed: the place up to which every write is whole, in the log and in memory; `cut` goes back to it.
    appended: (frames, records or rows, body bytes) that this process has appended.
    prewritten_bytes: unflushed bytes that `Medium.store` has already handed to the system.
    """

    sink: FrameSink  # set by the group commit that owns this appender
    moved_end: Callable[[], MovedEnd]  # set by the log: what a cleaner has moved so far

    def __init__(
        self, pool: Pool, locks: StoreLocks, access: AccessGuard, hooks: LogHooks, now: Callable[[], int]
    ) -> None:
        self.pool, self._locks, self._access, self._hooks, self._now = pool, locks, access, hooks, now
        self.appended = (0, 0, 0)
        self.map_medium()

    def map_medium(self) -> None:
        """Use the medium's current array, which `grow` replaces."""
        self._view = memoryview(self.pool.medium.data)

    def resume(self, replay: Replay) -> None:
        """Continue where a replay ended."""
        self.lsn, self.previous, self.position = replay.lsn, replay.previous, replay.position
        self.last_is_mark = replay.is_marked
        self._last_offset = 0  # of the last finished frame
        self._segment = replay.segments[-1] if replay.segments else -1
        self.segment_stop = self.pool.stop(self._segment) if replay.segments else 0
        self.batch_depth = 0
        self.prewritten_bytes = 0
        self.drop_open_frame()
        self.commit()

    def drop_open_frame(self) -> None:
        """Forget the frame that still lacks its checksum."""
        self.open_frame: tuple[int, int] | None = None  # (offset, body length)
        self._filling = False  # the open frame was begun and not ended

    def begin(
        self, kind: Kind, length: int, *, table: int = 0, layer: int = 0, count: int = 0, flags: int = 0,
        purpose: Reserve = Reserve.WRITE,
    ) -> int:  # fmt: skip
        """Place a frame with a body of `length` bytes; return the offset of the body.

        The caller holds `locks.append`, fills the body and calls `end` before it releases the lock."""
        self._locks.append.assert_held()
        assert self.batch_depth or self.lsn == self.committed.lsn, "the last write was neither committed nor aborted"
        self.finish_open_frame(MORE if self.batch_depth else 0)
        size = frame_size(length)
        with self._locks.state:
            if self.position + size + NEXT_FRAME_BYTES > self.segment_stop:
                self._next_segment(purpose)
            return self._place(kind, flags, table, count, length, layer, size)

    def _place(self, kind: int, flags: int, table: int, count: int, length: int, layer: int, size: int) -> int:
        start, end, lsn = self.position, self.position + size, self.lsn + 1
        durable = self.sink.durable
        header = pack_frame(kind, flags, table, count, length, layer, lsn, durable, self._now(), self.previous)
        self._view[start : start + HEADER_BYTES] = header
        # One assignment without a call in it: an interrupt (Ctrl-C) finds either all of it done or nothing.
        self.open_frame, self._filling, self.lsn, self.position = (start, length), True, lsn, end
        frames, records, written = self.appended
        self.appended = frames + 1, records + count, written + length
        if self.last_is_mark and self._hooks.on_busy:
            self._hooks.on_busy()
        self.last_is_mark = kind == Kind.MARK
        return start + HEADER_BYTES

    def store(self, at: int, raw: np.ndarray) -> None:
        """Copy `raw` (uint8) to offset `at`, within the body of the frame that was begun last."""
        if raw.size < LARGE_BODY_BYTES:
            self.pool.medium.data[at : at + raw.size] = raw
            return
        with self.sink.failing:
            prewritten = self.pool.medium.store(at, raw)
        self.prewritten_bytes += prewritten

    def end(self) -> int:
        """Mark the body of the last frame as filled; return the frame's LSN."""
        self._filling = False
        if not self.batch_depth:
            self.finish_open_frame(0)
        return self.lsn

    def finish_open_frame(self, more: int) -> None:
        """Write the checksum of the open frame, if there is one, and report its range to the sink.

        more: MORE if the batch goes on in the next frame, else 0. The caller holds `locks.append`."""
        if self.open_frame is None:
            return
        start, length = self.open_frame
        assert not self._filling, "a frame was begun and not ended"
        self._view[start + 11] = self._view[start + 11] & ~MORE | more
        check = check_frame(self._view, start, length, self.pool.seed(self._segment))
        self._view[start : start + 8] = check.to_bytes(8, "little")
        with self._locks.state:
            self.sink.add_range(start, start + HEADER_BYTES + length)
            self.previous, self._last_offset, self.open_frame = check, start, None

    def _next_segment(self, purpose: Reserve) -> None:
        """Take a segment and lead to it with a NEXT frame, which belongs to the current batch, if there is one."""
        with self.sink.failing:
            index = self.pool.take(purpose)
        if self._segment >= 0:
            body = self._place(Kind.NEXT, 0, 0, 0, NEXT.size, 0, NEXT_FRAME_BYTES)
            NEXT.pack_into(self._view, body, index, self.pool.generations[index])
            self._filling = False
            self.finish_open_frame(MORE if self.batch_depth else 0)
        self._segment, self.segment_stop = index, self.pool.stop(index)
        self.position = self.pool.start(index) + ALIGN

    # --- space

    def next_body(self, limit: int) -> int:
        """Return how long the body of the next frame should be at most: what is left in the segment, if that is worth a
        frame, so that segments are filled. The caller holds `locks.append`."""
        left = self.segment_stop - self.position - NEXT_FRAME_BYTES - HEADER_BYTES - ALIGN
        return min(limit, left) if left >= limit // WORTH_SHARE else limit

    def reserve(self, lengths: Sequence[int], purpose: Reserve = Reserve.WRITE) -> None:
        """Prepare room for consecutive frames with bodies of these lengths, before the first of them is begun.

        Raises FullError with nothing changed, InvalidError for a body that no segment can hold. The caller holds
        `locks.append`."""
        self._access.guard_write()  # again, now under the lock: the log may have failed or been closed meanwhile
        position, stop, segments = self.position, self.segment_stop, 0
        room = self.pool.segment_size - ALIGN - NEXT_FRAME_BYTES
        for length in lengths:
            size = frame_size(length)
            if size > room:
                raise InvalidError(
                    f"{length:,} bytes do not fit in one frame: segments of this pool hold {room - HEADER_BYTES:,}; "
                    "use a larger pool"
                )
            if position + size + NEXT_FRAME_BYTES > stop:
                segments += 1
                position, stop = 0, room + NEXT_FRAME_BYTES
            position += size
        self._prepare_segments(segments, purpose)

    def reserve_bytes(self, length: int) -> None:
        """Prepare room for frames of `length` bytes in total, whatever their number.

        Each body is at most `pool.frame_limit` bytes plus one key. Raises FullError with nothing changed."""
        # One frame may be this long and then stay unused at the end of a segment; but of two consecutive segments
        # more than the bytes of one are used.
        waste = frame_size(self.pool.frame_limit + MAX_KEY + ALIGN)
        room = self.pool.segment_size - ALIGN - NEXT_FRAME_BYTES
        left = length - max(0, self.segment_stop - self.position - NEXT_FRAME_BYTES - waste)
        segments = max(0, min(-(-left // max(1, room - waste)), -(-2 * left // room) + 1) if left > 0 else 0)
        self._prepare_segments(segments, Reserve.WRITE)

    def _prepare_segments(self, segments: int, purpose: Reserve) -> None:
        if segments == 0 and self.pool.has_kept_back(purpose):
            self.pool.admit(purpose)
            return
        with self.sink.failing:
            self.pool.make_ready(segments, purpose)

    # --- batches, commits, and going back

    def joined(self, body: Callable[[], T]) -> T:
        """Call `body`; all frames that it appends take effect together, also after a crash. Return its result.

        The caller holds `locks.append`."""
        self.batch_depth += 1
        try:
            return body()
        finally:
            self.batch_depth -= 1  # by no call, on the way into which an exception could come
            self.finish_batch()

    def finish_batch(self) -> None:
        """Complete the last frame of a batch, unless an outer batch goes on or the frame was interrupted."""
        if not self.batch_depth and not self._filling:
            self.finish_open_frame(0)

    def commit(self) -> None:
        """Declare that log and memory agree: what was appended so far is never taken back. Within a batch its end does
        that. The caller holds `locks.append`, and `locks.state` since others could see what was written."""
        if not self.batch_depth:
            self.committed = CommitPoint(
                self.lsn, self.previous, self.position, self._last_offset, self._segment, self.segment_stop,
                self.last_is_mark, len(self.pool.taken),
            )  # fmt: skip

    @property
    def is_committed(self) -> bool:
        """True if nothing was appended, and no segment taken, since the last commit."""
        return self.lsn == self.committed.lsn and len(self.pool.taken) == self.committed.taken

    def cut(self) -> None:
        """Go back to the last commit, as a crash would. May be repeated. The caller holds `locks.append` and
        `locks.state`, and calls `begin_epoch` before anything else is appended: LSNs are never used again."""
        point, pool = self.committed, self.pool
        self.batch_depth = 0
        self.drop_open_frame()
        for index in pool.taken[point.taken :]:
            self.sink.drop_ranges(pool.start(index), pool.stop(index))
        if point.segment >= 0:
            self.sink.drop_ranges(point.position, point.segment_stop)
        pool.give_back(point.taken)
        self.previous, self.position, self._last_offset = point.previous, point.position, point.last_offset
        self._segment, self.segment_stop, self.last_is_mark = point.segment, point.segment_stop, point.last_is_mark

    def begin_epoch(self) -> None:
        """Append the OPEN frame of a new epoch, which is later than all LSNs before. The caller holds `locks.append`
        and `locks.state`."""
        last = ((epoch_of(self.lsn) + 1) << EPOCH_SHIFT) - 1
        self.committed, self.lsn = self.committed._replace(lsn=last), last
        body = self.begin(Kind.OPEN, NONCE_BYTES, purpose=Reserve.LOG)
        self._view[body : body + NONCE_BYTES] = secrets.token_bytes(NONCE_BYTES)
        self.end()
        self.commit()

    def end_position(self) -> LogEnd:
        """Return the position after the last frame. The caller holds `locks.append` and `locks.state`, outside a
        batch: a checkpoint may freeze the memtables there."""
        assert not self.batch_depth, "a batch is never cut"
        self.finish_open_frame(0)
        segments = [[index, self.pool.generations[index]] for index in self.pool.taken]
        return LogEnd(self.lsn, self.previous, self._last_offset, self.position, segments, self.moved_end())

    def check(self) -> None:
        """Assert that the position lies in the current segment, which is the last one taken."""
        if self._segment >= 0:
            assert self.pool.start(self._segment) + ALIGN <= self.position <= self.segment_stop - NEXT_FRAME_BYTES
            assert self.pool.taken[-1] == self._segment
