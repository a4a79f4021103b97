"""A table seen through a client, in NumPy arrays: `Table` blocks, `AsyncTable` is awaited. The names, arguments and
results are those of the embedded table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

import pmkv_client.requests as requests

from .requests import Array, Ids, TableInfo, View

if TYPE_CHECKING:
    from .client import AsyncClient, Client

Mode = Literal["sum", "mean", "max"]
Fields = Sequence[str] | None


class Table:
    """int64 ids to rows of one NumPy dtype. Safe to share between threads, as its client is.

    `at` names the view that a read is of; without it, it is the client's.

    Wrong shapes, dtypes and ids raise ValueError here, before anything is sent; what the server refuses raises
    `redis.exceptions.ResponseError`.
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
        """The table's number, never used again after a drop."""
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
        """Bytes a row."""
        return self._info.width

    @property
    def rows(self) -> int | None:
        """The bound of a dense table (its ids are 0..rows-1), None for any int64 id."""
        return self._info.rows

    def _info_at(self, at: View) -> TableInfo:
        """How the table of this name is laid out there."""
        return self._info if at is None else self._client.describe([self.name], at)[0]

    def __len__(self) -> int:
        """How many ids are stored; asks the server."""
        return self._client.run(requests.length(self.name))

    def put(self, ids: ArrayLike, rows: ArrayLike) -> None:
        """Store rows of shape (n, *shape) under n ids; of an id given twice the last row stays.

        Durable on return. Atomic up to 8 MiB of rows; more is sent in pieces, in order, each atomic.
        """
        self._client.run(requests.put(self._info, ids, rows))

    def add(self, ids: ArrayLike, rows: ArrayLike) -> None:
        """Add rows of shape (n, *shape) to what is stored, an absent row being zero.

        Cut as `put` is. Never sent twice: after a lost connection (redis.exceptions.ConnectionError or TimeoutError) it
        is unknown which pieces were applied.
        """
        self._client.run(requests.put(self._info, ids, rows, "TABLE.ADD"))

    @overload
    def get(
        self,
        ids: ArrayLike,
        default: float = ...,
        return_found: Literal[False] = ...,
        fields: Fields = ...,
        *,
        at: View = ...,
    ) -> Array: ...
    @overload
    def get(
        self,
        ids: ArrayLike,
        default: float = ...,
        *,
        return_found: Literal[True],
        fields: Fields = ...,
        at: View = ...,
    ) -> tuple[Array, NDArray[np.bool_]]: ...
    def get(
        self,
        ids: ArrayLike,
        default: float = 0.0,
        return_found: bool = False,
        fields: Fields = None,
        *,
        at: View = None,
    ) -> Any:
        """The rows of n ids as (n, *shape), absent ones filled with `default`; with `return_found` also n booleans.

        `fields` of a structured table: a packed structured array of just these. Up to 64 MiB come in one reply, of one
        version; more in several.
        """
        return self._client.run(requests.get(self._info_at(at), ids, default, return_found, fields, at))

    def contains(self, ids: ArrayLike, *, at: View = None) -> NDArray[np.bool_]:
        """A boolean an id."""
        return self._client.run(requests.contains(self._info, ids, at))

    def delete(self, ids: ArrayLike) -> int:
        """Delete, and say how many there were."""
        return self._client.run(requests.delete(self._info, ids))

    def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        weights: ArrayLike | None = None,
        mode: Mode = "sum",
        *,
        at: View = None,
    ) -> Array:
        """Reduce bags of rows as torch.nn.EmbeddingBag does; offsets[i] is where bag i begins in `ids`.

        Gives (len(offsets), *shape), f8 for tables of 8-byte numbers, else f4. Absent ids are left out; a bag without
        rows is zero.
        """
        return self._client.run(requests.pool(self._info_at(at), ids, offsets, weights, mode, at))

    def scan(self, batch: int = 4096, *, at: View = None) -> Iterator[tuple[Ids, Array]]:
        """All (ids, rows), in no order, in batches of about `batch`. What is there throughout is seen at least once."""
        info, cursor = self._info_at(at), 0
        while True:
            cursor, ids, rows = self._client.run(requests.scan(info, cursor, batch, at))
            if len(ids):
                yield ids, rows
            if cursor == 0:
                return


class AsyncTable:
    """`Table`, awaited: `await table.get(ids)`. What describes it (`info`) is asked for once, when first needed."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncTable({self.name!r})"

    async def info(self, at: View = None) -> TableInfo:
        """name, id, dtype, shape, row_dtype, width and rows, as they are attributes of `Table`."""
        return (await self._client.describe([self.name], at))[0]

    async def length(self) -> int:
        """How many ids are stored."""
        return await self._client.run(requests.length(self.name))

    async def put(self, ids: ArrayLike, rows: ArrayLike) -> None:
        """As `Table.put`."""
        await self._client.run(requests.put(await self.info(), ids, rows))

    async def add(self, ids: ArrayLike, rows: ArrayLike) -> None:
        """As `Table.add`."""
        await self._client.run(requests.put(await self.info(), ids, rows, "TABLE.ADD"))

    @overload
    async def get(
        self,
        ids: ArrayLike,
        default: float = ...,
        return_found: Literal[False] = ...,
        fields: Fields = ...,
        *,
        at: View = ...,
    ) -> Array: ...
    @overload
    async def get(
        self,
        ids: ArrayLike,
        default: float = ...,
        *,
        return_found: Literal[True],
        fields: Fields = ...,
        at: View = ...,
    ) -> tuple[Array, NDArray[np.bool_]]: ...
    async def get(
        self,
        ids: ArrayLike,
        default: float = 0.0,
        return_found: bool = False,
        fields: Fields = None,
        *,
        at: View = None,
    ) -> Any:
        """As `Table.get`."""
        return await self._client.run(requests.get(await self.info(at), ids, default, return_found, fields, at))

    async def contains(self, ids: ArrayLike, *, at: View = None) -> NDArray[np.bool_]:
        """As `Table.contains`."""
        return await self._client.run(requests.contains(await self.info(at), ids, at))

    async def delete(self, ids: ArrayLike) -> int:
        """As `Table.delete`."""
        return await self._client.run(requests.delete(await self.info(), ids))

    async def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        weights: ArrayLike | None = None,
        mode: Mode = "sum",
        *,
        at: View = None,
    ) -> Array:
        """As `Table.pool`."""
        return await self._client.run(requests.pool(await self.info(at), ids, offsets, weights, mode, at))

    async def scan(self, batch: int = 4096, *, at: View = None) -> AsyncIterator[tuple[Ids, Array]]:
        """As `Table.scan`."""
        info, cursor = await self.info(at), 0
        while True:
            cursor, ids, rows = await self._client.run(requests.scan(info, cursor, batch, at))
            if len(ids):
                yield ids, rows
            if cursor == 0:
                return
