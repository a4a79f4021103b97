"""MOVE frames: where they go, what an opening finds of them, and how a pass ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmkv.errors import CorruptionError, FullError
from pmkv.log.format import ALIGN, Flag, Kind, unpack_frame
from pmkv.log.log import Log
from pmkv.log.replay import MovedEnd, Replay
from pmkv.log.segments import Pool
from tests.engines import PAGE_SEGMENT, append, copy_of, make_log, small_medium


def move(log: Log, body: bytes, flags: int = Flag.RECORDS) -> None:
    def fill(at: int) -> None:
        log.data[at : at + len(body)] = memoryview(body)

    log.mover.append(flags, len(body), fill, table=3, layer=5, lsn=7, count=1)


def moved_frames(pool: Pool) -> list[tuple[int, bytes]]:
    found = []
    for index in pool.moved:
        at = pool.start(index) + ALIGN
        while frame := unpack_frame(memoryview(pool.medium.data), at, pool.stop(index), pool.seed(index)):
            assert (frame.kind, frame.durable) == (Kind.MOVE, 0)
            found.append((frame.flags, bytes(pool.medium.data[frame.body : frame.body + frame.length])))
            at = frame.end
    return found


def test_moved_frames_stand_in_segments_of_their_own_beside_the_log() -> None:
    log = make_log()
    append(log)
    for i in range(5):
        move(log, bytes([i]) * 1500)
    log.mover.seal(7)
    append(log)
    log.flush(log.lsn)
    assert len(log.pool.taken) == 1 and len(log.pool.moved) == 3 and log.mover.written >= 5 * 1500
    assert moved_frames(log.pool) == [(Flag.RECORDS, bytes([i]) * 1500) for i in range(5)] + [(0, b"")]
    assert Kind.MOVE not in {frame.kind for frame in Replay(Pool.load(copy_of(log.pool.medium)))}
    log.check()


def test_the_end_of_complete_passes_is_what_the_manifest_gets() -> None:
    log = make_log()
    assert log.mover.end() == MovedEnd() and log.mover.open_segments == set()
    move(log, b"first pass")
    assert log.mover.end().last == 0, "not sealed"
    log.mover.seal(7)
    end = log.mover.end()
    assert end.last > 0 and [index for index, *_ in end.segments] == log.pool.moved
    move(log, b"second pass")
    assert (log.mover.end().last, log.mover.end().check) == (end.last, end.check)
    assert log.mover.open_segments == set(log.pool.moved)


def test_the_next_process_goes_on_behind_the_last_complete_pass() -> None:
    log = make_log()
    move(log, b"complete")
    log.mover.seal(7)
    end = log.mover.end()
    move(log, b"in vain")
    log.mover.resume(end)
    move(log, b"another")
    assert len(log.pool.moved) == 2, "where the same bytes may stand, and never became durable, nothing is written"
    assert moved_frames(log.pool)[:2] == [(Flag.RECORDS, b"complete"), (0, b"")]
    assert moved_frames(log.pool)[-1] == (Flag.RECORDS, b"another")


def test_a_pass_that_moved_nothing_needs_no_end() -> None:
    log = make_log()
    log.mover.seal(7)
    assert log.mover.end() == MovedEnd()
    move(log, b"body")
    log.mover.seal(7)
    end = log.mover.end()
    log.mover.resume(end)
    log.mover.seal(8)
    assert log.mover.end() == end


def test_an_opening_refuses_a_pool_without_all_that_was_moved() -> None:
    log = make_log()
    older = copy_of(log.pool.medium)
    move(log, b"body")
    log.mover.seal(7)
    end, pool = log.mover.end(), Pool.load(copy_of(log.pool.medium))
    end.verify(pool)
    index = pool.moved = log.pool.moved[0]
    with pytest.raises(CorruptionError, match="generation 2, its header has 1"):
        replace(end, segments=[[index, 2, 0]]).verify(pool)
    pool.medium.data[end.last + 9] ^= 1
    with pytest.raises(CorruptionError, match="older copy than the catalog"):
        end.verify(pool)
    with pytest.raises(CorruptionError):
        end.verify(Pool.load(older))


def test_one_segment_stays_free_for_the_log() -> None:
    log = make_log(small_medium(5, PAGE_SEGMENT))
    with pytest.raises(FullError, match="the pool is full"):
        for _ in range(20):
            move(log, bytes(2000))
    assert log.pool.free == 1
    log.check()


def test_bodies_fill_the_rest_of_a_segment() -> None:
    log = make_log()
    limit = log.frame_limit
    assert log.mover.next_body(limit) == limit, "the next segment is not begun"
    segments, moved = 0, 0
    while log.mover.taken < 4:
        body = log.mover.next_body(limit)
        assert limit // 8 <= body <= limit
        if log.mover.taken == 3 and body < limit:
            break
        move(log, bytes(body))
        segments, moved = log.mover.taken, moved + body
    assert segments == 3
    log.mover.seal(7)
    for index in log.pool.moved[:2]:
        assert log.pool.stop(index) - log.mover.end_of(index) < limit // 4
