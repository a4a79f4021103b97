"""A connection's flow: bytes in any portions, back-pressure, held replies, half-closed clients, the end."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pmkv_server.net.connection import INBOX_LIMIT_BYTES
from pmkv_server.net.output_limits import PAUSE_BYTES
from pmkv_server.resp import scan
from tests.served import request
from tests.unit.server.stand import Gate, Stub, Wire, settled, until

LONG = 2 << 20


async def test_bytes_may_arrive_in_any_portions(connect: Any) -> None:
    data = request("SET", "a", "v\r\n1") + b"PING\r\n" + request("GET", "a") + request("MGET", "a", "b")
    expected = ["OK", "PONG", '"v\\r\\n1"', '["v\\r\\n1", nil]']
    for cut in range(len(data) + 1):
        wire = connect()
        wire.send(data[:cut])
        await settled()
        wire.send(data[cut:])
        await settled()
        assert wire.replies() == expected, f"cut at {cut}"
    wire = connect()
    for i in range(len(data)):
        wire.send(data[i : i + 1])
        await settled()
    assert wire.replies() == expected


async def test_two_portions_before_one_tick_make_one_command(connect: Any) -> None:
    data = request("SET", "a", "v")
    for cut in range(1, len(data)):
        wire = connect()
        wire.send(data[:cut])
        wire.send(data[cut:])
        await settled()
        assert wire.replies() == ["OK"], f"cut at {cut}"


async def test_a_long_value_is_not_scanned_again_with_every_portion(connect: Any, server: Stub) -> None:
    wire = connect()
    data = request("SET", "a", b"x" * 1_000_000)
    for start in range(0, len(data), 10_000):
        wire.send(data[start : start + 10_000])
        await settled()
    assert wire.replies() == ["OK"]
    assert server.stats.ticks <= 3


async def test_an_empty_line_and_an_empty_array_say_nothing(connect: Any) -> None:
    wire = connect()
    wire.send(b"\r\n\n*0\r\n*-1\r\n  \r\nPING\n")
    await settled()
    assert wire.replies() == ["PONG"]


@pytest.mark.parametrize(
    "data",
    [b"*2147483647\r\n", b"*1\r\n$10737418240\r\n", b"*1\r\n:1\r\n", b'SET "a\r\n', b"x" * (scan.MAX_INLINE + 1)],
    ids=lambda data: repr(data[:24]),
)
async def test_nonsense_is_named_and_closes_its_own_connection_only(data: bytes, connect: Any) -> None:
    wire, other = connect(), connect()
    wire.send(request("SET", "a", "1") + data + request("SET", "a", "2"))
    await settled()
    first, second = wire.replies()
    assert first == "OK"
    assert second.startswith("-ERR Protocol error: ")
    assert wire.transport.closed
    wire.send(request("SET", "a", "3"))
    assert await other.answers("GET a") == ['"1"']


async def test_a_client_that_does_not_read_is_served_no_further(connect: Any, store: Any, server: Stub) -> None:
    store.put(b"a", b"x" * 100_000)
    wire = connect()
    wire.transport.slow = True
    asked = request("GET", "a") * 10 + request("STRLEN", "a")
    for _ in range(50):
        wire.send(asked)
        await settled()
    assert wire.transport.buffered < PAUSE_BYTES + 20 * 100_000
    assert wire.transport.reading, "it may send a whole pipeline before it reads"
    served = server.stats.commands
    for _ in range(100):
        wire.transport.drain()
        await settled()
    assert served < server.stats.commands == 50 * 11
    assert wire.transport.reading


async def test_a_client_that_never_reads_is_cut_off(connect: Any, store: Any, server: Stub) -> None:
    server.limits.query_bytes = 2 * INBOX_LIMIT_BYTES
    store.put(b"a", b"x" * 100_000)
    wire = connect()
    wire.transport.slow = True
    asked = request("GET", "a") * 1000
    sent = 0
    while not wire.connection.session.closing and sent < 10 * INBOX_LIMIT_BYTES:
        wire.send(asked)
        sent += len(asked)
        await until(lambda: wire.transport.reading or wire.connection.session.closing)
    assert sent < 3 * INBOX_LIMIT_BYTES
    assert server.stats.cut_off == 1
    assert await connect().answers("GET b") == ["nil"]


async def test_one_pipeline_cannot_fill_the_memory_with_replies(connect: Any, store: Any) -> None:
    store.put(b"a", b"x" * 900_000)
    wire = connect()
    wire.transport.slow = True
    wire.send(request("STRLEN", "a") + request("MGET", "a", "a", "a", "a") * 20)
    await settled()
    assert wire.transport.buffered < 3 * PAUSE_BYTES
    for _ in range(60):
        wire.transport.drain()
        await settled()
    assert len(wire.replies()) == 21


async def test_nothing_more_is_read_while_much_waits_for_a_worker(connect: Any, store: Any) -> None:
    store.put(b"long", b"x" * LONG)
    wire, go = connect(), threading.Event()
    keyspace = wire.connection.session.keyspace

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(keyspace, name)

        def get(self, key: bytes) -> Any:
            assert go.wait(10)
            return keyspace.get(key)

    wire.connection.session.keyspace = Slow()
    wire.ask("GETRANGE long 0 0")
    await settled()
    ping = request("ECHO", b"x" * 10_000)
    sent = 0
    while wire.transport.reading and sent < 10 * INBOX_LIMIT_BYTES:
        wire.send(ping)
        sent += len(ping)
        await settled()
    assert INBOX_LIMIT_BYTES <= sent < INBOX_LIMIT_BYTES + 4 * len(ping)
    go.set()
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) == 1 + sent // len(ping))
    assert wire.transport.reading


async def test_replies_held_for_durability_are_bounded_too(connect: Any, store: Any, gate: Gate) -> None:
    wire = connect()
    gate.shut()
    wire.send(request("SET", "a", b"x" * 100_000))
    await settled()
    asked = 0
    for _ in range(40):
        wire.send(request("GET", "a") * 10)
        asked += 10
        await settled()
    assert wire.transport.sent == b""
    assert wire.connection.outbox.held_size < PAUSE_BYTES + 2 * 600_000
    gate.open()
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) == 1 + asked)
    assert replies[0] == "OK"


async def half_close(wire: Wire) -> None:
    if not wire.connection.eof_received():
        wire.transport.close()


async def test_a_half_closed_client_gets_all_its_replies(connect: Any, store: Any, gate: Gate) -> None:
    wire = connect()
    gate.shut()
    wire.ask("SET a 1", "PING")
    await settled()
    await half_close(wire)
    await settled()
    assert not wire.transport.closed
    gate.open()
    await until(lambda: wire.transport.closed)
    assert wire.replies() == ["OK", "PONG"]


async def test_a_half_closed_client_s_commands_behind_a_heavy_one_are_run(connect: Any, store: Any) -> None:
    store.put(b"long", b"x" * LONG)
    wire = connect()
    wire.ask("APPEND long y", "SET a 1", "PING")
    await half_close(wire)
    await until(lambda: wire.transport.closed)
    assert wire.replies() == [f":{LONG + 1}", "OK", "PONG"]
    assert store.get(b"a") == b"1"


@pytest.mark.parametrize("rest", [b"", b"*2\r\n$3\r\nGET", b"PIN"])
async def test_a_half_closed_client_with_nothing_whole_to_say_is_closed(rest: bytes, connect: Any) -> None:
    wire = connect()
    wire.send(request("PING") + rest)
    await settled()
    await half_close(wire)
    await settled()
    assert wire.transport.closed
    assert wire.replies() == ["PONG"]


async def test_quit_is_answered_and_ends_the_pipeline(connect: Any, store: Any) -> None:
    wire = connect()
    wire.ask("SET a 1", "QUIT", "SET a 2")
    await settled()
    assert wire.replies() == ["OK", "OK"]
    assert wire.transport.closed
    assert store.get(b"a") == b"1"


async def test_close_waits_for_held_replies_and_abort_does_not(connect: Any, gate: Gate) -> None:
    wire, other = connect(), connect()
    gate.shut()
    wire.ask("SET a 1")
    other.ask("SET b 1")
    await settled()
    wire.connection.close()
    other.connection.abort()
    await settled()
    assert (wire.transport.closed, other.transport.closed) == (False, True)
    gate.open()
    await until(lambda: wire.transport.closed)
    assert (wire.replies(), other.replies()) == (["OK"], [])


async def test_a_client_that_leaves_early_is_forgotten(connect: Any, gate: Gate, server: Stub) -> None:
    wire = connect()
    gate.shut()
    wire.ask("SET a 1")
    await settled()
    wire.transport.close()
    await settled()
    assert server.sessions == {}
    gate.open()
    await until(lambda: server.dispatcher.is_idle)
    other = connect()
    await until(lambda: server.store.durable_lsn)
    assert await other.answers("GET a") == ['"1"']


async def test_one_client_too_many_is_told_so(connect: Any, server: Stub) -> None:
    server.config.max_clients = 2
    wires = [connect() for _ in range(3)]
    assert [wire.transport.closed for wire in wires] == [False, False, True]
    assert wires[2].replies() == ["-ERR max number of clients reached"]
    assert server.stats.rejected == 1
    await settled()
    wires[0].transport.close()
    await settled()
    assert await connect().answers("PING") == ["PONG"]


async def test_resp3_changes_replies_from_then_on(connect: Any) -> None:
    wire = connect()
    first, hello, null = await wire.answers("GET a", "HELLO 3", "GET a")
    assert (first, null) == ("nil", "null")
    assert hello.startswith('{"server", "redis", ')
    assert (await wire.answers("RESET", "GET a")) == ["RESET", "nil"]
