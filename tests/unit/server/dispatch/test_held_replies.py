"""Nothing is revealed before it is durable."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.unit.server.stand import Gate, settled, until

LONG = 2 << 20


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
    assert await wire.answers("GET a", "GET old", "ECHO x") == ["nil", '"1"', '"x"']
    (ping,) = await wire.answers("PING")
    assert ping.startswith("-MISCONF Errors writing to the log: the medium refused a flush")
    refused = await wire.answers("SET a 1", "DEL old", "INCR n")
    assert all(reply.startswith(("-MISCONF", "-READONLY")) for reply in refused), refused
