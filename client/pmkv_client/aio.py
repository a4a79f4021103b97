"""The client for asyncio: `AsyncClient` is a redis.asyncio.Redis with tables and views, `AsyncTable` is one table.

Names, arguments and results are those of `Client` and `Table`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, overload

import numpy as np
import redis.asyncio
from numpy.typing import ArrayLike, DTypeLike, NDArray
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

import pmkv_client.requests as requests

from .connection_settings import (
    TableInfos,
    checked_reconnect,
    connection_settings,
    deadline,
    forget,
    on_connect_async,
    pickled,
    raise_errors,
    wait_step,
)  # fmt: skip
from .requests import MAIN, Args, Array, Bags, Fields, Form, Ids, Mode, Request, TableInfo, View, ViewInfo

T = TypeVar("T")
RAW: dict[str, Any] = {NEVER_DECODE: True}


class AsyncTable:
    """`Table` for asyncio: `await table.get(ids)`. The client asks for the layout once, when it is first needed."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncTable({self.name!r})"

    async def info(self, at: View = None) -> TableInfo:
        """Return name, id, dtype, shape, row_dtype, width and rows, which are attributes of `Table`."""
        return (await self._client.describe([self.name], at))[0]

    def __len__(self) -> int:
        """Raise RuntimeError: the length needs a reply of the server."""
        raise RuntimeError("len() cannot wait for the server: use `await table.count()`")

    def __bool__(self) -> bool:
        return True

    async def count(self) -> int:
        """Ask the server how many ids are stored."""
        return await self._client.run(requests.length(self.name))

    async def length(self) -> int:
        """As `count`."""
        return await self.count()

    async def put(self, ids: ArrayLike, rows: Any, newer: str | None = None, encoded: bool = False) -> int | None:
        """As `Table.put`."""
        return await self._client.run(requests.put(await self.info(), ids, rows, newer, encoded))

    async def add(self, ids: ArrayLike, rows: Any) -> None:
        """As `Table.add`."""
        await self._client.run(requests.add(await self.info(), ids, rows))

    @overload
    async def get(
        self,
        ids: ArrayLike,
        default: float | None = ...,
        return_found: Literal[False] = ...,
        fields: Fields = ...,
        out: Any = ...,
        as_: Literal["numpy"] = ...,
        *,
        at: View = ...,
    ) -> Array: ...
    @overload
    async def get(
        self,
        ids: ArrayLike,
        default: float | None = ...,
        *,
        return_found: Literal[True],
        fields: Fields = ...,
        out: Any = ...,
        as_: Literal["numpy"] = ...,
        at: View = ...,
    ) -> tuple[Array, NDArray[np.bool_]]: ...
    @overload
    async def get(
        self,
        ids: ArrayLike,
        default: float | None = ...,
        return_found: bool = ...,
        fields: Fields = ...,
        out: Any = ...,
        *,
        as_: Literal["torch", "arrow"],
        at: View = ...,
    ) -> Any: ...
    async def get(
        self,
        ids: ArrayLike,
        default: float | None = None,
        return_found: bool = False,
        fields: Fields = None,
        out: Any = None,
        as_: Form = "numpy",
        encoded: bool = False,
        *,
        at: View = None,
    ) -> Any:
        """As `Table.get`."""
        info = (await self.info(at)).as_stored(encoded)
        return await self._client.run(requests.get(info, ids, default, return_found, fields, out, as_, at))

    async def contains(self, ids: ArrayLike, *, at: View = None) -> NDArray[np.bool_]:
        """As `Table.contains`."""
        return await self._client.run(requests.contains(await self.info(at), ids, at))

    async def delete(self, ids: ArrayLike) -> int:
        """As `Table.delete`."""
        return await self._client.run(requests.delete(await self.info(), ids))

    async def set_dram(self, dram: int | float | str | None) -> None:
        """As `Table.set_dram`."""
        await self._client.run(requests.set_dram(self.name, dram))

    async def ids_of(self, keys: Any, keep: bool = True, *, at: View = None) -> Ids:
        """As `Table.ids_of`."""
        return await self._client.run(requests.ids_of(self.name, keys, keep, at))

    async def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        weights: ArrayLike | None = None,
        mode: Mode = "sum",
        as_: Form = "numpy",
        *,
        at: View = None,
    ) -> Any:
        """As `Table.pool`."""
        return await self._client.run(requests.pool(await self.info(at), ids, offsets, weights, mode, as_, at))

    async def scan(
        self, batch: int = 4096, encoded: bool = False, *, at: View = None
    ) -> AsyncIterator[tuple[Ids, Array]]:
        """As `Table.scan`."""
        info, cursor = (await self.info(at)).as_stored(encoded), 0
        while True:
            cursor, ids, rows = await self._client.run(requests.scan(info, cursor, batch, at))
            if len(ids):
                yield ids, rows
            if cursor == 0:
                return

    async def changes(
        self, since: str, batch: int = 4096, encoded: bool = False, *, at: View = None
    ) -> AsyncIterator[tuple[Ids, Array, Ids]]:
        """As `Table.changes`."""
        info, cursor = (await self.info(at)).as_stored(encoded), 0
        while True:
            cursor, ids, rows, deleted = await self._client.run(requests.changes(info, since, cursor, batch, at))
            if len(ids) or len(deleted):
                yield ids, rows, deleted
            if cursor == 0:
                return


class AsyncClient(redis.asyncio.Redis):
    """`Client` for asyncio: a redis.asyncio.Redis with tables and views. It pickles as `Client` does.

    `table(name)` and `view(name)` are not awaited: they send nothing.
    """

    def __init__(
        self, host: str = "localhost", port: int = requests.DEFAULT_PORT, *, view: str = MAIN, **kwargs: Any
    ) -> None:
        self._infos: TableInfos = {}
        self._set_view(view, None if kwargs.get("connection_pool") else partial(type(self), host, port, **kwargs))
        settings = connection_settings(on_connect_async, view, kwargs)
        super().__init__(host=host, port=port, **settings)

    @classmethod
    def from_url(cls, url: str, view: str = MAIN, **kwargs: Any) -> AsyncClient:  # type: ignore[override]
        """As `Client.from_url`."""
        settings = connection_settings(on_connect_async, view, kwargs)
        client: AsyncClient = super().from_url(requests.redis_url(url), **settings)  # type: ignore[assignment]
        client._set_view(view, partial(cls.from_url, url, **kwargs))
        return client

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self._reconnect, self.view_name)

    def _set_view(self, view: str, reconnect: Callable[..., AsyncClient] | None) -> None:
        self.view_name, self._reconnect = view, reconnect

    def table(self, name: str) -> AsyncTable:
        """Return the table of this name. An unknown one raises redis.exceptions.ResponseError when first used."""
        return AsyncTable(self, name)

    async def tables(self) -> dict[str, AsyncTable]:
        """Return all tables by name."""
        return {name: self.table(name) for name in await self.run(requests.table_names())}

    async def create_table(
        self,
        name: str,
        dtype: DTypeLike,
        rows: int | None = None,
        exist_ok: bool = False,
        default: Any = None,
        codec: str | None = None,
        dram: int | float | str | None = None,
    ) -> AsyncTable:
        """As `Client.create_table`."""
        try:
            await self.run(requests.create_table(name, dtype, rows, default, codec, dram))
        except ResponseError:
            if not (exist_ok and name in await self.run(requests.table_names())):
                raise
        self.forget(name)
        if exist_ok:
            requests.check_layout((await self.describe([name]))[0], dtype, rows, codec)
        return self.table(name)

    async def drop_table(self, name: str) -> None:
        """As `Client.drop_table`."""
        await self.run(requests.drop_table(name))
        self.forget(name)

    async def gather(self, ids: Mapping[str, ArrayLike], *, at: View = None) -> dict[str, Array]:
        """As `Client.gather`."""
        if not requests.as_wanted(ids, "{table: ids}"):
            return {}
        return await self.run(requests.gather(await self.describe(list(ids), at), ids, at))

    async def pool(self, bags: Bags, mode: Mode = "sum", *, at: View = None) -> dict[str, Array]:
        """As `Client.pool`."""
        if not requests.as_wanted(bags, "{table: (ids, offsets)}"):
            return {}
        return await self.run(requests.pool_many(await self.describe(list(bags), at), bags, mode, at))

    def view(self, name: str) -> AsyncClient:
        """As `Client.view`; not awaited."""
        return checked_reconnect(self._reconnect)(view=name)

    async def views(self) -> dict[str, ViewInfo]:
        """As `Client.views`."""
        return await self.run(requests.view_infos(await self.run(requests.view_names())))

    async def view_info(self, name: str) -> ViewInfo:
        """As `Client.view_info`."""
        return (await self.run(requests.view_infos([name])))[name]

    async def delete_view(self, name: str) -> None:
        """As `Client.delete_view`."""
        await self.run(requests.delete_view(name))

    async def snapshot(self, name: str) -> None:
        """As `Client.snapshot`."""
        await self.run(requests.snapshot(name))

    async def rollback(self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None) -> bool:
        """As `Client.rollback`."""
        changed = await self.run(requests.rollback(name, tables, keys))
        self.forget()
        return changed

    async def branch(self, name: str, at: str = MAIN) -> AsyncClient:
        """As `Client.branch`."""
        await self.run(requests.branch(name, at))
        return self.view(name)

    async def promote(
        self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None, force: bool = False
    ) -> None:
        """As `Client.promote`."""
        await self.run(requests.promote(name, tables, keys, force))
        self.forget()

    async def undo(self, force: bool = False) -> None:
        """As `Client.undo`."""
        await self.run(requests.undo(force))
        self.forget()

    async def version(self) -> tuple[int, int]:
        """As `Client.version`."""
        return await self.run(requests.version())

    async def wait_version(self, after: int, timeout: float | None = None) -> int:
        """As `Client.wait_version`."""
        end, step = deadline(timeout), wait_step(self.connection_pool)
        while True:
            left = end - time.monotonic()
            number = await self.run(requests.wait_version(after, min(step, left)))
            if number > after:
                self.forget()
            if number > after or left <= step:
                return number

    def forget(self, name: str | None = None) -> None:
        """As `Client.forget`."""
        forget(self._infos, name)

    async def describe(self, names: Sequence[str], at: View = None) -> list[TableInfo]:
        """As `Client.describe`."""
        names = requests.as_names(names, at)
        known = {name: self._infos.get((name, at)) for name in names}
        missing = [name for name, info in known.items() if info is None]
        if missing:
            known |= {info.name: info for info in await self.run(requests.table_infos(missing, at))}
            self._infos.update(((name, at), known[name]) for name in missing)
        return [known[name] for name in names]

    async def run(self, request: Request[T]) -> T:
        """As `Client.run`."""
        if request.once:
            return request.join(await self._send_once(request.calls))
        if len(request.calls) == 1 or not request.stream:
            return request.join([await self.execute_command(*call, **RAW) for call in request.calls])
        async with self.pipeline(transaction=False) as pipe:
            for call in request.calls:
                pipe.execute_command(*call, **RAW)
            return request.join(raise_errors(await pipe.execute(raise_on_error=False)))

    async def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """Read a reply as redis.asyncio.Redis does, with the errors of this package."""
        try:
            return await super().parse_response(connection, command_name, **options)
        except ResponseError as error:
            raise requests.specific_error(error) from None

    async def _send_once(self, calls: list[Args]) -> list[Any]:
        await self.initialize()
        connection = self.connection or await self.connection_pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_commands(calls))
            return raise_errors([await _reply(connection) for _ in calls])
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            if self.connection is None:
                await self.connection_pool.release(connection)


def connect_async(url: str = "pmkv://localhost:7379/0", view: str = MAIN, **kwargs: Any) -> AsyncClient:
    """Return an AsyncClient, not awaited: it connects when first used. Close it by `aclose()`, or use `async with`."""
    return AsyncClient.from_url(url, view, **kwargs)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
