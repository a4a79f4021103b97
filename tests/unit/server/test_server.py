"""The server's life over real sockets: start, serve, drain, stop; and who waits for durability."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import pmkv
from pmkv.runtime.jit import Limits
from pmkv.runtime.scheduling import SCHED_SETATTR
from pmkv_server.config import Config
from pmkv_server.server import WORKER_NICE, Server
from tests.served import request
from tests.unit.server.stand import Gate, settled


@pytest.fixture
async def running(store: Any) -> AsyncIterator[Server]:
    server = Server(Config(port=0, rest_port=None), store)
    interval, limit = sys.getswitchinterval(), Limits.on_disk
    await server.startup()
    yield server
    if not store._log.closed:
        await server.shutdown()
    sys.setswitchinterval(interval)
    Limits.on_disk = limit


async def test_serves_on_a_free_port_and_stops_for_shutdown(running: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request("SET", "a", "1") + request("GET", "a") + request("SHUTDOWN"))
    assert await asyncio.wait_for(reader.read(), 5) == b"+OK\r\n$1\r\n1\r\n"
    await asyncio.wait_for(running.main_loop(), 5)
    writer.close()


async def test_shutdown_answers_what_is_under_way_and_closes_the_store(running: Server, gate: Gate) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    gate.shut()
    writer.write(request("SET", "a", "1"))
    async with asyncio.timeout(5):
        while not running.stats.ticks:
            await asyncio.sleep(0.001)
    ending = asyncio.create_task(running.shutdown())
    await asyncio.sleep(0.05)
    assert not ending.done()
    gate.open()
    assert await asyncio.wait_for(reader.read(), 5) == b"+OK\r\n"
    await asyncio.wait_for(ending, 5)
    with pytest.raises(pmkv.errors.ClosedError):
        running.store.get(b"a")
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", running.port)
    writer.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has priorities of threads")
async def test_workers_let_the_loop_go_first(running: Server) -> None:
    def who() -> tuple[int, int]:
        return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    policy, nice = await running.loop.run_in_executor(running._executor, who)
    assert nice >= max(WORKER_NICE, who()[1])
    if platform.machine() in SCHED_SETATTR:
        assert policy == os.SCHED_BATCH != who()[0]


async def test_durable_returns_when_it_is(running: Server, gate: Gate) -> None:
    await asyncio.wait_for(running.durable(0), 1)
    gate.shut()
    with running.store.deferred() as durability_wait:
        running.store.put(b"a", b"1")
    waiting = asyncio.create_task(running.durable(durability_wait.lsn))
    await settled()
    assert not waiting.done()
    gate.open()
    await asyncio.wait_for(waiting, 5)


async def test_durable_raises_what_the_store_failed_with(running: Server, gate: Gate) -> None:
    gate.shut()
    with running.store.deferred() as durability_wait:
        running.store.put(b"a", b"1")
    waiting = asyncio.create_task(running.durable(durability_wait.lsn))
    await settled()
    gate.break_()
    with pytest.raises(pmkv.errors.FlushError):
        await asyncio.wait_for(waiting, 5)


def test_parameters_say_what_holds(store: Any) -> None:
    found = Server(Config(port=1234, rest_port=None), store).parameters()
    assert (found["appendfsync"], found["appendonly"], found["port"]) == ("always", "yes", 1234)


def test_an_unsafe_config_is_refused_before_anything_opens() -> None:
    with pytest.raises(pmkv.errors.InvalidError, match="no password is set"):
        Server(Config(host="0.0.0.0"))
