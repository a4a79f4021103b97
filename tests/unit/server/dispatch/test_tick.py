"""Ticks: the order of replies, and what is served together."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pmkv_server.dispatch import tick
from pmkv_server.dispatch.waves import Waves
from tests.served import request
from tests.unit.server.stand import Gate, Stub, settled, until

LONG = 2 << 20


async def test_a_pipeline_is_answered_in_order(connect: Any) -> None:
    wire = connect()
    lines = ["SET a 1", "GET a", "GET b", "INCR a", "GET a", "SET a x", "SET b y", "MGET a b", "PING", "GET a"]
    assert await wire.answers(*lines) == [
        "OK", '"1"', "nil", ":2", '"2"', "OK", "OK", '["x", "y"]', "PONG", '"x"',
    ]  # fmt: skip


async def test_runs_of_many_connections_are_one_batch_and_each_gets_its_own(connect: Any, store: Any) -> None:
    wires = [connect() for _ in range(20)]
    for i, wire in enumerate(wires):
        wire.ask(*(f"SET k{i}.{j} v{i}.{j}" for j in range(i % 4 + 1)), *(f"GET k{i}.{j}" for j in range(i % 4 + 1)))
    await settled()
    for i, wire in enumerate(wires):
        assert wire.replies() == ["OK"] * (i % 4 + 1) + [f'"v{i}.{j}"' for j in range(i % 4 + 1)]
    assert wires[0].server.stats.ticks == 1


async def test_short_commands_are_answered_before_long_ones_are_read(
    connect: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short, single = connect(), connect(), connect()
    sent: list[list[str]] = []
    await short.answers("PING", "PING")
    scan = server.dispatcher.scan

    def watched(chunks: list[Any], sizes: list[int]) -> Any:
        if max(sizes) > LONG // 8:
            sent.append(short.replies() + single.replies())
        return scan(chunks, sizes)

    monkeypatch.setattr(server.dispatcher, "scan", watched)
    long.send(request("SET", "a", bytes(LONG // 4)) + request("GET", "none"))
    short.ask("PING", "ECHO b")
    single.ask("GET none")
    await settled()
    assert sent == [["PONG", '"b"', "nil"]] and long.replies() == ["OK", "nil"] and server.stats.ticks == 2


async def test_http_is_shut_out(connect: Any) -> None:
    for line in (b"POST / HTTP/1.1\r\n", b"Host: here\r\n", request("post", "x")):
        wire = connect()
        wire.send(line + b"SET a 1\r\n")
        await settled()
        assert wire.transport.aborted
        assert not wire.transport.sent
    assert await connect().answers("GET a") == ["nil"]


async def test_transactions_run_as_one_and_keep_their_order(connect: Any) -> None:
    wire, other = connect(), connect()
    found = await wire.answers("MULTI", "SET a 1", "GET a", "INCR a", "EXEC", "GET a")
    assert found == ["OK", "QUEUED", "QUEUED", "QUEUED", '[OK, "1", :2]', '"2"']
    await wire.answers("WATCH a", "MULTI", "SET a 10")
    await other.answers("SET a 5")
    assert await wire.answers("EXEC", "GET a") == ["nil", '"5"']
    assert await wire.answers("MULTI", "NOSUCH", "SET a 1", "EXEC", "GET a") == [
        "OK",
        "-ERR unknown command 'NOSUCH', with args beginning with: ",
        "QUEUED",
        "-EXECABORT Transaction discarded because of previous errors.",
        '"5"',
    ]


async def test_an_error_of_the_store_while_weighing_a_command_is_a_reply(connect: Any) -> None:
    """Whether a command is heavy may already need the store; its errors must not end the tick of all others."""
    wire, other = connect(), connect()
    keyspace = wire.connection.session.keyspace

    class Damaged:
        def __getattr__(self, name: str) -> Any:
            return getattr(keyspace, name)

        def size(self, *arguments: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

        _locate = size

    wire.connection.session.keyspace = Damaged()
    wire.ask("CLIENT GETNAME", "STRLEN a", "APPEND a b", "PING")
    other.ask("PING", "PING")
    await settled()
    assert other.replies() == ["PONG", "PONG"]
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 4)
    assert replies[1:] == [
        "-ERR the system refused: Input/output error (EIO); see to the disk; the system's log names it"
    ] * 2 + ["PONG"]


async def test_an_error_in_a_tick_closes_its_connections_and_serves_the_others(
    connect: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, other = connect(), connect()
    scan = server.dispatcher.scan

    def no_memory(chunks: list[bytes], sizes: list[int]) -> Any:
        monkeypatch.setattr(server.dispatcher, "scan", scan)
        raise MemoryError

    monkeypatch.setattr(server.dispatcher, "scan", no_memory)
    wire.ask("SET a 1", "GET a")
    await settled()
    assert wire.transport.aborted
    assert await other.answers("PING", "GET a") == ["PONG", "nil"]


async def test_auth_comes_first(store: Any, connect: Any, server: Stub) -> None:
    server.config.password = "secret"
    wire = connect()
    no = "-NOAUTH Authentication required."
    assert await wire.answers("GET a", "SET a 1", "PING", "AUTH secret", "SET a 1", "GET a") == [
        no, no, no, "OK", "OK", '"1"',
    ]  # fmt: skip


async def test_idle_says_whether_anything_is_under_way(connect: Any, gate: Gate, server: Stub) -> None:
    wire = connect()
    assert server.dispatcher.is_idle
    gate.shut()
    wire.ask("SET a 1")
    assert not server.dispatcher.is_idle
    await settled()
    assert not server.dispatcher.is_idle
    gate.open()
    await until(lambda: server.dispatcher.is_idle)
    assert wire.replies() == ["OK"]


async def test_a_run_of_long_values_is_served_as_far_as_there_is_room(
    connect: Any, store: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many GETs one pipeline has: what is read of values is what the output may hold, or one value."""
    long = b"x" * 120_000
    store.put_many({b"a": long, b"b": b"short"})
    monkeypatch.setattr(server.limits, "pause_bytes", 1 << 20)
    most, carry_out = [0], Waves.carry_out

    def counted(waves: Waves, *arguments: Any) -> Any:
        outcome = carry_out(waves, *arguments)
        most[0] = max(most[0], outcome.replies.size)
        return outcome

    monkeypatch.setattr(Waves, "carry_out", counted)
    wire = connect()
    wire.ask(*["GET a"] * 60, "GET b", "GET none", "SET c 1", "GET a", "PING")
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 65)
    assert [len(reply) for reply in replies[:60]] == [120_002] * 60
    assert [reply[:9] for reply in replies[60:]] == ['"short"', "nil", "OK", '"xxxxxxxx', "PONG"]
    assert 1 << 20 <= most[0] <= (1 << 20) + 120_100


async def test_a_tick_leaves_the_rest_of_a_long_pipeline_to_the_next(
    connect: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick, "TICK_S", 0.0)
    wire, before = connect(), server.stats.ticks
    assert await wire.answers(*["DBSIZE"] * 100) == [":0"] * 100
    assert server.stats.ticks - before >= 100 // tick.COMMANDS_PER_LOOK


async def test_a_command_of_very_many_arguments_is_taken_apart_in_a_worker(connect: Any, store: Any) -> None:
    wire = connect()
    keys = [b"k%d" % i for i in range(5000)]
    wire.send(request("MSET", *(word for key in keys for word in (key, key))) + request("MGET", *keys))
    wire.send(request("DEL", *keys) + request("NOSUCH", *keys) + request("GET", *keys) + request("MULTI"))
    wire.send(request("EXISTS", *keys) + request("EXEC"))
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 8)
    assert replies[0] == "OK"
    assert replies[1] == "[" + ", ".join(f'"k{i}"' for i in range(5000)) + "]"
    assert replies[2] == ":5000"
    assert replies[3].startswith("-ERR unknown command 'NOSUCH'")
    assert replies[4:] == ["-ERR wrong number of arguments for 'get' command", "OK", "QUEUED", "[:0]"]


async def test_lines_are_served_together(connect: Any, server: Stub) -> None:
    wire = connect()
    wire.send(b"PING\r\n" * 300 + b"ECHO a\r\n*1\r\n$4\r\nPING\r\nECHO b\r\nPIN")
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 303)
    wire.send(b"G\r\n")
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 304)
    assert replies == ["PONG"] * 300 + ['"a"', "PONG", '"b"', "PONG"]
    assert server.stats.ticks < 20
