"""Recovery: read the log from its first segment, or from a known position, and yield its frames in whole batches.

A frame counts if its magic, length, checksum, LSN and its predecessor's checksum are right. The log ends where no such
frame follows: in a torn tail, which was never acknowledged, or in damage. The difference is proved, not guessed: each
frame carries the LSN up to which the log was durable when it was written. A valid frame found further on, whose
durable LSN is at or beyond the missing one, proves that an acknowledged frame is lost.

Assumes that nothing is written meanwhile (a readonly store next to a writer sees some prefix of the log).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.frames import find_magic
from .format import ALIGN, EPOCH_SHIFT, FRAME_MAGIC, NEXT, Flag, Frame, Kind, epoch_of, seed_of, unpack_frame
from .segments import Pool

LIVE_BYTES = 1 << 20  # that are read ahead beside a writer, where a replay goes on
MORE = Flag.MORE.value  # a plain int: arithmetic on enum flags costs more than a frame's checksum


@dataclass(frozen=True)
class MovedEnd:
    """The end of all that a cleaner has moved, as far as the catalog refers to it."""

    last: int = 0  # pool offset of the last MOVE frame; 0: nothing was ever moved
    check: int = 0  # checksum of that frame
    segments: list[list[int]] = field(default_factory=list)  # [index, generation, offset of the end] of each, in order
    reused: list[list[int]] = field(default_factory=list)  # [index, least generation of the next use] of retired ones

    def verify(self, pool: Pool) -> None:
        """Raise CorruptionError unless the pool holds what was moved."""
        for index, generation, _ in self.segments:
            if pool.generations.get(index) != generation and pool.read_generation(index) != generation:
                raise CorruptionError(
                    f"the catalog counts on segment {index} (offset {pool.start(index):,}), which holds moved records, "
                    f"with generation {generation}, its header has {pool.generations.get(index)}: the pool is damaged, "
                    "or of another moment than the catalog; restore both from one backup"
                )
        if self.last:
            index = (self.last - pool.start(0)) // pool.segment_size
            frame = unpack_frame(memoryview(pool.medium.data), self.last, pool.stop(index), pool.seed(index))
            if frame is None or frame.check != self.check:
                raise CorruptionError(
                    f"the catalog counts on records that were moved up to offset {self.last:,} of the pool, and the "
                    "frame there is another one: the pool is damaged, or an older copy than the catalog; restore both "
                    "from one backup"
                )


@dataclass(frozen=True)
class LogEnd:
    """A position between two frames up to which the catalog is complete, and from which replay can go on."""

    lsn: int  # of the last frame before the position
    previous: int  # checksum of that frame
    last: int  # pool offset of that frame
    position: int  # pool offset of the next frame
    segments: list[list[int]]  # [index, generation] of each segment up to here, in the order of the log
    moved: MovedEnd = MovedEnd()  # what lies beside the log

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name, as the catalog records them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LogEnd:
        """Return the end of a log from the catalog's record; one made before anything could be moved has no `moved`."""
        return cls(**values | {"moved": MovedEnd(**values.get("moved", {}))})

    def check(self, pool: Pool) -> None:
        """Raise CorruptionError unless the log reaches this position and is the log that the catalog belongs to."""
        if self.position > pool.medium.data.size:
            raise CorruptionError(
                f"the catalog is complete up to LSN {self.lsn}, beyond the end of the pool ({pool.medium.data.size:,} "
                "bytes): the pool was cut off, or is an older copy than the catalog"
            )
        for index, generation in self.segments:
            # Read again: a writer next to a readonly store may have taken the segment since the pool was loaded.
            if pool.generations.get(index) != generation and pool.read_generation(index) != generation:
                raise CorruptionError(
                    f"the catalog is complete up to LSN {self.lsn} and counts on segment {index} (offset "
                    f"{pool.start(index):,}) with generation {generation}, its header has "
                    f"{pool.generations.get(index)}: the pool is damaged, or of another moment than the catalog"
                )
        self.moved.verify(pool)
        index = self.segments[-1][0]
        frame = unpack_frame(memoryview(pool.medium.data), self.last, pool.stop(index), pool.seed(index))
        if frame is None or (frame.lsn, frame.check) != (self.lsn, self.previous):
            raise CorruptionError(
                f"the catalog is complete up to LSN {self.lsn}, but the frame of this number is not at offset "
                f"{self.last:,} of the pool: the pool is damaged, or an older copy than the catalog"
            )


class Replay:
    """One pass over the log. Iterate once; then the attributes say where and in what state the log ended.

    segments: indexes of the log's segments, in its order. lsn, previous, position: LSN and checksum of the last frame,
    and the offset of the next one. durable: LSN that the frames themselves, or the start, prove to be durable.
    is_marked: the last frame is a MARK. last_offset: where the last frame is.
    """

    def __init__(self, pool: Pool, last: int | None = None, start: LogEnd | None = None, is_live: bool = False) -> None:
        """Prepare a pass from `start`, or from the beginning, to the end of the log.

        last: stop after this LSN instead (what was durable when a flush failed). is_live: another process is writing
        the log, so its end proves nothing: the frame that is missing is about to come."""
        self._pool, self._last, self._start = pool, last, start
        self._view = memoryview(pool.medium.data)
        self.segments = [index for index, _ in start.segments] if start else []
        self.moved = start.moved if start else MovedEnd()
        self.position = start.position if start else 0
        self.lsn = start.lsn if start else 0
        self.previous = start.previous if start else 0
        self.durable = self.lsn
        self.is_marked, self._is_live = start is None, is_live
        self.last_offset = start.last if start else 0
        self._undurable: deque[Frame] = deque()

    def __iter__(self) -> Iterator[Frame]:
        batch: list[Frame] = []
        for frame in self._frames():
            batch.append(frame)
            if not frame.flags & MORE:
                for accepted in batch:
                    self._accept(accepted)
                    yield accepted
                batch.clear()
        if batch:
            self._cut(batch[0])

    def _frames(self) -> Iterator[Frame]:
        """Yield frames in order, from segment to segment, until none follows."""
        if self._start is None:
            if not self._enter_first():
                return
            start = self._pool.start(0) + ALIGN
        else:
            self._start.check(self._pool)
            stop = self._pool.stop(self.segments[-1])
            # a follower comes twenty times a second, and finds little that is new, mostly in the page cache
            self._pool.medium.will_read(self.position, min(stop, self.position + LIVE_BYTES) if self._is_live else stop)
            start = self.position
        lsn, previous = self.lsn, self.previous
        while self._last is None or lsn < self._last:
            frame = self._frame_at(start, lsn, previous)
            if frame is None:
                self.position = start
                if not self._is_live:
                    self._prove_end(start, lsn, previous)
                return
            lsn, previous, start = frame.lsn, frame.check, frame.end
            yield frame
            if frame.kind == Kind.NEXT:
                start = self._enter(frame)
        self.position = start

    def _frame_at(self, start: int, lsn: int, previous: int) -> Frame | None:
        """Return the frame at offset `start` if it is valid and follows frame `lsn`, else None."""
        stop = self._pool.stop(self.segments[-1])
        if start + ALIGN > stop:
            return None
        frame = unpack_frame(self._view, start, stop, self._pool.seed(self.segments[-1]))
        return frame if frame is not None and frame.previous == previous and follows(frame, lsn) else None

    def _accept(self, frame: Frame) -> None:
        self.lsn, self.previous, self.last_offset = frame.lsn, frame.check, frame.offset
        self.durable = max(self.durable, frame.durable)
        self.is_marked = frame.kind == Kind.MARK
        self._undurable.append(frame)
        while self._undurable and self._undurable[0].lsn <= self.durable:
            self._undurable.popleft()

    def _cut(self, first: Frame) -> None:
        """End the log before the batch that begins with `first`, because the batch never ended."""
        self.position = first.offset
        index = (first.offset - self._pool.start(0)) // self._pool.segment_size
        del self.segments[self.segments.index(index) + 1 :]

    def end(self) -> LogEnd:
        """Return the position where the pass ended, from which another one can go on."""
        segments = [[index, self._pool.generations[index]] for index in self.segments]
        return LogEnd(self.lsn, self.previous, self.last_offset, self.position, segments, self.moved)

    @property
    def undurable(self) -> list[tuple[int, int]]:
        """Ranges of accepted frames that nothing proves to be durable."""
        return [(frame.offset, frame.body + frame.length) for frame in self._undurable]

    def _enter_first(self) -> bool:
        """Enter the first segment; return False if the pool was never written to."""
        pool = self._pool
        if any(generation > 1 for generation in pool.generations.values()):
            raise CorruptionError(
                "the catalog is missing, and parts of the log were cleaned and used again, so that the log alone does "
                "not hold everything: restore `catalog` and `runs` from the backup that the pool is from, or salvage "
                "what is whole"
            )
        if 0 in pool.generations:
            self._enter_segment(0)
            return True
        if pool.generations:
            raise CorruptionError(
                f"the header of segment 0 (offset {pool.start(0):,}) is damaged, those of later segments are valid"
            )
        seed = seed_of(pool.pool_id, 1)
        if any(self.whole_frames(pool.start(0) + ALIGN, pool.stop(0), seed)):
            raise CorruptionError(
                f"the header of segment 0 (offset {pool.start(0):,}) is damaged, but valid frames follow it"
            )
        return False

    def _enter(self, frame: Frame) -> int:
        """Enter the segment that a NEXT frame names; return the offset of its first frame.

        The header of a segment is durable before its NEXT frame is written, so an invalid header is damage."""
        index, generation = NEXT.unpack_from(self._view, frame.body)
        if self._pool.read_generation(index) != generation:
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
        """Raise CorruptionError if a valid frame further on proves that the missing frame was durable.

        The missing frame is looked for once more before, as a writer next to a readonly store may just have written
        it."""
        pool, missing = self._pool, lsn + 1 if lsn else 1 << EPOCH_SHIFT
        ranges = [(self.segments[-1], start + ALIGN)]
        known = {*self.segments, *(index for index, *_ in self.moved.segments)}
        ranges += [(index, pool.start(index) + ALIGN) for index in pool.generations if index not in known]
        for index, begin in ranges:
            for frame in self.whole_frames(begin, pool.stop(index), pool.seed(index)):
                if frame.durable >= missing and self._frame_at(start, lsn, previous) is None:
                    raise CorruptionError(
                        f"the log is damaged at offset {start:,} of the pool (segment {self.segments[-1]}): "
                        f"frame {missing} is missing there, but frame "
                        f"{frame.lsn} at offset {frame.offset:,} says that it was durable; restore a backup, "
                        "or salvage what is whole"
                    )

    def whole_frames(self, start: int, stop: int, seed: int) -> Iterator[Frame]:
        """Yield every frame in a range whose own checksum is right, no matter which frame precedes it."""
        for first, last in self._pool.medium.written(start, stop):
            self._pool.medium.will_read(first, last)
            for offset in self._magic(first, last):
                frame = unpack_frame(self._view, offset, stop, seed)
                if frame is not None:
                    yield frame

    def _magic(self, start: int, stop: int) -> Iterator[int]:
        """Yield the offsets in a range at which a frame's magic stands."""
        found = np.empty(1024, np.int64)
        while start < stop:
            count = find_magic(self._pool.medium.data, start, stop, ALIGN, FRAME_MAGIC, found)
            yield from found[:count].tolist()
            start = stop if count < found.size else int(found[-1]) + ALIGN


def follows(frame: Frame, lsn: int) -> bool:
    """Return whether a frame has the LSN after `lsn`: the next one, or the first one of the next epoch.

    A new epoch begins with an OPEN frame, or with the NEXT frame that makes room for it."""
    if frame.lsn == (epoch_of(lsn) + 1) << EPOCH_SHIFT:
        return frame.kind in (Kind.OPEN, Kind.NEXT)
    return frame.lsn == lsn + 1 and lsn != 0
