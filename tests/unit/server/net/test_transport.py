"""Sockets that are received from and sent to in one call."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pmkv_server.net.transport import BUFFER_BYTES, SOCKET_BYTES, Sockets

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
    count = BUFFER_BYTES // SOCKET_BYTES + 3
    for i in range(count):
        ours, theirs = pair()
        theirs.setblocking(False)
        sockets.watch(ours.fileno(), i)
        assert theirs.send(bytes([i]) * (SOCKET_BYTES + 10)) == SOCKET_BYTES + 10
    got = [b""] * count
    for _ in range(4):
        owners, sizes, data = sockets.receive()
        assert len(data) == sum(sizes) <= BUFFER_BYTES
        assert max(sizes, default=0) <= SOCKET_BYTES
        for owner, size in zip(owners, sizes):
            got[owner], data = got[owner] + data[:size], data[size:]
    assert got == [bytes([i]) * (SOCKET_BYTES + 10) for i in range(count)]


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
