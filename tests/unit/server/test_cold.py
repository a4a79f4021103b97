"""After a restart, indexes on file that nobody has read yet: a look may wait for the disk, so the loop takes none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmkv
from pmkv.index.run import Run
from pmkv.maintenance.scheduler import MaintenanceScheduler
from tests.unit.server.stand import Stub, settled, until

KEYS = {b"k%d" % i: b"v%d" % i for i in range(100)}
IDS = "\\x01\\0\\0\\0\\0\\0\\0\\0"
LOOP = threading.main_thread()


class Disk:
    """Every probe of a run: who made it. While `slow`, it takes until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[threading.Thread] = []
        self.slow, self.go = False, threading.Event()
        for name in ("find_slot_hashes", "find_keys", "expired", "entries"):
            monkeypatch.setattr(Run, name, self._watched(getattr(Run, name)))

    def _watched(self, look: Any) -> Any:
        def watched(*arguments: Any) -> Any:
            self.threads.append(threading.current_thread())
            assert not self.slow or self.go.wait(10)
            return look(*arguments)

        return watched


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pmkv.Store]:
    """Opened again, and nothing of its indexes read yet."""
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store.put_many(KEYS)
        store.create_table("t", "i8").put(np.arange(100), np.arange(100))
        store.checkpoint()
    warm = MaintenanceScheduler._warm
    monkeypatch.setattr(MaintenanceScheduler, "_warm", lambda self: None)
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store.warm = lambda: warm(store._maintenance)
        assert store.is_cold and store.keyspace(0).is_cold and store.table("t").is_cold and store.stats().is_cold
        assert not store.keyspace(1).is_cold
        yield store


@pytest.fixture
def disk(store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.go.set()


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        (["GET k1"], ['"v1"']),
        (["GET none"], ["nil"]),
        (["GET k1", "GET k2"], ['"v1"', '"v2"']),
        (["SET a 1", "GET k1", "GET a", "PING", "SET k2 x", "GET k2"], ["OK", '"v1"', '"1"', "PONG", "OK", '"x"']),
        (["MGET k1 k2 none"], ['["v1", "v2", nil]']),
        (["INCR new", "DEL k1 k2", "EXISTS k1 k3", "STRLEN k3"], [":1", ":2", ":1", ":2"]),
        (["DBSIZE", "DEL k1", "DBSIZE"], [":100", ":1", ":99"]),
        (["WATCH k1", "MULTI", "GET k1", "SET k1 x", "EXEC"], ["OK", "OK", "QUEUED", "QUEUED", '["v1", OK]']),
        (["SCAN 0 COUNT 3 MATCH none"], None),
        (
            ["SNAPSHOT.CREATE v1", "SET k1 x", "VIEW.USE v1", "GET k1", "DBSIZE", "TABLE.LEN t AT main", "VIEW.UNDO"],
            [
                "OK",
                "OK",
                "OK",
                '"v1"',
                ":100",
                ":100",
                "-NOVIEW there is nothing to undo: no promote or rollback since the last undo",
            ],
        ),
        ([f"TABLE.GET t {IDS}", "TABLE.LEN t"], [f'"{IDS[:4]}' + "\\x00" * 7 + '"', ":100"]),
        ([f"TABLE.DEL t {IDS}", f"TABLE.EXISTS t {IDS}"], [":1", '"\\x00"']),
        (["INFO"], None),
    ],
)
async def test_no_look_on_the_loop(lines: list[str], replies: list[str] | None, connect: Any, disk: Disk) -> None:
    found = await connect().answers(*lines)
    assert replies is None or found == replies
    assert disk.threads and LOOP not in disk.threads


async def test_other_clients_are_served_meanwhile(connect: Any, disk: Disk, server: Stub) -> None:
    single, many, other, stranger = (connect() for _ in range(4))
    disk.slow = True
    single.ask("GET k1")
    many.ask("SET a 1", "GET k2", "PING", "GET k3", "SET b 2")
    await until(lambda: many.transport.sent)
    assert many.replies() == ["OK"] and single.replies() == []
    assert await other.answers("SET c 3") == ["OK"]
    assert await other.answers("PING", "SELECT 1") == ["PONG", "OK"]
    assert await other.answers("GET c", "SET c 4", "GET c") == ["nil", "OK", '"4"'], "nothing of keyspace 1 is cold"
    many.ask("GET b")
    single.ask("GET k4")
    await settled()
    assert (many.replies(), single.replies()) == ([], []) and not server.dispatcher.is_idle
    disk.go.set()
    await until(lambda: server.dispatcher.is_idle)
    assert single.replies() == ['"v1"', '"v4"']
    assert many.replies() == ['"v2"', "PONG", '"v3"', "OK", '"2"']
    assert LOOP not in disk.threads
    assert await stranger.answers("GET k5") == ['"v5"']


async def test_who_went_away_meanwhile(connect: Any, disk: Disk, server: Stub) -> None:
    single, many = connect(), connect()
    disk.slow = True
    single.ask("GET k1")
    many.ask("GET k2", "GET k3", "PING")
    await settled()
    for wire in (single, many):
        wire.transport.abort()
    await settled()
    disk.go.set()
    await until(lambda: server.dispatcher.is_idle)
    assert (single.replies(), many.replies()) == ([], [])


async def test_a_damaged_index_is_told_to_who_needs_it(connect: Any, store: pmkv.Store, disk: Disk) -> None:
    run = store.keyspace(0).stack.runs[0]
    run._checks = run._checks + np.uint64(1)
    (said,) = await connect().answers("GET k1")
    assert "corruption" in said and "is damaged" in said
    assert await connect().answers("GET k1", "PING", "SELECT 1") == [said, "PONG", "OK"]


async def test_once_all_are_read_the_loop_looks_itself(connect: Any, store: pmkv.Store, disk: Disk) -> None:
    store.warm()
    assert not store.is_cold and not store.stats().is_cold
    wire = connect()
    assert await wire.answers("GET k1", "GET k2") == ['"v1"', '"v2"']
    assert await wire.answers("GET k1") == ['"v1"']
    assert set(disk.threads) == {LOOP}


async def test_rows_that_may_be_on_disk_are_read_by_a_worker(connect: Any, store: pmkv.Store, disk: Disk) -> None:
    store.warm()
    wire, get, pool = connect(), f"TABLE.GET t {IDS}", f"TABLE.MPOOL 1 t {IDS} {IDS.replace('x01', 'x00')}"
    assert store.table("t").stack.reads.is_cold
    await wire.answers(get, f"TABLE.EXISTS t {IDS}".replace("x01", "x02"), pool.replace("t \\x01", "t \\x03"))
    assert disk.threads and LOOP not in disk.threads
    looked = len(disk.threads)
    await wire.answers(get, f"TABLE.MGET 1 t {IDS}", pool, f"TABLE.EXISTS t {IDS}")
    assert len(disk.threads) == looked, "the row cache has the row"
    store.table("t").stack.reads.is_cold = False
    await wire.answers(get.replace("x01", "x04"))
    assert disk.threads[-1] is LOOP


def test_a_damaged_index_does_not_keep_the_others_cold(store: pmkv.Store) -> None:
    run = store.keyspace(0).stack.runs[0]
    run._checks = run._checks + np.uint64(1)
    store.warm()
    assert not store.is_cold and store.keyspace(0).is_cold and not store.table("t").is_cold
    assert "is damaged" in store.stats().maintenance_error
    store.checkpoint()
    assert store.stats().maintenance_error is None
