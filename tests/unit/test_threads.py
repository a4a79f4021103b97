"""A store among threads, signals and processes: closed beside writers, interrupted anywhere, read beside a writer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmkv
from pmkv.engine import keyspace as keyspace_module
from pmkv.engine.engine import Engine
from pmkv.errors import ClosedError, UnknownNameError
from pmkv.index.hash_table import HashTable
from pmkv.media.memory import MemoryMedium
from tests.engines import at_the_same_time, contents, copy_of, failing_engine, small_engine

CAPACITY = "64MiB"


def test_closing_beside_writers_loses_nothing_acknowledged(tmp_path: Path) -> None:
    for round_ in range(3):
        store = pmkv.open(tmp_path / str(round_), capacity=CAPACITY)
        acknowledged: list[bytes] = []

        def write(number: int, store: pmkv.Store = store, acknowledged: list[bytes] = acknowledged) -> None:
            for i in range(100_000):
                key = b"%d:%d" % (number, i)
                try:
                    store.put(key, b"v")
                except ClosedError:
                    return
                acknowledged.append(key)

        with at_the_same_time(*[lambda n=n: write(n) for n in range(4)]):
            time.sleep(0.15)
            store.close()
        with pmkv.open(tmp_path / str(round_), capacity=CAPACITY) as again:
            assert acknowledged
            assert None not in again.get_many(acknowledged)


def test_dropping_a_table_beside_its_readers(tmp_path: Path) -> None:
    """What they hold is a table or an error, never memory that was given back."""
    with pmkv.open(pool=":memory:", capacity=CAPACITY) as store:
        ids = np.arange(2000)

        def read(table: pmkv.Table) -> None:
            while True:
                try:
                    rows, found = table.get(ids, return_found=True)
                    assert found.all()
                    assert (rows == ids).all()
                    assert len(table) == len(ids)
                    assert sum(part.size for part, _ in table.scan()) == len(ids)
                except UnknownNameError:
                    return

        for rows in (None, 2000) * 5:
            table = store.create_table("t", "f4", rows)
            table.put(ids, ids)
            with at_the_same_time(lambda t=table: read(t), lambda t=table: read(t)):
                time.sleep(0.02)
                store.drop_table("t")


@pytest.mark.parametrize("on_file", [False, True])
def test_a_long_put_is_seen_whole_beside_it(on_file: bool, tmp_path: Path) -> None:
    """Entered while others read: each of them has all of it or nothing, and who does not read it waits for nothing."""
    options = {"path": tmp_path} if on_file else {"pool": ":memory:"}
    with pmkv.open(capacity="1GiB", **options) as store:
        table, other = store.create_table("t", "i4"), store.create_table("other", "i4")
        ids, done = np.random.default_rng(1).permutation(100_000), threading.Event()
        other.put(np.arange(100), np.arange(100))
        table.put(ids, np.zeros(ids.size, "i4"))

        def read(seed: int) -> None:
            random, last = np.random.default_rng(seed), 0
            while not done.is_set():
                some = random.integers(0, ids.size, 300)
                rows = table.get(some)
                assert rows.min() == rows.max() >= last, "some of a put, or less than was seen before"
                last = int(rows[0])
                both = store.gather({"other": [7, 9], "t": some})
                assert both["other"].tolist() == [7, 9]
                assert both["t"].min() == both["t"].max() >= last
                assert len(table) == ids.size

        with at_the_same_time(lambda: read(2), lambda: read(3)):
            for number in range(1, 25):
                if on_file and number % 6 == 1:
                    store.checkpoint()
                table.put(ids, np.full(ids.size, number, "i4"))
            done.set()
        table.check()
        assert (table.get(ids) == 24).all()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_long_put_that_is_interrupted_while_it_is_entered(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Nothing of it is there, and what comes behind opens again."""
    engine = small_engine(segments=40)
    table, ids, left = engine.create_table("t", ("u1", 64)), np.arange(700), times
    insert = HashTable.insert

    def interrupted(self: HashTable, *arguments: Any) -> np.ndarray:
        nonlocal left
        found = insert(self, *arguments)
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(HashTable, "insert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            table.put(ids, np.ones((700, 64), "u1"))
    assert not table.contains(ids).any()  # and nobody waits for whoever is gone
    engine.versions.snapshot("s")
    table.put([1], np.full((1, 64), 2, "u1"))
    again = Engine.on_medium(copy_of(engine.pool.medium))
    assert again.table("t").get([1])[0, 0] == 2 and again.view_set.maps.keys() == engine.view_set.maps.keys()
    again.check()


def test_an_interrupted_put_leaves_a_store_that_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small_engine()
    engine.keyspaces[0].put(b"before", b"1")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keyspace_module, "write_records", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.keyspaces[0].put(b"never", b"2")
        with pytest.raises(KeyboardInterrupt), engine.batch():
            engine.keyspaces[0].put(b"never", b"2")
    engine.keyspaces[0].put(b"after", b"3")
    again = Engine.on_medium(copy_of(engine.pool.medium))
    assert contents(again) == contents(engine) == {0: {b"before": (b"1", 0), b"after": (b"3", 0)}}
    engine.check()
    again.check()


def test_an_interrupted_flush_leaves_a_log_without_holes() -> None:
    engine, medium = failing_engine()
    medium.flush_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engine.keyspaces[0].put(b"a", b"1")
    medium.flush_error = None
    engine.keyspaces[0].put(b"b", b"2")
    assert contents(Engine.on_medium(medium.survivor())) == contents(engine)


def test_a_batch_of_large_keys_and_values_fits_in_what_it_reserved() -> None:
    """With the smallest segments such a record fills half of one: what was reserved must count that."""
    segment = 256 << 10
    for taken in range(3):
        engine = small_engine(segment=segment, segments=14)
        space = engine.keyspaces[0]
        for i in range(taken):
            space.put(b"filler %d" % i, bytes(60_000))
        items = {bytes([i]) * 65_536: bytes(65_536) for i in range(20)}
        while items:
            before = len(space)
            try:
                with engine.batch(sum(len(key) + len(value) + 256 for key, value in items.items())):
                    for key, value in items.items():
                        space.put(key, value)
                break
            except pmkv.FullError:
                assert len(space) == before, "refused half way"
                items.popitem()
        assert items


def test_others_read_while_a_long_put_fills_its_frames_and_see_all_of_it_or_nothing() -> None:
    engine = small_engine(segment=1 << 20, segments=64)
    table, ids = engine.create_table("t", ("u1", 256)), np.arange(3000)
    table.put(ids, np.full((3000, 256), 1, "u1"))
    store, seen, filled = engine.log.store, [], 0

    def slowly(at: int, raw: np.ndarray) -> None:
        nonlocal filled
        store(at, raw)
        filled += 1
        reading = threading.Thread(target=lambda: seen.append(set(table.get(ids)[:, 0].tolist())))
        reading.start()
        reading.join(10)
        assert not reading.is_alive(), "a reader waits for who fills a frame"

    engine.log.store = slowly
    table.put(ids, np.full((3000, 256), 2, "u1"))
    assert filled >= 6 and seen == [{1}] * filled
    assert (table.get(ids) == 2).all()
    with engine.batch():
        engine.log.store = store  # nobody reads within a batch
        table.put(ids, np.full((3000, 256), 3, "u1"))
    engine.check()


def test_an_interrupted_put_of_several_frames_leaves_nothing() -> None:
    medium = MemoryMedium(64 << 20)
    engine = Engine.on_medium(medium, 1 << 20)
    table, ids = engine.create_table("t", ("u1", 256)), np.arange(3000)
    store, calls = engine.log.store, []

    def interrupted(at: int, raw: np.ndarray) -> None:
        calls.append(at)
        if len(calls) == 6:
            raise KeyboardInterrupt
        store(at, raw)

    engine.log.store = interrupted
    with pytest.raises(KeyboardInterrupt):
        table.put(ids, np.full((3000, 256), 2, "u1"))
    engine.log.store = store
    assert len(table) == 0
    engine.keyspaces[0].put(b"k", b"v")
    assert contents(Engine.on_medium(copy_of(medium))) == contents(engine)
    engine.check()


READER = """
import sys, pmkv
for _ in range(int(sys.argv[2])):
    with pmkv.open(sys.argv[1], readonly=True) as store:
        keys = [key for key, _ in store.scan()]
        assert keys == [b"%08d" % i for i in range(len(keys))], "not a prefix"
        store.check()
print(len(keys))
"""


def test_reading_beside_a_writer_sees_a_prefix_every_time(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        reader = subprocess.Popen([sys.executable, "-c", READER, os.fspath(tmp_path), "25"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)  # fmt: skip
        i = 0
        deadline = time.monotonic() + 60
        while reader.poll() is None and time.monotonic() < deadline:
            if i < 16_000:  # about 40 MB: a fast writer must not fill the pool before a slow reader is through
                store.put(b"%08d" % i, bytes(i % 5000))
                i += 1
            time.sleep(0.0002)
        out, errors = reader.communicate()
        assert reader.returncode == 0, errors.decode()
        assert 0 < int(out) <= i


HOLDER = """
import os, sys, time, pmkv
store = pmkv.open(sys.argv[1], capacity="64MiB")
store.put(b"a", b"1")
child = os.fork()
if child == 0:
    os.close(1)
    time.sleep(60)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_child_that_outlives_its_parent_keeps_nothing_locked(tmp_path: Path) -> None:
    holder = subprocess.run([sys.executable, "-c", HOLDER, os.fspath(tmp_path)], stdout=subprocess.PIPE)
    child = int(holder.stdout)
    try:
        os.kill(child, 0)
        with pmkv.open(tmp_path, capacity=CAPACITY) as store:
            assert store.get(b"a") == b"1"
    finally:
        os.kill(child, 9)


def test_waiting_for_what_was_never_written_is_refused() -> None:
    with pmkv.open(pool=":memory:", capacity=CAPACITY) as store:
        store.put(b"a", b"1")
        store.wait(store.version[1])
        with pytest.raises(pmkv.InvalidError, match=r"was never given out; the last one is \d+"):
            store.wait(store.version[1] + 1)


def test_threads_on_one_table_add_up() -> None:
    engine = small_engine(MemoryMedium(16 << 20), segment=1 << 20)
    table = engine.create_table("t", "i8")

    def add() -> None:
        for _ in range(100):
            table.add([1, 2, 1], [1, 10, 1])

    with at_the_same_time(*[add] * 4):
        pass
    assert table.get([1, 2]).tolist() == [800, 4000]
    engine.check()
