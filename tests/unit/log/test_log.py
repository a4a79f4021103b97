"""The log: frames, groups, batches, segments, waiting, and what a failed flush does."""

from __future__ import annotations

import threading
import time
from unittest.mock import patch

import numpy as np
import pytest

from pmkv.errors import ClosedError, FlushError, FullError, InvalidError, ReadOnlyError
from pmkv.log import log as writer
from pmkv.log.format import EPOCH_SHIFT, MAX_BATCH, Flag, Kind, epoch_of
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool, Reserve
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


def test_frames_are_numbered_and_linked_from_the_first_open() -> None:
    log = make_log()
    for i in range(5):
        assert append(log, b"x" * i, table=3, layer=4, count=5) == (1 << EPOCH_SHIFT) + 1 + i
    log.flush(log.lsn)
    found = frames(log.pool.medium)
    assert found[0].kind == Kind.OPEN
    assert found[0].lsn == 1 << EPOCH_SHIFT
    assert [frame.previous for frame in found] == [0, *(frame.check for frame in found[:-1])]
    assert {(frame.table, frame.layer, frame.count, frame.time) for frame in found[1:]} == {(3, 4, 5, 1000)}
    log.check()


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


def test_a_frame_says_up_to_where_the_log_was_durable() -> None:
    log = make_log()
    first = append(log)
    append(log)
    log.flush(first)
    third = append(log)
    log.flush(third)
    durable = [frame.durable for frame in frames(log.pool.medium)]
    assert durable == [0, first - 1, first - 1, third - 1]


def test_next_leads_over_segments() -> None:
    log = make_log()
    for _ in range(10):
        append(log, bytes(1000))
    log.flush(log.lsn)
    found = frames(log.pool.medium)
    nexts = [frame for frame in found if frame.kind == Kind.NEXT]
    assert len(nexts) == len(log.pool.taken) - 1 >= 3
    assert all(frame.end <= log.pool.stop((frame.offset - 4096) // SEGMENT) for frame in found)
    replay = Replay(Pool.load(copy_of(log.pool.medium)))
    assert [frame.lsn for frame in replay] == [frame.lsn for frame in found]
    assert replay.segments == log.pool.taken
    assert replay.position == log.position


@pytest.mark.parametrize("length", range(3500, 4100, 16))
def test_a_frame_goes_in_exactly_while_next_fits_behind_it(length: int) -> None:
    log, room = make_log(), SEGMENT - 64 - 128
    if (64 + length + 63) // 64 * 64 > room:
        with pytest.raises(InvalidError, match=f"{length:,} bytes do not fit in one frame: segments of this pool"):
            append(log, bytes(length))
        return
    append(log, bytes(length))
    append(log, bytes(length))
    log.check()


def test_batches_say_more_in_all_but_the_last_frame_across_segments() -> None:
    log = make_log()
    with log.batch():
        for _ in range(6):
            append(log, bytes(1000))
    append(log)
    log.flush(log.lsn)
    found = frames(log.pool.medium)[1:]
    assert Kind.NEXT in {frame.kind for frame in found}
    assert [frame.flags & Flag.MORE for frame in found] == [1] * (len(found) - 2) + [0, 0]


def test_batches_nest_and_an_empty_one_writes_nothing() -> None:
    log = make_log()
    before = log.lsn
    with log.batch(), log.batch():
        pass
    assert log.lsn == before
    with log.batch():
        append(log)
        with log.batch():
            append(log)
        append(log)
    log.flush(log.lsn)
    assert [frame.flags for frame in frames(log.pool.medium)] == [0, 1, 1, 0]


def test_a_frame_that_was_begun_and_never_filled_means_nothing() -> None:
    # Ctrl-C reaches Python code anywhere
    log = make_log()
    with pytest.raises(KeyboardInterrupt), log.batch():
        append(log)
        log.begin(Kind.PUT, 100, count=4)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), log.locks.append, log.locks.state:
        log.begin(Kind.CONTROL, 10)
        raise KeyboardInterrupt
    last = append(log)
    log.flush(last)
    found = list(Replay(Pool.load(copy_of(log.pool.medium))))
    assert [frame.kind for frame in found] == [Kind.OPEN, Kind.PART, Kind.MARK, Kind.MARK, Kind.PART]
    assert found[-1].lsn == last


def test_space_is_reserved_before_the_first_frame() -> None:
    log = make_log()
    before = log.lsn, log.position
    with pytest.raises(FullError), log.locks.append, log.locks.state:
        log.reserve([1000] * 30)
    with pytest.raises(FullError), log.batch(30_000):
        pass
    assert (log.lsn, log.position) == before
    with log.locks.append, log.locks.state:
        log.reserve([1000] * 8)


@pytest.mark.parametrize("length", [100, 1000, 1900, 2100, 3000, 3800])
def test_what_a_batch_reserved_is_there(length: int) -> None:
    """Frames of any length that a segment takes, until the reservation is used up."""
    for used in range(0, 3600, 400):
        log = make_log(small_medium(10, SEGMENT))
        append(log, bytes(used))
        size = (64 + length + 63) // 64 * 64
        for count in range(1, 12):
            try:
                with log.batch(count * size):
                    break_at = log.lsn
                    for _ in range(count):
                        append(log, bytes(length))
            except FullError:
                assert log.lsn == break_at or log.lsn < break_at + 1, f"{count} frames of {length} behind {used}"
                break
            break_at = log.lsn


def test_a_batch_that_could_not_be_atomic_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"a batch of 16,777,217 bytes is too long to be atomic: at most 16,777,216"):
        make_log().batch(MAX_BATCH + 1).__enter__()


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


def test_settling_waits_or_is_noted() -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    first = append(log)
    with log.deferred() as outer:
        log.settle(first)
        with log.deferred() as inner:
            second = append(log)
            log.settle(second)
        assert (outer.lsn, inner.lsn) == (first, second)
        assert log.durable < first
    log.settle(first)
    assert log.durable == second, "a flush takes all that was appended"
    with log.deferred() as nothing:
        log.settle(second)
    assert nothing.lsn == 0


def test_many_writers_share_flushes() -> None:
    medium = Failing(small_medium(64, SEGMENT))
    log = make_log(medium)
    medium.slow = 0.01

    def write() -> None:
        for _ in range(10):
            log.settle(append(log))

    with at_the_same_time(*[write] * 8):
        pass
    assert log.durable == log.lsn
    assert log.flushes < 60, "80 waits, far fewer flushes"


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
    log._take()
    last, before = append(log), log.flushes
    assert log.pending()[:, 0].tolist() == [log._in_flight[0][0], log._gathered[0][0]]
    log.flush(first)
    assert (log.durable, log.flushes) == (first, before + 1)
    log._take()
    log.flush(last)
    assert (log.durable, log.flushes, log.pending().size) == (last, before + 2, 0)


def test_what_a_medium_stored_its_own_way_is_counted_with_its_group() -> None:
    log = make_log(small_medium(8, SEGMENT))
    with patch.object(log.pool.medium, "store", lambda at, raw: raw.size), patch.object(writer, "LARGE", 1):
        for _ in range(3):
            with log.locks.append, log.locks.state:
                log.store(log.begin(Kind.PART, 2000), np.ones(2000, np.uint8))
                log.end()
            if log._in_flight:
                log._flush_group()
                assert log._ahead.length == 0, "all of it was stored so: nothing is to be made ready"
            log._take()


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


@pytest.mark.parametrize("durability", ["interval", "none"])
def test_without_commit_nothing_is_pending_and_nobody_waits(durability: str) -> None:
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium, durability)
    lsn = append(log)
    assert log.pending().tolist() == []
    log.settle(lsn)
    assert log.durable < lsn
    assert (medium.durable[: log.position] == medium.data[: log.position]).all(), "it is the system's now"
    log.flush(lsn)
    assert log.durable == lsn


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


def test_the_first_frame_behind_a_mark_is_told() -> None:
    log, busy = make_log(), []
    log.on_busy = lambda: busy.append(log.lsn)
    append(log)
    log.flush(log.lsn)
    log.mark()
    assert busy == []
    append(log)
    append(log)
    assert len(busy) == 1


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


@pytest.mark.parametrize("what", ["frame", "flush"])
def test_growing_makes_durable_what_was_interrupted(what: str) -> None:
    """Nothing of it may stay in the mapping that goes."""
    medium = Failing(small_medium(8, SEGMENT))
    log = make_log(medium)
    if what == "frame":
        with log.locks.append, log.locks.state:
            lost = log.lsn + 1
            log.begin(Kind.PART, 100)
    else:
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
    with log.locks.append, log.locks.state, patch.object(writer, "LARGE", raw.size):
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


def test_the_log_keeps_room_for_itself_and_for_deletes() -> None:
    log = make_log(small_medium(4, SEGMENT))
    with pytest.raises(FullError):
        for _ in range(30):
            append(log, bytes(1000))
    with log.locks.append, log.locks.state:
        log.reserve([1000], Reserve.DELETE)
        log.begin(Kind.CONTROL, 1000, purpose=Reserve.DELETE)
        log.end()
    log.flush(log.lsn)
    log.mark()
    log.check()
    make_log(copy_of(log.pool.medium)).check()


def test_closed_and_readonly_logs_say_so() -> None:
    log = make_log()
    log.readonly = "it was opened readonly"
    log.guard_read()
    with pytest.raises(ReadOnlyError, match="it was opened readonly"):
        log.guard_write()
    log.closed = "it is closed"
    for guard in (log.guard_read, log.guard_write):
        with pytest.raises(ClosedError, match="it is closed"):
            guard()


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
