"""Group commit: what is pending, what a flush takes, and what a failed flush does."""

from __future__ import annotations

import errno
import os
import threading
import time
from unittest.mock import patch

import numpy as np
import pytest

from pmkv.errors import FlushError, FullError, ReadOnlyError
from pmkv.log import appender as appender_module
from pmkv.log.format import Kind
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool
from tests.engines import (
    PAGE_SEGMENT,
    Failing,
    append,
    at_the_same_time,
    copy_of,
    eio,
    frames,
    make_log,
    small_medium,
)

SEGMENT = PAGE_SEGMENT


def test_pending_are_the_frames_above_durable() -> None:
    log = make_log()
    assert log.pending().tolist() == []
    start = log.position
    append(log, bytes(70))
    append(log, bytes(10))
    assert log.pending().tolist() == [[start, start + 192 + 74]]
    with log.batch():
        append(log)
        assert log.pending()[-1].tolist()[1] == log.position
    log.flush(log.lsn)
    assert log.pending().tolist() == []


def test_many_writers_share_flushes() -> None:
    medium = Failing(small_medium(64, SEGMENT))
    log = make_log(medium)
    medium.slow = 0.01

    def write() -> None:
        for _ in range(10):
            log.wait_durable(append(log))

    with at_the_same_time(*[write] * 8):
        pass
    assert log.durable == log.lsn
    assert log.flushes < 78, "80 waits, fewer flushes, even where the machine is busy"


def test_a_flush_interrupted_is_made_good_by_the_next_one() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    lost = append(log)
    medium.flush_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        log.flush(lost)
    medium.flush_error = None
    last = append(log)
    log.flush(last)
    medium.revert()
    assert [frame.lsn for frame in Replay(Pool.load(medium))][-2:] == [lost, last]


def test_what_was_taken_goes_first_and_alone() -> None:
    log = make_log(small_medium(8, SEGMENT))
    first = append(log)
    log.group_commit._take_group()
    last, before = append(log), log.flushes
    assert log.pending()[:, 0].tolist() == [log.group_commit._in_flight[0][0], log.group_commit._unflushed[0][0]]
    log.flush(first)
    assert (log.durable, log.flushes) == (first, before + 1)
    log.group_commit._take_group()
    log.flush(last)
    assert (log.durable, log.flushes, log.pending().size) == (last, before + 2, 0)


def test_what_a_medium_stored_its_own_way_is_counted_with_its_group() -> None:
    log = make_log(small_medium(8, SEGMENT))
    with (
        patch.object(log.pool.medium, "store", lambda at, raw: raw.size),
        patch.object(appender_module, "LARGE_BODY_BYTES", 1),
    ):
        for _ in range(3):
            with log.locks.append, log.locks.state:
                log.store(log.begin(Kind.PART, 2000), np.ones(2000, np.uint8))
                log.end()
                log.appender.commit()
            if log.group_commit._in_flight:
                log.group_commit._flush_group()
                assert log.group_commit.prefault.length == 0, "all of it was stored so: nothing is to be made ready"
            log.group_commit._take_group()


def test_a_failed_flush_is_told_to_all_and_ends_writing() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    told, back = [], []
    log.on_durable, log.on_failure = lambda: told.append(log.failed), lambda: back.append(log.durable)
    durable = append(log)
    log.flush(durable)
    medium.slow, medium.flush_error = 0.05, eio()
    lost = append(log)

    def waits() -> None:
        with pytest.raises(FlushError, match="whether the last writes survive is not known"):
            log.flush(lost)

    with at_the_same_time(waits, waits, waits):
        pass
    assert (back, log.lsn, log.durable) == ([durable], durable, durable)
    assert told[-1] is log.failed
    with pytest.raises(ReadOnlyError, match="the store is read-only since, at LSN"):
        log.guard_write()
    log.flush(durable)
    log.mark()
    assert log.lsn == durable


def test_a_flush_that_succeeds_after_another_part_of_the_medium_failed_does_not_declare_durable() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    before, lsn = log.durable, append(log)
    flush = medium.flush

    def overtaken(ranges: list[tuple[int, int]], sync: bool = True) -> None:
        """While the group is on its way, preparing a segment fails, and memory is taken back."""
        medium.flush, medium.prepare = flush, fail
        with pytest.raises(FlushError):
            log.preallocate_segment()
        flush(ranges, sync)

    def fail(start: int, stop: int, fill: bool) -> None:
        raise eio()

    medium.flush = overtaken
    with pytest.raises(FlushError):
        log.flush(lsn)
    assert log.durable == log.lsn == before
    with pytest.raises(ReadOnlyError):
        append(log)


def test_a_writer_that_was_on_its_way_when_the_flush_failed_writes_nothing() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    append(log)
    medium.flush_error = eio()
    log.guard_write()  # passed, then another thread's flush fails
    with pytest.raises(FlushError):
        log.flush(log.lsn)
    with pytest.raises(ReadOnlyError):
        append(log)
    assert log.pending().tolist() == []


def test_growing_makes_room_and_keeps_what_is_there() -> None:
    log = make_log(small_medium(4, SEGMENT))
    append(log, b"before the growth")
    with pytest.raises(FullError):
        for _ in range(20):
            append(log, bytes(1000))
    before = [frame.lsn for frame in frames(log.pool.medium)]
    log.grow(4096 + 10 * SEGMENT)
    append(log, bytes(1000))
    log.flush(log.lsn)
    log.check()
    assert [frame.lsn for frame in Replay(Pool.load(copy_of(log.pool.medium)))][: len(before)] == before


def test_growing_makes_durable_what_a_flush_left_when_it_was_interrupted() -> None:
    """Nothing of it may stay in the mapping that goes."""
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    lost = append(log)
    medium.flush_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        log.flush(lost)
    medium.flush_error = None
    log.grow(2 * medium.data.size)
    medium.revert()  # as a new mapping shows it
    last = append(log)
    log.flush(last)
    medium.revert()
    assert [frame.lsn for frame in Replay(Pool.load(medium))][-2:] == [lost, last]


def test_what_cannot_be_stored_ends_writing() -> None:
    medium = Failing(small_medium(8, PAGE_SEGMENT))
    log = make_log(medium)
    durable = append(log)
    log.flush(durable)
    raw = np.ones(512, np.uint8)
    medium.flush_error = eio()
    with log.locks.append, log.locks.state, patch.object(appender_module, "LARGE_BODY_BYTES", raw.size):
        at = log.begin(Kind.PART, raw.size)
        log.store(at, raw[1:])  # little is stored as ever
        with pytest.raises(FlushError, match="the medium refused a flush"):
            log.store(at, raw)
    assert (log.lsn, log.durable) == (durable, durable) and log.failed and log.readonly


def test_a_failed_flush_while_growing_ends_writing() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    append(log)
    medium.flush_error = eio()
    with pytest.raises(FlushError):
        log.grow(4096 + 10 * SEGMENT)
    assert log.readonly


def test_flushing_under_the_lock_is_a_mistake_of_ours() -> None:
    log = make_log()
    with log.locks.state, pytest.raises(AssertionError, match="under the lock"):
        log.flush(append(log))


def test_gathering_goes_on_while_a_flush_is_under_way() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    lsn, medium.slow = append(log), 0.3
    flush = threading.Thread(target=log.flush, args=(lsn,))
    flush.start()
    time.sleep(0.1)
    start = time.perf_counter()
    append(log)
    assert time.perf_counter() - start < 0.1
    flush.join()
    assert log.durable == lsn


@pytest.mark.parametrize("where", ["medium", "memory"])
def test_a_failure_inside_the_handling_of_a_failure_releases_everybody_and_ends_reading(where: str) -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    told: list[object] = []
    log.on_durable = lambda: told.append(log.failed)
    durable = append(log)
    log.flush(durable)

    def no_memory() -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    if where == "medium":
        medium.revert = no_memory
    else:
        log.on_failure = no_memory
    medium.slow, medium.flush_error = 0.05, eio()
    lost = append(log)

    def waits() -> None:
        with pytest.raises(FlushError, match=r"Nothing can be read either.*Cannot allocate memory"):
            log.flush(lost)

    with at_the_same_time(waits, waits, waits):
        pass
    assert (log.lsn, log.durable, told[-1]) == (durable, durable, log.failed)
    with pytest.raises(FlushError, match="Nothing can be read either"):
        log.guard_read()
    with pytest.raises(ReadOnlyError):
        append(log)


def test_a_hook_that_fails_does_not_fail_the_flush(caplog: pytest.LogCaptureFixture) -> None:
    log = make_log()

    def broken() -> None:
        raise RuntimeError("the loop is closed")

    log.on_durable = log.on_group = broken
    log.flush(append(log))
    assert log.durable == log.lsn
    assert len(caplog.records) == 2
