"""THE table of every byte in the pool. Nothing else knows an offset. docs/FORMAT.md has a worked example.

All numbers are little-endian. The pool: a header page, then segments of equal size. A segment: a header of 64
bytes, then frames, each
beginning at a multiple of 64. A frame: a header of 64 bytes and a body. Checksums are xxh3-64 over all bytes that
follow them
in their header (and the body); kind 0 is never written, so that zeros read as nothing.

A frame's checksum is seeded with the pool's id, the segment's generation and the frame's own offset: a copy of a
frame, in a value or
left over from a former use of the segment, is not a frame. `previous` is the checksum of the frame before it.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

VERSION = 1
ALIGN = 64
HEADER_PAGE = 4096  # the pool's header; segments begin behind it
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

EPOCH_SHIFT = 40  # an LSN is (epoch << 40) + the number of the frame in its epoch
MAX_KEY = 1 << 16
MAX_VALUE = 512 << 20
PART_SIZE = 1 << 20  # a longer value is cut into PART frames
MAX_FRAME = 1 << 20  # bodies are cut at about this size, so that little is left unused at a segment's end
MAX_BATCH = 16 << 20  # the longest atomic batch


class Kind(enum.IntEnum):
    """What a frame holds. Bodies: PUT records (kernels.records); ROWS `count` ids, then as many rows (none with
    DELETED);
    PART bytes of a value; MOVE records or rows moved by a fold; CONTROL a decision as JSON; OPEN a nonce; MARK
    nothing; NEXT a segment."""

    PUT = 1
    ROWS = 2
    PART = 3
    MOVE = 4
    CONTROL = 5
    OPEN = 6
    MARK = 7
    NEXT = 8


class Flag(enum.IntFlag):
    """MORE: the batch goes on in the next frame. DELETED: the ids of this ROWS frame are deleted."""

    MORE = 1
    DELETED = 2


class Frame(NamedTuple):
    """A frame's header as read; `offset` is where it begins in the pool, `body` where its body does."""

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
        return self.offset + FRAME_HEADER.itemsize

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return align(self.body + self.length)


class PoolHeader(NamedTuple):
    segment_size: int
    pool_id: bytes
    hash_key: bytes


def align(offset: int) -> int:
    """The next multiple of 64. Segments begin at multiples of 64 themselves."""
    return (offset + ALIGN - 1) & -ALIGN


def frame_size(length: int) -> int:
    """Bytes of the log that a frame with a body of `length` takes."""
    return align(FRAME_HEADER.itemsize + length)


def seed_of(pool_id: bytes, generation: int) -> int:
    """The part of a frame's seed that its segment shares; the offset is added."""
    return xxh3_64_intdigest(pool_id, generation)


def epoch_of(lsn: int) -> int:
    return lsn >> EPOCH_SHIFT


def pack_pool(header: PoolHeader) -> bytes:
    rest = _POOL.pack(0, POOL_MAGIC, VERSION, 0, *header)[8:]
    return xxh3_64_intdigest(rest).to_bytes(8, "little") + rest


def unpack_pool(data: memoryview) -> tuple[bool, int, PoolHeader]:
    """(whole, version, header); the magic has been looked at before."""
    check, _, version, _, size, pool_id, hash_key = _POOL.unpack_from(data)
    return check == xxh3_64_intdigest(data[8:64]), version, PoolHeader(size, pool_id, hash_key)


def pack_segment(pool_id: bytes, index: int, generation: int) -> bytes:
    rest = _SEGMENT.pack(0, SEGMENT_MAGIC, index, generation)[8:]
    return xxh3_64_intdigest(rest, seed_of(pool_id, 0)).to_bytes(8, "little") + rest


def unpack_segment(data: memoryview, pool_id: bytes, index: int) -> int:
    """The generation of a segment's header, or 0 where it is not a whole header of this segment."""
    check, magic, found, generation = _SEGMENT.unpack_from(data)
    whole = magic == SEGMENT_MAGIC and found == index and check == xxh3_64_intdigest(data[8:64], seed_of(pool_id, 0))
    return generation if whole else 0


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
    """A frame's header without its checksum, which `check_frame` makes when the body stands behind it."""
    return _FRAME.pack(0, FRAME_MAGIC, kind, flags, table, count, length, layer, lsn, durable, time, previous)


def check_frame(data: memoryview, offset: int, length: int, seed: int) -> int:
    """The checksum of the frame at an offset of the pool with a body of `length`."""
    return xxh3_64_intdigest(data[offset + 8 : offset + 64 + length], (seed + offset) & 0xFFFFFFFFFFFFFFFF)


def unpack_frame(data: memoryview, offset: int, stop: int, seed: int) -> Frame | None:
    """The frame at an offset, if its magic, length (within `stop`) and checksum hold."""
    check, magic, kind, flags, table, count, length, layer, lsn, durable, time, previous = _FRAME.unpack_from(
        data, offset
    )
    if magic != FRAME_MAGIC or offset + 64 + length > stop or check != check_frame(data, offset, length, seed):
        return None
    return Frame(check, kind, flags, table, count, length, layer, lsn, durable, time, previous, offset)
