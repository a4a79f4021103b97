"""Connections on real sockets, whose transports give them to compiled loops; on both kinds of event loop."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import uvloop

from pmkv_server.net.connection import IDLE, LARGE_COMMAND_BYTES, Connection
from tests.served import request
from tests.unit.server.stand import Gate, Stub, dispatching, until

Scenario = Callable[["Listening"], Awaitable[None]]


class Listening:
    """A server on a real socket, and its clients."""

    def __init__(self, server: Stub, port: int) -> None:
        self.server, self.port = server, port

    async def client(self, **how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One whose socket is watched already."""
        before = self.connections
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **how)
        await until(lambda: any(one.transport.is_watched for one in self.connections - before))
        return reader, writer

    @property
    def connections(self) -> set[Connection]:
        return set(self.server._connections)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: Any, server: Stub) -> Callable[[Scenario], None]:
    """Play a scenario on a loop of each kind."""

    async def main(scenario: Scenario) -> None:
        with ThreadPoolExecutor(1) as executor:
            dispatcher, loop = dispatching(server, executor), asyncio.get_running_loop()
            sockets = dispatcher.fast_path.sockets
            loop.add_reader(sockets.fileno(), dispatcher.fast_path.receive)
            listener = await loop.create_server(lambda: Connection(server, dispatcher), "127.0.0.1", 0)
            await scenario(Listening(server, listener.sockets[0].getsockname()[1]))
            listener.close()
            for connection in server._connections:
                connection.abort()
            await until(lambda: not server._connections)
            loop.remove_reader(sockets.fileno())

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main(scenario))

    return run


def test_single_commands_go_straight_to_the_socket(play: Any, store: Any) -> None:
    async def scenario(listening: Listening) -> None:
        clients = [await listening.client() for _ in range(8)]
        for i in range(3):
            for n, (_, writer) in enumerate(clients):
                writer.write(request("SET", f"key{n}", f"value{i}") if i != 1 else request("GET", f"key{n}"))
            wanted = b"$6\r\nvalue0\r\n" if i == 1 else b"+OK\r\n"
            for reader, _ in clients:
                assert await reader.readexactly(len(wanted)) == wanted
        assert all(one.transport.direct_fd == one.session.fd and one.state == IDLE for one in listening.connections)
        assert listening.server.stats.commands == 24

    play(scenario)


def test_replies_keep_their_order_whichever_way_they_leave(play: Any, store: Any) -> None:
    store.put(b"long", b"x" * 200_000)

    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client(limit=1 << 10)
        wanted = b""
        for i in range(40):
            for words, reply in (
                (("GET", "long"), b"$200000\r\n" + b"x" * 200_000 + b"\r\n"),
                (("ECHO", i), b"$%d\r\n%d\r\n" % (len(str(i)), i)),
                (("SET", "a", i), b"+OK\r\n"),
                (("GET", "a"), b"$%d\r\n%d\r\n" % (len(str(i)), i)),
            ):
                writer.write(request(*words))
                wanted += reply
            await asyncio.sleep(0.001)
        assert await reader.readexactly(len(wanted)) == wanted
        (connection,) = listening.connections
        await until(lambda: connection.state == IDLE)
        writer.write(request("GET", "a"))
        assert await reader.readexactly(8) == b"$2\r\n39\r\n"
        assert connection.transport.direct_fd == connection.session.fd

    play(scenario)


def test_a_client_may_send_a_pipeline_before_it_reads(play: Any, store: Any) -> None:
    store.put(b"long", b"x" * 200_000)

    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client(limit=1 << 10)
        (connection,) = listening.connections
        asked = 0
        while asked < 300:
            writer.write(request("GET", "long"))
            asked += 1
            await asyncio.sleep(0)
        assert connection._write_paused and connection._is_reading
        one = len(b"$200000\r\n") + 200_000 + 2
        for _ in range(asked):
            assert len(await reader.readexactly(one)) == one
        await until(lambda: connection.state == IDLE)
        assert connection.session.fd in listening.server.dispatcher.fast_path.sockets._owners

    play(scenario)


def test_ends_and_resets_close_a_connection_and_nothing_else(play: Any, store: Any) -> None:
    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        for how in ("close", "half", "reset", "quit") * 2:
            there = listening.connections
            other_reader, other = await listening.client()
            other.write(request("SET", "a", how) + (request("QUIT") if how == "quit" else b""))
            if how == "half":
                other.write_eof()
            assert await other_reader.readexactly(5) == b"+OK\r\n"
            if how == "half":
                assert await other_reader.read() == b""
            elif how == "quit":
                assert await other_reader.read() == b"+OK\r\n"
            elif how == "reset":
                other.transport.abort()
            other.close()
            await until(lambda there=there: listening.connections == there)
            writer.write(request("GET", "a"))
            wanted = b"$%d\r\n%s\r\n" % (len(how), how.encode())
            assert await reader.readexactly(len(wanted)) == wanted
        assert len(listening.server.dispatcher.fast_path.sockets._owners) == 1

    play(scenario)


def test_long_commands_come_by_the_transport(play: Any, store: Any) -> None:
    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        (connection,) = listening.connections
        for _ in range(2):
            writer.write(request("SET", "a", b"x" * (LARGE_COMMAND_BYTES * 3)) + request("STRLEN", "a"))
            assert await reader.readexactly(14) == b"+OK\r\n:%d\r\n" % (LARGE_COMMAND_BYTES * 3)
        assert not connection.transport.is_watched

    play(scenario)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("seed", range(3))
def test_long_commands_in_any_portions(play: Any, store: Any, seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([10, LARGE_COMMAND_BYTES, 256 << 10, 1 << 20, 3 << 20]) for _ in range(30)]
    values = [rng.randbytes(size) for size in sizes]

    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        data = b"".join(request("SET", f"key{i}", value) for i, value in enumerate(values))
        files = open_files()
        while data:
            size = rng.choice([100, LARGE_COMMAND_BYTES, 1 << 20, 8 << 20])
            writer.write(data[:size])
            data = data[size:]
            await writer.drain()
            if rng.random() < 0.2:
                await asyncio.sleep(0.005)
        assert await reader.readexactly(5 * len(values)) == b"+OK\r\n" * len(values)
        assert all(store.get(b"key%d" % i) == value for i, value in enumerate(values))
        assert open_files() <= files

    play(scenario)


@pytest.mark.parametrize("name", ["t" * length for length in range(1, 9)])
def test_rows_are_taken_from_where_they_came_in(play: Any, store: Any, name: str) -> None:
    """At any address, and while what comes behind them is received."""
    ids, random = np.arange(20_000), np.random.default_rng(len(name))
    many = [random.integers(0, 1 << 40, (ids.size, 3)) for _ in range(4)]
    tables = [store.create_table(f"{name}{i}", ("i8", 3)) for i in range(len(many))]

    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        for table, rows in zip(tables, many):
            writer.write(request("TABLE.PUT", table.name, ids.tobytes(), rows.tobytes()) + request("SET", "a", name))
        assert await reader.readexactly(10 * len(many)) == b"+OK\r\n" * 2 * len(many)
        for table, rows in zip(tables, many):
            assert (table.get(ids) == rows).all()

    play(scenario)


def test_a_client_that_goes_within_a_long_command(play: Any, store: Any) -> None:
    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        files = open_files()
        for how in ("end", "reset", "killed") * 2:
            there = listening.connections
            _, other = await listening.client()
            (connection,) = listening.connections - there
            other.write(request("SET", "a", b"x" * (4 << 20))[: 2 << 20])
            await until(lambda connection=connection: connection._large_command)
            if how == "killed":
                connection.abort()
            elif how == "reset":
                other.transport.abort()
            other.close()
            await until(lambda there=there: listening.connections == there)
        writer.write(request("EXISTS", "a"))
        assert await reader.readexactly(4) == b":0\r\n"
        await until(lambda: open_files() <= files)

    play(scenario)


def test_what_comes_while_a_reply_waits_for_the_medium_is_answered_behind_it(play: Any, gate: Gate) -> None:
    async def scenario(listening: Listening) -> None:
        clients = [await listening.client() for _ in range(3)]
        gate.shut()
        for _, writer in clients:
            writer.write(request("SET", "a", "1"))
        await asyncio.sleep(0.02)
        for _, writer in clients:
            writer.write(request("PING"))
        clients[0][1].transport.abort()
        await asyncio.sleep(0.02)
        gate.open()
        for reader, _ in clients[1:]:
            assert await reader.readexactly(12) == b"+OK\r\n+PONG\r\n"

    play(scenario)
