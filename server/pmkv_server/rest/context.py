"""Functions that all handlers share: access to the store, reading of bodies and queries, and the durability wait.

No reply, not even an error, reveals a write that is not durable: `run` waits for everything that its work has read.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import Payload

from pmkv.errors import FullError
from pmkv_server.parsing import strict_int

from .problems import Problem, invalid

T = TypeVar("T")
INLINE_BYTES = 1 << 20  # work on more bytes would block the event loop, so it runs in a thread
IN_THREAD = INLINE_BYTES + 1  # the size of work that runs in a thread in any case
SENT_BYTES = 256 << 10  # of a long reply, given to the transport at once
MAX_BODY_BYTES = 64 << 20
MAX_VALUE_BYTES = 512 << 20  # the limit where the body is one value
KEYSPACES = 16


class Server(Protocol):
    """The part of the server that REST uses."""

    store: Any
    config: Any
    stats: Any
    bgsave: Any
    version_events: Any
    sessions: Any  # connections of RESP
    space_wait: Any

    async def durable(self, lsn: int) -> None: ...


SERVER: web.AppKey[Server] = web.AppKey("server", Server)
# Of a request: the number of promotions before it read, or after its own promotion.
PROMOTIONS: web.RequestKey[int] = web.RequestKey("promotions", int)


def store_of(request: web.Request) -> Any:
    return request.app[SERVER].store


async def view_of(request: web.Request, parameters: dict[str, str]) -> Any:
    """Return the view that ?at= names, or the store itself, which is `main`."""
    store, at = store_of(request), parameters.get("at")
    return store if at is None else await run(request, lambda: store.view(at))


async def keyspace_of(request: web.Request, parameters: dict[str, str]) -> Any:
    """Return the keyspace that ?db= and ?at= name."""
    store, number, at = store_of(request), database(parameters), parameters.get("at")
    return store.keyspace(number) if at is None else await run(request, lambda: store.view(at).keyspace(number))


async def run(request: web.Request, work: Callable[[], T], size: int = 0) -> T:
    """Return the result of `work` once all it has read is durable.

    `work` runs in a thread if `size` is more than 1 MiB, or while index files may have to be read from disk. Raises
    what `work` raises, and Problem 503 if a flush fails.
    """
    server = request.app[SERVER]
    # The version is taken before the read, so that the data is of this version or a later one.
    request.setdefault(PROMOTIONS, server.version_events.latest[0])
    size = INLINE_BYTES + 1 if server.store.is_cold else size
    outcome, lsn = await off_loop(lambda: _deferred(server.store, work), size)
    if isinstance(outcome, Failure) and isinstance(outcome.error, FullError):
        async for _ in server.space_wait.attempts(frees=request.method == "DELETE"):
            outcome, lsn = await off_loop(lambda: _deferred(server.store, work), size)
            if not (isinstance(outcome, Failure) and isinstance(outcome.error, FullError)):
                break
    try:
        await server.durable(lsn)
    except Exception as error:
        raise Problem(503, "not-durable", f"what this reply waited for may be lost: {error}") from error
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


class Failure:
    """An error that work raised, to be raised again when what it read is durable."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _deferred(store: Any, work: Callable[[], T]) -> tuple[T | Failure, int]:
    with store.deferred() as seen:
        outcome: T | Failure
        try:
            outcome = work()
        except Exception as error:
            outcome = Failure(error)
        return outcome, seen.lsn


async def off_loop(work: Callable[[], T], size: int) -> T:
    """Run `work` here, or in a thread if `size` is more than 1 MiB."""
    if size <= INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)


class LongBody(Payload):
    """The body of a reply that is sent in pieces, as the client takes them, without a copy of the whole."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        view = memoryview(self._value)
        for at in range(0, len(view), SENT_BYTES):
            await writer.write(view[at : at + SENT_BYTES])


def payload_of(body: bytes) -> bytes | LongBody:
    """Return the body of a reply; a long one in pieces."""
    return body if len(body) <= INLINE_BYTES else LongBody(body)


async def read_body(request: web.Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole body. Raises Problem 413 as soon as Content-Length or the bytes exceed `limit`."""
    if (request.content_length or 0) > limit:
        raise _too_long(limit)
    body = io.BytesIO()  # whose bytes are no copy of what was written to it
    try:
        async for chunk in request.content.iter_any():
            if body.tell() + len(chunk) > limit:
                raise _too_long(limit)
            body.write(chunk)
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise invalid(f"the body cannot be read: {error}") from None
    return body.getvalue()


def _too_long(limit: int) -> Problem:
    return Problem(
        413, "too-long", f"the body is longer than {limit} bytes: send it in pieces", {"Connection": "close"}
    )


def query(request: web.Request, *allowed: str) -> dict[str, str]:
    """Return the query's parameters. Raises Problem 400 for one that is unknown or given twice."""
    found = dict(request.query)
    if unknown := found.keys() - set(allowed):
        known = f"it may have {', '.join(allowed)}" if allowed else "it takes none"
        raise invalid(f"unknown query parameter {', '.join(sorted(unknown))}; {known}")
    if len(request.query) > len(found):
        raise invalid("a query parameter is given twice")
    return found


def integer(value: Any, name: str, low: int, high: int) -> int:
    """Return an integer of a query or a JSON body, within bounds. Raises Problem 400."""
    number = strict_int(value) if isinstance(value, str) else value if type(value) is int else None
    if number is None or not low <= number <= high:
        raise invalid(f"'{name}' must be an integer from {low} to {high}, not {str(value)[:40]!r}")
    return number


def database(parameters: dict[str, str]) -> int:
    """Return the number of the keyspace that ?db= names, or 0."""
    return integer(parameters.get("db", "0"), "db", 0, KEYSPACES - 1)
