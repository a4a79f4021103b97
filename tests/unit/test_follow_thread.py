"""Readonly stores beside a writer in another process: what they see, when, and after the writer was killed."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.errors import ClosedError, CorruptionError, ReadOnlyError
from pmkv.follow_thread import LOOK_S, FollowThread

WRITER = """
import sys, numpy as np, pmkv
store = pmkv.open(sys.argv[1], capacity="256MiB")
table = store.create_table("t", ("f4", 64), exist_ok=True)
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Writer:
    """A process that writes, line by line of Python."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def begin(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line: str) -> None:
        self.begin(line)
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    one = Writer(tmp_path)
    yield one
    one.kill()


def soon(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "the reader did not follow within 30 s"
        time.sleep(LOOK_S / 5)


def test_a_reader_follows_by_itself(writer: Writer, tmp_path: Path) -> None:
    with pmkv.open(tmp_path, readonly=True) as reader:
        table = reader.table("t")
        writer.do("table.put([1], np.ones((1, 64)))")
        soon(lambda: table.get([1])[0, 0] == 1)
        writer.do(
            "branch = store.branch('next'); branch.table('t').put([1], np.full((1, 64), 2)); store.promote('next')"
        )
        soon(lambda: table.get([1])[0, 0] == 2)
        assert reader.version[0] == 1 and "next" in reader.views()
        with pytest.raises(ReadOnlyError):
            table.put([1], np.ones((1, 64)))
        assert reader.create_table("t", ("f4", 64), exist_ok=True) is table  # nothing is to be written
        assert reader.backup(tmp_path / "backup").entries == 1
        writer.do("store.grow('512MiB'); table.put(np.arange(100_000), np.ones((100_000, 64))); store.checkpoint()")
        soon(lambda: len(table) == 100_000)
        assert reader.capacity == 512 << 20


def test_refresh_shows_whole_batches_and_survives_the_writer(writer: Writer, tmp_path: Path) -> None:
    ids = np.arange(2000)
    writer.do("ids = np.arange(2000)")
    with pmkv.open(tmp_path, readonly=True, follow=False) as reader:
        table = reader.table("t")
        writer.do("table.put(ids, np.zeros((2000, 64)))")
        assert len(table) == 0 and reader.refresh() and len(table) == 2000 and not reader.refresh()
        writer.begin("for i in range(1, 10**6): table.put(ids, np.full((2000, 64), i)), i % 50 or store.checkpoint()")
        numbers = []
        while len(set(numbers)) < 20:
            reader.refresh()
            rows = table.get(ids)
            assert (rows == rows[0, 0]).all(), "half a batch was shown"
            numbers.append(rows[0, 0])
        writer.kill()
        reader.refresh()
        assert numbers == sorted(numbers) and not reader.refresh()
        last = table.get(ids)
        assert (last == last[0, 0]).all() and last[0, 0] >= numbers[-1]
        successor = Writer(tmp_path)
        successor.do("table.put([5000], np.ones((1, 64)))")
        assert reader.refresh() and table.contains([5000]).all() and table.get(ids)[0, 0] >= last[0, 0]
        successor.kill()


class Store:
    """Counts how often it was told to follow."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors, self.calls, self.called = errors, 0, threading.Event()

    def follow(self) -> None:
        self.calls += 1
        self.called.set()
        if self.errors:
            raise self.errors[0]


def test_failures_are_said_once_and_do_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    store = Store([CorruptionError("damaged")])
    thread = FollowThread(store)
    with caplog.at_level(logging.WARNING, "pmkv"):
        thread.start()
        soon(lambda: store.calls > 2)
        thread.stop()
    assert [record.message for record in caplog.records] == ["the store cannot follow its writer: damaged"]


def test_the_thread_ends_with_its_store() -> None:
    closed = FollowThread(store := Store([ClosedError("closed")]))
    closed.start()
    closed.join(30)
    dropped = FollowThread(store := Store([]))
    dropped.start()
    assert store.called.wait(30) and not closed.is_alive()
    seen = weakref.ref(store)
    del store
    dropped.join(30)
    gc.collect()
    assert not dropped.is_alive() and seen() is None
