"""Writes that an exception interrupts, on a log alone; with an engine above it: tests/crash/test_interrupt.py."""

from __future__ import annotations

import threading

import pytest

from pmkv.errors import AbortedError, InvalidError
from pmkv.log.format import EPOCH_SHIFT, MAX_BATCH, Kind
from pmkv.log.log import Log
from tests.engines import PAGE_SEGMENT, append, make_log, small_medium


def interrupted(log: Log, length: int = 100) -> None:
    log.begin(Kind.PART, length)
    raise KeyboardInterrupt


def test_what_was_appended_before_an_exception_is_taken_back() -> None:
    log = make_log()
    before = append(log), log.position
    with pytest.raises(KeyboardInterrupt), log.locks.append, log.locks.state:
        log.atomic(lambda: interrupted(log))
    assert log.lsn == 2 << EPOCH_SHIFT and log.appender.position == before[1] + 128, "an OPEN frame stands there now"
    assert not log.access.interrupted and append(log) == (2 << EPOCH_SHIFT) + 1
    log.check()


def test_an_exception_before_anything_was_appended_changes_nothing() -> None:
    log = make_log()
    lsn = append(log)
    with pytest.raises(ZeroDivisionError), log.batch():
        1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError):
        log.run_batch(lambda: 1 / 0)
    assert log.lsn == lsn


def test_segments_that_were_taken_are_given_back() -> None:
    log = make_log(small_medium(12, PAGE_SEGMENT))
    free = log.pool.free
    with pytest.raises(KeyboardInterrupt), log.batch():
        while log.pool.free > free - 3:
            append(log, bytes(1000))
        raise KeyboardInterrupt
    assert log.pool.free == free
    log.check()
    log.flush(append(log))


def test_a_batch_that_goes_on_after_an_interrupted_write_is_not_written() -> None:
    log = make_log()
    lsn = append(log)
    with pytest.raises(AbortedError, match="an earlier write of this batch was interrupted"), log.batch():
        append(log)
        with pytest.raises(KeyboardInterrupt):
            log.atomic(lambda: interrupted(log))
        with pytest.raises(AbortedError):
            append(log)
    assert log.lsn > lsn and log.appender.committed.lsn == log.lsn and not log.access.interrupted


def test_an_abort_that_is_interrupted_is_finished_by_whoever_comes_next() -> None:
    log, calls = make_log(), []

    def again() -> None:
        calls.append(log.lsn)
        if len(calls) == 1:
            raise KeyboardInterrupt

    log.on_cut = again
    with pytest.raises(KeyboardInterrupt), log.locks.append, log.locks.state:
        log.atomic(lambda: interrupted(log))
    assert log.access.interrupted
    thread = threading.Thread(target=log.guard_read)
    thread.start()
    thread.join(10)
    assert not log.access.interrupted and len(calls) == 2
    log.flush(append(log))


def test_a_reader_that_cannot_wait_is_told_to_try_again() -> None:
    log, seen = make_log(), []
    log.access.interrupted = True

    def read() -> None:
        with log.locks.state, pytest.raises(AbortedError, match="try again"):
            log.guard_read()
        seen.append(True)

    with log.locks.append:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(10)
    assert seen
    log.guard_read()
    assert not log.access.interrupted


def test_a_batch_too_long_to_be_atomic_is_refused() -> None:
    with pytest.raises(InvalidError, match="too long to be atomic"):
        make_log().run_batch(lambda: None, MAX_BATCH + 1)
