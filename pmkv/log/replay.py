"""Recovery: reads the log from its first segment and yields its frames, whole batches only, up to where it ends.

A frame counts iff magic, length, checksum, LSN and the predecessor's checksum agree. Where none does, the log ends:
either in a torn tail, which
nobody was promised, or in damage. The difference is proved, not guessed: every frame says up to which LSN the log
was durable when it
was written, so a whole frame found further on, durable up to or beyond the missing LSN, means that an acknowledged
one is gone.

Assumes: nothing is written meanwhile (a readonly store beside a writer sees some prefix).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.frames import find_magic
from .format import ALIGN, EPOCH_SHIFT, FRAME_MAGIC, NEXT, Flag, Frame, Kind, epoch_of, seed_of, unpack_frame
from .segments import Pool

MORE = Flag.MORE.value  # a plain number: arithmetic on flags costs more than a frame's checksum


@dataclass(frozen=True)
class LogEnd:
    """A place between two frames of the log, up to which something is complete, and from which replay can go on."""

    lsn: int  # of the frame before it
    previous: int  # its checksum
    last: int  # where it stands
    position: int  # where the next one belongs
    segments: list[list[int]]  # of the log up to here: [index, generation]

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, pool: Pool) -> None:
        """CorruptionError unless the log reaches as far as this and is the one that was meant."""
        if self.position > pool.medium.data.size:
            raise CorruptionError(
                f"the catalog is complete up to LSN {self.lsn}, behind the end of the pool ({pool.medium.data.size:,} "
                "bytes): that was cut, or is an older copy than the catalog"
            )
        for index, generation in self.segments:
            # looked at again: a writer beside a readonly store may have taken it since
            if pool.generations.get(index) != generation and pool.look(index) != generation:
                raise CorruptionError(
                    f"the catalog is complete up to LSN {self.lsn} and counts on segment {index} (offset "
                    f"{pool.start(index):,}) with generation {generation}, its header has "
                    f"{pool.generations.get(index)}: the pool is damaged, or older than the catalog"
                )
        index = self.segments[-1][0]
        frame = unpack_frame(memoryview(pool.medium.data), self.last, pool.stop(index), pool.seed(index))
        if frame is None or (frame.lsn, frame.check) != (self.lsn, self.previous):
            raise CorruptionError(
                f"the catalog is complete up to LSN {self.lsn}, but the frame of this number is not at offset "
                f"{self.last:,} of the pool: the pool is damaged, or an older copy than the catalog"
            )


class Replay:
    """Iterate once; then the attributes say where and in what state the log ended."""

    def __init__(self, pool: Pool, last: int | None = None, start: LogEnd | None = None) -> None:
        """last: stop behind this LSN (what was durable when a flush failed) instead of where the log ends; start: go
        on from there, where everything before it is known."""
        self._pool, self._last, self._start = pool, last, start
        self._view = memoryview(pool.medium.data)
        self.segments = [index for index, _ in start.segments] if start else []
        self.position = start.position if start else 0  # where the next frame belongs
        self.lsn = start.lsn if start else 0
        self.previous = start.previous if start else 0  # the checksum of the last frame
        self.durable = self.lsn  # proved by the frames themselves, or by who says where to start
        self.is_marked = start is None  # nothing stands behind the last MARK
        self._undurable: deque[Frame] = deque()

    def __iter__(self) -> Iterator[Frame]:
        batch: list[Frame] = []
        for frame in self._frames():
            batch.append(frame)
            if not frame.flags & MORE:
                for whole in batch:
                    self._accept(whole)
                    yield whole
                batch.clear()
        if batch:
            self._cut(batch[0])

    def _frames(self) -> Iterator[Frame]:
        """Frames in order, followed through the segments, until none fits."""
        if self._start is None:
            if not self._enter_first():
                return
            start = self._pool.start(0) + ALIGN
        else:
            self._start.check(self._pool)
            self._pool.medium.will_read(self.position, self._pool.stop(self.segments[-1]))
            start = self.position
        lsn, previous = self.lsn, self.previous
        while self._last is None or lsn < self._last:
            frame = self._frame_at(start, lsn, previous)
            if frame is None:
                self.position = start
                self._prove_end(start, lsn, previous)
                return
            lsn, previous, start = frame.lsn, frame.check, frame.end
            yield frame
            if frame.kind == Kind.NEXT:
                start = self._enter(frame)
        self.position = start

    def _frame_at(self, start: int, lsn: int, previous: int) -> Frame | None:
        """The frame at this offset, if it is whole and follows frame `lsn`."""
        stop = self._pool.stop(self.segments[-1])
        if start + ALIGN > stop:
            return None
        frame = unpack_frame(self._view, start, stop, self._pool.seed(self.segments[-1]))
        return frame if frame is not None and frame.previous == previous and follows(frame, lsn) else None

    def _accept(self, frame: Frame) -> None:
        self.lsn, self.previous = frame.lsn, frame.check
        self.durable = max(self.durable, frame.durable)
        self.is_marked = frame.kind == Kind.MARK
        self._undurable.append(frame)
        while self._undurable and self._undurable[0].lsn <= self.durable:
            self._undurable.popleft()

    def _cut(self, first: Frame) -> None:
        """The batch that begins here never ended: the log ends before it."""
        self.position = first.offset
        index = (first.offset - self._pool.start(0)) // self._pool.segment_size
        del self.segments[self.segments.index(index) + 1 :]

    @property
    def undurable(self) -> list[tuple[int, int]]:
        """Ranges of what was accepted without proof that it is durable."""
        return [(frame.offset, frame.body + frame.length) for frame in self._undurable]

    def _enter_first(self) -> bool:
        """Stand before the first frame of the first segment; False in a pool that was never written to."""
        pool = self._pool
        if 0 in pool.generations:
            self._enter_segment(0)
            return True
        if pool.generations:
            raise CorruptionError(
                f"the header of segment 0 (offset {pool.start(0):,}) is damaged, those of later segments are whole"
            )
        seed = seed_of(pool.pool_id, 1)
        if any(self.whole_frames(pool.start(0) + ALIGN, pool.stop(0), seed)):
            raise CorruptionError(
                f"the header of segment 0 (offset {pool.start(0):,}) is damaged, but whole frames stand behind it"
            )
        return False

    def _enter(self, frame: Frame) -> int:
        """Go where a NEXT frame points. A header is durable before its NEXT is written: one that is not whole is
        damage."""
        index, generation = NEXT.unpack_from(self._view, frame.body)
        if self._pool.look(index) != generation:
            raise CorruptionError(
                f"the header of segment {index} (offset {self._pool.start(index):,}) is damaged: "
                f"frame {frame.lsn} names it with generation {generation}, found {self._pool.generations.get(index)}"
            )
        self._enter_segment(index)
        return self._pool.start(index) + ALIGN

    def _enter_segment(self, index: int) -> None:
        self.segments.append(index)
        self._pool.medium.will_read(self._pool.start(index), self._pool.stop(index))

    def _prove_end(self, start: int, lsn: int, previous: int) -> None:
        """Raise CorruptionError if a whole frame found anywhere behind was written when the one that is missing was
        durable, unless a writer beside a readonly store has just written that."""
        pool, missing = self._pool, lsn + 1 if lsn else 1 << EPOCH_SHIFT
        places = [(self.segments[-1], start + ALIGN)]
        places += [(index, pool.start(index) + ALIGN) for index in pool.generations if index not in self.segments]
        for index, begin in places:
            for frame in self.whole_frames(begin, pool.stop(index), pool.seed(index)):
                if frame.durable >= missing and self._frame_at(start, lsn, previous) is None:
                    raise CorruptionError(
                        f"the log is damaged at offset {start:,} of the pool (segment {self.segments[-1]}): "
                        f"frame {missing} is missing there, but frame "
                        f"{frame.lsn} at offset {frame.offset:,} says that it was durable; restore a backup, "
                        "or salvage what is whole"
                    )

    def whole_frames(self, start: int, stop: int, seed: int) -> Iterator[Frame]:
        """Every frame in a range whose own checksum holds, whatever stands before it."""
        for first, last in self._pool.medium.written(start, stop):
            for offset in self._magic(first, last):
                frame = unpack_frame(self._view, offset, stop, seed)
                if frame is not None:
                    yield frame

    def _magic(self, start: int, stop: int) -> Iterator[int]:
        """Where frames may begin in a range."""
        found = np.empty(1024, np.int64)
        while start < stop:
            count = find_magic(self._pool.medium.data, start, stop, ALIGN, FRAME_MAGIC, found)
            yield from found[:count].tolist()
            start = stop if count < found.size else int(found[-1]) + ALIGN


def follows(frame: Frame, lsn: int) -> bool:
    """The next number, or the first of the next epoch: in the OPEN frame, or in the NEXT frame that makes room for
    it."""
    if frame.lsn == (epoch_of(lsn) + 1) << EPOCH_SHIFT:
        return frame.kind in (Kind.OPEN, Kind.NEXT)
    return frame.lsn == lsn + 1 and lsn != 0
