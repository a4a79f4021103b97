"""The pool: made, loaded, its segments taken, kept back, prepared ahead and added."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from pmkv.errors import CorruptionError, FormatError, FullError
from pmkv.log.format import HEADER_PAGE, Kind, pack_frame
from pmkv.log.segments import (
    FAST_LOG_BYTES_PER_S,
    MIN_SEGMENT_SIZE,
    SEGMENT_SIZE,
    Pool,
    Reserve,
    is_prepared,
    segment_size_for,
)
from pmkv.media.memory import MemoryMedium
from tests.engines import SEGMENT, copy_of, small_medium


@pytest.fixture
def pool() -> Pool:
    return Pool.create(small_medium(segments=8), SEGMENT)


@pytest.mark.parametrize(
    ("capacity", "size"),
    [(1 << 40, SEGMENT_SIZE), (1 << 34, (1 << 26) - 4096), (1 << 30, (1 << 22) - 4096), (1 << 21, MIN_SEGMENT_SIZE)],
)
def test_a_small_pool_has_smaller_segments(capacity: int, size: int) -> None:
    assert segment_size_for(capacity) == size
    assert size % HEADER_PAGE == 0


def test_a_pool_is_found_again(pool: Pool) -> None:
    for _ in range(3):
        pool.take(Reserve.WRITE)
    again = Pool.load(copy_of(pool.medium))
    assert (again.pool_id, again.hash_key, again.segment_size) == (pool.pool_id, pool.hash_key, SEGMENT)
    assert again.generations == pool.generations
    again.adopt([0, 1, 2])
    again.check()
    assert again.free == pool.free == 5
    assert again.take(Reserve.WRITE) == pool.take(Reserve.WRITE)


def test_pools_differ_in_their_ids_and_keys() -> None:
    pools = [Pool.create(small_medium(), SEGMENT) for _ in range(4)]
    assert len({pool.pool_id for pool in pools}) == len({pool.hash_key for pool in pools}) == 4


def test_a_medium_too_small_is_refused() -> None:
    with pytest.raises(FullError, match=r"too small: it needs 4 segments of 262,144 bytes"):
        Pool.create(MemoryMedium(1 << 19))


def test_a_damaged_header_and_another_version_are_told_apart(pool: Pool) -> None:
    damaged = copy_of(pool.medium)
    damaged.data[30] ^= 1
    with pytest.raises(CorruptionError, match="header"):
        Pool.load(damaged)
    header = bytearray(bytes(pool.medium.data[:64]))
    header[16] = 2
    header[:8] = xxh3_64_intdigest(bytes(header[8:])).to_bytes(8, "little")
    newer = copy_of(pool.medium)
    newer.data[:64] = np.frombuffer(bytes(header), np.uint8)
    with pytest.raises(FormatError, match="format version 2, this pmkv reads version 1"):
        Pool.load(newer)


def test_an_unfinished_pool_is_told_from_foreign_bytes(pool: Pool) -> None:
    medium = small_medium()
    assert Pool.is_unfinished(medium)
    assert not Pool.is_pool(medium)
    assert Pool.is_unfinished(pool.medium), "a header, and no segment"
    pool.take(Reserve.WRITE)
    assert not Pool.is_unfinished(pool.medium)
    medium.data[:20] = np.frombuffer(b"\x89PNG\r\n\x1a\n holiday pic", np.uint8)[:20]
    assert not Pool.is_unfinished(medium)


def test_a_log_whose_segments_have_no_whole_header_any_more_is_data_nevertheless(pool: Pool) -> None:
    index = pool.take(Reserve.LOG)
    start = pool.start(index)
    pool.medium.data[start + 64 : start + 72] = 1
    for index in pool.generations:
        pool.medium.data[pool.start(index)] ^= 1
    assert not Pool.load(pool.medium).generations and not Pool.is_unfinished(pool.medium)


def test_segments_lie_side_by_side_and_are_whole_when_taken(pool: Pool) -> None:
    assert pool.count == 8
    assert pool.start(0) == HEADER_PAGE
    assert all(pool.stop(i) == pool.start(i + 1) for i in range(7))
    assert pool.stop(7) == pool.medium.data.size
    assert [pool.take(Reserve.LOG) for _ in range(8)] == list(range(8))
    pool.check()


def test_three_segments_are_kept_back(pool: Pool) -> None:
    for purpose, left in ((Reserve.WRITE, 3), (Reserve.DELETE, 2), (Reserve.CLEAN, 1), (Reserve.LOG, 0)):
        while pool.free > left:
            pool.take(purpose)
        with pytest.raises(FullError, match=r"the pool is full: .* open the store with a larger capacity"):
            pool.take(purpose)
        assert pool.free == left
        pool.check()


def test_what_is_kept_back_is_prepared_before_the_disk_is_full(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.take(Reserve.LOG)
    pool.take(Reserve.WRITE)

    def full(start: int, stop: int, fill: bool) -> None:
        raise FullError("no room on the disk")

    monkeypatch.setattr(pool.medium, "prepare", full)
    with pytest.raises(FullError, match="disk"):
        pool.make_ready(3, Reserve.WRITE)
    pool.take(Reserve.DELETE)
    pool.check()


def test_a_failed_preparation_loses_no_segment(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pool.medium, "prepare", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "EIO")))
        with pytest.raises(OSError, match="EIO"):
            pool.take(Reserve.WRITE)
    pool.check()
    assert pool.take(Reserve.WRITE) == 0


def test_one_more_than_is_kept_back_is_prepared_ahead(pool: Pool) -> None:
    while pool.preallocate_segment():
        pass
    assert sorted(pool.generations) == [0, 1, 2, 3]
    taken = []
    pool.on_take = lambda: taken.append(pool.taken[-1])
    pool.take(Reserve.WRITE)
    assert taken == [0]
    assert pool.preallocate_segment()
    assert not pool.preallocate_segment()
    pool.check()


def test_a_grown_pool_has_more_segments(pool: Pool) -> None:
    while pool.free > Reserve.WRITE:
        pool.take(Reserve.WRITE)
    pool.grow(HEADER_PAGE + 12 * SEGMENT + 100)
    assert pool.count == 12
    assert [pool.take(Reserve.WRITE) for _ in range(4)] == [5, 6, 7, 8]
    pool.check()


def test_seeds_differ_by_segment_generation_only(pool: Pool) -> None:
    first, second = pool.take(Reserve.WRITE), pool.take(Reserve.WRITE)
    assert pool.seed(first) == pool.seed(second), "the offset is added for each frame"


def test_the_check_notices_a_damaged_header_and_a_lost_segment(pool: Pool) -> None:
    pool.take(Reserve.WRITE)
    pool.medium.data[pool.start(0) + 20] ^= 1
    with pytest.raises(AssertionError, match="segment 0"):
        pool.check()
    pool.medium.data[pool.start(0) + 20] ^= 1
    pool.taken.clear()
    with pytest.raises(AssertionError, match="lost"):
        pool.check()


def test_a_writer_in_need_does_not_wait_for_the_background_thread(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.take(Reserve.WRITE)
    begun, go_on = threading.Event(), threading.Event()
    prepare = pool.medium.prepare

    def patient(start: int, stop: int, fill: bool = True) -> None:
        if threading.current_thread() is background:
            begun.set()
            assert go_on.wait(5)
        prepare(start, stop, fill)

    monkeypatch.setattr(pool.medium, "prepare", patient)
    background = threading.Thread(target=pool._prepare_one)
    background.start()
    assert begun.wait(5)
    free = pool.free
    assert pool.take(Reserve.WRITE) and pool.free == free - 1
    pool.check()
    go_on.set()
    background.join()
    pool.check()
    while pool.free > Reserve.WRITE:
        pool.take(Reserve.WRITE)
    assert sorted(pool.taken + pool._ready) == list(range(pool.count))


def test_the_last_segment_is_waited_for(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    while len(pool._free) > 1:
        pool._prepare_one()
    prepare, begun = pool.medium.prepare, threading.Event()

    def slow(start: int, stop: int, fill: bool = True) -> None:
        begun.set()
        time.sleep(0.02)
        prepare(start, stop, fill)

    monkeypatch.setattr(pool.medium, "prepare", slow)
    background = threading.Thread(target=pool._prepare_one)
    background.start()
    assert begun.wait(5)
    taken = [pool.take(Reserve.LOG) for _ in range(pool.count)]
    background.join()
    assert sorted(taken) == list(range(pool.count))


def test_zeros_are_written_ahead_of_a_slow_log_only(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[bool] = []
    clock = [1000.0]
    monkeypatch.setattr("pmkv.log.segments.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(pool.medium, "prepare", lambda start, stop, fill: filled.append(fill))
    pool.take(Reserve.WRITE)
    for seconds in (2.0, 1e-6):
        clock[0] += seconds * SEGMENT / FAST_LOG_BYTES_PER_S
        pool.take(Reserve.WRITE)
        filled.clear()
        assert pool._prepare_one() and filled == [seconds > 1]
    clock[0] += 2.0 * SEGMENT / FAST_LOG_BYTES_PER_S
    pool.take(Reserve.WRITE)
    filled.clear()
    pool.make_ready(len(pool._ready) + 1 - Reserve.WRITE, Reserve.WRITE)
    assert filled == [False], "somebody waits for it"


def test_a_retired_segment_is_used_again_when_the_last_reader_is_gone(pool: Pool) -> None:
    first, second, third = (pool.take(Reserve.LOG) for _ in range(3))
    seed, reader = pool.seed(first), pool.leases.current
    pool.medium.data[pool.start(first) + 64 : pool.stop(first)] = 7
    pool.retire([first])
    assert list(pool.recycle()) == [] and pool.taken == [second, third] and pool.free == 5
    pool.check()
    del reader
    assert list(pool.recycle()) == [first] and pool.free == 6
    pool.check()
    while first not in pool.generations:
        pool._prepare_one()
    assert pool.generations[first] == 2 and pool.seed(first) != seed
    assert not pool.medium.data[pool.start(first) + 64 : pool.stop(first)].any()
    pool.check()


def test_a_reader_from_before_holds_back_what_is_retired_later(pool: Pool) -> None:
    segments, reader = [pool.take(Reserve.LOG) for _ in range(3)], pool.leases.current
    pool.retire(segments[:1])
    pool.retire(segments[1:2])
    assert list(pool.recycle()) == []
    del reader
    assert list(pool.recycle()) == segments[:2]


def test_after_a_replay_retired_segments_are_prepared_anew(pool: Pool) -> None:
    for _ in range(4):
        pool.take(Reserve.LOG)
    again = Pool.load(copy_of(pool.medium))
    again.adopt([1], [2], {3: 2})
    assert again.free == 6 and is_prepared(again, 0) and 3 in again._free and 3 not in again.generations
    again.check()
    while again._free:
        again._prepare_one()
    assert again.generations == {0: 1, 1: 1, 2: 1, 3: 2, **dict.fromkeys(range(4, 8), 1)}


def test_a_segment_that_a_cleaner_filled_in_vain_is_prepared_anew(pool: Pool) -> None:
    index = pool.take_for_moving()
    at = pool.start(index) + 64
    pool.medium.data[at : at + 64] = np.frombuffer(pack_frame(Kind.MOVE, 0, 0, 0, 0, 0, 0, 0, 0, 0), np.uint8)
    again = Pool.load(copy_of(pool.medium))
    again.adopt([])
    assert index in again._free and again.reused[index] == 2


def test_writers_leave_what_is_promised_to_the_cleaner(pool: Pool) -> None:
    pool.promised = 2
    while pool.free > Reserve.WRITE + 2:
        pool.take(Reserve.WRITE)
    assert pool.is_scarce
    with pytest.raises(FullError):
        pool.take(Reserve.WRITE)
    assert pool.take_for_moving() == pool.moved[-1] and pool.promised == 1
    pool.take(Reserve.DELETE)
