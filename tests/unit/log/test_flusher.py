"""The flush thread: flushes when kicked, syncs in intervals, marks what is idle, survives failures, ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from pmkv.errors import FlushError, FullError
from pmkv.log import flusher as module
from pmkv.log import group_commit
from pmkv.log import prefault as ahead
from pmkv.log.flusher import Flusher
from pmkv.log.format import Kind
from pmkv.log.log import Log
from tests.engines import PAGE_SEGMENT, Failing, append, eio, frames, make_log, small_medium


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.02)
    monkeypatch.setattr(module, "SYNC_INTERVAL_S", 0.02)


@pytest.fixture
def start() -> Iterator[Callable[[Log], Flusher]]:
    running: list[Flusher] = []

    def begin(log: Log) -> Flusher:
        running.append(Flusher(log))
        running[-1].start()
        return running[-1]

    yield begin
    for one in running:
        one.stop()
        assert not one.is_alive()


def a_medium() -> Failing:
    return Failing(small_medium(8, PAGE_SEGMENT))


def test_a_piece_becomes_durable_while_the_next_one_is_written(
    start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "FLUSH_PIECE_BYTES", 1)
    log = make_log(a_medium())
    start(log)
    first = append(log)
    log.flush_piece(first)

    def write() -> int:
        last = append(log)
        until(lambda: log.durable >= first)
        assert first == log.durable < last, "a batch is never flushed in parts"
        until(lambda: not log.group_commit._flushing.locked())  # the thread waits for nothing that is not complete
        return last

    with log.locks.append:
        last = log.atomic(lambda: log.joined(write))
    log.flush_piece(last, first)
    until(lambda: log.durable == last)
    assert [frame.lsn for frame in frames(log.pool.medium)][-2:] == [first, last]


def test_a_kick_makes_durable_what_was_appended(start: Callable) -> None:
    log = make_log(a_medium())
    told: list[int] = []
    log.on_durable = lambda: told.append(log.durable)
    thread = start(log)
    lsn = append(log)
    for _ in range(3):
        thread.kick()
    until(lambda: log.durable >= lsn)
    assert told


def test_an_idle_log_is_marked_once(start: Callable) -> None:
    log = make_log(a_medium())
    start(log)
    log.wait_durable(append(log))
    until(lambda: log.is_idle)
    marked = log.lsn
    time.sleep(0.1)
    assert log.lsn == marked
    log.wait_durable(append(log))
    until(lambda: log.is_idle)
    kinds = [frame.kind for frame in frames(log.pool.medium)]
    assert kinds[-2:] == [Kind.PART, Kind.MARK]
    assert kinds.count(Kind.MARK) <= 3


def test_an_interval_syncs_by_itself_and_marks(start: Callable) -> None:
    log = make_log(a_medium(), "interval")
    start(log)
    lsn = append(log)
    log.wait_durable(lsn)
    until(lambda: log.durable >= lsn)
    until(lambda: log.is_idle)


def test_none_never_syncs(start: Callable) -> None:
    log = make_log(a_medium(), "none")
    start(log)
    lsn = append(log)
    log.wait_durable(lsn)
    time.sleep(0.1)
    assert log.durable < lsn
    assert log.lsn == lsn, "and never marks"


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
def test_where_the_log_goes_on_is_made_ready_beside_the_writer(
    start: Callable, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    monkeypatch.setattr(ahead, "PREFAULT_MIN_BYTES", 4 << 10)
    log = make_log(medium := a_medium(), durability)
    thread = start(log)
    for _ in range(20):
        log.wait_durable(append(log, bytes(500)))
        until(lambda: log.position < max((stop for _, stop, _ in medium.ready), default=0))
    starts, stops, threads = zip(*medium.ready)
    assert all(a >= b for a, b in zip(starts[1:], stops)), "nothing twice"
    assert len(starts) < 20, "not at each group"
    assert durability == "commit" or set(threads[1:]) == {thread.ident}, "but for the first, of the opening"


def test_nothing_is_made_ready_for_what_is_stored_the_mediums_own_way(start: Callable) -> None:
    log = make_log(medium := a_medium())
    log.group_commit.prefault.follow([(0, 1 << 20)], 600 << 10)
    medium.ready.clear()
    start(log)
    for _ in range(3):
        log.prefault_pages()
    assert not medium.ready


def test_a_failed_flush_ends_the_log_and_not_the_thread(start: Callable) -> None:
    medium = a_medium()
    log = make_log(medium)
    thread = start(log)
    until(lambda: log.is_idle)
    medium.flush_error = eio()
    append(log)
    thread.kick()
    until(lambda: log.failed is not None)
    assert thread.is_alive()


def test_a_full_pool_has_no_marks_and_goes_on(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(a_medium())
    calls: list[int] = []

    def full() -> None:
        calls.append(1)
        raise FullError("no room for marks")

    monkeypatch.setattr(log, "mark", full)
    thread = start(log)
    until(lambda: bool(calls))
    lsn = append(log)
    thread.kick()
    until(lambda: log.durable >= lsn)


@pytest.mark.parametrize("error", [MemoryError(), eio()], ids=["no memory", "EIO, twice"])
def test_the_thread_outlives_an_unexpected_error_and_everybody_is_told(start: Callable, error: Exception) -> None:
    medium = a_medium()
    log = make_log(medium)
    told: list[object] = []
    log.on_durable = lambda: told.append(log.failed)
    thread = start(log)
    lsn, medium.flush_error = append(log), error

    def fails() -> None:
        raise OSError(12, "Cannot allocate memory")

    medium.revert = fails
    thread.kick()
    until(lambda: told)
    with pytest.raises(FlushError):
        log.flush(lsn)
    assert told == [log.failed]
    assert thread.is_alive()
