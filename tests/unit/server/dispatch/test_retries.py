"""Writes of clients in a full pool: they wait for the cleaner, in order, and hold up nobody else."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from pmkv.errors import FullError
from pmkv.log.segments import Pool, Reserve
from tests.served import served
from tests.unit.server.stand import settled, until


class FullPool:
    """Refuses writes until `free`; the wait for space ends with `hope` each time that `go` is set."""

    def __init__(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full, self.hope, self.go, self.asked = True, True, threading.Event(), list[bool]()
        self._admit = Pool.admit
        monkeypatch.setattr(Pool, "admit", self._refuse)
        monkeypatch.setattr(Pool, "has_kept_back", lambda pool, purpose: True)
        store._log.hooks.await_space = self._await_space

    def _refuse(self, purpose: Reserve, count: int = 0) -> None:
        if self.is_full:
            raise FullError("the pool is full")

    def _await_space(self, frees: bool) -> bool:
        self.asked.append(frees)
        assert self.go.wait(10)
        return self.hope

    def end(self) -> None:
        self.is_full = False
        self.go.set()


@pytest.fixture
def full(store: Any, monkeypatch: pytest.MonkeyPatch) -> FullPool:
    store.put(b"n", b"1")
    return FullPool(store, monkeypatch)


@pytest.mark.parametrize("protocol_of", ["waves", "functions"])
async def test_a_write_waits_for_room_and_what_follows_for_the_write(
    connect: Any, full: FullPool, protocol_of: str
) -> None:
    wire, other = connect(), connect()
    write = "INCR n" if protocol_of == "waves" else "INCRBYFLOAT n 1"
    wire.ask("GET n", write, "GET n")
    await until(lambda: full.asked)
    assert wire.replies() == ['"1"']
    assert await other.answers("GET n", "PING") == ['"1"', "PONG"], "readers are not held up"
    full.end()
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 2)
    assert replies[-1] == '"2"' and replies[0] in (":2", '"2"') and full.asked == [False]


async def test_without_hope_a_write_is_refused(connect: Any, full: FullPool) -> None:
    wire = connect()
    full.hope = False
    full.go.set()
    first, second = await wire.answers("SET a 1", "GET n")
    assert first.startswith("-OOM command not allowed") and second == '"1"'
    assert wire.server.stats.by_command["set"].failed == 1


async def test_a_delete_says_that_it_frees(connect: Any, full: FullPool) -> None:
    wire = connect()
    wire.ask("DEL n")
    await until(lambda: full.asked)
    full.end()
    await until(lambda: wire.transport.sent)
    assert wire.replies() == [":1"] and full.asked == [True]


async def test_a_long_delete_goes_to_pieces(
    connect: Any, store: Any, full: FullPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names may be longer than what is kept back for deletes: a worker waits between the pieces."""
    monkeypatch.setattr("pmkv.engine.deletion.PIECES_OF_SEGMENT", 1 << 30)
    full.is_full = False
    store.put_many({b"a": b"", b"b": b"", b"c": b""})
    full.is_full, before = True, store._log.lsn
    wire, other = connect(), connect()
    wire.ask("DEL a b nothing c")
    await until(lambda: full.asked)
    assert await other.answers("GET n") == ['"1"'], "others are not held up"
    full.end()
    await until(lambda: wire.transport.sent)
    assert wire.replies() == [":3"] and store._log.lsn == before + 3


async def test_a_transaction_waits_with_all_its_commands(connect: Any, full: FullPool) -> None:
    wire, other = connect(), connect()
    assert await wire.answers("MULTI", "SET a 1", "INCR n") == ["OK", "QUEUED", "QUEUED"]
    wire.ask("EXEC")
    await until(lambda: full.asked)
    assert await other.answers("GET a") == ["nil"]
    full.end()
    await until(lambda: wire.transport.sent)
    assert wire.replies() == ["[OK, :2]"]
    assert await wire.answers("GET a") == ['"1"'], "MULTI is over"


async def test_a_transaction_without_hope_is_refused_and_over(connect: Any, full: FullPool) -> None:
    wire = connect()
    full.hope = False
    full.go.set()
    (*_, refused) = await wire.answers("MULTI", "SET a 1", "EXEC")
    assert refused.startswith("-OOM")
    assert await wire.answers("GET n", "EXEC") == ['"1"', "-ERR EXEC without MULTI"]


async def test_many_connections_wait_together(connect: Any, full: FullPool) -> None:
    wires = [connect() for _ in range(20)]
    for wire in wires:
        wire.ask("INCR n")
    await until(lambda: full.asked)
    await settled()
    assert full.asked == [False]
    full.end()
    await until(lambda: all(wire.transport.sent for wire in wires))
    assert sorted(int(wire.replies()[0][1:]) for wire in wires) == list(range(2, 22))


async def test_a_client_that_leaves_takes_its_command_along(connect: Any, full: FullPool) -> None:
    wire = connect()
    wire.ask("INCR n")
    await until(lambda: full.asked)
    wire.connection.connection_lost(None)
    full.end()
    await until(lambda: not wire.server.dispatcher.retries.waiting)
    assert await connect().answers("GET n") == ['"1"']
    await asyncio.sleep(0)


def test_a_server_takes_overwrites_and_deletes_without_end(tmp_path: Path) -> None:
    """Several times what the pool holds is written; nothing is refused, and at last everything is deleted."""
    with served("--data", str(tmp_path / "d"), "--capacity", "8MiB", "--durability", "interval") as server:
        connection, rng, value = server.raw(), random.Random(1), b"v" * 1000
        newest = {}
        for number in range(400):
            pairs = {b"key:%d" % rng.randrange(4000): b"%d:%s" % (number, value) for _ in range(50)}
            assert connection("MSET", *[word for pair in pairs.items() for word in pair]) == ("+", b"OK")
            newest.update(pairs)
        for key in rng.sample(sorted(newest), 50):
            assert connection("GET", key) == ("$", newest[key])
        assert connection("DEL", *newest) == (":", b"%d" % len(newest))
        assert connection("DBSIZE") == (":", b"0")
