"""redis-py clients that also know tables and views. Everything of redis-py works as it does there; table replies are
bytes also under `decode_responses=True`, because they are rows. A client on another view than `main` says so on every
connection, whenever that is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio
from numpy.typing import ArrayLike, DTypeLike
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

import pmkv_client.array_reader as array_reader
import pmkv_client.requests as requests
import pmkv_client.views as versions

from .blob_packer import pack_by
from .greeting import greeting
from .requests import Array, Request, TableInfo, View
from .table import AsyncTable, Mode, Table
from .views import MAIN, ViewInfo

T = TypeVar("T")
RAW: dict[str, Any] = {NEVER_DECODE: True}
BLOBS = "pmkv_blobs"  # the option that says what reply is expected
Bags = Mapping[str, tuple[ArrayLike, ArrayLike]]
Infos = dict[tuple[str, View], TableInfo]  # by table and view


class Client(redis.Redis):
    """A redis-py client with tables and views, by default of localhost:7379. Thread-safe, as redis.Redis is.

    Everything is read and written in the view `view`, on each of its connections. How a table is laid out is asked once
    and remembered; `forget` drops that, for a table that someone else dropped and created anew, or promoted.
    """

    def __init__(
        self, host: str = "localhost", port: int = requests.DEFAULT_PORT, *args: Any, view: str = MAIN, **kwargs: Any
    ) -> None:
        self._infos: Infos = {}
        self._on_view(view, None if kwargs.get("connection_pool") else partial(type(self), host, port, *args, **kwargs))
        super().__init__(host, port, *args, **_connecting(redis.Redis, versions.on_connect, view, kwargs))
        if not kwargs.get("connection_pool"):
            pack_by(self.connection_pool)

    @classmethod
    def from_url(cls, url: str, view: str = MAIN, **kwargs: Any) -> Client:
        """`pmkv://[:password@]host[:port][/db]`; keyword arguments and query options are redis-py's."""
        settings = _connecting(redis.Redis, versions.on_connect, view, kwargs)
        client: Client = super().from_url(requests.redis_url(url), **settings)  # type: ignore[assignment]
        client._on_view(view, partial(cls.from_url, url, **kwargs))
        pack_by(client.connection_pool)
        return client

    def _on_view(self, view: str, anew: Callable[..., Client] | None) -> None:
        self.view_name, self._anew = view, anew

    def table(self, name: str) -> Table:
        """The table of this name. Raises redis.exceptions.ResponseError where there is none."""
        return Table(self, self.describe([name])[0])

    def tables(self) -> dict[str, Table]:
        """All tables by name."""
        names = self.run(requests.names())
        return {info.name: Table(self, info) for info in self.describe(names)}

    def create_table(self, name: str, dtype: DTypeLike, rows: int | None = None) -> Table:
        """A new table of any fixed-size NumPy dtype, `("f4", 64)` say; with `rows` dense, for ids 0..rows-1."""
        self.run(requests.create(name, dtype, rows))
        self.forget(name)
        return self.table(name)

    def drop_table(self, name: str) -> None:
        """Drop the table and all its rows."""
        self.run(requests.drop(name))
        self.forget(name)

    def gather(self, ids: Mapping[str, ArrayLike], *, at: View = None) -> dict[str, Array]:
        """Rows of several tables in one call and of one version: {name: ids (n,)} -> {name: rows (n, *shape)}, absent
        rows zero. `at`: of another view than the client's."""
        return self.run(requests.gather(self.describe(list(ids), at), ids, at)) if ids else {}

    def pool(self, bags: Bags, mode: Mode = "sum", *, at: View = None) -> dict[str, Array]:
        """Bags of several tables, reduced, in one call: {name: (ids, offsets)} -> {name: (len(offsets), *shape)}."""
        return self.run(requests.pool_many(self.describe(list(bags), at), bags, mode, at)) if bags else {}

    def view(self, name: str) -> Client:
        """A client on this view, with the same settings and connections of its own: close it, or use `with`.

        Sends nothing; where there is no such view, what is first asked raises NoViewError.
        """
        return _anew(self._anew)(view=name)

    def views(self) -> dict[str, ViewInfo]:
        """All views by name, `main` first, then as they were cut."""
        return self.run(versions.infos(self.run(versions.names())))

    def view_info(self, name: str) -> ViewInfo:
        """What is known of one view."""
        return self.run(versions.infos([name]))[name]

    def delete_view(self, name: str) -> None:
        """Delete a branch, a snapshot, or the view `undo`. What stands on it stays."""
        self.run(versions.delete(name))

    def snapshot(self, name: str) -> None:
        """Keep the state of this client's view (`main` or a branch), tables and keyspaces, under a name."""
        self.run(versions.snapshot(name))

    def rollback(self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None) -> None:
        """This client's view back to a snapshot: all of it, or the tables named; keyspaces with all of it, or as `keys`
        says. Of `main`, the state before is the view `undo`."""
        self.run(versions.rollback(name, tables, keys))
        self.forget()

    def branch(self, name: str, at: str = MAIN) -> Client:
        """Cut a branch of any view; gives a client on it, as `view` does."""
        self.run(versions.branch(name, at))
        return self.view(name)

    def promote(
        self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None, force: bool = False
    ) -> None:
        """Move `main` to what a branch wrote: the tables and keyspaces, or the tables named, at one moment.

        Raises ConflictError where `main` was written there meanwhile, unless forced. The state before is the view
        `undo`.
        """
        self.run(versions.promote(name, tables, keys, force))
        self.forget()

    def undo(self, force: bool = False) -> None:
        """Undo the last promote or rollback of `main`. ConflictError: there are later writes; `force` drops them."""
        self.run(versions.undo(force))
        self.forget()

    @property
    def version(self) -> tuple[int, int]:
        """How often `main` was promoted and rolled back so far, and the LSN of the last time; asks the server."""
        return self.run(versions.version())

    def wait_version(self, after: int, timeout: float | None = None) -> int:
        """Wait until `main` was promoted or rolled back more than `after` times; returns how often, or after `timeout`
        seconds `after` itself. How tables are laid out is asked anew afterwards."""
        end, most = _deadline(timeout), versions.patience(self.connection_pool)
        while True:
            left = end - time.monotonic()
            number = self.run(versions.wait(after, min(most, left)))
            if number > after:
                self.forget()
            if number > after or left <= most:
                return number

    def forget(self, name: str | None = None) -> None:
        """Ask anew how this table (or every table) is laid out when it is next needed."""
        _forget(self._infos, name)

    def describe(self, names: Sequence[str], at: View = None) -> list[TableInfo]:
        """How these tables are laid out, in this client's view or in another."""
        known = {name: self._infos.get((name, at)) for name in names}
        missing = [name for name, info in known.items() if info is None]
        if missing:
            known |= {info.name: info for info in self.run(requests.infos(missing, at))}
            self._infos.update(((name, at), known[name]) for name in missing)
        return [known[name] for name in names]

    def run(self, work: Request[T]) -> T:
        """Send the calls of `work` and join their replies."""
        if work.once:
            return work.join(self._send_once(work.calls))
        if len(work.calls) == 1 or not work.stream:
            return work.join([self.execute_command(*call, **RAW, **{BLOBS: blobs}) for call, blobs in work.expected()])
        with self.pipeline(transaction=False) as pipe:
            for call in work.calls:
                pipe.execute_command(*call, **RAW)
            return work.join(_checked(pipe.execute(raise_on_error=False)))

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """As in redis.Redis; a long reply of rows comes in arrays of bytes."""
        blobs = options.pop(BLOBS, None)
        reply = array_reader.read(connection, blobs) if blobs else None
        if reply is not None:
            return reply
        try:
            return super().parse_response(connection, command_name, **options)
        except ResponseError as error:
            raise versions.mapped(error) from None

    def _send_once(self, calls: list[requests.Args]) -> list[Any]:
        """Without redis-py's retries, which would apply a call twice if only its reply was lost."""
        connection = self.connection or self.connection_pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(calls))
            return _checked([_reply(connection) for _ in calls])
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            if self.connection is None:
                self.connection_pool.release(connection)


class AsyncClient(redis.asyncio.Redis):
    """`Client`, awaited. `table(name)` and `view(name)` themselves are not: they send nothing."""

    def __init__(
        self, host: str = "localhost", port: int = requests.DEFAULT_PORT, *, view: str = MAIN, **kwargs: Any
    ) -> None:
        self._infos: Infos = {}
        self._on_view(view, None if kwargs.get("connection_pool") else partial(type(self), host, port, **kwargs))
        settings = _connecting(redis.asyncio.Redis, versions.on_connect_async, view, kwargs)
        super().__init__(host=host, port=port, **settings)

    @classmethod
    def from_url(cls, url: str, view: str = MAIN, **kwargs: Any) -> AsyncClient:  # type: ignore[override]
        """As `Client.from_url`."""
        settings = _connecting(redis.asyncio.Redis, versions.on_connect_async, view, kwargs)
        client: AsyncClient = super().from_url(requests.redis_url(url), **settings)  # type: ignore[assignment]
        client._on_view(view, partial(cls.from_url, url, **kwargs))
        return client

    def _on_view(self, view: str, anew: Callable[..., AsyncClient] | None) -> None:
        self.view_name, self._anew = view, anew

    def table(self, name: str) -> AsyncTable:
        """The table of this name; an unknown one raises redis.exceptions.ResponseError when first used."""
        return AsyncTable(self, name)

    async def tables(self) -> dict[str, AsyncTable]:
        """All tables by name."""
        return {name: self.table(name) for name in await self.run(requests.names())}

    async def create_table(self, name: str, dtype: DTypeLike, rows: int | None = None) -> AsyncTable:
        """As `Client.create_table`."""
        await self.run(requests.create(name, dtype, rows))
        self.forget(name)
        return self.table(name)

    async def drop_table(self, name: str) -> None:
        """As `Client.drop_table`."""
        await self.run(requests.drop(name))
        self.forget(name)

    async def gather(self, ids: Mapping[str, ArrayLike], *, at: View = None) -> dict[str, Array]:
        """As `Client.gather`."""
        return await self.run(requests.gather(await self.describe(list(ids), at), ids, at)) if ids else {}

    async def pool(self, bags: Bags, mode: Mode = "sum", *, at: View = None) -> dict[str, Array]:
        """As `Client.pool`."""
        return await self.run(requests.pool_many(await self.describe(list(bags), at), bags, mode, at)) if bags else {}

    def view(self, name: str) -> AsyncClient:
        """As `Client.view`; not awaited."""
        return _anew(self._anew)(view=name)

    async def views(self) -> dict[str, ViewInfo]:
        """As `Client.views`."""
        return await self.run(versions.infos(await self.run(versions.names())))

    async def view_info(self, name: str) -> ViewInfo:
        """As `Client.view_info`."""
        return (await self.run(versions.infos([name])))[name]

    async def delete_view(self, name: str) -> None:
        """As `Client.delete_view`."""
        await self.run(versions.delete(name))

    async def snapshot(self, name: str) -> None:
        """As `Client.snapshot`."""
        await self.run(versions.snapshot(name))

    async def rollback(self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None) -> None:
        """As `Client.rollback`."""
        await self.run(versions.rollback(name, tables, keys))
        self.forget()

    async def branch(self, name: str, at: str = MAIN) -> AsyncClient:
        """As `Client.branch`."""
        await self.run(versions.branch(name, at))
        return self.view(name)

    async def promote(
        self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None, force: bool = False
    ) -> None:
        """As `Client.promote`."""
        await self.run(versions.promote(name, tables, keys, force))
        self.forget()

    async def undo(self, force: bool = False) -> None:
        """As `Client.undo`."""
        await self.run(versions.undo(force))
        self.forget()

    async def version(self) -> tuple[int, int]:
        """As `Client.version`."""
        return await self.run(versions.version())

    async def wait_version(self, after: int, timeout: float | None = None) -> int:
        """As `Client.wait_version`."""
        end, most = _deadline(timeout), versions.patience(self.connection_pool)
        while True:
            left = end - time.monotonic()
            number = await self.run(versions.wait(after, min(most, left)))
            if number > after:
                self.forget()
            if number > after or left <= most:
                return number

    def forget(self, name: str | None = None) -> None:
        """As `Client.forget`."""
        _forget(self._infos, name)

    async def describe(self, names: Sequence[str], at: View = None) -> list[TableInfo]:
        """How these tables are laid out, in this client's view or in another."""
        known = {name: self._infos.get((name, at)) for name in names}
        missing = [name for name, info in known.items() if info is None]
        if missing:
            known |= {info.name: info for info in await self.run(requests.infos(missing, at))}
            self._infos.update(((name, at), known[name]) for name in missing)
        return [known[name] for name in names]

    async def run(self, work: Request[T]) -> T:
        """As `Client.run`."""
        if work.once:
            return work.join(await self._send_once(work.calls))
        if len(work.calls) == 1 or not work.stream:
            replies = [await self.execute_command(*call, **RAW, **{BLOBS: blobs}) for call, blobs in work.expected()]
            return work.join(replies)
        async with self.pipeline(transaction=False) as pipe:
            for call in work.calls:
                pipe.execute_command(*call, **RAW)
            return work.join(_checked(await pipe.execute(raise_on_error=False)))

    async def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """As `Client.parse_response`."""
        blobs = options.pop(BLOBS, None)
        reply = await array_reader.read_async(connection, blobs) if blobs else None
        if reply is not None:
            return reply
        try:
            return await super().parse_response(connection, command_name, **options)
        except ResponseError as error:
            raise versions.mapped(error) from None

    async def _send_once(self, calls: list[requests.Args]) -> list[Any]:
        await self.initialize()
        connection = self.connection or await self.connection_pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_commands(calls))
            return _checked([await _async_reply(connection) for _ in calls])
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            if self.connection is None:
                await self.connection_pool.release(connection)


def connect(url: str = "pmkv://localhost:7379/0", view: str = MAIN, **kwargs: Any) -> Client:
    """A client of `pmkv://[:password@]host[:port][/db]`. Connects when first used; close it, or use `with`."""
    return Client.from_url(url, view, **kwargs)


def connect_async(url: str = "pmkv://localhost:7379/0", view: str = MAIN, **kwargs: Any) -> AsyncClient:
    """`connect` for asyncio. Not awaited: it connects when first used; `await client.aclose()`, or use `async with`."""
    return AsyncClient.from_url(url, view, **kwargs)


def _connecting(base: type, use: Callable[..., Any], view: str, given: dict[str, Any]) -> dict[str, Any]:
    """Settings of redis-py's class for connections that stand on `view` from the first."""
    settings = greeting(base, given)
    if view == MAIN:
        return settings
    if settings.get("connection_pool") is not None:
        raise ValueError(f"view={view!r} with connection_pool=: a view is said when a connection is made, by its pool; "
                         "leave connection_pool out")  # fmt: skip
    return {**settings, "redis_connect_func": use(view, settings.get("redis_connect_func"))}


def _anew(again: Callable[..., T] | None) -> Callable[..., T]:
    if again is None:
        raise ValueError("this client was made of a pool, so how to connect again is not known: "
                         "make the other one by connect(url, view=...)")  # fmt: skip
    return again


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout


def _forget(infos: Infos, name: str | None) -> None:
    for key in [key for key in list(infos) if name in (None, key[0])]:
        infos.pop(key, None)


def _checked(replies: list[Any]) -> list[Any]:
    """The replies, or the first error among them, raised after all were read."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise versions.mapped(reply)
        if isinstance(reply, Exception):
            raise reply
    return replies


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error


async def _async_reply(connection: Any) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
