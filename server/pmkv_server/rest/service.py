"""Routes for operators: probes, statistics, metrics, and the OpenAPI document."""

from __future__ import annotations

from typing import Any

import prometheus_client
from aiohttp import web

from pmkv.errors import PmkvError
from pmkv_server.metrics import registry

from .context import IN_THREAD, SERVER, off_loop, query
from .keys import reply
from .openapi import document
from .problems import Problem

READY_WRITE_BYTES = 4096  # a store without room for so much is not ready


async def healthz(request: web.Request) -> web.Response:
    """Answer that the process lives: its event loop runs."""
    return reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Answer whether the store takes reads and writes."""
    store = request.app[SERVER].store
    if store.failed:
        raise Problem(503, "failed", f"the store takes no writes since a flush failed: {store.failed}")
    try:
        await off_loop(lambda: _reserve(store), IN_THREAD)
    except PmkvError as error:
        raise Problem(503, "refuses-writes", f"the store takes no writes: {error}") from None
    return reply({"status": "ok"})


def _reserve(store: Any) -> None:
    """Raise the error that a small write would get."""
    with store.batch(reserve=READY_WRITE_BYTES):
        pass


async def stats(request: web.Request) -> web.Response:
    query(request)
    server = request.app[SERVER]
    figures = (await off_loop(server.store.stats, IN_THREAD)).asdict()
    figures["keys"] = {str(number): count for number, count in figures["keys"].items()}
    counted: dict[str, object] = {name: count for name, count in vars(server.stats).items() if isinstance(count, int)}
    counted["sessions"] = len(server.sessions)
    return reply({"store": figures, "server": counted})


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics in the text format of Prometheus."""
    server = request.app[SERVER]
    body = await off_loop(lambda: prometheus_client.generate_latest(registry(server)), IN_THREAD)
    return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})


async def openapi(request: web.Request) -> web.Response:
    return reply(document())
