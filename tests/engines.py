"""Small engines to test with: in memory or on files, opened again as after a crash, on media that fail on request."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pmkv.engine.engine import Engine
from pmkv.log.format import HEADER_PAGE, Frame, Kind, unpack_frame
from pmkv.log.log import Log
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool
from pmkv.media.base import Granularity, Medium, Range
from pmkv.media.memory import MemoryMedium

SEGMENT = 16 << 10
PAGE_SEGMENT = 4096  # for logs without an engine on top


class Clock:
    """A wall clock that goes as it is told."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def small_medium(segments: int = 8, segment: int = SEGMENT) -> MemoryMedium:
    return MemoryMedium(HEADER_PAGE + segments * segment)


def small_engine(medium: Medium | None = None, *, segments: int = 8, segment: int = SEGMENT, **options: Any) -> Engine:
    """An engine with segments of 16 KiB: frames and parts are cut at 4 KiB."""
    return Engine.on_medium(medium or small_medium(segments, segment), segment, **options)


def make_log(medium: Medium | None = None, durability: str = "commit") -> Log:
    """A log on a new or a used medium, with its next epoch open."""
    medium = medium or small_medium(8, PAGE_SEGMENT)
    pool = Pool.load(medium) if Pool.is_pool(medium) else Pool.create(medium, PAGE_SEGMENT)
    log, replay = Log(pool, durability, Clock(1000)), Replay(pool)
    for _ in replay:
        pass
    pool.adopt(replay.segments)
    log.resume(replay)
    log.open_epoch()
    return log


def append(log: Log, body: bytes = b"body", kind: Kind = Kind.PART, **fields: int) -> int:
    """One frame, as those above the log append theirs."""

    def write() -> int:
        at = log.begin(kind, len(body), **fields)
        log.data[at : at + len(body)] = memoryview(body)
        return log.end()

    with log.locks.append, log.locks.state:
        log.reserve([len(body)])
        return log.atomic(write)


def copy_of(medium: Medium) -> MemoryMedium:
    """What another process would find, were everything stored so far on the medium."""
    other = MemoryMedium(medium.data.size)
    other.data[:] = medium.data
    return other


def reopen(engine: Engine, **options: Any) -> Engine:
    """The next process, after this one died."""
    return Engine.on_medium(copy_of(engine.pool.medium), **options)


def contents(engine: Engine) -> dict[Any, Any]:
    """Everything that can be read: {keyspace: {key: (value, expiry)}, table: {id: row bytes}}."""
    found: dict[Any, Any] = {}
    for keyspace in engine.keyspaces:
        keys = [key for key, _ in keyspace.scan()]
        if keys:
            found[keyspace.number] = {key: keyspace.entry(key) for key in keys}
    for name, table in engine.tables.items():
        found[name] = {int(i): row.tobytes() for ids, rows in table.scan() for i, row in zip(ids, rows, strict=True)}
    return found


def frames(medium: Medium) -> list[Frame]:
    """The frames of the log in its order, as far as one header leads to the next."""
    pool, view, found = Pool.load(medium), memoryview(medium.data), []
    for index in sorted(pool.generations):  # a log without reuse takes segments in ascending order
        at = pool.start(index) + 64
        while at + 64 <= pool.stop(index) and (frame := unpack_frame(view, at, pool.stop(index), pool.seed(index))):
            found.append(frame)
            at = frame.end
    return found


class Failing:
    """A medium around another one, of page granularity, whose next calls can be made to fail."""

    granularity = Granularity.PAGE
    inline = False

    def __init__(self, inner: Medium) -> None:
        self._inner = inner
        self.durable = inner.data.copy()
        self.flush_error: BaseException | None = None  # raised by flush, once it is set
        self.reached = 0  # of the ranges of a failing flush, so many do reach the medium
        self.slow = 0.0  # seconds that a flush takes
        self.ready: list[tuple[int, int, int]] = []  # what was said to be written soon, and in which thread

    @property
    def data(self) -> np.ndarray:
        return self._inner.data

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        self._inner.prepare(start, stop, fill)
        self.durable[start:stop] = 0

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        time.sleep(self.slow)
        if self.flush_error is not None:
            self._keep(ranges[: self.reached])
            raise self.flush_error
        self._keep(ranges)

    def _keep(self, ranges: Sequence[Range]) -> None:
        for start, stop in ranges:
            self.durable[start:stop] = self.data[start:stop]

    def store(self, at: int, raw: np.ndarray) -> int:
        if self.flush_error is not None:
            raise self.flush_error
        return self._inner.store(at, raw)

    def will_write(self, start: int, stop: int) -> None:
        self.ready.append((start, stop, threading.get_ident()))

    def written(self, start: int, stop: int) -> list[Range]:
        return [(start, stop)]

    def will_read(self, start: int, stop: int) -> None:
        pass

    def rewrite(self, ranges: Sequence[Range]) -> None:
        self.flush(ranges)

    def revert(self) -> None:
        self.data[:] = self.durable

    def grow(self, capacity: int) -> None:
        self._inner.grow(capacity)
        self.durable = np.concatenate([self.durable, np.zeros(capacity - self.durable.size, np.uint8)])

    def close(self) -> None:
        pass

    def survivor(self) -> MemoryMedium:
        """What is left after the power failed."""
        other = MemoryMedium(self.durable.size)
        other.data[:] = self.durable
        return other


def eio() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def failing_engine(segments: int = 8, **options: Any) -> tuple[Engine, Failing]:
    medium = Failing(small_medium(segments))
    return small_engine(medium, **options), medium


@contextlib.contextmanager
def at_the_same_time(*work: Callable[[], object], seconds: float = 30) -> Iterator[None]:
    """Run these in threads beside the body; a thread that does not end, or raises, fails the test."""
    errors: list[BaseException] = []

    def run(one: Callable[[], object]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    yield
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), f"not done after {seconds} s: a deadlock?"
    if errors:
        raise errors[0]
