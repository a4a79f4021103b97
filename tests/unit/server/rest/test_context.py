"""What handlers share: waiting, threads, bodies and queries; and what a socket may send that is no HTTP."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable

import pytest
from aiohttp.test_utils import TestClient, make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from pmkv_server.rest.context import INLINE_BYTES, SERVER, integer, off_loop, payload_of, query
from pmkv_server.rest.problems import Problem


async def test_much_work_leaves_the_loop() -> None:
    here = threading.get_ident()
    assert await off_loop(threading.get_ident, INLINE_BYTES) == here
    assert await off_loop(threading.get_ident, INLINE_BYTES + 1) != here


@pytest.mark.parametrize("cold", [False, True])
async def test_a_look_at_a_cold_index_leaves_the_loop(rest: TestClient, cold: bool, monkeypatch) -> None:
    store, seen, here = rest.app[SERVER].store, [], threading.get_ident()
    monkeypatch.setattr(type(store), "is_cold", cold)
    count, look = type(store).stats, type(store.keyspace(0)).entry

    def watched(work: Callable) -> Callable:
        return lambda *arguments: seen.append(threading.get_ident()) or work(*arguments)

    monkeypatch.setattr(type(store), "stats", watched(count))
    monkeypatch.setattr(type(store.keyspace(0)), "entry", watched(look))
    for path, status in (("/v1/stats", 200), ("/metrics", 200), ("/v1/keys/a", 404)):
        assert (await rest.get(path)).status == status
    assert [thread == here for thread in seen] == [False, False, not cold], "counts are never taken on the loop"


async def test_an_error_waits_as_well(rest: TestClient) -> None:
    """A 409 tells that somebody created the table: that must be durable first."""
    stand = rest.app[SERVER]
    stand.gate.clear()
    first, second = (
        asyncio.ensure_future(rest.post("/v1/tables", json={"name": "a", "dtype": "f4"})) for _ in range(2)
    )
    conditional = asyncio.ensure_future(rest.put("/v1/keys/a", data=b"1"))
    await asyncio.sleep(0.05)
    refused = asyncio.ensure_future(rest.put("/v1/keys/a", data=b"2", headers={"If-None-Match": "*"}))
    await asyncio.sleep(0.05)
    assert not any(one.done() for one in (first, conditional, refused))
    stand.gate.set()
    assert sorted([(await first).status, (await second).status]) == [201, 409]
    assert ((await conditional).status, (await refused).status) == (201, 412)


def test_query() -> None:
    request = make_mocked_request("GET", "/?db=3&limit=x")
    assert query(request, "db", "limit", "cursor") == {"db": "3", "limit": "x"}
    with pytest.raises(Problem, match="limit"):
        query(request, "db")
    with pytest.raises(Problem, match="takes none"):
        query(request)


@given(st.one_of(st.integers(), st.text(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_integer(value: object) -> None:
    try:
        assert 0 <= integer(value, "n", 0, 100) <= 100
    except Problem as problem:
        assert "'n'" in problem.detail


BROKEN = {
    "noise": random.Random(1).randbytes(300) + b"\r\n\r\n",
    "RESP": b"*1\r\n$4\r\nPING\r\n",
    "chunks": b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnot a chunk\r\n",
    "gzip": b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnoise",
    "length": b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "huge": b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n",
    "huger": b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "line": b"GET /v1/keys/" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no host": b"GET /v1/tables HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_request(rest: TestClient, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection(rest.host, rest.port)
    writer.write(sent)
    writer.write_eof()
    try:
        reply = await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        reply = b""  # it was refused while we were still sending
    writer.close()
    assert reply == b"" or reply.split(b" ")[1][:1] == b"4", reply
    assert not caplog.records, caplog.text
    assert (await rest.get("/healthz")).status == 200
    assert rest.app[SERVER].store.get(b"a") is None


async def test_a_client_that_leaves_in_the_middle_of_its_body(rest: TestClient, caplog) -> None:
    _, writer = await asyncio.open_connection(rest.host, rest.port)
    writer.write(b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.transport.abort()
    await asyncio.sleep(0.05)
    assert rest.app[SERVER].store.get(b"a") is None
    assert not caplog.records, caplog.text


async def test_a_long_body_is_sent_in_pieces(rest: TestClient) -> None:
    value = bytes(range(256)) * (3 << 12) + b"end"
    rest.app[SERVER].store.put(b"long", value)
    reply = await rest.get("/v1/keys/long")
    assert (await reply.read(), reply.headers["Content-Length"]) == (value, str(len(value)))
    reply = await rest.head("/v1/keys/long")
    assert (await reply.read(), reply.headers["Content-Length"]) == (b"", str(len(value)))
    assert payload_of(value).decode("latin-1") == value.decode("latin-1")
    assert payload_of(b"short") == b"short"
