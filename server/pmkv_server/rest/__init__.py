"""REST over aiohttp, described by /openapi.json. The server imports it late: aiohttp takes a quarter of a second."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pmkv_server.net.descriptors import ACCEPTED_AT_ONCE

from . import keys, service, tables, views
from .access import guard
from .context import PROMOTIONS, SERVER, Server
from .problems import PROBLEM_TYPE, Problem, problem_middleware

SHUTDOWN_S = 1.0  # for requests in progress; the whole server, with RESP and store, stops in less than 5 s
QUEUED_CONNECTIONS = 511  # that wait in the kernel to be accepted
MAX_HEADER_BYTES = 256 << 10  # the request line can hold a percent-encoded key of 64 KiB

Handler = Any
ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v1/keys", keys.get_keys),
    ("PUT", "/v1/keys", keys.put_key),
    ("DELETE", "/v1/keys", keys.delete_key),
    ("GET", "/v1/keys/{key:[\\s\\S]*}", keys.get_key),
    ("PUT", "/v1/keys/{key:[\\s\\S]*}", keys.put_key),
    ("DELETE", "/v1/keys/{key:[\\s\\S]*}", keys.delete_key),
    ("POST", "/v1/keys:batchGet", keys.batch_get),
    ("GET", "/v1/tables", tables.list_tables),
    ("POST", "/v1/tables", tables.create_table),
    ("PATCH", "/v1/tables/{table}", tables.set_table),
    ("GET", "/v1/tables/{table}", tables.get_table),
    ("DELETE", "/v1/tables/{table}", tables.delete_table),
    ("POST", "/v1/tables/{table}/rows:get", tables.rows_get),
    ("POST", "/v1/tables/{table}/rows:put", tables.rows_put),
    ("POST", "/v1/tables/{table}/rows:add", tables.rows_add),
    ("POST", "/v1/tables/{table}/rows:pool", tables.rows_pool),
    ("POST", "/v1/tables/{table}/rows:delete", tables.rows_delete),
    ("POST", "/v1/tables/{table}/rows:scan", tables.rows_scan),
    ("POST", "/v1/rows:get", tables.gather),
    ("GET", "/v1/views", views.list_views),
    ("GET", "/v1/views/{view}", views.get_view),
    ("DELETE", "/v1/views/{view}", views.delete_view),
    ("POST", "/v1/views:undo", views.undo),
    ("POST", "/v1/snapshots", views.create_snapshot),
    ("POST", "/v1/snapshots/{view}:rollback", views.rollback),
    ("POST", "/v1/branches", views.create_branch),
    ("POST", "/v1/branches/{view}:promote", views.promote),
    ("GET", "/v1/version", views.get_version),
    ("GET", "/v1/stats", service.stats),
    ("GET", "/healthz", service.healthz),
    ("GET", "/readyz", service.readyz),
    ("GET", "/metrics", service.metrics),
    ("GET", "/openapi.json", service.openapi),
]


def application(server: Server) -> web.Application:
    """Return the aiohttp application that serves one server's store."""
    app = web.Application(middlewares=[problem_middleware, guard])
    app[SERVER] = server
    app.add_routes([web.route(method, path, handler) for method, path, handler in ROUTES if method != "GET"])
    app.add_routes([web.get(path, handler) for method, path, handler in ROUTES if method == "GET"])  # and HEAD
    app.on_response_prepare.append(_add_version_header)
    return app


async def _add_version_header(request: web.Request, response: web.StreamResponse) -> None:
    """Add the header Pmkv-Version. The data of a reply is of this version or a later one, never older."""
    promotions, lsn = request.app[SERVER].version_events.version
    response.headers["Pmkv-Version"] = f"{request.get(PROMOTIONS, promotions)}-{lsn}"


def _is_not_about_malformed_http(record: logging.LogRecord) -> bool:
    """Drop aiohttp's stack traces about malformed HTTP, with which anyone could fill the disk."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_log = logging.getLogger("pmkv.rest.http")
http_log.addFilter(_is_not_about_malformed_http)

RUNNER: dict[str, Any] = {
    "access_log": None,
    "logger": http_log,
    "max_line_size": MAX_HEADER_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "shutdown_timeout": SHUTDOWN_S,
}


class RestService:
    """REST on some bound sockets, with a limit of connections; `cleanup` drains and stops it."""

    def __init__(self, server: Server, limit: int) -> None:
        self._stats, self._limit = server.stats, limit
        self._runner = web.AppRunner(application(server), **RUNNER)
        self._listeners: list[asyncio.AbstractServer] = []
        self.port = 0

    async def start(self, sockets: list[socket.socket]) -> None:
        """Listen on bound sockets."""
        await self._runner.setup()
        self.port = sockets[0].getsockname()[1]
        for one in sockets:
            self._listeners.append(
                await asyncio.get_running_loop().create_server(self._admit, sock=one, backlog=ACCEPTED_AT_ONCE)
            )
            one.listen(QUEUED_CONNECTIONS)

    def _admit(self) -> asyncio.Protocol:
        """Return the protocol of a new connection: that of aiohttp, or a refusal if there are too many."""
        serving = self._runner.server
        if serving is None or len(serving.connections) >= self._limit:
            self._stats.rejected += 1
            return Refusal()
        return serving()

    async def cleanup(self) -> None:
        """Accept nothing new, answer the requests in progress, close all connections."""
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()


class Refusal(asyncio.Protocol):
    """Answers a connection beyond the limit with 503, and closes it."""

    def connection_made(self, transport: Any) -> None:
        problem = Problem(503, "too-many-connections", "the server has as many REST connections as it may")
        body = problem.response().body
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(body)}\r\n"
        transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        transport.close()


async def start_rest(server: Server, sockets: list[socket.socket], limit: int) -> RestService:
    """Serve REST on bound sockets, to at most `limit` connections at once."""
    service = RestService(server, limit)
    await service.start(sockets)
    return service
