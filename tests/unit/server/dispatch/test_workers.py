"""Commands in workers: whom they hold up, and in which order replies leave."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.served import request
from tests.unit.server.stand import Gate, settled, until

LONG = 2 << 20


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


async def test_a_worker_that_fails_closes_its_connections(connect: Any, server: Any) -> None:
    wire, other = connect(), connect()

    def fails() -> None:
        raise MemoryError

    server.dispatcher.workers.run([wire.connection], fails, lambda result, lsn: None)
    await until(lambda: wire.transport.aborted)
    assert server.dispatcher.is_idle
    assert await other.answers("PING") == ["PONG"]
