"""How long commands arrive: whatever the portions, whatever comes before and behind."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from pmkv_server.dispatch import workers
from pmkv_server.net import connection as connection_module
from pmkv_server.net import large_command
from pmkv_server.net.connection import INBOX_LIMIT_BYTES
from pmkv_server.net.inbox import Inbox
from pmkv_server.net.large_command import FIRST_BUFFER_BYTES, LARGEST_FIRST_BUFFER_BYTES, LargeCommand
from tests.served import request
from tests.unit.server.stand import receive, settled, until


class Receiver:
    """A connection whose inbox is served when it is told to."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.eof_received = self.connection_lost = self.pause_writing = self.resume_writing = lambda *_: None
        self.regulate = lambda: None

    def data_received(self, data: bytes) -> None:
        raise AssertionError("nothing is copied out of a buffer")

    def append(self, data: Any, before: Any) -> None:
        if before is not None and self.inbox.is_last(before):
            assert bytes(self.inbox.chunks[-1]) == bytes(data)[: len(before)]
            self.inbox.replace_last(data)
        else:
            self.inbox.chunks.append(data)

    def take(self) -> list[Any]:
        return self.inbox.take()


def some(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_a_command_is_received_where_its_beginning_was_put() -> None:
    inbox, data = Receiver(), some(300_000)
    room = LargeCommand(inbox)
    room.begin(b"..." + data[:1000] + b"..", 3, 1003, [], len(data))
    receive(room, data[1000:200_000])
    assert not inbox.inbox.chunks and room.size == 200_000
    receive(room, data[200_000:])
    [whole] = inbox.take()
    assert whole == data and isinstance(whole, memoryview) and not room.size


def test_the_next_one_is_received_as_if_it_were_as_long_and_never_copied() -> None:
    inbox, first, second = Receiver(), some(100_000), some(100_001)[:100_000]
    room = LargeCommand(inbox)
    room.begin(first, 0, 10, [], len(first))
    receive(room, first[10:])
    inbox.take()
    receive(room, second[:100])
    [beginning] = inbox.take()
    receive(room, second[100:200])
    [more] = inbox.take()
    assert bytes(beginning) + bytes(more) == second[:200]
    receive(room, second[200:300])
    receive(room, second[300:400])
    [longer] = inbox.take()
    assert longer == second[200:400]
    room.begin(longer, 50, 200, [], 99_750)  # of which that is the beginning, as it turns out
    receive(room, second[400:])
    [rest] = inbox.take()
    assert rest == second[250:] and rest.obj is longer.obj


def test_a_command_that_turns_out_to_be_longer_than_its_room_moves() -> None:
    inbox, data = Receiver(), some(500_000)
    room = LargeCommand(inbox)
    room.begin(data, 0, 1000, [], 100_000)
    receive(room, data[1000:100_000])
    [part] = inbox.take()
    room.begin(part, 0, len(part), [], len(data))
    receive(room, data[100_000:])
    assert inbox.take() == [data]


def test_what_has_arrived_behind_it_meanwhile_is_of_it() -> None:
    inbox, data = Receiver(), some(200_000)
    room = LargeCommand(inbox)
    room.begin(data, 0, 1000, [data[1000:2000], memoryview(data)[2000:3000]], len(data))
    receive(room, data[3000:])
    assert inbox.take() == [data]
    room.begin(data, 0, 1000, [data[1000:]], len(data))
    assert inbox.take() == [data], "all of it was there"


@pytest.mark.parametrize(
    ("need", "room"),
    [
        (1, FIRST_BUFFER_BYTES),
        (FIRST_BUFFER_BYTES + 1, FIRST_BUFFER_BYTES + 1),
        (LARGEST_FIRST_BUFFER_BYTES + 1, FIRST_BUFFER_BYTES),
    ],
)
def test_rooms_made_ahead_are_bounded(need: int, room: int) -> None:
    command = LargeCommand(Receiver())
    command.begin(b"", 0, 0, [], need)
    receive(command, bytes(need))
    assert len(command.get_buffer(-1)) == room


async def test_what_is_received_beside_a_worker_is_bounded(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()
    run = workers.run

    def slowly(*command: Any) -> Any:
        began.set()
        assert go.wait(10)
        return run(*command)

    monkeypatch.setattr(workers, "run", slowly)
    wire = connect()
    first, second = request("SET", "a", bytes(2 * INBOX_LIMIT_BYTES)), request("SET", "b", bytes(8 * INBOX_LIMIT_BYTES))
    wire.send(first + second[:100])
    await until(began.is_set)
    sent = 100
    while wire.transport.reading and sent < len(second):
        wire.send(second[sent : sent + 50_000])
        sent += 50_000
    assert FIRST_BUFFER_BYTES <= sent < FIRST_BUFFER_BYTES + 200_000
    go.set()
    await until(lambda: wire.transport.reading)
    wire.send(second[sent:])
    await until(lambda: len(wire.transport.sent) >= 10)
    assert wire.replies() == ["OK", "OK"]


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_the_portions_replies_are_those_of_all_at_once(
    seed: int, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(connection_module, "FAST_PATH_BYTES", 100)
    monkeypatch.setattr(connection_module, "LARGE_COMMAND_BYTES", 100)
    monkeypatch.setattr(large_command, "FIRST_BUFFER_BYTES", rng.choice([1, 7, 100, 1000]))
    words = [
        rng.choice([
            ("SET", b"k%d" % rng.randrange(3), some(rng.randrange(3000))),
            ("GET", b"k%d" % rng.randrange(3)),
            ("MSET", b"k0", some(rng.randrange(900)), b"k1", some(rng.randrange(900))),
            ("APPEND", b"k2", b"x" * rng.randrange(500)),
            ("STRLEN", b"k2"),
        ])
        for _ in range(60)
    ]  # fmt: skip
    data, found = b"".join(request(*command) for command in words), []
    wire = connect()

    async def replies(count: int) -> list[str]:
        found.clear()
        await until(lambda: found.extend(wire.replies()) or len(found) >= count)
        return list(found)

    expected = []
    for command in words:
        wire.send(request(*command))
        expected += await replies(1)
    wire.send(request("FLUSHALL"))
    await replies(1)
    wire = connect()
    while data:
        size = rng.choice([1, 10, 100, 1000, 5000])
        wire.send(data[:size])
        data = data[size:]
        if rng.random() < 0.3:
            await settled()
    assert await replies(len(expected)) == expected
