"""The table of every byte: sizes, round trips, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.log import format as f
from pmkv.log.format import Flag, Frame, Kind, PoolHeader

POOL_ID, HASH_KEY = bytes(range(16)), bytes(range(16, 32))
SEED = f.seed_of(POOL_ID, 1)


def test_headers_are_a_cache_line_and_their_fields_where_the_dtypes_say() -> None:
    packed = f.pack_frame(2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    read = np.frombuffer(packed, f.FRAME_HEADER)[0]
    assert read["magic"] == f.FRAME_MAGIC
    assert [int(read[name]) for name in f.FRAME_HEADER.names[2:]] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    pool = np.frombuffer(f.pack_pool(PoolHeader(1 << 20, POOL_ID, HASH_KEY)), f.POOL_HEADER)[0]
    assert (pool["magic"], pool["version"], pool["segment_size"]) == (f.POOL_MAGIC, f.VERSION, 1 << 20)
    assert (bytes(pool["pool_id"]), bytes(pool["hash_key"])) == (POOL_ID, HASH_KEY)
    segment = np.frombuffer(f.pack_segment(POOL_ID, 3, 9), f.SEGMENT_HEADER)[0]
    assert (segment["magic"], segment["index"], segment["generation"]) == (f.SEGMENT_MAGIC, 3, 9)


def test_offsets_never_move() -> None:
    # what is on a disk somewhere: a change here is another format version
    names = [f"{name}@{f.FRAME_HEADER.fields[name][1]}" for name in f.FRAME_HEADER.names]
    assert names == ["check@0", "magic@8", "kind@10", "flags@11", "table@12", "count@16", "length@20", "layer@24",
                     "lsn@32", "durable@40", "time@48", "previous@56"]  # fmt: skip
    assert [(kind.name, kind.value) for kind in Kind] == [
        ("PUT", 1), ("ROWS", 2), ("PART", 3), ("MOVE", 4), ("CONTROL", 5), ("OPEN", 6), ("MARK", 7), ("NEXT", 8),
    ]  # fmt: skip
    assert (Flag.MORE, Flag.DELETED, f.VERSION, f.HEADER_PAGE, f.ALIGN) == (1, 2, 1, 4096, 64)


@pytest.mark.parametrize("bit", range(0, 512, 7))
def test_a_flipped_bit_of_the_pools_header_is_noticed(bit: int) -> None:
    whole = f.pack_pool(PoolHeader(1 << 20, POOL_ID, HASH_KEY))
    assert f.unpack_pool(memoryview(whole)) == (True, 1, PoolHeader(1 << 20, POOL_ID, HASH_KEY))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    assert not f.unpack_pool(memoryview(damaged))[0]


@pytest.mark.parametrize("bit", range(0, 512, 5))
def test_a_flipped_bit_of_a_segments_header_is_noticed(bit: int) -> None:
    whole = f.pack_segment(POOL_ID, 3, 9)
    assert f.unpack_segment(memoryview(whole), POOL_ID, 3) == 9
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    assert f.unpack_segment(memoryview(damaged), POOL_ID, 3) == 0


def test_a_segments_header_belongs_to_its_place_and_pool() -> None:
    whole = memoryview(f.pack_segment(POOL_ID, 3, 9))
    assert f.unpack_segment(whole, POOL_ID, 4) == 0
    assert f.unpack_segment(whole, HASH_KEY, 3) == 0


def frame_at(offset: int, body: bytes, size: int = 512) -> np.ndarray:
    data = np.zeros(size, np.uint8)
    packed = f.pack_frame(Kind.MARK, 0, 0, 0, len(body), 0, 77, 76, 123, 99) + body
    data[offset : offset + len(packed)] = np.frombuffer(packed, np.uint8)
    check = f.check_frame(memoryview(data), offset, len(body), SEED)
    data[offset : offset + 8] = np.frombuffer(check.to_bytes(8, "little"), np.uint8)
    return data


def test_a_frame_is_read_as_it_was_written() -> None:
    data = frame_at(128, b"a body")
    frame = f.unpack_frame(memoryview(data), 128, 512, SEED)
    assert isinstance(frame, Frame)
    assert (frame.lsn, frame.durable, frame.time, frame.previous, frame.length) == (77, 76, 123, 99, 6)
    assert (frame.body, frame.end) == (192, 256)


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    data = frame_at(128, b"a body")
    for bit in range(8 * 70):
        data[128 + bit // 8] ^= 1 << bit % 8
        assert f.unpack_frame(memoryview(data), 128, 512, SEED) is None, bit
        data[128 + bit // 8] ^= 1 << bit % 8
    assert f.unpack_frame(memoryview(data), 128, 512, SEED)


def test_a_frame_belongs_to_its_place_segment_generation_and_pool() -> None:
    data = frame_at(128, b"a body")
    data[256:326] = data[128:198]
    assert f.unpack_frame(memoryview(data), 256, 512, SEED) is None, "a copy further on"
    assert f.unpack_frame(memoryview(data), 128, 512, f.seed_of(POOL_ID, 2)) is None, "of a former generation"
    assert f.unpack_frame(memoryview(data), 128, 512, f.seed_of(HASH_KEY, 1)) is None, "of another pool"
    assert f.unpack_frame(memoryview(data), 128, 197, SEED) is None, "longer than its segment"


def test_nothing_reads_as_nothing() -> None:
    assert f.unpack_frame(memoryview(bytes(128)), 0, 128, SEED) is None
    assert 0 not in list(Kind)


@pytest.mark.parametrize(("length", "size"), [(0, 64), (1, 128), (64, 128), (65, 192)])
def test_frames_take_whole_cache_lines(length: int, size: int) -> None:
    assert f.frame_size(length) == size
