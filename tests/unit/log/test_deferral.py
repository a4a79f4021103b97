"""Waiting that is put off."""

from __future__ import annotations

from pmkv.log.deferral import Deferral
from tests.engines import append, at_the_same_time, make_log


def test_nothing_is_waited_for_at_first() -> None:
    assert Deferral().lsn == 0


def test_deferring_is_each_threads_own() -> None:
    log = make_log()
    with log.deferred() as seen, at_the_same_time(lambda: log.settle(append(log))):
        pass
    assert seen.lsn == 0
    assert log.durable == log.lsn
