"""redis-py clients that also know tables. Everything of redis-py works as it does there; table replies are bytes also
under `decode_responses=True`, because they are rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from numpy.typing import ArrayLike, DTypeLike
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

import pmkv_client.direct as direct
import pmkv_client.protocol as protocol

from .protocol import Array, TableInfo, Work
from .table import AsyncTable, Mode, Table

T = TypeVar("T")
RAW: dict[str, Any] = {NEVER_DECODE: True}
BLOBS = "pmkv_blobs"  # the option that says what reply is expected
Bags = Mapping[str, tuple[ArrayLike, ArrayLike]]


class Client(redis.Redis):
    """A redis-py client with tables, by default of localhost:7379. Thread-safe, as redis.Redis is.

    How a table is laid out is asked once and remembered; `forget` drops that, for a table that someone else dropped and
    created anew.
    """

    def __init__(self, host: str = "localhost", port: int = protocol.DEFAULT_PORT, *args: Any, **kwargs: Any) -> None:
        self._infos: dict[str, TableInfo] = {}
        super().__init__(host, port, *args, **kwargs)

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Client:
        """`pmkv://[:password@]host[:port][/db]`; keyword arguments and query options are redis-py's."""
        client: Client = super().from_url(protocol.redis_url(url), **kwargs)  # type: ignore[assignment]
        return client

    def table(self, name: str) -> Table:
        """The table of this name. Raises redis.exceptions.ResponseError where there is none."""
        return Table(self, self.describe([name])[0])

    def tables(self) -> dict[str, Table]:
        """All tables by name."""
        names = self.run(protocol.names())
        return {info.name: Table(self, info) for info in self.describe(names)}

    def create_table(self, name: str, dtype: DTypeLike, rows: int | None = None) -> Table:
        """A new table of any fixed-size NumPy dtype, `("f4", 64)` say; with `rows` dense, for ids 0..rows-1."""
        self.run(protocol.create(name, dtype, rows))
        self.forget(name)
        return self.table(name)

    def drop_table(self, name: str) -> None:
        """Drop the table and all its rows."""
        self.run(protocol.drop(name))
        self.forget(name)

    def gather(self, ids: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Rows of several tables in one call and of one version: {name: ids (n,)} -> {name: rows (n, *shape)}, absent
        rows zero."""
        return self.run(protocol.gather(self.describe(list(ids)), ids)) if ids else {}

    def pool(self, bags: Bags, mode: Mode = "sum") -> dict[str, Array]:
        """Bags of several tables, reduced, in one call: {name: (ids, offsets)} -> {name: (len(offsets), *shape)}."""
        return self.run(protocol.pool_many(self.describe(list(bags)), bags, mode)) if bags else {}

    def forget(self, name: str | None = None) -> None:
        """Ask anew how this table (or every table) is laid out when it is next needed."""
        _forget(self._infos, name)

    def describe(self, names: Sequence[str]) -> list[TableInfo]:
        missing = [name for name in names if name not in self._infos]
        if missing:
            self._infos.update((info.name, info) for info in self.run(protocol.infos(missing)))
        return [self._infos[name] for name in names]

    def run(self, work: Work[T]) -> T:
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
        reply = direct.read(connection, blobs) if blobs else None
        return super().parse_response(connection, command_name, **options) if reply is None else reply

    def _send_once(self, calls: list[protocol.Args]) -> list[Any]:
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
    """`Client`, awaited. `table(name)` itself is not: it sends nothing."""

    def __init__(self, host: str = "localhost", port: int = protocol.DEFAULT_PORT, **kwargs: Any) -> None:
        self._infos: dict[str, TableInfo] = {}
        super().__init__(host=host, port=port, **kwargs)

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> AsyncClient:  # type: ignore[override]
        """As `Client.from_url`."""
        client: AsyncClient = super().from_url(protocol.redis_url(url), **kwargs)  # type: ignore[assignment]
        return client

    def table(self, name: str) -> AsyncTable:
        """The table of this name; an unknown one raises redis.exceptions.ResponseError when first used."""
        return AsyncTable(self, name)

    async def tables(self) -> dict[str, AsyncTable]:
        """All tables by name."""
        return {name: self.table(name) for name in await self.run(protocol.names())}

    async def create_table(self, name: str, dtype: DTypeLike, rows: int | None = None) -> AsyncTable:
        """As `Client.create_table`."""
        await self.run(protocol.create(name, dtype, rows))
        self.forget(name)
        return self.table(name)

    async def drop_table(self, name: str) -> None:
        """As `Client.drop_table`."""
        await self.run(protocol.drop(name))
        self.forget(name)

    async def gather(self, ids: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """As `Client.gather`."""
        return await self.run(protocol.gather(await self.describe(list(ids)), ids)) if ids else {}

    async def pool(self, bags: Bags, mode: Mode = "sum") -> dict[str, Array]:
        """As `Client.pool`."""
        return await self.run(protocol.pool_many(await self.describe(list(bags)), bags, mode)) if bags else {}

    def forget(self, name: str | None = None) -> None:
        """As `Client.forget`."""
        _forget(self._infos, name)

    async def describe(self, names: Sequence[str]) -> list[TableInfo]:
        missing = [name for name in names if name not in self._infos]
        if missing:
            self._infos.update((info.name, info) for info in await self.run(protocol.infos(missing)))
        return [self._infos[name] for name in names]

    async def run(self, work: Work[T]) -> T:
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
        reply = await direct.read_async(connection, blobs) if blobs else None
        return await super().parse_response(connection, command_name, **options) if reply is None else reply

    async def _send_once(self, calls: list[protocol.Args]) -> list[Any]:
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


def connect(url: str = "pmkv://localhost:7379/0", **kwargs: Any) -> Client:
    """A client of `pmkv://[:password@]host[:port][/db]`. Connects when first used; close it, or use `with`."""
    return Client.from_url(url, **kwargs)


def connect_async(url: str = "pmkv://localhost:7379/0", **kwargs: Any) -> AsyncClient:
    """`connect` for asyncio. Not awaited: it connects when first used; `await client.aclose()`, or use `async with`."""
    return AsyncClient.from_url(url, **kwargs)


def _forget(infos: dict[str, TableInfo], name: str | None) -> None:
    if name is None:
        infos.clear()
    else:
        infos.pop(name, None)


def _checked(replies: list[Any]) -> list[Any]:
    """The replies, or the first error among them, raised after all were read."""
    for reply in replies:
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
