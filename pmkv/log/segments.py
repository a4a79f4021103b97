"""The pool: a medium cut into segments of equal size.

A segment is *taken* by the log once and in order of need; a taken segment is prepared: reserved, zero-filled (or, of a
fast log, known to read as zeros), its header durable. Segments kept back: the last one is for the log's own frames
(OPEN, MARK, NEXT; later folds), the last but one for deletes and for decisions that give something up, so that a full
pool can still be opened and emptied. Assumes: the caller holds the log's lock, except for `preallocate_segment`.
"""

from __future__ import annotations

import enum
import math
import secrets
import threading
import time
from collections.abc import Callable

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
    pack_pool,
    pack_segment,
    seed_of,
    unpack_pool,
    unpack_segment,
)

SEGMENT_SIZE = 64 << 20
SMALLEST_SEGMENT = 256 << 10
SEGMENTS_AT_LEAST = 16  # a pool smaller than 16 full segments has smaller ones instead
# Bytes a second, beyond which zeros are not written ahead of a log: it is flushed in large groups, to which the file
# system's metadata matters little, and the disk is better used otherwise (half of what a bulk load writes were zeros).
FAST = 32 << 20
LOOKED_AT = 1 << 20  # bytes at the beginning that must be zeros where there is no segment: else it is somebody's file


class Reserve(enum.IntEnum):
    """How many segments must stay free for others when one is taken for this."""

    LOG = 0
    DELETE = 1
    WRITE = 2


def segment_size_for(capacity: int) -> int:
    """64 MiB, or less where the pool would have fewer than 16 of them."""
    size = (capacity - HEADER_PAGE) // SEGMENTS_AT_LEAST // HEADER_PAGE * HEADER_PAGE
    return min(SEGMENT_SIZE, max(SMALLEST_SEGMENT, size))


class Pool:
    """Segments of one medium. `create` or `load` makes one."""

    def __init__(self, medium: Medium, header: PoolHeader) -> None:
        self.medium = medium
        self.segment_size, self.pool_id, self.hash_key = header
        self.frame_limit = min(MAX_FRAME, self.segment_size // 4)  # longer bodies are split where they can be
        self.hash_words = tuple(np.frombuffer(self.hash_key, "<u8"))  # as kernels take it
        self.generations: dict[int, int] = {}  # of segments whose header is whole: prepared, perhaps taken
        self.taken: list[int] = []  # in the order of the log
        self._seeds: dict[int, int] = {}
        self._free: list[int] = []  # neither taken nor prepared, the next one last
        self._ready: list[int] = []  # prepared, not taken, the next one last
        self._being_prepared: set[int] = set()
        self._preparing = threading.Lock()  # of which segment is what
        self._prepared = threading.Condition(self._preparing)
        self._taken_at = -math.inf  # when the last one was, by the monotonic clock
        self._is_fast = False  # it was filled sooner than zeros should be written ahead of it
        self.fill = True  # have zeros written ahead at all: without a sync for every commit, they cost and gain nothing
        self.on_take: Callable[[], None] = lambda: None  # a good moment to prepare the next one

    @classmethod
    def create(cls, medium: Medium, segment_size: int | None = None) -> Pool:
        """Write a pool's header on an empty medium; it is a pool once this returns."""
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
        return bytes(medium.data[8:16]) == POOL_MAGIC

    @staticmethod
    def is_unfinished(medium: Medium) -> bool:
        """Is there nothing, or what a crash leaves while a pool is made: a header or parts of it, and no segment?"""
        if unpack_pool(memoryview(medium.data)[:ALIGN])[0] and Pool.load(medium).generations:
            return False
        # the header of a log's only segment may be damaged, while its frames are all there
        magic = bytes(medium.data[8:16])
        return magic in (POOL_MAGIC, bytes(8)) and not medium.data[ALIGN:LOOKED_AT].any()

    @classmethod
    def load(cls, medium: Medium) -> Pool:
        """Read the header of a pool; FormatError for another version, CorruptionError for a damaged one."""
        whole, version, header = unpack_pool(memoryview(medium.data)[:64])
        if not whole:
            raise CorruptionError(
                "the pool's header (bytes 0 to 64 of the pool) is damaged: its checksum does not hold"
            )
        if version != VERSION:
            raise FormatError(
                f"the pool has format version {version}, this pmkv reads version {VERSION}: use the pmkv that "
                "wrote it to copy its data out"
            )
        pool = cls(medium, header)
        for index in range(pool.count):
            pool.look(index)
        return pool

    def look(self, index: int) -> int:
        """The generation in a segment's header as it is now, 0 where that is not whole."""
        start = self.start(index)
        generation = unpack_segment(memoryview(self.medium.data)[start : start + ALIGN], self.pool_id, index)
        if generation:
            self.generations[index] = generation
        return generation

    def _store(self, at: int, header: bytes) -> None:
        memoryview(self.medium.data)[at : at + len(header)] = header
        self.medium.flush([(at, at + len(header))])

    @property
    def count(self) -> int:
        """Segments that fit on the medium."""
        return (self.medium.data.size - HEADER_PAGE) // self.segment_size

    @property
    def free(self) -> int:
        return self.count - len(self.taken)

    def start(self, index: int) -> int:
        return HEADER_PAGE + index * self.segment_size

    def stop(self, index: int) -> int:
        return HEADER_PAGE + (index + 1) * self.segment_size

    def seed(self, index: int) -> int:
        """What the checksums of a segment's frames are seeded with, but for the offset."""
        if index not in self._seeds:
            self._seeds[index] = seed_of(self.pool_id, self.generations[index])
        return self._seeds[index]

    def adopt(self, taken: list[int]) -> None:
        """After replay: these segments are the log, in this order; all others are free."""
        self.taken = taken
        others = [index for index in range(self.count - 1, -1, -1) if index not in set(taken)]
        self._ready = [index for index in others if index in self.generations]
        self._free = [index for index in others if index not in self.generations]

    def take(self, purpose: Reserve) -> int:
        """The next segment of the log, prepared."""
        self.make_ready(1, purpose)
        index = self._ready.pop()
        self.taken.append(index)
        now = time.monotonic()
        self._is_fast, self._taken_at = self.segment_size > FAST * (now - self._taken_at), now
        self.on_take()
        return index

    def make_ready(self, count: int, purpose: Reserve) -> None:
        """Have so many segments prepared, or raise FullError with nothing changed but what is prepared. Those kept back
        are prepared too, before the last segment of a log is left: on a full disk they would not be there."""
        self.admit(purpose, count)
        while len(self._ready) < count + (purpose if self.taken else 0):
            # who has to wait for a segment of a log writes faster than zeros should be written ahead
            if not self._prepare_one(fill=not self.taken):  # the background thread has the last one
                with self._prepared:
                    self._prepared.wait_for(lambda: not self._being_prepared)

    def has_kept_back(self, purpose: Reserve) -> bool:
        """Are those kept back prepared? An opening may have taken one, on a disk that has no room for another, and what
        is written into that one must leave the next opening its own. A log's first segment does not wait for others."""
        return len(self._ready) >= purpose or len(self.taken) < 2

    def admit(self, purpose: Reserve, count: int = 0) -> None:
        """FullError unless so many segments may be taken for this. Asked before a frame goes into the current segment,
        too: it may be one that was kept back for others."""
        if self.free - count < purpose:
            used = len(self.taken) * self.segment_size
            raise FullError(
                f"the pool is full: {used:,} of {self.medium.data.size:,} bytes are in use and {int(purpose)} segments "
                "are kept back for deletes and recovery; open the store with a larger capacity, or grow it"
            )

    def preallocate_segment(self) -> bool:
        """Prepare one segment beyond those kept back, if there is one; False when there was nothing to do. For a
        background thread."""
        return len(self._ready) <= Reserve.WRITE and self._prepare_one()

    @property
    def unproved_headers(self) -> list[tuple[int, int]]:
        """Where headers stand that nothing in the log proves to be durable: of the segments that are ready, and of the
        first one while it is empty. `load` may have seen them in a cache only."""
        return [(self.start(index), self.start(index) + ALIGN) for index in self.taken[-1:] + self._ready]

    def _prepare_one(self, fill: bool = True) -> bool:
        """False when there is none left. A writer in need prepares one beside that of the background thread, which may
        be long about it."""
        with self._preparing:
            if not self._free:
                return False
            index = self._free.pop()
            self._being_prepared.add(index)
        try:
            self.medium.prepare(self.start(index), self.stop(index), fill=fill and self.fill and not self._is_fast)
            # the header goes last: a segment with a whole header is wholly prepared
            self._store(self.start(index), pack_segment(self.pool_id, index, 1))
        except BaseException:
            self._end_preparation(index, self._free, len(self._free))
            raise
        self.generations[index] = 1
        self._end_preparation(index, self._ready, 0)
        return True

    def _end_preparation(self, index: int, place: list[int], at: int) -> None:
        with self._prepared:
            self._being_prepared.discard(index)
            place.insert(at, index)
            self._prepared.notify_all()

    def grow(self, capacity: int) -> None:
        """Have a medium of `capacity` bytes: so much more is free. Not while a segment is prepared, whose header might
        be stored in the mapping before and flushed from the one after."""
        with self._prepared:
            self._prepared.wait_for(lambda: not self._being_prepared)
            self.medium.grow(capacity)
            known = set(self.taken) | set(self._free) | set(self._ready)
            self._free = [index for index in range(self.count - 1, -1, -1) if index not in known] + self._free

    def check(self) -> None:
        """Every segment is taken, ready or free, once; what is taken or ready has a whole header on the medium."""
        with self._preparing:
            parts = self.taken + self._ready + self._free + list(self._being_prepared)
        assert sorted(parts) == list(range(self.count)), "a segment is lost or counted twice"
        for index in self.taken + self._ready:
            header = memoryview(self.medium.data)[self.start(index) : self.start(index) + ALIGN]
            assert unpack_segment(header, self.pool_id, index) == self.generations[index], (
                f"the header of segment {index} is damaged"
            )
