"""Ticks: the order of replies, what is served together, workers, and that nothing undurable is revealed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

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


async def test_single_commands_of_many_connections(connect: Any, server: Stub) -> None:
    """The short way: each connection has one GET or SET, in its own keyspace and protocol."""
    wires = [connect() for _ in range(6)]
    await wires[4].answers("SELECT 1")
    await wires[5].answers("HELLO 3")
    before = server.stats.commands
    for i, wire in enumerate(wires):
        wire.ask(f"SET a {i}" if i in (0, 4) else "GET none")
    await settled()
    assert [wire.replies() for wire in wires] == [["OK"], ["nil"], ["nil"], ["nil"], ["OK"], ["null"]]
    assert server.stats.commands == before + 6
    assert [await wires[0].answers("GET a"), await wires[4].answers("GET a")] == [['"0"'], ['"4"']]


async def test_short_commands_are_answered_before_long_ones_are_read(
    connect: Any, server: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short, single = connect(), connect(), connect()
    sent: list[list[str]] = []
    await short.answers("PING", "PING")
    scan = server.dispatcher._scan

    def watched(chunks: list[Any], sizes: list[int]) -> Any:
        if max(sizes) > LONG // 8:
            sent.append(short.replies() + single.replies())
        return scan(chunks, sizes)

    monkeypatch.setattr(server.dispatcher, "_scan", watched)
    long.send(request("SET", "a", bytes(LONG // 4)) + request("GET", "none"))
    short.ask("PING", "ECHO b")
    single.ask("GET none")
    await settled()
    assert sent == [["PONG", '"b"', "nil"]] and long.replies() == ["OK", "nil"] and server.stats.ticks == 2


async def test_a_write_is_not_acknowledged_before_it_is_durable(connect: Any, gate: Gate, store: Any) -> None:
    wire, reader = connect(), connect()
    gate.shut()
    wire.ask("SET a 1")
    await settled()
    reader.ask("GET a")
    reader.ask("PING")
    await settled()
    threading.Event().wait(0.02)
    await settled()
    assert (wire.replies(), reader.replies()) == ([], []), "a reply left before its flush, or revealed what had none"
    gate.open()
    await until(lambda: wire.transport.sent and len(reader.transport.sent) > 10)
    assert (wire.replies(), reader.replies()) == (["OK"], ['"1"', "PONG"])


REVEALING = ["DEL old", "EXPIRE old 100", "TTL new", "DBSIZE", "KEYS *", "EXISTS new", "TABLE.LEN t"]


@pytest.mark.parametrize("line", REVEALING)
async def test_whatever_depends_on_a_pending_write_waits(line: str, connect: Any, gate: Gate, store: Any) -> None:
    store.put(b"old", b"1")
    store.create_table("t", "f4")
    writer, wire = connect(), connect()
    gate.shut()
    writer.ask("SET new 1", "TABLE.PUT t \\x01\\0\\0\\0\\0\\0\\0\\0 \\0\\0\\0\\0")
    await settled()
    wire.ask(line)
    await settled()
    assert wire.replies() == []
    gate.open()
    await until(lambda: wire.transport.sent)
    assert len(writer.replies()) == 2


async def test_what_depends_on_nothing_pending_does_not_wait(connect: Any, gate: Gate, store: Any) -> None:
    store.put(b"old", b"1")
    writer, wire = connect(), connect()
    gate.shut()
    writer.ask("SET new 1")
    await settled()
    assert await wire.answers("GET old", "PING") == ['"1"', "PONG"]
    assert writer.replies() == []
    gate.open()
    await until(lambda: writer.transport.sent)


async def test_a_failed_flush_is_an_error_to_all_who_wait_for_it(connect: Any, gate: Gate, store: Any) -> None:
    store.put(b"old", b"1")
    wire, other, quick = connect(), connect(), connect()
    gate.shut()
    wire.ask("SET a 1", "SET old 2", "PING")
    quick.ask("SET c 1")
    await settled()
    other.ask("GET a")
    await settled()
    gate.break_()
    await until(lambda: wire.transport.sent and other.transport.sent and quick.transport.sent)
    answers = [wire.replies(), other.replies(), quick.replies()]
    assert [len(replies) for replies in answers] == [3, 1, 1], "one reply a command, or the pipeline is out of step"
    for reply in [*answers[0][:2], *answers[1], *answers[2]]:
        assert reply.startswith("-MISCONF Errors writing to the log"), reply
    assert await wire.answers("GET a", "GET old", "PING") == ["nil", '"1"', "PONG"]
    refused = await wire.answers("SET a 1", "DEL old", "INCR n")
    assert all(reply.startswith(("-MISCONF", "-READONLY")) for reply in refused), refused


async def test_a_full_pool_refuses_writes_and_nothing_else(connect: Any, store: Any) -> None:
    wire = connect()
    store.put(b"old", b"1")
    long, refused = b"x" * 900_000, []
    for i in range(100):
        wire.send(request("SET", f"k{i}", long))
        await settled()
        (reply,) = wire.replies()
        if reply != "OK":
            refused.append(reply)
    assert 0 < len(refused) < 100
    assert all(reply.startswith("-OOM command not allowed when used memory > 'maxmemory'.") for reply in refused)
    more = request("SET", "big", long)
    wire.send(more + request("GET", "old") + request("DEL", "old") + more + request("GET", "old"))
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 5)
    assert replies[0].startswith("-OOM"), replies[0]
    assert [replies[1], replies[2], replies[4]] == ['"1"', ":1", "nil"]


async def test_one_bad_key_of_a_batch_is_one_error(connect: Any) -> None:
    """What the store refuses as a batch is tried one by one, so that only who is concerned hears of it."""
    wire, other = connect(), connect()
    keyspace = wire.connection.session.keyspace

    class Picky:
        def put_many(self, pairs: list) -> None:
            raise ValueError("all of them")

        def put(self, key: bytes, value: bytes) -> None:
            if key == b"bad":
                raise ValueError("no")
            keyspace.put(key, value)

    wire.connection.session.keyspace = other.connection.session.keyspace = Picky()
    wire.ask("SET a 1", "SET bad 1", "SET b 1")
    other.ask("SET c 1", "SET d 1")
    await settled()
    first, second, third = wire.replies()
    assert (first, third) == ("OK", "OK")
    assert second == "-ERR internal error: ValueError: no"
    assert other.replies() == ["OK", "OK"]


async def test_a_worker_holds_up_its_own_connection_only(connect: Any, store: Any) -> None:
    store.put(b"long", b"x" * LONG)
    wire, other = connect(), connect()
    began, go = threading.Event(), threading.Event()
    keyspace = wire.connection.session.keyspace

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(keyspace, name)

        def get(self, key: bytes) -> Any:
            began.set()
            assert go.wait(10)
            return keyspace.get(key)

    wire.connection.session.keyspace = Slow()
    wire.ask("PING", "GETRANGE long 0 1", "PING", "STRLEN long")
    await until(began.is_set)
    wire.ask("ECHO later")
    assert await other.answers("PING", "SET a 1", "GET a") == ["PONG", "OK", '"1"']
    assert wire.replies() == ["PONG"]
    go.set()
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 4)
    assert replies == ['"xx"', "PONG", f":{LONG}", '"later"']


@pytest.mark.parametrize("tail", [b"PING\r\n", b"*1\r\n:1\r\n", b"SET 'open\r\n"])
async def test_what_follows_a_heavy_command_waits_for_its_reply(tail: bytes, connect: Any, store: Any) -> None:
    """Also where it is an inline command or no command at all."""
    store.put(b"long", b"x" * LONG)
    wire = connect()
    wire.send(request("APPEND", "long", "y") + tail)
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 2)
    assert replies[0] == f":{LONG + 1}"
    assert replies[1] == "PONG" or replies[1].startswith("-ERR Protocol error")
    await until(lambda: wire.transport.closed == replies[1].startswith("-"))


async def test_a_worker_s_write_is_held_until_durable(connect: Any, gate: Gate, store: Any) -> None:
    wire = connect()
    gate.shut()
    wire.send(request("SETEX", "a", "100", b"x" * (1_100_000)))
    await settled()
    threading.Event().wait(0.05)
    await settled()
    assert wire.replies() == []
    gate.open()
    await until(lambda: wire.transport.sent)
    assert wire.replies() == ["OK"]


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

        def size(self, key: bytes) -> int:
            raise OSError("bad sector")

    wire.connection.session.keyspace = Damaged()
    wire.ask("STRLEN a", "APPEND a b", "PING")
    other.ask("PING", "PING")
    await settled()
    assert other.replies() == ["PONG", "PONG"]
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 3)
    assert replies == ["-ERR internal error: OSError: bad sector"] * 2 + ["PONG"]


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
