"""Sockets that are received from and sent to in one call, alone and under connections, on both kinds of loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import uvloop

from pmkv_server.net import large_command as intake
from pmkv_server.net.connection import SHORT, Connection
from pmkv_server.net.large_command import MUCH
from pmkv_server.net.transport import PATIENCE, PORTION, ROOM, Sockets, receive_long
from tests.served import request
from tests.unit.server.stand import Gate, Stub, dispatching, until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Callable[[], Pair]]:
    """`pair()` gives a connected pair: ours, theirs."""
    made: list[socket.socket] = []

    def connected() -> Pair:
        made.extend(both := socket.socketpair())
        return both

    yield connected
    for one in made:
        one.close()


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


def test_all_that_is_ready_comes_in_one_call(sockets: Sockets, pair: Any) -> None:
    pairs = [pair() for _ in range(5)]
    for i, (ours, theirs) in enumerate(pairs):
        sockets.watch(ours.fileno(), i)
        if i != 2:
            theirs.send(b"%d" % i * (i + 1))
    owners, sizes, data = sockets.receive()
    assert dict(zip(owners, sizes)) == {0: 1, 1: 2, 3: 4, 4: 5}
    assert data == b"".join(b"%d" % i * (i + 1) for i in owners)
    assert sockets.receive() == ([], [], b"")


def test_an_end_and_an_error_are_nothing_to_receive(sockets: Sockets, pair: Any) -> None:
    (ours, theirs), listening = pair(), socket.socket()
    sockets.watch(ours.fileno(), "end")
    sockets.watch(listening.fileno(), "error")  # neither connected nor listening: hung up
    theirs.close()
    owners, sizes, data = sockets.receive()
    assert (sorted(owners), sizes, data) == (["end", "error"], [0, 0], b"")
    listening.close()


def test_who_is_forgotten_is_told_nothing(sockets: Sockets, pair: Any) -> None:
    ours, theirs = pair()
    sockets.watch(ours.fileno(), "owner")
    theirs.send(b"x")
    sockets.forget(ours.fileno())
    sockets.forget(ours.fileno())
    assert sockets.receive()[0] == []
    sockets.watch(ours.fileno(), "owner")
    assert sockets.receive() == (["owner"], [1], b"x")


def test_what_has_no_room_comes_with_the_next_calls(sockets: Sockets, pair: Any) -> None:
    count = ROOM // PORTION + 3
    for i in range(count):
        ours, theirs = pair()
        theirs.setblocking(False)
        sockets.watch(ours.fileno(), i)
        assert theirs.send(bytes([i]) * (PORTION + 10)) == PORTION + 10
    got = [b""] * count
    for _ in range(4):
        owners, sizes, data = sockets.receive()
        assert len(data) == sum(sizes) <= ROOM
        assert max(sizes, default=0) <= PORTION
        for owner, size in zip(owners, sizes):
            got[owner], data = got[owner] + data[:size], data[size:]
    assert got == [bytes([i]) * (PORTION + 10) for i in range(count)]


def test_each_gets_its_piece_as_far_as_it_goes(sockets: Sockets, pair: Any) -> None:
    (ours, theirs), (full, slow), (broken, gone) = pair(), pair(), pair()
    gone.close()
    pieces = [b"abc", b"", b"skipped", b"x" * (16 << 20), b"lost"]
    files = [ours.fileno(), ours.fileno(), -1, full.fileno(), broken.fileno()]
    sent = sockets.send(files, np.frombuffer(b"".join(pieces), np.uint8), np.array([len(piece) for piece in pieces]))
    assert sent[:3] + sent[4:] == [3, 0, 0, 0]
    assert 0 < sent[3] < 16 << 20
    assert theirs.recv(10) == b"abc"
    assert len(slow.recv(sent[3], socket.MSG_WAITALL)) == sent[3]


def received(ours: socket.socket, count: int) -> bytes:
    """What one call receives of so many bytes."""
    room = np.zeros(count, np.uint8)
    return room[: receive_long(ours.fileno(), room, np.empty(2, np.int32), np.empty(2, np.int64))].tobytes()


def test_a_long_command_is_received_while_it_comes(pair: Any) -> None:
    ours, theirs = pair()
    data = bytes(range(256)) * 20_000
    sender = threading.Thread(target=theirs.sendall, args=(data + b"more",))
    sender.start()
    assert received(ours, len(data)) == data
    sender.join()
    assert ours.recv(10) == b"more"


def test_a_long_command_that_does_not_come_is_not_waited_for(pair: Any) -> None:
    ours, theirs = pair()
    begun = time.monotonic()
    assert received(ours, 10) == b""
    theirs.send(b"abc")
    assert received(ours, 10) == b"abc"
    theirs.send(b"d")
    theirs.close()
    assert received(ours, 10) == b"d" and received(ours, 10) == b""
    with socket.socket() as unconnected:
        assert received(unconnected, 10) == b""
    assert time.monotonic() - begun < 1


def test_who_sends_a_long_command_slowly_is_not_waited_for(pair: Any) -> None:
    ours, theirs = pair()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                theirs.send(b"x" * 100)
                time.sleep(1e-4)

    sender = threading.Thread(target=trickle)
    sender.start()
    time.sleep(0.01)
    begun = time.monotonic()
    assert 0 < len(received(ours, 1_000_000)) < 100_000
    assert time.monotonic() - begun < 0.5
    ours.close()
    sender.join()


# ---- under connections ----

Scenario = Callable[["Listening"], Awaitable[None]]


class Listening:
    """A server on a real socket, and its clients."""

    def __init__(self, server: Stub, port: int) -> None:
        self.server, self.port = server, port

    async def client(self, **how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One whose socket is watched already."""
        before = self.connections
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **how)
        await until(lambda: any(one._watched for one in self.connections - before))
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
            loop.add_reader(dispatcher.sockets.fileno(), dispatcher.receive)
            listener = await loop.create_server(lambda: Connection(server, dispatcher), "127.0.0.1", 0)
            await scenario(Listening(server, listener.sockets[0].getsockname()[1]))
            listener.close()
            for connection in server._connections:
                connection.abort()
            await until(lambda: not server._connections)
            loop.remove_reader(dispatcher.sockets.fileno())

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
        assert all(one.outlet == one.session.fd and one.at_rest for one in listening.connections)
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
        await until(lambda: connection.at_rest)
        writer.write(request("GET", "a"))
        assert await reader.readexactly(8) == b"$2\r\n39\r\n"
        assert connection.outlet == connection.session.fd

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
        assert connection._choked and connection._reading
        one = len(b"$200000\r\n") + 200_000 + 2
        for _ in range(asked):
            assert len(await reader.readexactly(one)) == one
        await until(lambda: connection.at_rest)
        assert connection.session.fd in listening.server.dispatcher.sockets._owners

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
        assert len(listening.server.dispatcher.sockets._owners) == 1

    play(scenario)


def test_long_commands_come_by_the_transport(play: Any, store: Any) -> None:
    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        (connection,) = listening.connections
        for _ in range(2):
            writer.write(request("SET", "a", b"x" * (SHORT * 3)) + request("STRLEN", "a"))
            assert await reader.readexactly(14) == b"+OK\r\n:%d\r\n" % (SHORT * 3)
        assert not connection._watched

    play(scenario)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(bytes wanted, bytes received), of each time that a worker received."""
    times: list[tuple[int, int]] = []

    def counting(file: int, room: np.ndarray, *scratch: np.ndarray) -> int:
        count = receive_long(file, room, *scratch)
        times.append((room.size, count))
        return count

    monkeypatch.setattr(intake, "receive_long", counting)
    return times


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_receives_what_is_missing_of_long_commands(play: Any, store: Any, lent: Any, seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([10, SHORT, 2 * MUCH, 10 * MUCH, 3 << 20]) for _ in range(30)]
    values = [rng.randbytes(size) for size in sizes]

    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        data = b"".join(request("SET", f"key{i}", value) for i, value in enumerate(values))
        files = open_files()
        while data:
            size = rng.choice([100, SHORT, 1 << 20, 8 << 20])
            writer.write(data[:size])
            data = data[size:]
            await writer.drain()
            if rng.random() < 0.2:
                await asyncio.sleep(0.005)
        assert await reader.readexactly(5 * len(values)) == b"+OK\r\n" * len(values)
        assert all(store.get(b"key%d" % i) == value for i, value in enumerate(values))
        assert any(wanted == count > MUCH for wanted, count in lent)
        assert open_files() <= files

    play(scenario)


@pytest.mark.parametrize("name", ["t" * length for length in range(1, 9)])
def test_rows_are_taken_from_where_they_came_in(play: Any, store: Any, lent: Any, name: str) -> None:
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
        assert lent

    play(scenario)


def test_a_slow_client_has_a_worker_once_a_command(play: Any, store: Any, lent: Any) -> None:
    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        for _ in range(2):
            data = request("SET", "a", b"x" * (1 << 20))
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
                await asyncio.sleep(4e-3 * PATIENCE)
            assert await reader.readexactly(5) == b"+OK\r\n"
        assert len(lent) == 2 and all(count < wanted for wanted, count in lent)

    play(scenario)


def test_a_client_that_goes_while_a_worker_receives(play: Any, store: Any, lent: Any) -> None:
    async def scenario(listening: Listening) -> None:
        reader, writer = await listening.client()
        files = open_files()
        for how in ("end", "reset", "killed") * 2:
            there = listening.connections
            _, other = await listening.client()
            (connection,) = listening.connections - there
            other.write(request("SET", "a", b"x" * (4 << 20))[: 2 << 20])
            await until(lambda connection=connection: lent or connection.lent)
            if how == "killed":
                connection.abort()
            elif how == "reset":
                other.transport.abort()
            other.close()
            await until(lambda there=there: listening.connections == there)
            lent.clear()
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


def test_the_loop_is_asked_to_watch_the_epoll(sockets: Sockets, pair: Any) -> None:
    ours, theirs = pair()
    sockets.watch(ours.fileno(), "owner")
    loop = asyncio.new_event_loop()
    got: list[Any] = []
    loop.add_reader(sockets.fileno(), lambda: got.append(sockets.receive()) or loop.stop())
    theirs.send(b"x")
    loop.run_forever()
    loop.close()
    assert got == [(["owner"], [1], b"x")]
