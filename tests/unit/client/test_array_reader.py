"""Long replies read into arrays, and every case in which redis-py's parser has the word: against a socket that says
what it is told, in pieces."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import numpy as np
import pytest
import redis
from redis._parsers import _AsyncRESP2Parser, _RESP2Parser
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.retry import Retry

import pmkv_client
from pmkv_client import StaleTableError
from pmkv_client import array_reader as direct
from pmkv_client import requests as protocol
from pmkv_client.array_reader import MAX_BLOBS, MIN_REPLY_BYTES, ArrayReader

COUNT = MIN_REPLY_BYTES // 4
ROWS = np.arange(COUNT * 4, dtype="<f4").reshape(COUNT, 4)
INFO = protocol.TableInfo("items", 1, np.dtype("<f4"), (4,), None)
WHOLE = b"$%d\r\n%b\r\n" % (ROWS.nbytes, ROWS.tobytes())
FOUND = b"*2\r\n%b$%d\r\n%b\r\n" % (WHOLE, COUNT, b"\1" * COUNT)


class Speaker(ThreadingTCPServer):
    """Answers each command with the next of `answers`, then with +OK: pieces, None to hang up."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[list[bytes | None]] = []
        self.connections = 0
        super().__init__(("127.0.0.1", 0), Talk)


class Talk(StreamRequestHandler):
    server: Speaker
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.server.connections += 1
        while header := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(int(header[1:]))]
            pieces = self.server.answers.pop(0) if words[0] == b"TABLE.GET" and self.server.answers else [b"+OK\r\n"]
            for piece in pieces:
                if piece is None:
                    return
                self.wfile.write(piece)
                if len(pieces) > 1:
                    time.sleep(0.005)


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    with Speaker() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


Get = Callable[..., Any]


@pytest.fixture(params=["redis-py's parser", "a parser in Python", "asyncio", "asyncio, a parser in Python"])
def get(request: pytest.FixtureRequest, speaker: Speaker) -> Get:
    """The rows of a table through a client, and then its PING, so that a connection left in disorder is seen."""
    settings: dict[str, Any] = {"protocol": 2, "socket_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
    url, python = f"pmkv://127.0.0.1:{speaker.server_address[1]}", request.param.endswith("in Python")

    def blocking(**options: Any) -> Any:
        given = settings | ({"parser_class": _RESP2Parser} if python else {})
        with pmkv_client.connect(url, **given) as client:
            try:
                return client.run(protocol.get(INFO, np.arange(COUNT), **options))
            finally:
                assert client.execute_command("ECHO", "x") == b"OK"

    async def awaited(**options: Any) -> Any:
        given = settings | ({"parser_class": _AsyncRESP2Parser} if python else {})
        given["retry"] = redis.asyncio.retry.Retry(NoBackoff(), 0)
        async with pmkv_client.connect_async(url, **given) as client:
            try:
                return await client.run(protocol.get(INFO, np.arange(COUNT), **options))
            finally:
                assert await client.execute_command("ECHO", "x") == b"OK"

    return (lambda **options: asyncio.run(awaited(**options))) if request.param.startswith("asyncio") else blocking


def cut(reply: bytes, *places: int) -> list[bytes]:
    edges = [0, *(place % len(reply) for place in places), len(reply)]
    return [reply[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("places", [(), (1,), (8,), (9, 5000), (70, 71, -1), (-2,), (-1,)])
def test_rows_come_whole_wherever_they_are_cut(get: Get, speaker: Speaker, places: tuple[int, ...]) -> None:
    speaker.answers = [cut(WHOLE, *places)]
    rows = get()
    assert np.array_equal(rows, ROWS) and rows.dtype == "<f4"
    rows[0] = 7
    assert speaker.connections == 1


@pytest.mark.parametrize("get", ["redis-py's parser", "a parser in Python"], indirect=True)
def test_they_come_past_the_parser(get: Get, speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []
    monkeypatch.setattr(direct, "_check", lambda *found: checked.append(found))
    speaker.answers = [[WHOLE]]
    assert np.array_equal(get(), ROWS) and checked


@pytest.mark.parametrize("places", [(), (3,), (-COUNT - 9, -COUNT - 4)])
def test_rows_and_flags(get: Get, speaker: Speaker, places: tuple[int, ...]) -> None:
    speaker.answers = [cut(FOUND, *places)]
    rows, found = get(return_found=True)
    assert np.array_equal(rows, ROWS) and found.all() and found.dtype == bool


@pytest.mark.parametrize("reply", [b"-E\r\n", b"-ERR no such table, or another long story\r\n"])
def test_an_error_is_an_error_and_costs_no_connection(get: Get, speaker: Speaker, reply: bytes) -> None:
    speaker.answers = [[reply]]
    with pytest.raises(redis.ResponseError):
        get()
    assert speaker.connections == 1


def test_rows_of_another_width_are_stale(get: Get, speaker: Speaker) -> None:
    speaker.answers = [[b"$%d\r\n%b\r\n" % (8 * COUNT, bytes(8 * COUNT))]]
    with pytest.raises(StaleTableError):
        get()
    assert speaker.connections == 1


def test_a_reply_cut_short_is_a_lost_connection(get: Get, speaker: Speaker) -> None:
    speaker.answers = [[WHOLE[:5000], None]]
    with pytest.raises(redis.ConnectionError):
        get()
    assert speaker.connections == 2


def test_a_reply_that_does_not_end_is_a_timeout(get: Get, speaker: Speaker) -> None:
    speaker.answers = [[WHOLE[:5000]]]
    with pytest.raises(redis.TimeoutError):
        get()
    assert speaker.connections == 2


def test_nonsense_between_two_blobs_is_said_to_be_that(get: Get, speaker: Speaker) -> None:
    speaker.answers = [[FOUND.replace(b"\r\n$%d\r\n" % COUNT, b"\r\n#%d\r\n" % COUNT)]]
    with pytest.raises(redis.InvalidResponse):
        get(return_found=True)
    assert speaker.connections == 2


def test_a_lost_connection_is_tried_again(speaker: Speaker) -> None:
    speaker.answers = [[WHOLE[:5000], None], [WHOLE]]
    port = speaker.server_address[1]
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}", protocol=2, retry=Retry(NoBackoff(), 2)) as client:
        assert np.array_equal(client.run(protocol.get(INFO, np.arange(COUNT))), ROWS)
    assert not speaker.answers


def test_what_the_parser_has_read_ahead_goes_first(speaker: Speaker) -> None:
    with pmkv_client.connect(f"pmkv://127.0.0.1:{speaker.server_address[1]}", protocol=2) as client:
        connection = client.connection_pool.get_connection()
        speaker.answers = [[b"+1\r\n+2\r\n" + WHOLE]]
        connection.send_command("TABLE.GET")
        assert connection.read_response() == b"1"
        assert ArrayReader((ROWS.nbytes,), is_alone=True).read(connection) is None
        assert [connection.read_response() for _ in range(2)] == [b"2", ROWS.tobytes()]
        client.connection_pool.release(connection)


def test_a_connection_of_another_kind_is_left_alone() -> None:
    class Odd:
        _sock = _reader = None
        _parser = DefaultParser(socket_read_size=1)

    blobs = ArrayReader((MIN_REPLY_BYTES,), is_alone=True)
    assert blobs.read(Odd()) is None


def test_blobs_say_what_stands_between_them() -> None:
    assert ArrayReader((5,), is_alone=True).separators() == [b"$5\r\n", b"\r\n"]
    assert ArrayReader((5, 0)).separators() == [b"*2\r\n$5\r\n", b"\r\n$0\r\n", b"\r\n"]
    assert ArrayReader((MIN_REPLY_BYTES,)).is_worthwhile and not ArrayReader((MIN_REPLY_BYTES - 1,)).is_worthwhile
    assert not ArrayReader((MIN_REPLY_BYTES,) * (MAX_BLOBS + 1)).is_worthwhile
