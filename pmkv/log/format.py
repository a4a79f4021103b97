"""The byte format of the pool: every offset is defined here and nowhere else. docs/FORMAT.md has a worked example.

All numbers are little-endian. A pool is a header page, then segments of equal size. A segment is a header of 64
bytes, then frames, each beginning at a multiple of 64. A frame is a header of 64 bytes and a body.

A checksum is the xxh3-64 of all bytes that follow it in its header, and of the body. Kind 0 is never written, so
zeros are never read as a frame. The checksum of a frame is seeded with the pool's id, the segment's generation and the
frame's own offset: a copy of a frame, inside a value or left over from an earlier use of the segment, does not count
as a frame. `previous` is the checksum of the frame before it.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

VERSION = 1
ALIGN = 64
HEADER_PAGE = 4096  # bytes of the pool's header; segments follow it
POOL_MAGIC, SEGMENT_MAGIC, FRAME_MAGIC = b"pmkvpool", b"pmkvsegm", 0x6B70  # "pk"

POOL_HEADER = np.dtype(
    [
        ("check", "<u8"),
        ("magic", "S8"),
        ("version", "<u4"),
        ("reserved", "<u4"),
        ("segment_size", "<u8"),
        ("pool_id", "V16"),
        ("hash_key", "V16"),
    ]
)
SEGMENT_HEADER = np.dtype(
    [("check", "<u8"), ("magic", "S8"), ("index", "<u8"), ("generation", "<u8"), ("reserved", "V32")]
)
FRAME_HEADER = np.dtype(
    [
        ("check", "<u8"),
        ("magic", "<u2"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("table", "<u4"),
        ("count", "<u4"),
        ("length", "<u4"),
        ("layer", "<u8"),
        ("lsn", "<u8"),
        ("durable", "<u8"),
        ("time", "<u8"),
        ("previous", "<u8"),
    ]
)
NEXT_BODY = np.dtype([("index", "<u8"), ("generation", "<u8")])
OPEN_BODY = np.dtype([("nonce", "V16")])
assert POOL_HEADER.itemsize == SEGMENT_HEADER.itemsize == FRAME_HEADER.itemsize == 64
assert NEXT_BODY.itemsize == OPEN_BODY.itemsize == 16

_POOL = struct.Struct("<Q8sIIQ16s16s")
_SEGMENT = struct.Struct("<Q8sQQ32x")
_FRAME = struct.Struct("<QHBBIIIQQQQQ")
NEXT = struct.Struct("<QQ")
assert _POOL.size == _SEGMENT.size == _FRAME.size == 64

EPOCH_SHIFT = 40  # an LSN is (epoch << EPOCH_SHIFT) + the number of the frame within its epoch
MAX_KEY = 1 << 16  # bytes; so are the limits below
MAX_VALUE = 512 << 20
PART_SIZE = 1 << 20  # a longer value is split into chunks, one PART frame each
MAX_FRAME = 1 << 20  # bodies are split at about this size, so that little is left unused at a segment's end
WORTH_SHARE = 8  # a body is split to fill a segment if what is left there holds one part in so many of the longest
MAX_BATCH = 16 << 20  # the longest atomic batch
OWNER = 1 << 32  # a record's check is owned by its keyspace's number plus this: never a table's id


class Kind(enum.IntEnum):
    """The kind of a frame, which tells what its body holds.

    PUT: records (kernels.records). ROWS: `count` ids, then as many rows (none with DELETED). PART: a chunk of a value.
    MOVE: records, rows or a chunk that a cleaner moved. CONTROL: a decision as JSON. OPEN: a nonce. MARK: nothing.
    NEXT: the index and generation of a segment."""

    PUT = 1
    ROWS = 2
    PART = 3
    MOVE = 4
    CONTROL = 5
    OPEN = 6
    MARK = 7
    NEXT = 8


class Flag(enum.IntFlag):
    """Flags of a frame. MORE: the batch goes on in the next frame. DELETED: the ids of this ROWS frame are deleted.
    Of a MOVE frame, whose body is like that of a ROWS frame without any: RECORDS: like that of a PUT frame; CHUNK: like
    that of a PART frame; DECISION: like that of a CONTROL frame, the creation of the table whose rows follow."""

    MORE = 1
    DELETED = 2
    RECORDS = 4
    CHUNK = 8
    DECISION = 16


class Frame(NamedTuple):
    """A frame's header as read. `offset` is the pool offset where the frame begins, `body` that of its body."""

    check: int
    kind: int
    flags: int
    table: int
    count: int
    length: int
    layer: int
    lsn: int
    durable: int
    time: int  # unix milliseconds
    previous: int
    offset: int

    @property
    def body(self) -> int:
        """Pool offset of the body."""
        return self.offset + FRAME_HEADER.itemsize

    @property
    def end(self) -> int:
        """Pool offset where the next frame begins."""
        return align(self.body + self.length)


class PoolHeader(NamedTuple):
    """The variable fields of a pool's header."""

    segment_size: int
    pool_id: bytes
    hash_key: bytes


def align(offset: int) -> int:
    """Round an offset up to a multiple of 64, at which segments begin, too."""
    return (offset + ALIGN - 1) & -ALIGN


def frame_size(length: int) -> int:
    """Return the bytes of the log that a frame with a body of `length` bytes takes."""
    return align(FRAME_HEADER.itemsize + length)


def seed_of(pool_id: bytes, generation: int) -> int:
    """Return the part of the seed that all frames of a segment share; each adds its offset."""
    return xxh3_64_intdigest(pool_id, generation)


def epoch_of(lsn: int) -> int:
    """Return the epoch of an LSN: how often the pool had been opened for writing when it was given out."""
    return lsn >> EPOCH_SHIFT


def pack_pool(header: PoolHeader) -> bytes:
    """Return the 64 bytes of a pool's header."""
    rest = _POOL.pack(0, POOL_MAGIC, VERSION, 0, *header)[8:]
    return xxh3_64_intdigest(rest).to_bytes(8, "little") + rest


def unpack_pool(data: memoryview) -> tuple[bool, int, PoolHeader]:
    """Return (is the checksum right, version, header). The caller has compared the magic."""
    check, _, version, _, size, pool_id, hash_key = _POOL.unpack_from(data)
    return check == xxh3_64_intdigest(data[8:64]), version, PoolHeader(size, pool_id, hash_key)


def pack_segment(pool_id: bytes, index: int, generation: int) -> bytes:
    """Return the 64 bytes of a segment's header."""
    rest = _SEGMENT.pack(0, SEGMENT_MAGIC, index, generation)[8:]
    return xxh3_64_intdigest(rest, seed_of(pool_id, 0)).to_bytes(8, "little") + rest


def unpack_segment(data: memoryview, pool_id: bytes, index: int) -> int:
    """Return the generation in a segment's header, or 0 if this is not a valid header of segment `index`."""
    check, magic, found, generation = _SEGMENT.unpack_from(data)
    valid = magic == SEGMENT_MAGIC and found == index and check == xxh3_64_intdigest(data[8:64], seed_of(pool_id, 0))
    return generation if valid else 0


def pack_frame(
    kind: int,
    flags: int,
    table: int,
    count: int,
    length: int,
    layer: int,
    lsn: int,
    durable: int,
    time: int,
    previous: int,
) -> bytes:
    """Return a frame's header with a zero checksum; `check_frame` computes it once the body is stored."""
    return _FRAME.pack(0, FRAME_MAGIC, kind, flags, table, count, length, layer, lsn, durable, time, previous)


def check_frame(data: memoryview, offset: int, length: int, seed: int) -> int:
    """Return the checksum of the frame at an offset of the pool, with a body of `length` bytes."""
    return xxh3_64_intdigest(data[offset + 8 : offset + 64 + length], (seed + offset) & 0xFFFFFFFFFFFFFFFF)


def begins_frame(view: memoryview, offset: int) -> bool:
    """Return whether a frame seems to begin at an offset: its magic is there."""
    return bytes(view[offset + 8 : offset + 10]) == FRAME_MAGIC.to_bytes(2, "little")


def begins_with_move(data: memoryview, offset: int) -> bool:
    """Return whether the header at an offset says that it is one of a MOVE frame; it may be damaged."""
    _, magic, kind, *_ = _FRAME.unpack_from(data, offset)
    return magic == FRAME_MAGIC and kind == Kind.MOVE


def unpack_frame(data: memoryview, offset: int, stop: int, seed: int) -> Frame | None:
    """Return the frame at an offset if its magic, length (within `stop`) and checksum are right, else None."""
    check, magic, kind, flags, table, count, length, layer, lsn, durable, time, previous = _FRAME.unpack_from(
        data, offset
    )
    if magic != FRAME_MAGIC or offset + 64 + length > stop or check != check_frame(data, offset, length, seed):
        return None
    return Frame(check, kind, flags, table, count, length, layer, lsn, durable, time, previous, offset)
