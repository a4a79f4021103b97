"""The log as a whole: epochs, marks, durability modes, locks."""

from __future__ import annotations

import pytest

from pmkv.errors import InvalidError
from pmkv.log.format import EPOCH_SHIFT, Kind, epoch_of
from tests.engines import (
    PAGE_SEGMENT,
    append,
    copy_of,
    frames,
    make_log,
)

SEGMENT = PAGE_SEGMENT


def test_every_open_begins_a_new_epoch_with_a_nonce_of_its_own() -> None:
    log = make_log()
    for epoch in range(2, 5):
        append(log)
        log.flush(log.lsn)
        log = make_log(copy_of(log.pool.medium))
        assert epoch_of(log.lsn) == epoch
    opens = [frame for frame in frames(log.pool.medium) if frame.kind == Kind.OPEN]
    assert [frame.lsn for frame in opens] == [epoch << EPOCH_SHIFT for epoch in range(1, 5)]
    assert len({log.data[frame.body : frame.body + 16].tobytes() for frame in opens}) == 4


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(InvalidError, match="'always': choose one of commit, interval, none"):
        make_log(durability="always")


def test_a_mark_covers_the_last_frame_once() -> None:
    log = make_log()
    last = append(log)
    log.mark()
    assert log.lsn == last, "not while something is pending"
    log.flush(last)
    assert not log.is_idle
    log.mark()
    log.mark()
    assert log.lsn == last + 1
    assert log.is_idle
    mark = frames(log.pool.medium)[-1]
    assert (mark.kind, mark.durable) == (Kind.MARK, last)


def test_parts_of_the_log_are_seen_through_its_face() -> None:
    log = make_log()
    append(log)
    assert (log.lsn, log.position) == (log.appender.lsn, log.appender.position)
    log.lsn = log.durable = 7
    assert (log.appender.lsn, log.group_commit.durable) == (7, 7)


def test_a_forked_child_has_locks_of_its_own() -> None:
    log = make_log()
    locks, publisher = log.locks, log.publisher
    with locks.append, locks.publish, locks.state:
        log.renew_locks()
        assert not (locks.append.is_held or locks.publish.is_held or locks.state.is_held)
        append(log)
    assert log.locks is locks and log.publisher is not publisher
