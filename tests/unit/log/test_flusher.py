"""The flush thread: kicks, idle marks, intervals, failures."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from pmkv.engine import Engine
from pmkv.errors import FlushError
from pmkv.log.flusher import Flusher
from pmkv.media.base import Range
from pmkv.media.memory import MemoryMedium


class SlowMedium(MemoryMedium):
    """Memory that counts its syncs, as a disk that takes its time, or fails."""

    inline = False

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.syncs, self.error = 0, 0

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        time.sleep(0.002)
        if self.error:
            raise OSError(self.error, "no")
        self.syncs += sync


@pytest.fixture
def medium() -> SlowMedium:
    return SlowMedium()


@pytest.fixture
def start(medium: SlowMedium) -> Iterator[Callable[[str], tuple[Engine, Flusher]]]:
    running: list[Flusher] = []

    def make(durability: str = "commit") -> tuple[Engine, Flusher]:
        engine = Engine.on_medium(medium, segment_size=1 << 14, durability=durability)
        flusher = Flusher(engine.log)
        flusher.start()
        running.append(flusher)
        return engine, flusher

    yield make
    for flusher in running:
        flusher.stop()
        assert not flusher.is_alive()


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_a_kick_makes_durable_what_was_appended(start: Callable) -> None:
    engine, flusher = start()
    with engine.log.deferred():
        engine.keyspaces[0].put(b"a", b"1")
    lsn = engine.log.lsn
    assert engine.log.durable < lsn
    flusher.kick()
    assert wait_for(lambda: engine.log.durable >= lsn)


def test_many_kicks_are_few_flushes(start: Callable, medium: SlowMedium) -> None:
    engine, flusher = start()
    before = medium.syncs
    with engine.log.deferred():
        for i in range(300):
            engine.keyspaces[0].put(b"%d" % (i % 7), b"")
            flusher.kick()
    lsn = engine.log.lsn
    assert wait_for(lambda: engine.log.durable >= lsn)
    assert medium.syncs - before < 150


def test_an_idle_log_is_marked_once(start: Callable) -> None:
    engine, _ = start()
    engine.keyspaces[0].put(b"a", b"1")
    lsn = engine.log.lsn
    assert not engine.log.is_idle
    assert wait_for(lambda: engine.log.is_idle) and engine.log.lsn == lsn + 1
    time.sleep(0.3)
    assert engine.log.lsn == lsn + 1


def test_interval_syncs_without_being_asked_and_none_never(start: Callable, medium: SlowMedium) -> None:
    engine, _ = start("interval")
    engine.keyspaces[0].put(b"a", b"1")
    lsn = engine.log.lsn
    assert engine.log.durable < lsn and wait_for(lambda: engine.log.durable >= lsn)
    engine, _ = start("none")
    before = medium.syncs
    engine.keyspaces[0].put(b"a", b"1")
    time.sleep(0.3)
    assert engine.log.durable < engine.log.lsn and medium.syncs == before


def test_a_failure_is_the_logs_to_tell_and_the_thread_goes_on(start: Callable, medium: SlowMedium) -> None:
    engine, flusher = start()
    medium.error = errno.EIO
    with engine.log.deferred():
        engine.keyspaces[0].put(b"a", b"1")
    flusher.kick()
    assert wait_for(lambda: isinstance(engine.log.failed, FlushError))
    assert flusher.is_alive()
