"""Write what a cleaner moves: MOVE frames, in segments of their own beside the log.

No NEXT frame leads there, and replay never enters these segments: the manifest names them. The LSN of a MOVE frame is
the newest one that what it holds may have; `previous` is the checksum of the MOVE frame before, and `durable` is 0, so
that it proves nothing about the log. A pass of the cleaner ends in an empty frame (`seal`), which makes all of it
durable before the manifest refers to it, and by which an opening finds out whether the pool has all that was moved.

All of it runs in the thread that cleans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..runtime.locks import StoreLocks
from .format import ALIGN, FRAME_HEADER, WORTH_SHARE, Kind, check_frame, frame_size, pack_frame
from .replay import MovedEnd
from .segments import Pool, Reserve, storing

HEADER_BYTES = FRAME_HEADER.itemsize
SEAL_BYTES = frame_size(0)  # kept free at the end of every segment, for the empty frame that ends a pass
SYNC_BYTES = 1 << 20  # moved between two syncs: a commit of the log never waits for much of it


class MoveWriter:
    """Appends MOVE frames to the last of the segments that hold what was moved. written, taken: bytes and segments
    since the store was opened."""

    def __init__(
        self,
        pool: Pool,
        locks: StoreLocks,
        failing: contextlib.AbstractContextManager[None],
        now: Callable[[], int],
    ) -> None:
        self.pool, self._locks, self._failing, self._now = pool, locks, failing, now
        self.written = self.taken = 0
        self.resume(MovedEnd())

    def resume(self, moved: MovedEnd) -> None:
        """Go on after the last pass, of which the manifest says where it ended. What a cleaner wrote behind that counts
        for nothing.

        The next frame goes to another segment: the same bytes may stand behind the end already, seen but never made
        durable, and a medium need not write what is not new."""
        self._sealed, self._is_sealed = (moved.last, moved.check), True
        self._previous, self._unsynced = moved.check, 0
        self._ends = {index: end for index, _, end in moved.segments}
        self._position = self._stop = moved.last + SEAL_BYTES if moved.last else 0

    def _index(self, offset: int) -> int:
        return (offset - self.pool.start(0)) // self.pool.segment_size

    @property
    def open_segments(self) -> set[int]:
        """The segment that is written to, and that of the last empty frame: they must not be emptied."""
        return {self._index(at) for at in (self._position, self._sealed[0]) if at}

    @property
    def room(self) -> int:
        """Bytes left in the current segment."""
        return max(0, self._stop - self._position - SEAL_BYTES)

    def next_body(self, limit: int) -> int:
        """Return how long the next body should be at most: what is left in the segment, if that is worth a frame."""
        left = self.room - HEADER_BYTES - ALIGN
        return min(limit, left) if left >= limit // WORTH_SHARE else limit

    def end(self) -> MovedEnd:
        """Return where complete passes ended, as the manifest records it. The caller holds locks.state."""
        pool = self.pool
        segments = [[index, pool.generations[index], self.end_of(index)] for index in pool.moved]
        return MovedEnd(*self._sealed, segments, sorted([*one] for one in pool.reused.items()))

    def end_of(self, index: int) -> int:
        """Return the offset at which the frames of a segment end."""
        return self._ends.get(index, self.pool.start(index) + ALIGN)

    def append(
        self, flags: int, length: int, fill: Callable[[int], None], *, table: int, layer: int, lsn: int, count: int
    ) -> None:
        """Append a frame with a body of `length` bytes, which `fill` stores at the offset that it is given. FullError:
        there is no segment for it."""
        if frame_size(length) > self.room:
            self._next_segment()
        self._append(flags, length, fill, table, layer, lsn, count)

    def seal(self, lsn: int) -> None:
        """Append the empty frame that ends a pass, and make everything durable, if anything was appended."""
        if not self._is_sealed:
            self._append(0, 0, lambda _: None, 0, 0, lsn, 0)
            self.sync()
            with self._locks.state:
                self._sealed, self._is_sealed = (self._position - SEAL_BYTES, self._previous), True

    def sync(self) -> None:
        """Make durable what was appended."""
        with self._failing:
            self.pool.medium.flush([])
        self._unsynced = 0

    def _next_segment(self) -> None:
        with self._failing:
            self.pool.make_ready(1, Reserve.CLEAN)  # without the locks: it may take long
            with self._locks.append, self._locks.state:
                index = self.pool.take_for_moving()
        self.taken += 1
        self._position, self._stop = self.pool.start(index) + ALIGN, self.pool.stop(index)

    def _append(
        self, flags: int, length: int, fill: Callable[[int], None], table: int, layer: int, lsn: int, count: int
    ) -> None:
        start, pool = self._position, self.pool
        index, self._is_sealed = self._index(start), False
        header = pack_frame(Kind.MOVE, flags, table, count, length, layer, lsn, 0, self._now(), self._previous)
        with self._failing, storing(pool, index):
            view = memoryview(pool.medium.data)
            view[start : start + HEADER_BYTES] = header
            fill(start + HEADER_BYTES)
            check = check_frame(view, start, length, pool.seed(index))
            view[start : start + 8] = check.to_bytes(8, "little")
            pool.medium.flush([(start, start + HEADER_BYTES + length)], sync=False)
        self._previous, self._position = check, start + frame_size(length)
        self._ends[index] = self._position
        self.written += frame_size(length)
        self._unsynced += frame_size(length)
        if self._unsynced >= SYNC_BYTES:
            self.sync()
