"""The pool: a medium cut into segments of equal size.

The log takes segments in the order of need, and takes only prepared ones: reserved, filled with zeros (or, for a fast
log, known to read as zeros), with a durable header. A cleaner moves what lives in old segments to others of its own,
and retires the old ones: they are freed when no reader is left, and used again with a higher generation.

Three segments are kept back so that a full pool can still be opened and emptied: the last one for the log's own frames
(OPEN, MARK, NEXT), the last but one for the cleaner, the one before for deletes and for decisions that release
something.

Assumes that the caller holds the log's locks, except for `preallocate_segment`.
"""

from __future__ import annotations

import contextlib
import enum
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from ..errors import CorruptionError, FormatError, FullError
from ..media.base import Medium
from .format import (
    ALIGN,
    HEADER_PAGE,
    MAX_FRAME,
    POOL_MAGIC,
    VERSION,
    PoolHeader,
    begins_with_move,
    pack_pool,
    pack_segment,
    seed_of,
    unpack_pool,
    unpack_segment,
)
from .leases import ReadLeases

SEGMENT_SIZE = 64 << 20  # bytes
MIN_SEGMENT_SIZE = 256 << 10  # bytes
MIN_SEGMENTS = 256  # a pool with room for fewer full segments has smaller ones instead
# Zeros are not written ahead of a log that grows faster than this: it is flushed in large groups, for which the file
# system's metadata matters little, and half of what a bulk load writes would be zeros.
FAST_LOG_BYTES_PER_S = 32 << 20
PREPARED_POLL_S = 0.001  # who waits for a segment that another thread prepares looks so often
PROBED_BYTES = 1 << 20  # at the beginning of an unfinished pool; if they are not zeros, it is a file of someone else


class Reserve(enum.IntEnum):
    """The purpose of a write; its value is the number of segments that must stay free when it takes one."""

    LOG = 0
    CLEAN = 1
    DELETE = 2
    WRITE = 3


def segment_size_for(capacity: int) -> int:
    """Return 64 MiB, or less if the pool would have fewer than 256 such segments: a cleaner needs some to be free."""
    size = (capacity - HEADER_PAGE) // MIN_SEGMENTS // HEADER_PAGE * HEADER_PAGE
    return min(SEGMENT_SIZE, max(MIN_SEGMENT_SIZE, size))


def head_of(medium: Medium) -> bytes:
    """Return the bytes of a pool's header; zeros where nothing was written, without touching the medium."""
    is_written = any(start < ALIGN for start, _ in medium.written(0, ALIGN))
    return medium.data[:ALIGN].tobytes() if is_written else bytes(ALIGN)


class LogSpeed:
    """Tells whether the log grows faster than FAST_LOG_BYTES_PER_S. is_fast: the last segment was filled so fast;
    is_paced: writers wait for the cleaner, which needs the disk for what it moves."""

    def __init__(self) -> None:
        self._taken_at = -math.inf  # when the last segment was taken, by the monotonic clock, in seconds
        self.is_fast = self.is_paced = False

    def note(self, segment_size: int) -> None:
        """Note that the log takes another segment now."""
        now = time.monotonic()
        self.is_fast, self._taken_at = segment_size > FAST_LOG_BYTES_PER_S * (now - self._taken_at), now


class Pool:
    """The segments of one medium. `create` or `load` makes a pool.

    taken: indexes of the log's segments, in its order. moved: those of the segments that a cleaner has filled, in its
    order. generations: by index, for segments with a valid header, which are prepared and perhaps in use. reused: by
    index, for segments that were retired once: the least generation of their next use. leases: of readers, which
    retired segments wait for. promised: segments that writers leave to a pass of the cleaner, beyond those kept back.
    """

    def __init__(self, medium: Medium, header: PoolHeader) -> None:
        self.medium = medium
        self.segment_size, self.pool_id, self.hash_key = header
        self.frame_limit = min(MAX_FRAME, self.segment_size // 4)  # longer bodies are split where they can be
        self.hash_words = tuple(np.frombuffer(self.hash_key, "<u8"))  # the key in the form that kernels take
        self.generations: dict[int, int] = {}
        self.taken: list[int] = []
        self.moved: list[int] = []
        self.promised = 0
        self.reused: dict[int, int] = {}
        self.leases = ReadLeases()
        self._seeds: dict[int, int] = {}
        self._free: list[int] = []  # neither taken nor prepared, the next one last
        self._ready: list[int] = []  # prepared, not taken, the next one last
        self._being_prepared: set[int] = set()
        # Guards the four collections above. No threading.Condition: its `__exit__` is written in Python, so that Ctrl-C
        # may come on the way into it, and leave the lock taken for ever.
        self._lists = threading.Lock()
        self.speed = LogSpeed()
        self.fill = True  # write zeros ahead; without a sync for every commit they gain nothing
        self.on_take: Callable[[], None] = lambda: None  # called when a segment is taken: time to prepare the next one

    @classmethod
    def create(cls, medium: Medium, segment_size: int | None = None) -> Pool:
        """Make an empty medium a pool by writing its header, durably."""
        size = segment_size or segment_size_for(medium.data.size)
        if (medium.data.size - HEADER_PAGE) // size < 4:
            raise FullError(
                f"a pool of {medium.data.size:,} bytes is too small: it needs 4 segments of {size:,} bytes "
                f"and {HEADER_PAGE}"
            )
        header = PoolHeader(size, secrets.token_bytes(16), secrets.token_bytes(16))
        medium.prepare(0, HEADER_PAGE)
        pool = cls(medium, header)
        pool._store(0, pack_pool(header))
        pool._free = list(range(pool.count))[::-1]
        return pool

    @staticmethod
    def is_pool(medium: Medium) -> bool:
        """Return whether the medium begins with the magic of a pool."""
        return head_of(medium)[8:16] == POOL_MAGIC

    @staticmethod
    def is_unfinished(medium: Medium) -> bool:
        """Return whether the medium is empty, or holds what a crash during `create` leaves: at most a header."""
        head = head_of(medium)
        if unpack_pool(memoryview(head))[0] and Pool.load(medium).generations:
            return False
        # The header of a log's only segment may be damaged while all of its frames are valid.
        probed = [medium.data[start:stop] for start, stop in medium.written(ALIGN, min(PROBED_BYTES, medium.data.size))]
        return head[8:16] in (POOL_MAGIC, bytes(8)) and not any(part.any() for part in probed)

    @classmethod
    def load(cls, medium: Medium) -> Pool:
        """Read the header of a pool; FormatError for another version, CorruptionError for a damaged one."""
        is_valid, version, header = unpack_pool(memoryview(head_of(medium)))
        if not is_valid:
            raise CorruptionError(
                "the pool's header (bytes 0 to 64 of the pool) is damaged: its checksum does not hold"
            )
        if version != VERSION:
            raise FormatError(
                f"the pool has format version {version}, this pmkv reads version {VERSION}: use the pmkv that "
                "wrote it to copy its data out"
            )
        pool = cls(medium, header)
        for index in pool.written_segments():
            pool.read_generation(index)
        return pool

    def written_segments(self) -> Iterator[int]:
        """Yield the segments whose header may be there. Others are not touched: where the file has a hole, and a file
        system in memory no room, a read would be a fault."""
        for first, last in self.medium.written(HEADER_PAGE, HEADER_PAGE + self.count * self.segment_size):
            index = -(-(first - HEADER_PAGE) // self.segment_size)
            while self.start(index) < last:
                yield index
                index += 1

    def read_generation(self, index: int) -> int:
        """Read a segment's header and return its generation, 0 if the header is not valid."""
        start = self.start(index)
        generation = unpack_segment(memoryview(self.medium.data)[start : start + ALIGN], self.pool_id, index)
        if generation and self.generations.get(index) != generation:
            self.generations[index] = generation
            self._seeds.pop(index, None)  # a writer beside a readonly store uses the segment again
        return generation

    def _store(self, at: int, header: bytes) -> None:
        memoryview(self.medium.data)[at : at + len(header)] = header
        self.medium.flush([(at, at + len(header))])

    @property
    def count(self) -> int:
        """Number of segments that fit on the medium."""
        return (self.medium.data.size - HEADER_PAGE) // self.segment_size

    @property
    def free(self) -> int:
        """Number of segments that are not in use."""
        return self.count - self.used

    @property
    def used(self) -> int:
        """Number of segments that hold the log, what was moved, or what a reader may still look at."""
        return len(self.taken) + len(self.moved) + len(self.leases.retired)

    @property
    def is_scarce(self) -> bool:
        """Return whether writers may have no further segment, about: read without a lock."""
        return self.free <= kept_back(self, Reserve.WRITE)

    def start(self, index: int) -> int:
        """Return the offset where a segment begins."""
        return HEADER_PAGE + index * self.segment_size

    def stop(self, index: int) -> int:
        """Return the offset where a segment ends."""
        return HEADER_PAGE + (index + 1) * self.segment_size

    def seed(self, index: int) -> int:
        """Return the seed of the checksums of a segment's frames, to which each adds its offset."""
        if index not in self._seeds:
            self._seeds[index] = seed_of(self.pool_id, self.generations[index])
        return self._seeds[index]

    def adopt(self, taken: list[int], moved: Sequence[int] = (), reused: Mapping[int, int] | None = None) -> None:
        """Make these segments the log, in this order, and those what was moved, after a replay; all others are free.

        A free segment with a valid header is prepared, unless it was retired since, or holds what a cleaner moved and
        did not commit."""
        self.taken, self.moved, self.reused = taken, list(moved), dict(reused or {})
        in_use = {*taken, *moved}
        others = [index for index in range(self.count - 1, -1, -1) if index not in in_use]
        self._ready = [index for index in others if is_prepared(self, index)]
        self._free = [index for index in others if index not in self._ready]
        for index in self._free:
            if generation := self.generations.pop(index, 0):
                self.reused[index] = max(self.reused.get(index, 0), generation + 1)

    def take(self, purpose: Reserve) -> int:
        """Take a prepared segment as the next one of the log; return its index."""
        self.make_ready(1, purpose)
        index = self._ready[-1]
        self.taken += [index]  # by no call, in which an exception could come
        del self._ready[-1]
        self.speed.note(self.segment_size)
        self.on_take()
        return index

    def give_back(self, kept: int) -> None:
        """Take back all segments after the first `kept` of the log: what was written there never happened."""
        for index in reversed(self.taken[kept:]):
            if index not in self._ready:
                self._ready.append(index)
        del self.taken[kept:]

    def take_for_moving(self) -> int:
        """Take a prepared segment for what a cleaner moves; return its index."""
        self.make_ready(1, Reserve.CLEAN)
        index = self._ready[-1]
        self.moved += [index]
        del self._ready[-1]
        self.promised = max(0, self.promised - 1)
        self.on_take()
        return index

    # segments that were emptied

    def retire(self, segments: Iterable[int], commit: int = 0) -> None:
        """Remove emptied segments from use: once no reader is left, `recycle` frees them. commit: as of
        `ReadLeases.retire`.

        The caller holds locks.append and locks.state; the manifest that is complete without them is committed, and no
        index stack names them any more."""
        gone = tuple(segments)
        self.taken = [index for index in self.taken if index not in gone]
        self.moved = [index for index in self.moved if index not in gone]
        self.reused |= next_uses(self, gone)
        self.leases.retire(gone, commit)

    def recycle(self) -> Iterator[int]:
        """Free retired segments that no reader needs any more; yield the index of each. For a background thread, which
        holds no lock."""
        while True:
            with self._lists:
                segments = self.leases.released()
                self._being_prepared.update(segments)
            if not segments:
                return
            for index in segments:
                try:
                    self.medium.discard(self.start(index), self.stop(index))
                finally:
                    self.generations.pop(index, None)
                    with self._lists:
                        self._free[:0] = [index]
                        self._being_prepared -= {index}
                yield index

    def make_ready(self, count: int, purpose: Reserve) -> None:
        """Have `count` segments prepared; raise FullError with nothing changed except that some may be prepared.

        The segments kept back for `purpose` are prepared too: on a full disk they could not be, later."""
        self.admit(purpose, count)
        while len(self._ready) < count + (purpose if self.taken else 0):
            # A writer that waits for a segment is faster than zeros should be written ahead.
            if not self._prepare_one(fill=not self.taken):  # the background thread is preparing the last one
                time.sleep(PREPARED_POLL_S)

    def has_kept_back(self, purpose: Reserve) -> bool:
        """Return whether the segments kept back for `purpose` are prepared.

        They may not be: recovery may have taken one on a disk without room for another, and writes into that one must
        leave the next recovery its own. The log's first segment does not wait for others."""
        return len(self._ready) >= purpose or (len(self.taken) < 2 and not self.reused)

    def admit(self, purpose: Reserve, count: int = 0) -> None:
        """Raise FullError unless `count` segments may be taken for `purpose`.

        Also called (with 0) before a frame goes into the current segment, which may have been kept back for others."""
        if self.free - count < kept_back(self, purpose):
            used = self.used * self.segment_size
            raise FullError(
                f"the pool is full: {used:,} of {self.medium.data.size:,} bytes are in use, {int(purpose)} segments "
                f"are kept back for deletes, cleaning and recovery, and this write needs {max(1, count)} more segments "
                f"of {self.segment_size:,} bytes; delete what nobody needs, views first, or open the store with a "
                "larger capacity, or grow it"
            )

    def preallocate_segment(self) -> bool:
        """Prepare one segment beyond those kept back; return False if there was nothing to do.

        For a background thread, which holds no lock."""
        return len(self._ready) <= Reserve.WRITE and self._prepare_one()

    @property
    def unproved_headers(self) -> list[tuple[int, int]]:
        """Ranges of segment headers that nothing in the log proves to be durable.

        They are those of the ready segments, and of the last one taken, which may be empty. `load` may have seen them
        in a cache only."""
        return [(self.start(index), self.start(index) + ALIGN) for index in self.taken[-1:] + self._ready]

    def _prepare_one(self, fill: bool = True) -> bool:
        """Prepare a free segment; return False if there is none.

        A writer does not wait for the segment that the background thread is preparing, which may take long."""
        index, is_prepared, speed = -1, False, self.speed
        try:  # the lists are changed by no calls, in which an exception could come: no segment is lost
            with self._lists:
                if not self._free:
                    return False
                index = self._free[-1]
                self._being_prepared |= {index}
                del self._free[-1]
            generation, fill = self.reused.get(index, 1), fill and self.fill and not (speed.is_fast or speed.is_paced)
            if generation > 1 and not self.medium.discard(self.start(index), self.stop(index)):
                fill = True  # it may hold bytes of an earlier use
            self.medium.prepare(self.start(index), self.stop(index), fill=fill)
            # The header goes last: a segment with a valid header is completely prepared.
            self._store(self.start(index), pack_segment(self.pool_id, index, generation))
            self._seeds.pop(index, None)
            self.generations[index], is_prepared = generation, True
        finally:
            if index >= 0:
                self._end_preparation(index, is_prepared)
        return True

    def _end_preparation(self, index: int, is_prepared: bool) -> None:
        """Put a segment into the list where it belongs, once."""
        with self._lists:
            if index in self._being_prepared:
                if is_prepared:
                    self._ready[:0] = [index]
                else:
                    self._free += [index]
                self._being_prepared -= {index}

    def grow(self, capacity: int) -> None:
        """Extend the medium to `capacity` bytes; the new segments are free.

        Waits while a segment is being prepared: its header could be stored in the old mapping and flushed from the
        new one."""
        while True:
            with self._lists:
                if not self._being_prepared:
                    self.medium.grow(capacity)
                    known = {*self.taken, *self.moved, *self.leases.retired, *self._free, *self._ready}
                    self._free = [index for index in range(self.count - 1, -1, -1) if index not in known] + self._free
                    return
            time.sleep(PREPARED_POLL_S)

    def check(self) -> None:
        """Assert that each segment is taken, ready or free, once, and has a valid header if it is taken or ready."""
        with self._lists:
            being_prepared = [index for index in self._being_prepared if index not in self.moved]
            segments = self.taken + self.moved + self._ready + self._free + self.leases.retired + being_prepared
        assert sorted(segments) == list(range(self.count)), "a segment is lost or counted twice"
        for index in self.taken + self.moved + self._ready:
            header = memoryview(self.medium.data)[self.start(index) : self.start(index) + ALIGN]
            assert unpack_segment(header, self.pool_id, index) == self.generations[index], (
                f"the header of segment {index} is damaged"
            )


def is_prepared(pool: Pool, index: int) -> bool:
    """Return whether a segment that is not in use is ready to be taken: its header is valid, it was not retired since,
    and a cleaner has not filled it in vain."""
    start = pool.start(index) + ALIGN
    return pool.generations.get(index, 0) >= pool.reused.get(index, 1) and not begins_with_move(
        memoryview(pool.medium.data), start
    )


def next_uses(pool: Pool, segments: Iterable[int]) -> dict[int, int]:
    """Return the generations that these segments will have when they are used again."""
    return {index: pool.generations[index] + 1 for index in segments}


def hold_back_emptied(pool: Pool, commit: int) -> None:
    """Let segments that were emptied by an earlier opening wait for readers in other processes, which may have been
    there before this `commit` of the catalog. Called once, after `adopt`."""
    emptied = tuple(index for index in pool._free if index in pool.reused)
    if emptied and not pool.leases.may_reuse(commit):
        pool._free = [index for index in pool._free if index not in emptied]
        pool.leases.retire(emptied, commit)


def kept_back(pool: Pool, purpose: Reserve) -> int:
    """Return how many segments must stay free when one is taken for `purpose`."""
    return purpose + (pool.promised if purpose is Reserve.WRITE else 0)


@contextlib.contextmanager
def storing(pool: Pool, index: int) -> Iterator[None]:
    """Keep the medium from growing while a cleaner stores to a segment and has not flushed it: the new mapping would
    not show it."""
    with pool._lists:
        pool._being_prepared |= {index}
    try:
        yield
    finally:
        with pool._lists:
            pool._being_prepared -= {index}
