"""The client as redis-py with tables and views: `Client` is a redis.Redis, `Table` is one table seen through it.

Everything of redis-py works as it does there. Replies of tables are bytes even under `decode_responses=True`, because
they are rows. A client on another view than `main` says so on every connection that it makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, overload

import numpy as np
import redis
from numpy.typing import ArrayLike, DTypeLike, NDArray
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

import pmkv_client.requests as requests

from .array_reader import ArrayReader
from .blob_packer import use_blob_packer
from .connection_settings import (
    TableInfos,
    checked_reconnect,
    connection_settings,
    deadline,
    forget,
    on_connect,
    pickled,
    raise_errors,
    wait_step,
)  # fmt: skip
from .interrupts import WholePipeline, whole
from .requests import MAIN, Args, Array, Bags, Fields, Form, Ids, Mode, Request, TableInfo, View, ViewInfo

T = TypeVar("T")
RAW: dict[str, Any] = {NEVER_DECODE: True}
READER = "pmkv_array_reader"  # the option of execute_command that holds the ArrayReader of the reply


class Table:
    """A table of int64 ids and rows of one NumPy dtype. It may be shared between threads, and pickles with its client.

    at: the view to read from, instead of the client's. Wrong shapes, dtypes and ids raise ValueError before anything is
    sent; a command that the server refuses raises redis.exceptions.ResponseError.
    """

    def __init__(self, client: Client, info: TableInfo) -> None:
        self._client = client
        self._info = info

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {self.dtype}, shape={self.shape}, rows={self.rows})"

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def id(self) -> int:
        """The table's number, which is never used again after a drop."""
        return self._info.id

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of one element of a row: float32, or a structured dtype."""
        return self._info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row: (64,) for 64 elements, () for one."""
        return self._info.shape

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return self._info.row_dtype

    @property
    def width(self) -> int:
        """Bytes per row."""
        return self._info.width

    @property
    def rows(self) -> int | None:
        """The bound of a dense table (its ids are 0..rows-1), None for any int64 id."""
        return self._info.rows

    @property
    def codec(self) -> str | None:
        """How the server stores the rows, None: as they are read."""
        return self._info.codec

    @property
    def stored(self) -> int:
        """The bytes that a row takes at the server, if the table has a codec; else 0."""
        return self._info.stored

    def _info_at(self, at: View) -> TableInfo:
        """Return the layout of the table of this name in another view."""
        return self._info if at is None else self._client.describe([self.name], at)[0]

    def __len__(self) -> int:
        """Ask the server how many ids are stored."""
        return self._client.run(requests.length(self.name))

    def count(self) -> int:
        """Ask the server how many ids are stored, as `len` does."""
        return len(self)

    def put(self, ids: ArrayLike, rows: Any, newer: str | None = None, encoded: bool = False) -> int | None:
        """Store rows (*ids.shape, *shape) under ids of any shape. If an id is repeated, its last row stays.

        Rows of several fields may be a DataFrame (pandas, polars), a pyarrow Table or a dict, with a column for each
        field. The rows are durable on return. Up to 8 MiB of rows are one atomic write; more become several, in order.

        newer: a field, such as the time of an event. The server leaves a stored row with a greater value in it alone;
        of equal ids the greatest value wins. Returns how many rows were written, None without `newer`. encoded: the
        rows are as the table's codec stores them, such as FBGEMM's fused rows of int8.
        """
        return self._client.run(requests.put(self._info, ids, rows, newer, encoded))

    def add(self, ids: ArrayLike, rows: Any) -> None:
        """Add rows (*ids.shape, *shape) to the stored ones. An absent row counts as zero.

        Long input is split as in `put`. It is never sent twice: after a lost connection (ConnectionError or
        TimeoutError of redis.exceptions) it is unknown how much of it was applied.
        """
        self._client.run(requests.add(self._info, ids, rows))

    @overload
    def get(
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
    def get(
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
    def get(
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
    def get(
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
        """Return the rows of ids as (*ids.shape, *shape), absent ones filled with `default` (None: as the table
        says, zeros by itself); `return_found` adds bool of the shape of the ids.

        fields: names in a structured table; the rows are then a packed structured array of these fields. out: an array
        or tensor to fill and return. as_: "numpy", "torch" or "arrow". encoded: rows as the table's codec stores them.
        Up to 64 MiB are one reply, read from one version; more become several.
        """
        info = self._info_at(at).as_stored(encoded)
        return self._client.run(requests.get(info, ids, default, return_found, fields, out, as_, at))

    def contains(self, ids: ArrayLike, *, at: View = None) -> NDArray[np.bool_]:
        """Return for each id whether it is stored, as bool of the shape of the ids."""
        return self._client.run(requests.contains(self._info, ids, at))

    def delete(self, ids: ArrayLike) -> int:
        """Delete ids, and return how many of them were stored."""
        return self._client.run(requests.delete(self._info, ids))

    def set_dram(self, dram: int | float | str | None) -> None:
        """Choose how much DRAM the rows may count on in `main`, kept with the table: "all", bytes (or "64MiB"), a share
        of the row cache (0.25 or "25%"), or None for what reads make of it."""
        self._client.run(requests.set_dram(self.name, dram))

    def ids_of(self, keys: Any, keep: bool = True, *, at: View = None) -> Ids:
        """Return the ids of entities that are named by text or bytes: a hash of 63 bits, the first 8 bytes of BLAKE2b
        (digest size 8) as a little-endian integer without the highest bit.

        The server keeps the keys in the table `<name>.keys`; ResponseError: a key has the id of another one. keep:
        False only compares, and writes nothing.
        """
        return self._client.run(requests.ids_of(self.name, keys, keep, at))

    def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        weights: ArrayLike | None = None,
        mode: Mode = "sum",
        as_: Form = "numpy",
        *,
        at: View = None,
    ) -> Any:
        """Reduce bags of rows as torch.nn.EmbeddingBag does; bag i begins at offsets[i] in `ids`.

        Returns (len(offsets), *shape), f8 for a table of 8-byte numbers, else f4. Absent ids are left out; a bag
        without rows is zero.
        """
        return self._client.run(requests.pool(self._info_at(at), ids, offsets, weights, mode, as_, at))

    def scan(self, batch: int = 4096, encoded: bool = False, *, at: View = None) -> Iterator[tuple[Ids, Array]]:
        """Yield all (ids, rows) in no order, about `batch` at a time. A row that stays stored is seen at least once.

        encoded: as in `get`."""
        info, cursor = self._info_at(at).as_stored(encoded), 0
        while True:
            cursor, ids, rows = self._client.run(requests.scan(info, cursor, batch, at))
            if len(ids):
                yield ids, rows
            if cursor == 0:
                return

    def changes(
        self, since: str, batch: int = 4096, encoded: bool = False, *, at: View = None
    ) -> Iterator[tuple[Ids, Array, Ids]]:
        """Yield (ids, rows, deleted ids) of what differs from the view `since`, about `batch` ids at a time.

        The server reads only what was written since. A row that was written again with the same content counts as
        changed. encoded: as in `get`. ResponseError: that view has not the same table.
        """
        info, cursor = self._info_at(at).as_stored(encoded), 0
        while True:
            cursor, ids, rows, deleted = self._client.run(requests.changes(info, since, cursor, batch, at))
            if len(ids) or len(deleted):
                yield ids, rows, deleted
            if cursor == 0:
                return


class Client(redis.Redis):
    """A redis-py client with tables and views. It is thread-safe, as redis.Redis is.

    view: the view that every connection of the client reads and writes. The client remembers the layout of each table;
    call `forget` after somebody else dropped a table and created it with another layout, or promoted such a one.
    A client pickles as its URL and settings, a password among them, and connects anew where it is loaded; a client that
    was made of a connection pool raises TypeError.
    """

    def __init__(
        self, host: str = "localhost", port: int = requests.DEFAULT_PORT, *args: Any, view: str = MAIN, **kwargs: Any
    ) -> None:
        self._infos: TableInfos = {}
        self._set_view(
            view, None if kwargs.get("connection_pool") else partial(type(self), host, port, *args, **kwargs)
        )
        super().__init__(host, port, *args, **connection_settings(on_connect, view, kwargs))
        if not kwargs.get("connection_pool"):
            use_blob_packer(self.connection_pool)

    @classmethod
    def from_url(cls, url: str, view: str = MAIN, **kwargs: Any) -> Client:
        """Return a client of `pmkv://[:password@]host[:port][/db]`. Keyword and query options are redis-py's."""
        settings = connection_settings(on_connect, view, kwargs)
        client: Client = super().from_url(requests.redis_url(url), **settings)  # type: ignore[assignment]
        client._set_view(view, partial(cls.from_url, url, **kwargs))
        use_blob_packer(client.connection_pool)
        return client

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self._reconnect, self.view_name)

    def _set_view(self, view: str, reconnect: Callable[..., Client] | None) -> None:
        self.view_name, self._reconnect = view, reconnect

    def table(self, name: str) -> Table:
        """Return the table of this name. ResponseError (redis.exceptions): no such table."""
        return Table(self, self.describe([name])[0])

    def tables(self) -> dict[str, Table]:
        """Return all tables by name."""
        names = self.run(requests.table_names())
        return {info.name: Table(self, info) for info in self.describe(names)}

    def create_table(
        self,
        name: str,
        dtype: DTypeLike,
        rows: int | None = None,
        exist_ok: bool = False,
        default: Any = None,
        codec: str | None = None,
        dram: int | float | str | None = None,
    ) -> Table:
        """Create a table of a fixed-size NumPy dtype, such as `("f4", 64)`; with `rows` a dense one of ids 0..rows-1.

        default: what stands for rows that were never written: "zeros", a value, {"uniform": (low, high), "seed": n} or
        {"normal": (mean, deviation), "seed": n}; with "create": True the first read writes them. codec: how rows of f4
        are stored, "int8", "int4", "f2", "bfloat16", "float8_e4m3fn" or "float8_e5m2". dram: as of `Table.set_dram`.
        exist_ok: return a table of this name that exists with the same dtype, shape, rows, default and codec.
        ResponseError: the table exists, or exists with another layout, which is named beside the one asked for.
        """
        try:
            self.run(requests.create_table(name, dtype, rows, default, codec, dram))
        except ResponseError:
            if not (exist_ok and name in self.run(requests.table_names())):
                raise
        self.forget(name)
        if exist_ok:
            requests.check_layout(self.describe([name])[0], dtype, rows, codec)
        return self.table(name)

    def drop_table(self, name: str) -> None:
        """Drop the table and all its rows."""
        self.run(requests.drop_table(name))
        self.forget(name)

    def gather(self, ids: Mapping[str, ArrayLike], *, at: View = None) -> dict[str, Array]:
        """Read rows of several tables in one call, from one version; absent rows are zero.

        ids: {name: ids of any shape}. at: another view than the client's. Returns {name: rows (*ids.shape, *shape)}.
        """
        if not requests.as_wanted(ids, "{table: ids}"):
            return {}
        return self.run(requests.gather(self.describe(list(ids), at), ids, at))

    def pool(self, bags: Bags, mode: Mode = "sum", *, at: View = None) -> dict[str, Array]:
        """Reduce bags of several tables in one call: {name: (ids, offsets)} -> {name: (len(offsets), *shape)}."""
        if not requests.as_wanted(bags, "{table: (ids, offsets)}"):
            return {}
        return self.run(requests.pool_many(self.describe(list(bags), at), bags, mode, at))

    def view(self, name: str) -> Client:
        """Return a client on this view, with the same settings and its own connections: close it, or use `with`.

        Nothing is sent yet: the first command raises NoViewError if no view has this name.
        """
        return checked_reconnect(self._reconnect)(view=name)

    def views(self) -> dict[str, ViewInfo]:
        """Return all views by name, `main` first, then in the order in which they were cut."""
        return self.run(requests.view_infos(self.run(requests.view_names())))

    def view_info(self, name: str) -> ViewInfo:
        """Return the properties of one view. NoViewError: no such view."""
        return self.run(requests.view_infos([name]))[name]

    def delete_view(self, name: str) -> None:
        """Delete a branch, a snapshot, or the view `undo`. Views that were cut from it stay."""
        self.run(requests.delete_view(name))

    def snapshot(self, name: str) -> None:
        """Keep the state of this client's view (`main` or a branch), tables and keyspaces, under a name."""
        self.run(requests.snapshot(name))

    def rollback(self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None) -> bool:
        """Take this client's view back to a snapshot. The state of `main` before it becomes the view `undo`. Return
        whether that changed anything: if not, `undo` is what it was.

        tables: names; None means all tables, and all keyspaces too. keys: whether keyspaces go back, whatever `tables`.
        """
        changed = self.run(requests.rollback(name, tables, keys))
        self.forget()
        return changed

    def branch(self, name: str, at: str = MAIN) -> Client:
        """Cut a branch of any view, and return a client on it, as `view` does."""
        self.run(requests.branch(name, at))
        return self.view(name)

    def promote(
        self, name: str, tables: Sequence[str] | None = None, keys: bool | None = None, force: bool = False
    ) -> None:
        """Move `main` to the state of a branch, at one moment, in all tables and keyspaces that the branch wrote.

        tables, keys: only these, as in `rollback`. The state of `main` before it becomes the view `undo`.
        ConflictError: `main` was written there meanwhile; with `force` those writes are dropped.
        """
        self.run(requests.promote(name, tables, keys, force))
        self.forget()

    def undo(self, force: bool = False) -> None:
        """Undo the last promote or rollback of `main`. ConflictError: there are later writes; `force` drops them."""
        self.run(requests.undo(force))
        self.forget()

    @property
    def version(self) -> tuple[int, int]:
        """Ask the server how often `main` was promoted, rolled back or undone so far, and the LSN of the last time."""
        return self.run(requests.version())

    def wait_version(self, after: int, timeout: float | None = None) -> int:
        """Wait until `main` was promoted, rolled back or undone more than `after` times, and return how often it was.

        timeout: seconds, None for ever; when they are over, `after` is returned. The layouts of tables are forgotten if
        `main` changed.
        """
        end, step = deadline(timeout), wait_step(self.connection_pool)
        while True:
            left = end - time.monotonic()
            number = self.run(requests.wait_version(after, min(step, left)))
            if number > after:
                self.forget()
            if number > after or left <= step:
                return number

    def forget(self, name: str | None = None) -> None:
        """Forget the layout of this table, or of every table: the client asks again when it next needs it."""
        forget(self._infos, name)

    def describe(self, names: Sequence[str], at: View = None) -> list[TableInfo]:
        """Return the layouts of these tables, in this client's view or in another. Known ones are not asked again."""
        names = requests.as_names(names, at)
        known = {name: self._infos.get((name, at)) for name in names}
        missing = [name for name, info in known.items() if info is None]
        if missing:
            known |= {info.name: info for info in self.run(requests.table_infos(missing, at))}
            self._infos.update(((name, at), known[name]) for name in missing)
        return [known[name] for name in names]

    def run(self, request: Request[T]) -> T:
        """Send the calls of a request, and return its result."""
        if request.once:
            return request.join(self._send_once(request.calls))
        if len(request.calls) == 1 or not request.stream:
            calls = request.calls_and_readers()
            return request.join([self.execute_command(*call, **RAW, **{READER: reader}) for call, reader in calls])
        with self.pipeline(transaction=False) as pipe:
            for call in request.calls:
                pipe.execute_command(*call, **RAW)
            return request.join(raise_errors(pipe.execute(raise_on_error=False)))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> WholePipeline:
        """Return a pipeline, as redis.Redis does."""
        return WholePipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def _send_command_parse_response(self, conn: Any, command_name: str | bytes, *args: Any, **options: Any) -> Any:
        send = super()._send_command_parse_response
        return whole(conn, lambda: send(conn, command_name, *args, **options))

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """Read a reply as redis.Redis does, but a long reply of rows into uint8 arrays."""
        reader: ArrayReader | None = options.pop(READER, None)
        reply = reader.read(connection) if reader else None
        if reply is not None:
            return reply
        try:
            return super().parse_response(connection, command_name, **options)
        except ResponseError as error:
            raise requests.specific_error(error) from None

    def _send_once(self, calls: list[Args]) -> list[Any]:
        """Send calls without redis-py's retries, which would apply a call twice if only its reply was lost."""
        connection = self.connection or self.connection_pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(calls))
            return raise_errors([_reply(connection) for _ in calls])
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            if self.connection is None:
                self.connection_pool.release(connection)


def connect(url: str = "pmkv://localhost:7379/0", view: str = MAIN, **kwargs: Any) -> Client:
    """Return a client of `pmkv://[:password@]host[:port][/db]`, connected when first used. Close it, or use `with`."""
    return Client.from_url(url, view, **kwargs)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
