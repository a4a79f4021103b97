"""Long values: parts, their list, and what a crash between them leaves."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.keyspace import OWNER
from pmkv.errors import CorruptionError, FullError
from pmkv.log import large_values
from pmkv.log.format import MAX_VALUE, PART_SIZE, Kind
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool
from pmkv.media.memory import MemoryMedium

SEGMENT = 1 << 16


@pytest.fixture
def medium() -> MemoryMedium:
    return MemoryMedium(1 << 22)


@pytest.fixture
def engine(medium: MemoryMedium) -> Engine:
    return Engine.on_medium(medium, segment_size=SEGMENT)


def test_a_part_fits_its_segment(engine: Engine) -> None:
    assert large_values.chunk_size(engine.log) == SEGMENT // 4 < PART_SIZE
    assert MAX_VALUE // PART_SIZE * 8 + 8 < PART_SIZE  # the list of the longest value is itself no long value


@pytest.mark.parametrize("length", [SEGMENT // 4 + 1, SEGMENT // 2, SEGMENT // 2 + 1, 1_000_000])
def test_long_values_come_back_also_after_a_restart(medium: MemoryMedium, engine: Engine, length: int) -> None:
    value = random.Random(length).randbytes(length)
    space = engine.keyspaces[2]
    space.put(b"long", value, ttl=1000)
    space.put(b"short", b"s")
    assert space.get(b"long") == value and space.size(b"long") == length
    again = Engine.on_medium(medium).keyspaces[2]
    assert again.get(b"long") == value and again.size(b"long") == length and len(again) == 2
    assert again.expiry(b"long") == space.expiry(b"long")


def test_every_part_is_its_own_group(medium: MemoryMedium, engine: Engine) -> None:
    before = engine.log.flushes
    engine.keyspaces[0].put(b"k", bytes(SEGMENT))
    assert engine.log.flushes - before == 5  # four parts, and the record that lists them


def test_nothing_of_a_value_exists_before_its_list(medium: MemoryMedium, engine: Engine) -> None:
    space = engine.keyspaces[0]
    space.put(b"k", b"old")
    large_values.write(engine.log, 0, space.layer, np.uint64(OWNER), bytes(SEGMENT), SEGMENT // 4)
    again = Engine.on_medium(medium)
    assert again.keyspaces[0].get(b"k") == b"old" and len(again.keyspaces[0]) == 1


def test_in_a_batch_the_parts_belong_to_it(medium: MemoryMedium, engine: Engine) -> None:
    before = engine.log.flushes
    with engine.batch():
        engine.keyspaces[0].put(b"a", bytes(SEGMENT // 2))
        engine.keyspaces[0].put(b"b", b"1")
    assert engine.log.flushes - before == 1
    assert Engine.on_medium(medium).keyspaces[0].get(b"a") == bytes(SEGMENT // 2)


def test_a_damaged_part_is_reported(medium: MemoryMedium, engine: Engine) -> None:
    engine.keyspaces[0].put(b"k", bytes(SEGMENT))
    frames = [frame for frame in Replay(Pool.load(medium)) if frame.kind == Kind.PART]
    medium.data[frames[2].body + 77] ^= 1
    with pytest.raises(CorruptionError, match=r"part 2 of a value, at offset [\d,]+ of the pool, is damaged"):
        engine.keyspaces[0].get(b"k")


def test_a_value_that_does_not_fit_leaves_nothing(engine: Engine) -> None:
    space = engine.keyspaces[0]
    free = engine.pool.free
    with pytest.raises(FullError):
        space.put(b"k", bytes(5_000_000))
    assert len(space) == 0 and engine.pool.free == free
    space.put(b"k", bytes(1_000_000))
    assert space.size(b"k") == 1_000_000
