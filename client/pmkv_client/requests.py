"""Table commands as arguments and replies: what to send, how to read what comes back. Knows no sockets.

Every function returns `Work`: the calls to make and how their replies become NumPy arrays. The sync and the async
client differ only in how they run it. Replies are assumed to be undecoded bytes, integers and lists (maps under RESP3);
rows may also come as arrays of bytes, which become the result without being copied.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .array_reader import ArrayReader

DEFAULT_PORT = 7379
PIECE_BYTES = 8 << 20  # rows in one TABLE.PUT: the server gathers a command whole before it serves it
REPLY_BYTES = 64 << 20  # rows in one reply: a bulk string ends at 512 MiB, and both sides hold it whole

Args = tuple[Any, ...]
Array = NDArray[Any]
Ids = NDArray[np.int64]
View = str | None  # the name of one, or the one that the connection stands on
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """Calls to send, and `join`, which makes the result of their replies.

    `stream`: the replies are small, so all calls may be sent before the first reply is read.
    `once`: a call that may have been applied must not be sent again after a lost connection.
    `blobs`: what the reply to each call will be, where that is known.
    """

    calls: list[Args]
    join: Callable[[list[Any]], T]
    stream: bool = False
    once: bool = False
    blobs: Sequence[ArrayReader] = ()

    def expected(self) -> list[tuple[Args, ArrayReader | None]]:
        """Each call, and the reply to be read into arrays, if so."""
        replies = [blobs if blobs.is_worth_it else None for blobs in self.blobs] or [None] * len(self.calls)
        return list(zip(self.calls, replies, strict=True))


@dataclass(frozen=True, slots=True)
class TableInfo:
    """What TABLE.INFO says of a table for as long as it lives: `rows` is the bound of a dense one, or None."""

    name: str
    id: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int | None

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return np.dtype((self.dtype, self.shape))

    @property
    def width(self) -> int:
        """Bytes a row."""
        return self.row_dtype.itemsize


def redis_url(url: str) -> str:
    """`pmkv://[:password@]host[:7379][/db]` as redis-py wants it; redis://, rediss:// and unix:// stay as they are."""
    parts = urlsplit(url)
    if parts.scheme != "pmkv":
        return url
    place = parts.netloc or "localhost"
    if parts.port is None:
        place = f"{place.removesuffix(':')}:{DEFAULT_PORT}"
    return urlunsplit(("redis", place, parts.path, parts.query, ""))


# Arrays to blobs


def blob(array: Array) -> memoryview | bytes:
    """The bytes of a C-contiguous array, not copied. (A memoryview of an empty or a datetime array cannot be cast.)"""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def as_ids(ids: ArrayLike, what: str = "ids") -> Ids:
    """One-dimensional, contiguous, little-endian int64. Raises ValueError for floats, two dimensions and overflow."""
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, "<i8")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what} are {array.dtype}; they must be integers")
    if array.ndim != 1:
        raise ValueError(f"{what} have shape {array.shape}; they must be one-dimensional")
    if array.dtype.kind == "u" and array.itemsize == 8 and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{what} hold {int(array.max())}; they must fit int64")
    return np.ascontiguousarray(array, "<i8")


def as_rows(info: TableInfo, ids: Ids, rows: ArrayLike) -> Array:
    """Rows of shape (len(ids), *shape) in the table's dtype. Raises ValueError, naming both sides."""
    as_found = isinstance(rows, np.ndarray) or info.dtype.names is None  # NumPy cannot find a structured dtype in lists
    given = np.asarray(rows) if as_found else np.asarray(rows, info.dtype)
    if given.dtype.names != info.dtype.names or not np.can_cast(given.dtype, info.dtype, "same_kind"):
        raise ValueError(f"rows are {given.dtype}; table '{info.name}' holds {info.dtype}")
    wanted = (len(ids), *info.shape)
    if given.shape != wanted:
        raise ValueError(f"rows have shape {given.shape}; {len(ids)} ids of table '{info.name}' need {wanted}")
    return _stored(given, info.dtype, f"a row of table '{info.name}'")


def _stored(given: Array, dtype: np.dtype[Any], label: str) -> Array:
    """Convert to the table's dtype. ValueError: an integer is out of its range, or a finite float would be infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(given, dtype)
    columns = [(given[name], stored[name]) for name in dtype.names] if dtype.names else [(given, stored)]
    for before, after in columns:
        if before.dtype.kind not in "iufc" or before.dtype == after.dtype:
            continue
        if after.dtype.kind in "fc":
            lost = np.isfinite(before) & ~np.isfinite(after)
        else:
            limits = np.iinfo(after.dtype)
            lost = (before < limits.min) | (before > limits.max)
        if lost.any():
            raise ValueError(f"{label} holds {before[lost][0]}, which does not fit dtype {after.dtype}")
    return stored


def as_default(value: float) -> tuple[str, bytes] | tuple[()]:
    """The option DEFAULT, as text that reads back the same; nothing for 0, which is the default's default."""
    number = value.item() if isinstance(value, np.generic) else value
    if not isinstance(number, int | float):
        raise ValueError(f"default={value!r} is not a number")
    return () if number == 0 and math.copysign(1, number) > 0 else ("DEFAULT", repr(float(number)).encode())


def as_at(view: View) -> Args:
    """The option AT; nothing for the view that the connection stands on."""
    return () if view is None else ("AT", view)


# Descriptions of dtypes


def descr_json(dtype: np.dtype[Any]) -> str:
    """The NumPy descr as JSON: `"<f4"`, or `[["price","<f4"],["emb","<f4",[16]]]` for a structured dtype, packed."""
    packed = repack_fields(dtype, recurse=True) if dtype.names else dtype
    return json.dumps(np.lib.format.dtype_to_descr(packed), separators=(",", ":"))


def descr_dtype(text: str | bytes) -> np.dtype[Any]:
    """The dtype of a JSON descr."""
    return np.lib.format.descr_to_dtype(_descr(json.loads(text)))


def _descr(node: Any) -> Any:
    if isinstance(node, str):
        return node
    return [(field[0], _descr(field[1]), *(tuple(shape) for shape in field[2:])) for field in node]


# Commands


def create(name: str, dtype: DTypeLike, rows: int | None = None) -> Request[None]:
    row = np.dtype(dtype)
    element, shape = row.subdtype or (row, ())
    if len(shape) > 1 or (shape and element.names):
        raise ValueError(f"rows of {row} cannot be created over the network: lay them flat, or make them a field")
    args: Args = ("TABLE.CREATE", name)
    if element.names:
        args += ("SCHEMA", descr_json(element))
    else:
        args += ("DTYPE", element.str) + (("DIM", shape[0]) if shape else ())
    if rows is not None:
        args += ("ROWS", int(rows))
    return Request([args], lambda replies: None)


def drop(name: str) -> Request[None]:
    return Request([("TABLE.DROP", name)], lambda replies: None)


def names() -> Request[list[str]]:
    return Request([("TABLE.LIST",)], lambda replies: [_text(name) for name in replies[0]])


def infos(tables: Sequence[str], at: View = None) -> Request[list[TableInfo]]:
    calls: list[Args] = [("TABLE.INFO", name, "LAYOUT", *as_at(at)) for name in tables]
    return Request(calls, lambda replies: [parse_info(reply) for reply in replies], stream=True)


def length(name: str) -> Request[int]:
    return Request([("TABLE.LEN", name)], lambda replies: int(replies[0]))


def put(info: TableInfo, ids: ArrayLike, rows: ArrayLike, command: str = "TABLE.PUT") -> Request[None]:
    """PUT, or ADD, which adds to what is there and so must not be repeated."""
    keys = as_ids(ids)
    values = as_rows(info, keys, rows)
    parts = pieces(len(keys), info.width, PIECE_BYTES)
    calls: list[Args] = [(command, info.name, blob(keys[part]), blob(values[part])) for part in parts]
    return Request(calls, lambda replies: None, stream=True, once=command == "TABLE.ADD")


def get(
    info: TableInfo,
    ids: ArrayLike,
    default: float = 0.0,
    return_found: bool = False,
    fields: Sequence[str] | None = None,
    at: View = None,
) -> Request[Any]:
    keys = as_ids(ids)
    row = row_of_fields(info, fields)
    options: Args = as_default(default)
    options += ("FIELDS", len(fields), *fields) if fields is not None else ()
    options += ("FOUND",) if return_found else ()
    options += as_at(at)
    parts = pieces(len(keys), row.itemsize, REPLY_BYTES)
    calls: list[Args] = [("TABLE.GET", info.name, blob(keys[part]), *options) for part in parts]

    def join(replies: list[Any]) -> Any:
        pairs = [reply if return_found else (reply, b"") for reply in replies]
        rows = [parse_rows(info.name, pair[0], row, _size(part)) for pair, part in zip(pairs, parts, strict=True)]
        if not return_found:
            return _concatenate(rows)
        flags = [parse_flags(pair[1], _size(part)) for pair, part in zip(pairs, parts, strict=True)]
        return _concatenate(rows), _concatenate(flags)

    sizes = [(_size(part) * row.itemsize, _size(part)) for part in parts]
    return Request(
        calls, join, blobs=[ArrayReader(pair) if return_found else ArrayReader(pair[:1], alone=True) for pair in sizes]
    )


def contains(info: TableInfo, ids: ArrayLike, at: View = None) -> Request[NDArray[np.bool_]]:
    keys = as_ids(ids)
    args: Args = ("TABLE.EXISTS", info.name, blob(keys), *as_at(at))
    return Request([args], lambda replies: parse_flags(replies[0], len(keys)))


def delete(info: TableInfo, ids: ArrayLike) -> Request[int]:
    return Request([("TABLE.DEL", info.name, blob(as_ids(ids)))], lambda replies: int(replies[0]))


def pool(
    info: TableInfo,
    ids: ArrayLike,
    offsets: ArrayLike,
    weights: ArrayLike | None = None,
    mode: str = "sum",
    at: View = None,
) -> Request[Array]:
    keys, starts = as_ids(ids), as_ids(offsets, "offsets")
    args: Args = ("TABLE.POOL", info.name, blob(keys), blob(starts))
    if weights is not None:
        args += ("WEIGHTS", blob(as_weights(weights, keys)))
    if mode != "sum":
        args += ("MODE", mode)
    args += as_at(at)
    row = pooled_row(info)
    expected = ArrayReader((len(starts) * row.itemsize,), alone=True)
    return Request([args], lambda replies: parse_rows(info.name, replies[0], row, len(starts)), blobs=[expected])


def scan(info: TableInfo, cursor: int | bytes, count: int, at: View = None) -> Request[tuple[int, Ids, Array]]:
    def join(replies: list[Any]) -> tuple[int, Ids, Array]:
        following, keys, rows = replies[0]
        ids = np.frombuffer(keys, "<i8").copy()
        return int(following), ids, parse_rows(info.name, rows, info.row_dtype, len(ids))

    return Request([("TABLE.SCAN", info.name, cursor, "COUNT", count, *as_at(at))], join)


def gather(tables: Sequence[TableInfo], ids: Mapping[str, ArrayLike], at: View = None) -> Request[dict[str, Array]]:
    keys = {info.name: as_ids(ids[info.name], f"ids of '{info.name}'") for info in tables}
    args: Args = ("TABLE.MGET", len(tables))
    for info in tables:
        args += (info.name, blob(keys[info.name]))
    args += as_at(at)

    def join(replies: list[Any]) -> dict[str, Array]:
        pairs = zip(tables, replies[0], strict=True)
        return {info.name: parse_rows(info.name, rows, info.row_dtype, len(keys[info.name])) for info, rows in pairs}

    return Request([args], join, blobs=[ArrayReader(tuple(len(keys[info.name]) * info.width for info in tables))])


def pool_many(
    tables: Sequence[TableInfo], bags: Mapping[str, tuple[ArrayLike, ArrayLike]], mode: str = "sum", at: View = None
) -> Request[dict[str, Array]]:
    args: Args = ("TABLE.MPOOL", len(tables))
    sizes = {}
    for info in tables:
        keys, starts = bags[info.name]
        offsets = as_ids(starts, f"offsets of '{info.name}'")
        args += (info.name, blob(as_ids(keys, f"ids of '{info.name}'")), blob(offsets))
        sizes[info.name] = len(offsets)
    args += () if mode == "sum" else ("MODE", mode)
    args += as_at(at)

    def join(replies: list[Any]) -> dict[str, Array]:
        pairs = zip(tables, replies[0], strict=True)
        return {info.name: parse_rows(info.name, rows, pooled_row(info), sizes[info.name]) for info, rows in pairs}

    expected = ArrayReader(tuple(sizes[info.name] * pooled_row(info).itemsize for info in tables))
    return Request([args], join, blobs=[expected])


# Parts of commands and replies


def pieces(count: int, width: int, limit: int) -> list[slice]:
    """Slices over `count` rows of `width` bytes, of at most `limit` bytes but one row; for none, an empty slice."""
    step = max(1, limit // max(1, width))
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]


def as_weights(weights: ArrayLike, keys: Ids) -> NDArray[np.float32]:
    array = _stored(np.asarray(weights), np.dtype("<f4"), "weights")
    if array.shape != keys.shape:
        raise ValueError(f"weights have shape {array.shape}; {len(keys)} ids need {keys.shape}")
    return array


def row_of_fields(info: TableInfo, fields: Sequence[str] | None) -> np.dtype[Any]:
    """The row of a reply: the table's, or a packed structured dtype of just the named fields."""
    if fields is None:
        return info.row_dtype
    known = info.dtype.fields
    if known is None:
        raise ValueError(f"table '{info.name}' holds {info.dtype}, which has no fields to choose from")
    missing = [name for name in fields if name not in known]
    if missing:
        raise ValueError(f"table '{info.name}' has no field {missing}; it has {list(known)}")
    return np.dtype((np.dtype([(name, known[name][0]) for name in fields]), info.shape))


def pooled_row(info: TableInfo) -> np.dtype[Any]:
    """Return the dtype of a pooled row: f4 for tables of f2 and f4, else f8."""
    is_short = info.dtype.kind == "f" and info.dtype.itemsize <= 4
    return np.dtype(("<f4" if is_short else "<f8", info.shape))


def parse_info(reply: Any) -> TableInfo:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found = {_text(key): value for key, value in pairs}
    bound = int(found["rows"])  # 0: any id
    return TableInfo(
        name=_text(found["name"]),
        id=int(found["id"]),
        dtype=descr_dtype(found["dtype"]),
        shape=tuple(int(size) for size in found["shape"]),
        rows=bound or None,
    )


def parse_rows(name: str, reply: bytes | Array, row: np.dtype[Any], count: int) -> Array:
    """Rows as an array that may be written to. Raises StaleTableError where the table is not the one described."""
    if len(reply) != count * row.itemsize:
        raise StaleTableError(
            f"table '{name}' sent {len(reply)} bytes for {count} rows of {row.itemsize} bytes: "
            "it was dropped and created anew; call forget() on the client and ask for the table again"
        )
    element, shape = row.subdtype or (row, ())
    own = reply if isinstance(reply, np.ndarray) else np.frombuffer(reply, np.uint8).copy()
    return own.view(element).reshape(count, *shape)


class StaleTableError(ValueError):
    """The rows that came back are not of the dtype the table had when it was described."""


def parse_flags(reply: bytes | Array, count: int) -> NDArray[np.bool_]:
    flags = np.frombuffer(reply, np.uint8)
    if len(flags) != count:
        raise ValueError(f"{len(flags)} flags came back for {count} ids")
    return flags.astype(bool)


def _concatenate(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
