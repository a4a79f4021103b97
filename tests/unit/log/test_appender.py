"""The appender: frames, batches, segments and reserved space."""

from __future__ import annotations

import pytest

from pmkv.errors import FullError, InvalidError
from pmkv.log.format import EPOCH_SHIFT, MAX_BATCH, Flag, Kind
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool, Reserve
from tests.engines import (
    PAGE_SEGMENT,
    append,
    copy_of,
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


def test_a_frame_that_was_begun_and_never_filled_is_taken_back() -> None:
    # Ctrl-C reaches Python code anywhere
    log = make_log()

    def interrupted() -> None:
        log.begin(Kind.CONTROL, 10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), log.batch():
        append(log)
        log.begin(Kind.PUT, 100, count=4)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), log.locks.append, log.locks.state:
        log.atomic(interrupted)
    last = append(log)
    log.flush(last)
    log.check()
    found = list(Replay(Pool.load(copy_of(log.pool.medium))))
    assert [frame.kind for frame in found] == [Kind.OPEN, Kind.OPEN, Kind.OPEN, Kind.PART]
    assert found[-1].lsn == last == (3 << EPOCH_SHIFT) + 1


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


def test_the_log_keeps_room_for_itself_and_for_deletes() -> None:
    log = make_log(small_medium(4, SEGMENT))
    with pytest.raises(FullError):
        for _ in range(30):
            append(log, bytes(1000))
    with log.locks.append, log.locks.state:
        log.reserve([1000], Reserve.DELETE)
        log.begin(Kind.CONTROL, 1000, purpose=Reserve.DELETE)
        log.end()
        log.appender.commit()
    log.flush(log.lsn)
    log.mark()
    log.check()
    make_log(copy_of(log.pool.medium)).check()
