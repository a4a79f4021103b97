"""What a batch of GETs or SETs replies when the store refuses some of it."""

from __future__ import annotations

from typing import Any

from tests.served import request
from tests.unit.server.stand import settled, until

LONG = 2 << 20


async def test_a_full_pool_refuses_writes_and_nothing_else(connect: Any, store: Any) -> None:
    wire = connect()
    store.put(b"old", b"1")
    long, refused = b"x" * 900_000, []
    for i in range(100):
        wire.send(request("SET", f"k{i}", long))
        await settled()
        (reply,) = wire.replies()
        if reply != "OK":
            refused.append(reply)
    assert 0 < len(refused) < 100
    assert all(reply.startswith("-OOM command not allowed when used memory > 'maxmemory'.") for reply in refused)
    more = request("SET", "big", long)
    wire.send(more + request("GET", "old") + request("DEL", "old") + more + request("GET", "old"))
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 5)
    assert replies[0].startswith("-OOM"), replies[0]
    assert [replies[1], replies[2], replies[4]] == ['"1"', ":1", "nil"]


async def test_one_bad_key_of_a_batch_is_one_error(connect: Any) -> None:
    """What the store refuses as a batch is tried one by one, so that only who is concerned hears of it."""
    wire, other = connect(), connect()
    keyspace = wire.connection.session.keyspace

    class Picky:
        def put_many(self, pairs: list) -> None:
            raise ValueError("all of them")

        def put(self, key: bytes, value: bytes) -> None:
            if key == b"bad":
                raise ValueError("no")
            keyspace.put(key, value)

    wire.connection.session.keyspace = other.connection.session.keyspace = Picky()
    wire.ask("SET a 1", "SET bad 1", "SET b 1")
    other.ask("SET c 1", "SET d 1")
    await settled()
    first, second, third = wire.replies()
    assert (first, third) == ("OK", "OK")
    assert second == "-ERR internal error: ValueError: no"
    assert other.replies() == ["OK", "OK"]
