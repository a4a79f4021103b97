"""What watches over a server asks here: probes, statistics, metrics, and the description of this face."""

from __future__ import annotations

import prometheus_client
from aiohttp import web

from pmkv_server.metrics import registry

from .context import SERVER, query
from .keys import reply
from .openapi import document
from .problems import Problem


async def healthz(request: web.Request) -> web.Response:
    """The process lives and its loop turns."""
    return reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """It serves, writes included."""
    server = request.app[SERVER]
    if server.store.failed:
        raise Problem(503, "failed", f"the store takes no writes since a flush failed: {server.store.failed}")
    return reply({"status": "ok"})


async def stats(request: web.Request) -> web.Response:
    query(request)
    server = request.app[SERVER]
    figures = server.store.stats().asdict()
    figures["keys"] = {str(number): count for number, count in figures["keys"].items()}
    counted = {**vars(server.stats), "sessions": len(server.sessions)}
    return reply({"store": figures, "server": counted})


async def metrics(request: web.Request) -> web.Response:
    """For Prometheus, in its text format."""
    body = prometheus_client.generate_latest(registry(request.app[SERVER]))
    return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})


async def openapi(request: web.Request) -> web.Response:
    return reply(document())
