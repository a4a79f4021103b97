"""Probes, statistics and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace

import aiohttp
from aiohttp.test_utils import TestClient
from prometheus_client.parser import text_string_to_metric_families

import pmkv
from pmkv import errors
from pmkv_server.net.listeners import bind
from pmkv_server.rest import start_rest
from pmkv_server.rest.context import SERVER
from pmkv_server.stats import Stats
from pmkv_server.version_events import VersionEvents
from tests.unit.server.rest.conftest import Start


async def test_probes(rest: TestClient) -> None:
    for probe in ("/healthz", "/readyz"):
        assert await (await rest.get(probe)).json() == {"status": "ok"}


async def test_not_ready_after_a_failed_flush(rest: TestClient) -> None:
    stand = rest.app[SERVER]
    stand.store._log.failed = errors.FlushError("EIO")
    assert (await rest.get("/readyz")).status == 503
    assert (await rest.get("/healthz")).status == 200
    stand.store._log.failed = None


async def test_not_ready_while_the_pool_is_full(start: Start) -> None:
    rest = await start(capacity="2MiB")
    store = rest.app[SERVER].store
    with contextlib.suppress(errors.FullError):
        for i in range(100):
            store.put(b"%d" % i, bytes(50_000))
    reply = await rest.get("/readyz")
    assert reply.status == 503
    assert "the store takes no writes: the pool is full" in (await reply.json())["detail"]


async def test_one_connection_too_many_is_refused() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        server = SimpleNamespace(
            store=store, stats=Stats(), config=SimpleNamespace(password=""), version_events=VersionEvents()
        )
        service = await start_rest(server, bind("127.0.0.1", 0, "rest-port"), 1)
        first = await asyncio.open_connection("127.0.0.1", service.port)
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        reply = await asyncio.wait_for(reader.read(), 5)
        assert reply.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n")
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["type"] == "pmkv:too-many-connections"
        assert server.stats.rejected == 1
        for one in (first[1], writer):
            one.close()
        await service.cleanup()


async def test_stats(rest: TestClient) -> None:
    store = rest.app[SERVER].store
    store.keyspace(3).put(b"a", b"1")
    store.create_table("items", "f4").put([1, 2], [1.0, 2.0])
    got = await (await rest.get("/v1/stats")).json()
    assert got["store"]["keys"] == {"3": 1} and got["store"]["tables"] == {"items": 2}
    assert got["store"]["capacity"] == store.capacity and got["server"]["sessions"] == 0


async def test_metrics(rest: TestClient) -> None:
    rest.app[SERVER].store.put(b"a", b"1")
    reply = await rest.get("/metrics")
    assert reply.content_type == "text/plain"
    families = {family.name: family for family in text_string_to_metric_families(await reply.text())}
    assert families["redis_up"].samples[0].value == 1
    assert families["redis_db_keys"].samples[0].labels == {"db": "db0"}


async def test_closing_drains() -> None:
    """What is under way is answered; nothing new is taken."""
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        gate = asyncio.Event()

        async def durable(lsn: int) -> None:
            await gate.wait()

        server = SimpleNamespace(
            store=store,
            stats=Stats(),
            config=SimpleNamespace(password=""),
            durable=durable,
            version_events=VersionEvents(),
        )
        server.version_events.attach(store, asyncio.get_running_loop(), durable)
        runner = await start_rest(server, bind("127.0.0.1", 0, "rest-port"), 10)
        url = f"http://127.0.0.1:{runner.port}/v1/keys/a"
        async with aiohttp.ClientSession() as session:
            put = asyncio.ensure_future(session.put(url, data=b"1"))
            await asyncio.sleep(0.05)
            closing = asyncio.ensure_future(runner.cleanup())
            await asyncio.sleep(0.05)
            assert not put.done() and not closing.done()
            gate.set()
            assert (await put).status == 201
            await asyncio.wait_for(closing, 2)
