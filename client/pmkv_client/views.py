"""Views as commands and replies: what to send for a snapshot, a branch, a promote, how to read what comes back; and how
a connection comes to stand on a view. As `protocol`, which it extends.

Everything that changes a view is sent once: a second promote or rollback would replace the view `undo` with what the
first one made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import ResponseError

from .requests import Args, Request

MAIN = "main"
PATIENCE = 2.0  # seconds of one VIEW.WAIT at most, however long the whole wait is

OnConnect = Callable[[Any], Any]


class NoViewError(ResponseError):
    """There is no view of this name, or it was deleted."""


class ConflictError(ResponseError):
    """A promote or an undo would drop what was written to `main` meanwhile; nothing was changed."""


@dataclass(frozen=True, slots=True)
class ViewInfo:
    """What VIEW.INFO says: `kind` is main, branch, snapshot or undo; `lsn` and `created` (unix ms) when it was cut,
    `base` the view it was cut from; `writes` the records written to this head since."""

    name: str
    kind: str
    lsn: int
    created: int
    base: str
    tables: int
    writes: int

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def mapped(error: ResponseError) -> ResponseError:
    """The error, as what it is where redis-py does not know its code."""
    code, _, message = str(error).partition(" ")
    kind = {"NOVIEW": NoViewError, "CONFLICT": ConflictError}.get(code)
    return kind(message) if kind else error


# Commands


def snapshot(name: str) -> Request[None]:
    return _once("SNAPSHOT.CREATE", name)


def rollback(name: str, tables: Sequence[str] | None = None, keys: bool | None = None) -> Request[None]:
    return _once("SNAPSHOT.ROLLBACK", name, *_parts(tables, keys))


def branch(name: str, at: str = MAIN) -> Request[None]:
    return _once("BRANCH.CREATE", name, "AT", at)


def promote(
    name: str, tables: Sequence[str] | None = None, keys: bool | None = None, force: bool = False
) -> Request[None]:
    return _once("BRANCH.PROMOTE", name, *_parts(tables, keys), *_force(force))


def undo(force: bool = False) -> Request[None]:
    return _once("VIEW.UNDO", *_force(force))


def delete(name: str) -> Request[None]:
    return _once("VIEW.DELETE", name)


def names() -> Request[list[str]]:
    return Request([("VIEW.LIST",)], lambda replies: [_text(name) for name in replies[0]])


def infos(views: Sequence[str]) -> Request[dict[str, ViewInfo]]:
    calls: list[Args] = [("VIEW.INFO", name) for name in views]
    return Request(calls, lambda replies: {info.name: info for info in map(parse_info, replies)}, stream=True)


def version() -> Request[tuple[int, int]]:
    return Request([("VIEW.INFO", MAIN)], lambda replies: parse_version(replies[0]))


def wait(after: int, seconds: float) -> Request[int]:
    """How often `main` was promoted and rolled back, or `after` where that was not more often in time."""
    milliseconds = max(1, round(1000 * seconds))  # 0 would be for ever
    return Request(
        [("VIEW.WAIT", int(after), milliseconds)], lambda replies: int(replies[0][0]) if replies[0] else after
    )


# Connections


def patience(pool: Any) -> float:
    """Seconds that one VIEW.WAIT may take: well within those that a connection waits for a reply."""
    return min(PATIENCE, (pool.connection_kwargs.get("socket_timeout") or 2 * PATIENCE) / 2)


def on_connect(view: str, before: OnConnect | None) -> OnConnect:
    """What a connection of redis.Redis does first: what it did anyway, then VIEW.USE."""

    def use(connection: Any) -> None:
        (before or type(connection).on_connect)(connection)
        connection.send_command("VIEW.USE", view, check_health=False)
        try:
            connection.read_response()
        except ResponseError as error:
            raise mapped(error) from None

    return use


def on_connect_async(view: str, before: OnConnect | None) -> Callable[[Any], Awaitable[None]]:
    """`on_connect` for redis.asyncio.Redis."""

    async def use(connection: Any) -> None:
        first = (before or type(connection).on_connect)(connection)
        if isinstance(first, Awaitable):
            await first
        await connection.send_command("VIEW.USE", view, check_health=False)
        try:
            await connection.read_response()
        except ResponseError as error:
            raise mapped(error) from None

    return use


# Parts of commands and replies


def parse_info(reply: Any) -> ViewInfo:
    found = _fields(reply)
    words = {name: _text(found[name]) for name in ("name", "kind", "base")}
    return ViewInfo(**words, **{name: int(found[name]) for name in ("lsn", "created", "tables", "writes")})


def parse_version(reply: Any) -> tuple[int, int]:
    """How often `main` was promoted and rolled back so far, and the LSN of the last time."""
    found = _fields(reply)
    return int(found["version"]), int(found["version_lsn"])


def _fields(reply: Any) -> dict[str, Any]:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(key): value for key, value in pairs}


def _once(*args: Any) -> Request[None]:
    return Request([args], lambda replies: None, once=True)


def _parts(tables: Sequence[str] | None, keys: bool | None) -> Args:
    if isinstance(tables, str):
        raise ValueError(f"tables={tables!r} is one word; give a list of names: [{tables!r}]")
    named: Args = () if tables is None else ("TABLES", len(tables), *tables)
    return named if keys is None else (*named, "KEYS", "yes" if keys else "no")


def _force(force: bool) -> Args:
    return ("FORCE",) if force else ()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
