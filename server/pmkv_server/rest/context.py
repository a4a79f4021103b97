"""What all handlers share: how they reach the store, read a body and a query, and wait before they answer.

No reply reveals what is not durable, be it a value or an error: `run` waits for everything its work has seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .problems import Problem, invalid

T = TypeVar("T")
INLINE = 1 << 20  # bytes; more work than that would hold up the loop and goes to a thread
MAX_BODY = 64 << 20
MAX_VALUE = 512 << 20  # a value may be as long as that, and is then the body
KEYSPACES = 16


class Server(Protocol):
    """What REST needs of the server it stands in."""

    store: Any
    config: Any
    stats: Any
    saving: Any
    switches: Any
    sessions: Any  # of RESP

    async def durable(self, lsn: int) -> None: ...


SERVER: web.AppKey[Server] = web.AppKey("server", Server)
# Of a request: how many there were before it looked, or with its own.
PROMOTIONS: web.RequestKey[int] = web.RequestKey("promotions", int)


def store_of(request: web.Request) -> Any:
    return request.app[SERVER].store


async def view_of(request: web.Request, parameters: dict[str, str]) -> Any:
    """The view that ?at= names, or `main`, which is the store itself."""
    store, at = store_of(request), parameters.get("at")
    return store if at is None else await run(request, lambda: store.view(at))


async def keyspace_of(request: web.Request, parameters: dict[str, str]) -> Any:
    """The keyspace that ?db= and ?at= name."""
    store, number, at = store_of(request), database(parameters), parameters.get("at")
    return store.keyspace(number) if at is None else await run(request, lambda: store.view(at).keyspace(number))


async def run(request: web.Request, work: Callable[[], T], size: int = 0) -> T:
    """The result of `work`, once all it saw is durable; in a thread if it handles more than 1 MiB, or if the disk may
    have to be read for an index."""
    server = request.app[SERVER]
    request.setdefault(PROMOTIONS, server.switches.latest[0])  # before: what is read is of this version or a later one
    outcome, lsn = await off_loop(lambda: _deferred(server.store, work), INLINE + 1 if server.store.is_cold else size)
    try:
        await server.durable(lsn)
    except Exception as error:
        raise Problem(503, "not-durable", f"what this reply waited for may be lost: {error}") from error
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


class Failure:
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
    """`work` here, or in a thread if it handles more than 1 MiB."""
    if size <= INLINE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def read_body(request: web.Request, limit: int = MAX_BODY) -> bytes:
    """The whole body. Raises Problem 413 as soon as it is known to be too long, before it is read if it says so."""
    if (request.content_length or 0) > limit:
        raise _too_long(limit)
    parts, size = [], 0
    try:
        async for part in request.content.iter_any():
            size += len(part)
            if size > limit:
                raise _too_long(limit)
            parts.append(part)
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise invalid(f"the body cannot be read: {error}") from None
    return b"".join(parts)


def _too_long(limit: int) -> Problem:
    return Problem(
        413, "too-long", f"the body is longer than {limit} bytes: send it in pieces", {"Connection": "close"}
    )


def query(request: web.Request, *allowed: str) -> dict[str, str]:
    """The query's parameters. Raises Problem 400 for one that is not known, or that is given twice."""
    found = dict(request.query)
    if unknown := found.keys() - set(allowed):
        known = f"it may have {', '.join(allowed)}" if allowed else "it takes none"
        raise invalid(f"unknown query parameter {', '.join(sorted(unknown))}; {known}")
    if len(request.query) > len(found):
        raise invalid("a query parameter is given twice")
    return found


def integer(value: Any, name: str, least: int, most: int) -> int:
    """An integer of a query or a JSON body, within bounds. Raises Problem 400."""
    try:
        number = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not least <= number <= most:
        raise invalid(f"'{name}' must be an integer from {least} to {most}, not {str(value)[:40]!r}")
    return number


def database(parameters: dict[str, str]) -> int:
    """The number of the keyspace that ?db= names, or 0."""
    return integer(parameters.get("db", "0"), "db", 0, KEYSPACES - 1)
