"""REST over a real store in memory, without the Redis protocol beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

import pmkv
from pmkv_server.bgsave import BackgroundSave
from pmkv_server.config import Config
from pmkv_server.rest import RUNNER, application
from pmkv_server.space_wait import SpaceWait
from pmkv_server.stats import Stats
from pmkv_server.version_events import VersionEvents

Start = Callable[..., Awaitable[TestClient]]


class Stand:
    """As much of a server as REST needs. Replies wait for `gate` as for a flush, and get `failure` if there is one."""

    def __init__(self, store: Any, password: str = "") -> None:
        self.store, self.config = store, Config(password=password)
        self.stats, self.bgsave, self.version_events, self.sessions = Stats(), BackgroundSave(), VersionEvents(), {}
        self.space_wait = SpaceWait(store)
        self.version_events.attach(store, asyncio.get_running_loop(), self.durable)
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def durable(self, lsn: int) -> None:
        if lsn:
            await self.gate.wait()
            if self.failure:
                raise self.failure
        await asyncio.get_running_loop().run_in_executor(None, self.store.wait, lsn)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(password="", **options of pmkv.open)`; the stand is at `client.app[SERVER]`."""
    clients, stores = [], []

    async def make(password: str = "", **options: Any) -> TestClient:
        store = pmkv.open(None, pool=":memory:", **{"capacity": "256MiB", **options})
        stores.append(store)
        server = TestServer(application(Stand(store, password)))
        await server.start_server(**RUNNER)
        client = TestClient(server)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()
    for store in stores:
        store.close()


@pytest.fixture
async def rest(start: Start) -> TestClient:
    return await start()
