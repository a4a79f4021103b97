"""The settings of redis-py's connections that both clients share: the view, the name of the library, reconnecting."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

import redis
from redis.exceptions import ResponseError

from .interrupts import whole
from .requests import MAIN, TableInfo, View, specific_error

VIEW_WAIT_S = 2.0  # the longest single VIEW.WAIT, however long the caller waits
LIBRARY_SETTINGS = ("driver_info", "lib_name", "lib_version")

T = TypeVar("T")
OnConnect = Callable[[Any], Any]
TableInfos = dict[tuple[str, View], TableInfo]  # by table and view


def connection_settings(use_view: Callable[..., Any], view: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return redis-py's settings with every connection on `view` from the start.

    use_view: on_connect or on_connect_async. ValueError: a view beside a connection pool that somebody else made.
    """
    if given.get("connection_pool") is not None:
        if view == MAIN:
            return given
        raise ValueError(f"view={view!r} with connection_pool=: a view is said when a connection is made, by its pool; "
                         "leave connection_pool out")  # fmt: skip
    settings = dict(given)
    if given.keys().isdisjoint(LIBRARY_SETTINGS) and hasattr(redis, "DriverInfo"):
        settings["driver_info"] = driver_info()
    if view != MAIN or use_view is on_connect:
        settings["redis_connect_func"] = use_view(view, given.get("redis_connect_func"))
    return settings


@cache
def driver_info() -> Any:
    """Return redis-py's description of itself, made once: redis-py would read its version from files per connection."""
    return redis.DriverInfo()


def on_connect(view: str, before: OnConnect | None) -> OnConnect:
    """Return a redis_connect_func of redis.Redis that runs `before`, or redis-py's default, and then VIEW.USE.

    An interrupt closes the connection: its pool would give it out with replies that nobody has read."""

    def greet(connection: Any) -> None:
        (before or type(connection).on_connect)(connection)
        if view != MAIN:
            connection.send_command("VIEW.USE", view, check_health=False)
            try:
                connection.read_response()
            except ResponseError as error:
                raise specific_error(error) from None

    return lambda connection: whole(connection, lambda: greet(connection))


def on_connect_async(view: str, before: OnConnect | None) -> Callable[[Any], Awaitable[None]]:
    """Return what `on_connect` returns, for redis.asyncio.Redis. `before` may be a coroutine function or not."""

    async def use(connection: Any) -> None:
        result = (before or type(connection).on_connect)(connection)
        if isinstance(result, Awaitable):
            await result
        await connection.send_command("VIEW.USE", view, check_health=False)
        try:
            await connection.read_response()
        except ResponseError as error:
            raise specific_error(error) from None

    return use


def checked_reconnect(reconnect: Callable[..., T] | None) -> Callable[..., T]:
    """Return the function that makes another client of the same settings. ValueError: the client was made of a pool."""
    if reconnect is None:
        raise ValueError("this client was made of a pool, so how to connect again is not known: "
                         "make the other one by connect(url, view=...)")  # fmt: skip
    return reconnect


def restored(reconnect: Callable[..., T], view: str) -> T:
    """Make a client anew from its pickle."""
    return reconnect(view=view)


def pickled(reconnect: Callable[..., T] | None, view: str) -> tuple[Callable[..., T], tuple[Any, ...]]:
    """Return what `__reduce__` of a client returns. TypeError: the client was made of a pool."""
    if reconnect is None:
        raise TypeError("a client made of a connection pool cannot be pickled: make it by connect(url)")
    return restored, (reconnect, view)


def deadline(timeout: float | None) -> float:
    """Return the monotonic time in seconds at which a wait ends."""
    return float("inf") if timeout is None else time.monotonic() + timeout


def wait_step(pool: Any) -> float:
    """Return the seconds of one VIEW.WAIT: well below the time that a connection of the pool waits for a reply."""
    return min(VIEW_WAIT_S, (pool.connection_kwargs.get("socket_timeout") or 2 * VIEW_WAIT_S) / 2)


def forget(infos: TableInfos, name: str | None) -> None:
    """Remove a table, or with None every table, in all views."""
    for key in [key for key in list(infos) if name in (None, key[0])]:
        infos.pop(key, None)


def raise_errors(replies: list[Any]) -> list[Any]:
    """Return the replies, or raise the first error among them. Call it once all replies are read."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise specific_error(reply)
        if isinstance(reply, Exception):
            raise reply
    return replies
