"""Waiting that is put off."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pmkv.log.durability import DurabilityWait
from tests.engines import PAGE_SEGMENT as SEGMENT
from tests.engines import Failing, append, at_the_same_time, make_log, small_medium


def test_nothing_is_waited_for_at_first() -> None:
    assert DurabilityWait().lsn == 0


def test_deferring_is_each_threads_own() -> None:
    log = make_log()
    with log.deferred() as seen, at_the_same_time(lambda: log.wait_durable(append(log))):
        pass
    assert seen.lsn == 0
    assert log.durable == log.lsn


def test_a_thread_that_never_pauses_rests_where_it_holds_nothing() -> None:
    log, rests = make_log(), []
    log.thread.fair_share = SimpleNamespace(is_long=lambda: True, yield_gil=lambda: rests.append(log.caller_holds_lock))
    log.wait_durable(0)
    assert rests == [False], "also where nothing is waited for"
    with log.locks.append:
        log.wait_durable(0)
    with log.locks.state:
        log.wait_durable(0)
    with log.deferred():
        log.wait_durable(0)
    assert rests == [False]
    log.wait_durable(append(log))
    assert rests == [False, False]


def test_a_stretch_is_each_threads_own() -> None:
    log, seen = make_log(), []
    with at_the_same_time(lambda: seen.append(log.thread.fair_share)):
        seen.append(log.thread.fair_share)
    assert seen[0] is not seen[1] and log.thread.fair_share in seen


def test_settling_waits_or_is_noted() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    first = append(log)
    with log.deferred() as outer:
        log.wait_durable(first)
        with log.deferred() as inner:
            second = append(log)
            log.wait_durable(second)
        assert (outer.lsn, inner.lsn) == (first, second)
        assert log.durable < first
    log.wait_durable(first)
    assert log.durable == second, "a flush takes all that was appended"
    with log.deferred() as nothing:
        log.wait_durable(second)
    assert nothing.lsn == 0


@pytest.mark.parametrize("durability", ["interval", "none"])
def test_without_commit_nothing_is_pending_and_nobody_waits(durability: str) -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium, durability)
    lsn = append(log)
    assert log.pending().tolist() == []
    log.wait_durable(lsn)
    assert log.durable < lsn
    assert (medium.durable[: log.position] == medium.data[: log.position]).all(), "it is the system's now"
    log.flush(lsn)
    assert log.durable == lsn


def test_a_wait_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        DurabilityWait().seen = 1
