"""What the clients are, and how they send: against a socket that answers as told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from socketserver import StreamRequestHandler, ThreadingTCPServer

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import pmkv_client
from pmkv_client import AsyncClient, Client

INFO = b"*14\r\n" + b"".join(
    b"$%d\r\n%b\r\n" % (len(word), word) if isinstance(word, bytes) else word[0]
    for word in (
        *(b"name", b"items", b"id", (b":1\r\n",), b"dtype", b'"<f4"', b"shape", (b"*1\r\n:2\r\n",)),
        *(b"width", (b":8\r\n",), b"rows", (b":0\r\n",), b"len", (b":0\r\n",)),
    )
)


class Scripted(ThreadingTCPServer):
    """Answers each command by its name, or with +OK; None hangs up. `seen` has the names."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.answers: dict[bytes, bytes | None] = {b"TABLE.INFO": INFO}
        super().__init__(("127.0.0.1", 0), Conversation)

    @property
    def port(self) -> int:
        return self.server_address[1]


class Conversation(StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        while header := self.rfile.readline():
            words = []
            for _ in range(int(header[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            if words[0].startswith(b"TABLE."):
                self.server.seen.append(words[0])
            answer = self.server.answers.get(words[0], b"+OK\r\n")
            if answer is None:
                return
            self.wfile.write(answer)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def eager(kind: type, port: int) -> Client | AsyncClient:
    """Of RESP2, for the script speaks no other, and ready to try again five times."""
    return kind("127.0.0.1", port, protocol=2, retry=Retry(NoBackoff(), 5))


def test_they_are_redis_clients() -> None:
    client, twin = pmkv_client.connect(), pmkv_client.connect_async()
    assert isinstance(client, redis.Redis) and isinstance(twin, redis.asyncio.Redis)
    for one in (client, twin, Client(), AsyncClient()):
        assert one.connection_pool.connection_kwargs["port"] == 7379
    kwargs = pmkv_client.connect("pmkv://:pw@h:1/5", socket_timeout=9).connection_pool.connection_kwargs
    assert [kwargs[name] for name in ("host", "port", "db", "password", "socket_timeout")] == ["h", 1, 5, "pw", 9]
    assert Client("h", 1, 2).connection_pool.connection_kwargs["db"] == 2


def test_neither_hides_a_method_of_redis() -> None:
    ours = {"table", "tables", "create_table", "drop_table", "gather", "pool", "forget", "describe", "run", "_infos"}
    for base in (redis.Redis, redis.asyncio.Redis):
        assert not [name for name in ours if hasattr(base, name)]


def test_an_add_whose_reply_is_lost_is_not_sent_again(scripted: Scripted) -> None:
    with eager(Client, scripted.port) as client:
        items = client.table("items")
        scripted.answers[b"TABLE.ADD"] = scripted.answers[b"TABLE.PUT"] = None
        with pytest.raises(redis.ConnectionError):
            items.add([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.ADD") == 1
        with pytest.raises(redis.ConnectionError):
            items.put([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.PUT") > 1
        del scripted.answers[b"TABLE.ADD"]
        items.add([1], [[1, 2]])


async def test_an_awaited_add_neither(scripted: Scripted) -> None:
    async with eager(AsyncClient, scripted.port) as client:
        items = client.table("items")
        scripted.answers[b"TABLE.ADD"] = None
        with pytest.raises(redis.ConnectionError):
            await items.add([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.ADD") == 1
        del scripted.answers[b"TABLE.ADD"]
        await items.add([1], [[1, 2]])


def test_an_error_among_pieces_leaves_the_connection_in_step(scripted: Scripted) -> None:
    rows, ids = np.zeros((1 << 21, 2), "f4"), np.arange(1 << 21)
    with eager(Client, scripted.port) as client:
        items = client.table("items")
        for name, write in ((b"TABLE.PUT", items.put), (b"TABLE.ADD", items.add)):
            scripted.answers[name] = b"-OOM no room\r\n"
            with pytest.raises(redis.ResponseError, match="no room"):
                write(ids, rows)
            assert scripted.seen.count(name) == 2
        assert client.set("a", "b") is True


def test_the_layout_is_asked_once(scripted: Scripted) -> None:
    with eager(Client, scripted.port) as client:
        for _ in range(3):
            client.table("items").put([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.INFO") == 1
        client.forget("items")
        client.table("items")
        client.forget()
        client.table("items")
        assert scripted.seen.count(b"TABLE.INFO") == 3
        assert client.gather({}) == client.pool({}) == {}


async def test_the_layout_is_asked_once_awaited(scripted: Scripted) -> None:
    async with eager(AsyncClient, scripted.port) as client:
        items = client.table("items")
        assert scripted.seen == []
        await asyncio.gather(*(items.put([1], [[1, 2]]) for _ in range(3)))
        asked = scripted.seen.count(b"TABLE.INFO")
        await items.put([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.INFO") == asked
