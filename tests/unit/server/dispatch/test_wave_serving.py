"""How connections take part in waves: what happens to commands that a wave refuses, leaves or has no time for."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pmkv_server.dispatch import wave_serving, waves
from pmkv_server.dispatch.waves import Waves
from pmkv_server.net.connection import Connection
from tests.served import request
from tests.unit.server.stand import Stub, Wire, dispatching, settled, until

LONG = 2 << 20


async def test_a_full_pool_refuses_writes_and_nothing_else(connect: Any, store: Any) -> None:
    wire = connect()
    store.put(b"old", b"1")
    long, refused = b"x" * 900_000, []
    for i in range(200):
        wire.send(request("SET", f"k{i}", long))
        await until(lambda: wire.transport.sent)
        (reply,) = wire.replies()
        if reply != "OK":
            refused.append(reply)
    assert 0 < len(refused) < 200
    assert all(reply.startswith("-OOM command not allowed when used memory > 'maxmemory'.") for reply in refused)
    more = request("SET", "big", long)
    wire.send(more + request("GET", "old") + request("DEL", "old") + more + request("GET", "old"))
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 5)
    assert replies[0].startswith("-OOM"), replies[0]
    assert [replies[1], replies[2], replies[4]] == ['"1"', ":1", "nil"]


async def test_what_a_wave_refuses_is_tried_one_by_one(connect: Any) -> None:
    """Only who is concerned hears of it."""
    wire, other = connect(), connect()
    keyspace = wire.connection.session.keyspace

    class Picky:
        is_cold = False

        def put(self, key: bytes, value: bytes) -> None:
            if key == b"bad":
                raise ValueError("no")
            keyspace.put(key, value)

    wire.connection.session.keyspace = other.connection.session.keyspace = Picky()
    wire.ask("CLIENT ID", "SET a 1", "SET bad 1", "SET b 1")
    other.ask("SET c 1", "SET d 1")
    await settled()
    _, first, second, third = wire.replies()
    assert (first, third) == ("OK", "OK")
    assert second == "-ERR internal error: ValueError: no"
    assert other.replies() == ["OK", "OK"]


async def test_a_snapshot_takes_reads_and_refuses_each_write(connect: Any, store: Any) -> None:
    store.put(b"a", b"1")
    store.snapshot("v")
    wire = connect()
    found = await wire.answers("VIEW.USE v", "GET a", "SET a 2", "INCR a", "GET a", "TTL a")
    assert [found[i] for i in (0, 1, 4, 5)] == ["OK", '"1"', '"1"', ":-1"]
    assert all(reply.startswith("-READONLY") for reply in found[2:4])


async def test_commands_that_leave_keep_their_place(connect: Any, store: Any, server: Stub) -> None:
    store.put(b"text", b"x")
    wire = connect()
    lines = ["INCR a", "INCR text"] * 20 + ["GET a"]
    wrong = "-ERR value is not an integer or out of range"
    assert await wire.answers(*lines) == [reply for i in range(20) for reply in (f":{i + 1}", wrong)] + ['"20"']
    assert server.stats.by_command["incr"].failed == 20 and server.stats.by_command["incr"].calls == 40


async def test_waves_that_are_full_are_followed_by_others(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "MOST_COMMANDS", 7)
    monkeypatch.setattr(waves, "MOST_KEYS", 5)
    server = connect().server
    dispatching(server, server.dispatcher.workers._executor)
    wires = [Wire(server, Connection(server, server.dispatcher)) for _ in range(3)]
    for wire in wires:
        wire.ask(*["INCR n"] * 10, "MGET n n n n", "MGET n n n n n n n", "PING")
    await settled()
    found = [wire.replies() for wire in wires]
    assert sorted(int(reply[1:]) for replies in found for reply in replies[:10]) == list(range(1, 31))
    assert all(len(replies) == 13 and replies[12] == "PONG" and len(replies[11].split(",")) == 7 for replies in found)


async def test_each_keyspace_has_its_own_wave(connect: Any) -> None:
    wires = [connect() for _ in range(3)]
    for i, wire in enumerate(wires):
        wire.ask(f"SELECT {i}", f"SET a {i}", "INCR a", "GET a")
    await settled()
    assert [wire.replies()[-1] for wire in wires] == ['"1"', '"2"', '"3"']


async def test_in_a_worker_what_has_left_is_run_there_and_the_rest_comes_later(
    connect: Any, store: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many({b"text": b"x", b"long": b"y" * LONG, b"n": b"5"})
    threads, run = [], wave_serving.run

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return run(*arguments)

    monkeypatch.setattr(wave_serving, "run", watched)
    monkeypatch.setattr(type(server.dispatcher.wave_serving), "is_cold", lambda serving, keyspace: True)
    wire, other = connect(), connect()
    wire.ask("SET a 1", "GET a", "INCR text", "INCR n", "STRLEN long", "GET n", "PING")
    other.ask("INCR m", "GET m")
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 7)
    assert replies[:2] == ["OK", '"1"'] and replies[2].startswith("-ERR value is not an integer")
    assert replies[3:] == [":6", f":{LONG}", '"6"', "PONG"]
    await until(lambda: other.transport.sent)
    assert other.replies() == [":1", '"1"']
    assert len(threads) == 2 and threading.main_thread() not in threads


async def test_while_a_long_transaction_runs_waves_wait_in_workers(
    connect: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, threads, carry_out = connect(), [], Waves._carry_out

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return carry_out(*arguments)

    monkeypatch.setattr(Waves, "_carry_out", watched)
    server.dispatcher.workers.exclusive = 1
    wire.ask("SET a 1", "INCR a", "BAD", "GET a")
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 4)
    server.dispatcher.workers.exclusive = 0
    assert [replies[i] for i in (0, 1, 3)] == ["OK", ":2", '"2"']
    assert len(threads) == 2 and threading.main_thread() not in threads


async def test_client_list_knows_the_last_command(connect: Any) -> None:
    wire, other = connect(), connect()
    await wire.answers("INCR a")
    await wire.answers("INCR a", "APPEND a 1")
    (listed,) = await other.answers("CLIENT LIST")
    assert "cmd=append" in listed and "cmd=client|list" in listed
