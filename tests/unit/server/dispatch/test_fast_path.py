"""Single GETs and SETs past the rounds of a tick."""

from __future__ import annotations

from typing import Any

from pmkv_server.dispatch.tick import Dispatcher
from pmkv_server.net.connection import Connection
from tests.served import request
from tests.unit.server.stand import Stub, Wire, settled, until

LONG = 2 << 20


async def test_single_commands_of_many_connections(connect: Any, server: Stub) -> None:
    """The fast path: each connection has one GET or SET, in its own keyspace and protocol."""
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


async def test_the_server_works_without_it(store: Any, connect: Any, server: Stub, monkeypatch: Any) -> None:
    monkeypatch.setenv("PMKV_FAST_PATH", "off")
    dispatcher = Dispatcher(server, server.loop, server.dispatcher.workers._executor)
    assert dispatcher.fast_path is None
    server.dispatcher = dispatcher
    wires = [Wire(server, Connection(server, dispatcher)) for _ in range(3)]
    for i, wire in enumerate(wires):
        assert await wire.answers(f"SET a {i}", "GET a", "GET none") == ["OK", f'"{i}"', "nil"]
        assert await wire.answers("GET a") == [f'"{i}"']
        assert await wire.answers("SET b 1") == ["OK"]
    wires[0].send(request("SET", "a", bytes(LONG)) + request("STRLEN", "a"))
    await until(lambda: len(wires[0].transport.sent) > 10)
    assert wires[0].replies() == ["OK", f":{LONG}"]
    wires[1].transport.close()
    await until(lambda: len(server.sessions) == 2)
    assert dispatcher.is_idle
