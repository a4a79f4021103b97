"""The requests of pmkv's protocol: the commands on tables and views, and the parsers of their replies. No sockets.

Every command is a function that returns a `Request`: the calls to send and a function that turns their replies into the
result. The sync and the async client differ only in how they run a `Request`. Replies must be undecoded: bytes,
integers and lists (maps under RESP3). Rows may also arrive as uint8 arrays, which become the result without a copy.

A request that changes a view is sent once: a repeated promote or rollback would replace the view `undo` with the result
of the first one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import ArrayLike, DTypeLike, NDArray
from redis.exceptions import ResponseError

from .array_reader import ArrayReader
from .arrays import as_array, as_id_array, as_row_array, in_form, out_array
from .row_codecs import CODEC_NAMES, QUANTISING, encoded_row

DEFAULT_PORT = 7379
MAIN = "main"
SHORT_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # of ml_dtypes; NumPy knows no description of them
PUT_BYTES = 8 << 20  # most bytes of rows in one TABLE.PUT: the server holds a whole command before it runs it
KEYS_PER_CALL = 1 << 14  # of TABLE.IDS
REPLY_BYTES = 64 << 20  # most bytes of rows in one reply: a bulk string ends at 512 MiB, and both sides hold it whole

Args = tuple[Any, ...]
Array = NDArray[Any]
Ids = NDArray[np.int64]
View = str | None  # the name of a view; None is the view of the connection
Mode = Literal["sum", "mean", "max"]
Form = Literal["numpy", "torch", "arrow"]  # of a result
Fields = Sequence[str] | None
Bags = Mapping[str, tuple[ArrayLike, ArrayLike]]  # ids and offsets by table
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """Calls to send, and `join`, which turns the list of their replies into the result.

    stream: the replies are small, so all calls may be sent before the first reply is read.
    once: a call must not be sent again after a lost connection, since the server may have applied it.
    readers: an ArrayReader for the reply to each call, where the sizes of the reply are known in advance.
    """

    calls: list[Args]
    join: Callable[[list[Any]], T]
    stream: bool = False
    once: bool = False
    readers: Sequence[ArrayReader] = ()

    def calls_and_readers(self) -> list[tuple[Args, ArrayReader | None]]:
        """Return each call with its ArrayReader, or with None where redis-py's parser is as fast."""
        readers = [reader if reader.is_worthwhile else None for reader in self.readers] or [None] * len(self.calls)
        return list(zip(self.calls, readers, strict=True))


@dataclass(frozen=True, slots=True)
class TableInfo:
    """The fixed properties of a table, as TABLE.INFO reports them. `rows` is the bound of a dense table, else None;
    `default` is what stands for absent rows, None for zeros; `codec` is how rows are stored, in `stored` bytes each,
    None: as they are read. `is_encoded`: this is the layout of the rows as stored."""

    name: str
    id: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int | None
    default: Any = None
    codec: str | None = None
    stored: int = 0
    is_encoded: bool = False

    def as_stored(self, encoded: bool) -> TableInfo:
        """Return the layout of the rows as the codec stores them, or this one, if there is none or `encoded` is
        false."""
        if not encoded or self.codec is None:
            return self
        dtype, shape = encoded_row(self.codec, self.shape, self.stored)
        return replace(self, dtype=named_dtype(dtype), shape=shape, is_encoded=True)

    def of_given(self, rows: Any, shape: tuple[int, ...]) -> TableInfo:
        """Return the layout that rows of ids of this shape have: that as stored, if they are quantised already."""
        stored = self.as_stored(self.codec in QUANTISING)
        is_stored = getattr(rows, "dtype", None) == np.uint8 and rows.shape == (*shape, *stored.shape)
        return stored if is_stored and stored.shape != self.shape else self

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return np.dtype((self.dtype, self.shape))

    @property
    def width(self) -> int:
        """Bytes per row."""
        return self.row_dtype.itemsize


@dataclass(frozen=True, slots=True)
class ViewInfo:
    """The properties of a view, as VIEW.INFO reports them.

    kind: main, branch, snapshot or undo. lsn, created (unix ms): when the view was cut. base: the view it was cut from.
    tables: how many tables it has. writes: records written to this view since it was cut.
    """

    name: str
    kind: str
    lsn: int
    created: int
    base: str
    tables: int
    writes: int

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


class StaleTableError(ValueError):
    """The server returned rows of another dtype than the table had when the client asked for its layout."""


class NoViewError(ResponseError):
    """No view has this name, or the view was deleted."""


class ConflictError(ResponseError):
    """A promote or an undo would drop later writes to `main`; nothing was changed."""


def specific_error(error: ResponseError) -> ResponseError:
    """Return the error as a NoViewError or ConflictError where its code says so, else unchanged."""
    code, _, message = str(error).partition(" ")
    kind = {"NOVIEW": NoViewError, "CONFLICT": ConflictError}.get(code)
    return kind(message) if kind else error


def redis_url(url: str) -> str:
    """Translate `pmkv://[:password@]host[:7379][/db]` into redis-py's form. Other schemes are returned unchanged."""
    split = urlsplit(url)
    if split.scheme != "pmkv":
        return url
    address = split.netloc or "localhost"
    if split.port is None:
        address = f"{address.removesuffix(':')}:{DEFAULT_PORT}"
    return urlunsplit(("redis", address, split.path, split.query, ""))


# Arguments of commands


def blob(array: Array) -> memoryview | bytes:
    """Return the bytes of a C-contiguous array without a copy."""
    # by way of uint8: a memoryview of a datetime array, or of an empty one, cannot be cast
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def as_ids(ids: ArrayLike, what: str = "ids") -> Ids:
    """Return ids as contiguous little-endian int64 (n,). ValueError: no integers, beyond int64, or another shape."""
    flat, shape = as_id_array(ids, what)
    if len(shape) != 1:
        raise ValueError(f"{what} have shape {shape}; they must be one-dimensional")
    return flat


def as_encoded(info: TableInfo) -> Args:
    """Return the option ENCODED, for a layout of rows as stored."""
    return ("ENCODED",) if info.is_encoded else ()


def as_rows(info: TableInfo, ids: Ids, rows: Any, shape: tuple[int, ...] | None = None) -> Array:
    """Return rows of shape (len(ids), *shape of a row) in the table's dtype. ValueError: another shape, no safe cast.

    shape: that in which the ids came; rows have it too."""
    given = as_row_array(rows, info.dtype, ids, f"rows of table '{info.name}'")
    if given.dtype.names != info.dtype.names or not np.can_cast(given.dtype, info.dtype, "same_kind"):
        raise ValueError(f"rows are {given.dtype}; table '{info.name}' holds {info.dtype}")
    wanted = (*(ids.shape if shape is None else shape), *info.shape)
    if given.shape != wanted:
        raise ValueError(f"rows have shape {given.shape}; {len(ids)} ids of table '{info.name}' need {wanted}")
    return _stored(given.reshape(len(ids), *info.shape), info.dtype, f"a row of table '{info.name}'")


def _stored(given: Array, dtype: np.dtype[Any], label: str) -> Array:
    """Convert to the table's dtype. ValueError: an integer is out of its range, text would be cut, or a finite float
    would be infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(given, dtype)
    columns = [(given[name], stored[name]) for name in dtype.names] if dtype.names else [(given, stored)]
    for before, after in columns:
        if before.dtype.kind not in "iufcSU" or before.dtype == after.dtype:
            continue
        if after.dtype.kind in "SU":
            lost = before.dtype.kind != after.dtype.kind or after.astype(before.dtype) != before
        elif after.dtype.kind in "fc" or after.dtype.name in SHORT_FLOATS:
            lost = (np.isfinite(before) & ~np.isfinite(after)) | (np.isinf(before) & np.isnan(after))
        else:
            limits = np.iinfo(after.dtype)
            lost = (before < limits.min) | (before > limits.max)
        if lost.any():
            raise ValueError(f"{label} holds {before[lost].flat[0]}, which does not fit dtype {after.dtype}")
    return stored


def as_default(value: float | None) -> tuple[str, bytes] | tuple[()]:
    """Return the option DEFAULT with a number that reads back exactly; nothing for None, the table's default."""
    if value is None:
        return ()
    number = value.item() if isinstance(value, np.generic) else value
    try:
        if isinstance(number, int | float):
            return "DEFAULT", repr(float(number)).encode()
    except OverflowError:
        pass
    raise ValueError(f"default={value!r:.80} is not a number that a row can hold")


def as_at(view: View) -> Args:
    """Return the option AT; nothing for the view of the connection."""
    return () if view is None else ("AT", view)


def as_names(names: Iterable[str], at: View = None) -> list[str]:
    """Return names of tables as a list. ValueError: one of them, or that of the view, is no text."""
    given = list(names) if isinstance(names, Iterable) else [names]
    bad = next((name for name in (*given, at) if name is not None and not isinstance(name, str | bytes)), None)
    if bad is not None or None in given:
        raise ValueError(f"{bad!r:.80} is no name of a table or view: names are text")
    return given


def as_wanted(wanted: Mapping[str, Any], form: str) -> Mapping[str, Any]:
    """Return what is wanted of several tables. ValueError: it is no mapping."""
    if not isinstance(wanted, Mapping):
        raise ValueError(f"give {form}, not {type(wanted).__name__}")
    return wanted


def as_weights(weights: ArrayLike, keys: Ids) -> NDArray[np.float32]:
    """Return the weights as contiguous float32 of the shape of the ids. ValueError: another shape."""
    given = as_array(weights, "weights")
    if given.dtype.kind not in "fiub":
        raise ValueError(f"weights must be numbers, not {given.dtype}")
    array = _stored(given, np.dtype("<f4"), "weights")
    if array.shape != keys.shape:
        raise ValueError(f"weights have shape {array.shape}; {len(keys)} ids need {keys.shape}")
    return array


def as_collections(tables: Sequence[str] | None, keys: bool | None) -> Args:
    """Return the options TABLES and KEYS of a promote or rollback. ValueError: one string instead of a list."""
    if isinstance(tables, str):
        raise ValueError(f"tables={tables!r} is one word; give a list of names: [{tables!r}]")
    names = () if tables is None else as_names(tables)
    named: Args = () if tables is None else ("TABLES", len(names), *names)
    return named if keys is None else (*named, "KEYS", "yes" if keys else "no")


def as_force(force: bool) -> Args:
    return ("FORCE",) if force else ()


# Descriptions of dtypes


def named_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype, also of the names of short floats of ml_dtypes, such as `("bfloat16", 64)`."""
    name, *shape = dtype if isinstance(dtype, tuple) and len(dtype) == 2 else (dtype,)
    if isinstance(name, str) and name in SHORT_FLOATS:
        import ml_dtypes

        element = np.dtype(getattr(ml_dtypes, name))
        return np.dtype((element, shape[0])) if shape else element
    try:
        return np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{dtype!r:.80} is no NumPy dtype for rows: {error}") from error


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name by which the server knows a dtype without fields."""
    return dtype.name if dtype.name in SHORT_FLOATS else dtype.str


def descr_json(dtype: np.dtype[Any]) -> str:
    """Return the NumPy descr as JSON: `"<f4"`, or for a structured dtype `[["price","<f4"],["emb","<f4",[16]]]`."""
    if dtype.name in SHORT_FLOATS:
        return json.dumps(dtype.name)
    packed = repack_fields(dtype, recurse=True) if dtype.names else dtype
    return json.dumps(np.lib.format.dtype_to_descr(packed), separators=(",", ":"))


def descr_dtype(text: str | bytes) -> np.dtype[Any]:
    """Return the dtype of a JSON descr."""
    found = json.loads(text)
    return named_dtype(found) if found in SHORT_FLOATS else np.lib.format.descr_to_dtype(_descr(found))


def _descr(node: Any) -> Any:
    if isinstance(node, str):
        return node
    return [(field[0], _descr(field[1]), *(tuple(shape) for shape in field[2:])) for field in node]


def check_layout(found: TableInfo, dtype: DTypeLike, rows: int | None, codec: str | None = None) -> None:
    """Compare an existing table with the layout asked for. Raises ResponseError, naming both, where they differ."""
    row = named_dtype(dtype)
    element, shape = row.subdtype or (row, ())
    asked = CODEC_NAMES.get(codec, codec) if codec is not None else None
    layouts = [(descr_json(found.dtype), found.shape, found.rows, found.codec),
               (descr_json(element), shape, rows, asked)]  # fmt: skip
    if layouts[0] != layouts[1]:
        pattern = "dtype={} shape={} rows={}" + (" codec={}" if found.codec != asked else "")
        texts = [pattern.format(*layout) for layout in layouts]
        raise ResponseError(f"table '{found.name}' exists with {texts[0]}; asked for was {texts[1]}")


# Commands on tables


def create_table(
    name: str,
    dtype: DTypeLike,
    rows: int | None = None,
    default: Any = None,
    codec: str | None = None,
    dram: int | float | str | None = None,
) -> Request[None]:
    row = named_dtype(dtype)
    element, shape = row.subdtype or (row, ())
    if len(shape) > 1 or (shape and element.names):
        raise ValueError(f"rows of {row} cannot be created over the network: lay them flat, or make them a field")
    args: Args = ("TABLE.CREATE", name)
    if element.names:
        args += ("SCHEMA", descr_json(element))
    else:
        args += ("DTYPE", dtype_name(element)) + (("DIM", shape[0]) if shape else ())
    if rows is not None:
        if not isinstance(rows, int | np.integer):
            raise ValueError(f"rows={rows!r:.80} must be an integer")
        args += ("ROWS", int(rows))
    if default is not None:
        args += ("DEFAULT", _default_json(default))
    if codec is not None:
        args += ("CODEC", codec)
    if dram is not None:
        args += ("DRAM", str(dram))
    return Request([args], lambda replies: None)


def set_dram(name: str, dram: int | float | str | None) -> Request[None]:
    """Build TABLE.SET name DRAM."""
    return _once("TABLE.SET", name, "DRAM", "none" if dram is None else str(dram))


def _default_json(default: Any) -> str:
    try:
        return json.dumps(default, default=_plain_value)
    except TypeError as error:
        raise ValueError(f"default={default!r:.80}: {error}") from error


def _plain_value(value: Any) -> Any:
    """Return an array or a number of NumPy as JSON can carry it."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        return value.tolist()
    raise ValueError(f"default={value!r} is neither a number nor an array of numbers")


def drop_table(name: str) -> Request[None]:
    return Request([("TABLE.DROP", name)], lambda replies: None)


def table_names() -> Request[list[str]]:
    return Request([("TABLE.LIST",)], lambda replies: [_text(name) for name in replies[0]])


def table_infos(tables: Sequence[str], at: View = None) -> Request[list[TableInfo]]:
    calls: list[Args] = [("TABLE.INFO", name, "LAYOUT", *as_at(at)) for name in tables]
    return Request(calls, lambda replies: [parse_table_info(reply) for reply in replies], stream=True)


def length(name: str) -> Request[int]:
    return Request([("TABLE.LEN", name)], lambda replies: int(replies[0]))


def put(
    info: TableInfo, ids: ArrayLike, rows: Any, newer: str | None = None, encoded: bool = False
) -> Request[int | None]:
    """Build TABLE.PUT, with NEWER if a field is named. Long input becomes several calls."""
    info = info.as_stored(encoded)
    options: Args = () if newer is None else ("NEWER", newer)
    if newer is not None:
        row_of_fields(info, [newer])

    def join(replies: list[Any]) -> int | None:
        return None if newer is None else sum(map(int, replies))

    return Request(_writes("TABLE.PUT", info, ids, rows, options), join, stream=True)


def add(info: TableInfo, ids: ArrayLike, rows: Any) -> Request[None]:
    """Build TABLE.ADD, which must not be repeated. Long input becomes several calls."""
    return Request(_writes("TABLE.ADD", info, ids, rows), lambda replies: None, stream=True, once=True)


def _writes(command: str, info: TableInfo, ids: ArrayLike, rows: Any, options: Args = ()) -> list[Args]:
    keys, shape = as_id_array(ids, "ids")
    info = info.of_given(rows, shape)
    values = as_rows(info, keys, rows, shape)
    chunks = slices(len(keys), info.width, PUT_BYTES)
    options += as_encoded(info)
    return [(command, info.name, blob(keys[chunk]), blob(values[chunk]), *options) for chunk in chunks]


def get(
    info: TableInfo,
    ids: ArrayLike,
    default: float | None = None,
    return_found: bool = False,
    fields: Sequence[str] | None = None,
    out: Any = None,
    as_: str = "numpy",
    at: View = None,
) -> Request[Any]:
    keys, shape = as_id_array(ids, "ids")
    row = row_of_fields(info, fields)
    element, row_shape = row.subdtype or (row, ())
    shapes = (shape, (*shape, *row_shape))
    filled = None if out is None else out_array(out, shapes[1], element, f"out= of table '{info.name}'")
    memory = None if filled is None else filled.reshape(-1).view(np.uint8)
    options: Args = as_default(default)
    options += ("FIELDS", len(fields), *fields) if fields is not None else ()
    options += ("FOUND",) if return_found else ()
    options += (*as_at(at), *as_encoded(info))
    chunks = slices(len(keys), row.itemsize, REPLY_BYTES)
    counts = [chunk.stop - chunk.start for chunk in chunks]
    calls: list[Args] = [("TABLE.GET", info.name, blob(keys[chunk]), *options) for chunk in chunks]
    places = [None if memory is None else memory[one.start * row.itemsize : one.stop * row.itemsize] for one in chunks]

    def join(replies: list[Any]) -> Any:
        pairs = replies if return_found else [(reply, b"") for reply in replies]
        rows = [
            parse_rows(info.name, pair[0], row, count, place)
            for pair, count, place in zip(pairs, counts, places, strict=True)
        ]
        result = in_form(_concatenate(rows).reshape(shapes[1]), as_) if out is None else out
        if not return_found:
            return result
        flags = [parse_flags(pair[1], count) for pair, count in zip(pairs, counts, strict=True)]
        return result, in_form(_concatenate(flags).reshape(shape), as_)

    readers = [
        ArrayReader((count * row.itemsize, count), into=place)
        if return_found
        else ArrayReader((count * row.itemsize,), is_alone=True, into=place)
        for count, place in zip(counts, places, strict=True)
    ]
    return Request(calls, join, readers=readers)


def contains(info: TableInfo, ids: ArrayLike, at: View = None) -> Request[NDArray[np.bool_]]:
    keys, shape = as_id_array(ids, "ids")
    args: Args = ("TABLE.EXISTS", info.name, blob(keys), *as_at(at))
    return Request([args], lambda replies: parse_flags(replies[0], len(keys)).reshape(shape))


def delete(info: TableInfo, ids: ArrayLike) -> Request[int]:
    keys, _ = as_id_array(ids, "ids")
    return Request([("TABLE.DEL", info.name, blob(keys))], lambda replies: int(replies[0]))


def ids_of(name: str, keys: Any, keep: bool = True, at: View = None) -> Request[Ids]:
    """Build TABLE.IDS, in calls of at most KEYS_PER_CALL keys."""
    given = as_array(keys, "keys", object)  # an array of S would lose NULs
    words = given.reshape(-1).tolist()
    bad = next((word for word in words if not isinstance(word, str | bytes)), None)
    if bad is not None or None in words:
        raise ValueError(f"keys hold {bad!r}; they must be text or bytes")
    chunks = slices(len(words), 1, KEYS_PER_CALL) if words else []
    options: Args = () if keep else ("ONLY",)
    calls: list[Args] = [("TABLE.IDS", name, len(words[one]), *words[one], *options, *as_at(at)) for one in chunks]

    def join(replies: list[Any]) -> Ids:
        found = [np.frombuffer(reply, "<i8") for reply in replies]
        return np.concatenate([np.empty(0, "<i8"), *found]).reshape(given.shape)

    return Request(calls, join, stream=True)


def pool(
    info: TableInfo,
    ids: ArrayLike,
    offsets: ArrayLike,
    weights: ArrayLike | None = None,
    mode: str = "sum",
    as_: str = "numpy",
    at: View = None,
) -> Request[Any]:
    keys, starts = as_ids(ids), as_ids(offsets, "offsets")
    args: Args = ("TABLE.POOL", info.name, blob(keys), blob(starts))
    if weights is not None:
        args += ("WEIGHTS", blob(as_weights(weights, keys)))
    if mode != "sum":
        args += ("MODE", mode)
    args += as_at(at)
    row = pooled_row(info)
    reader = ArrayReader((len(starts) * row.itemsize,), is_alone=True)

    def join(replies: list[Any]) -> Any:
        return in_form(parse_rows(info.name, replies[0], row, len(starts)), as_)

    return Request([args], join, readers=[reader])


def scan(info: TableInfo, cursor: int | bytes, count: int, at: View = None) -> Request[tuple[int, Ids, Array]]:
    def join(replies: list[Any]) -> tuple[int, Ids, Array]:
        next_cursor, keys, rows = replies[0]
        ids = np.frombuffer(keys, "<i8").copy()
        return int(next_cursor), ids, parse_rows(info.name, rows, info.row_dtype, len(ids))

    return Request([("TABLE.SCAN", info.name, cursor, "COUNT", count, *as_at(at), *as_encoded(info))], join)


def changes(
    info: TableInfo, since: str, cursor: int, count: int, at: View = None
) -> Request[tuple[int, Ids, Array, Ids]]:
    def join(replies: list[Any]) -> tuple[int, Ids, Array, Ids]:
        next_cursor, keys, rows, deleted = replies[0]
        ids = np.frombuffer(keys, "<i8").copy()
        changed = parse_rows(info.name, rows, info.row_dtype, len(ids))
        return int(next_cursor), ids, changed, np.frombuffer(deleted, "<i8").copy()

    options: Args = ("SINCE", since, "COUNT", count, *as_at(at), *as_encoded(info))
    return Request([("TABLE.CHANGES", info.name, cursor, *options)], join)


def gather(tables: Sequence[TableInfo], ids: Mapping[str, ArrayLike], at: View = None) -> Request[dict[str, Array]]:
    shaped = {info.name: as_id_array(ids[info.name], f"ids of '{info.name}'") for info in tables}
    keys = {name: flat for name, (flat, _) in shaped.items()}
    args: Args = ("TABLE.MGET", len(tables))
    for info in tables:
        args += (info.name, blob(keys[info.name]))
    args += as_at(at)

    def join(replies: list[Any]) -> dict[str, Array]:
        pairs = zip(tables, replies[0], strict=True)
        found = {info.name: parse_rows(info.name, rows, info.row_dtype, len(keys[info.name])) for info, rows in pairs}
        return {info.name: found[info.name].reshape((*shaped[info.name][1], *info.shape)) for info in tables}

    return Request([args], join, readers=[ArrayReader(tuple(len(keys[info.name]) * info.width for info in tables))])


def pool_many(tables: Sequence[TableInfo], bags: Bags, mode: str = "sum", at: View = None) -> Request[dict[str, Array]]:
    args: Args = ("TABLE.MPOOL", len(tables))
    sizes = {}
    for info in tables:
        if not isinstance(bags[info.name], tuple | list) or len(bags[info.name]) != 2:
            raise ValueError(f"bags of '{info.name}': give (ids, offsets)")
        keys, starts = bags[info.name]
        offsets = as_ids(starts, f"offsets of '{info.name}'")
        args += (info.name, blob(as_ids(keys, f"ids of '{info.name}'")), blob(offsets))
        sizes[info.name] = len(offsets)
    args += () if mode == "sum" else ("MODE", mode)
    args += as_at(at)

    def join(replies: list[Any]) -> dict[str, Array]:
        pairs = zip(tables, replies[0], strict=True)
        return {info.name: parse_rows(info.name, rows, pooled_row(info), sizes[info.name]) for info, rows in pairs}

    reader = ArrayReader(tuple(sizes[info.name] * pooled_row(info).itemsize for info in tables))
    return Request([args], join, readers=[reader])


# Commands on views


def snapshot(name: str) -> Request[None]:
    return _once("SNAPSHOT.CREATE", name)


def rollback(name: str, tables: Sequence[str] | None = None, keys: bool | None = None) -> Request[bool]:
    args = ("SNAPSHOT.ROLLBACK", name, *as_collections(tables, keys))
    return Request([args], lambda replies: _text(replies[0]) == "OK", once=True)


def branch(name: str, at: str = MAIN) -> Request[None]:
    return _once("BRANCH.CREATE", name, "AT", at)


def promote(
    name: str, tables: Sequence[str] | None = None, keys: bool | None = None, force: bool = False
) -> Request[None]:
    return _once("BRANCH.PROMOTE", name, *as_collections(tables, keys), *as_force(force))


def undo(force: bool = False) -> Request[None]:
    return _once("VIEW.UNDO", *as_force(force))


def delete_view(name: str) -> Request[None]:
    return _once("VIEW.DELETE", name)


def view_names() -> Request[list[str]]:
    return Request([("VIEW.LIST",)], lambda replies: [_text(name) for name in replies[0]])


def view_infos(views: Sequence[str]) -> Request[dict[str, ViewInfo]]:
    calls: list[Args] = [("VIEW.INFO", name) for name in views]
    return Request(calls, lambda replies: {info.name: info for info in map(parse_view_info, replies)}, stream=True)


def version() -> Request[tuple[int, int]]:
    return Request([("VIEW.INFO", MAIN)], lambda replies: parse_version(replies[0]))


def wait_version(after: int, seconds: float) -> Request[int]:
    """Build VIEW.WAIT: its result is how often `main` was promoted or rolled back, or `after` when time ran out."""
    milliseconds = max(1, round(1000 * seconds))  # the server takes 0 as for ever
    return Request(
        [("VIEW.WAIT", int(after), milliseconds)], lambda replies: int(replies[0][0]) if replies[0] else after
    )


def _once(*args: Any) -> Request[None]:
    return Request([args], lambda replies: None, once=True)


# Replies


def slices(count: int, width: int, limit: int) -> list[slice]:
    """Cut `count` rows of `width` bytes into slices of at most `limit` bytes, but at least one row each.

    No rows give one empty slice.
    """
    step = max(1, limit // max(1, width))
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]


def row_of_fields(info: TableInfo, fields: Sequence[str] | None) -> np.dtype[Any]:
    """Return the row of a reply: the table's, or a packed structured dtype of the named fields. ValueError: unknown."""
    if fields is None:
        return info.row_dtype
    if isinstance(fields, str) or not isinstance(fields, Sequence):
        raise ValueError(f"fields={fields!r:.80}: give a list of names")
    known = info.dtype.fields
    if known is None:
        raise ValueError(f"table '{info.name}' holds {info.dtype}, which has no fields to choose from")
    missing = [name for name in fields if name not in known]
    if missing:
        raise ValueError(f"table '{info.name}' has no field {missing}; it has {list(known)}")
    return np.dtype((np.dtype([(name, known[name][0]) for name in fields]), info.shape))


def pooled_row(info: TableInfo) -> np.dtype[Any]:
    """Return the row of a pooled reply: f4 for tables of f2 and f4, else f8."""
    is_short = (info.dtype.kind == "f" and info.dtype.itemsize <= 4) or info.dtype.name in SHORT_FLOATS
    return np.dtype(("<f4" if is_short else "<f8", info.shape))


def parse_table_info(reply: Any) -> TableInfo:
    fields = _fields(reply)
    return TableInfo(
        name=_text(fields["name"]),
        id=int(fields["id"]),
        dtype=descr_dtype(fields["dtype"]),
        shape=tuple(int(size) for size in fields["shape"]),
        rows=int(fields["rows"]) or None,  # the server reports 0 for a table that takes any id
        default=json.loads(fields.get("default", "null")),
        codec=_text(fields["codec"]) if "codec" in fields else None,
        stored=int(fields.get("stored", 0)),
    )


def parse_view_info(reply: Any) -> ViewInfo:
    fields = _fields(reply)
    words = {name: _text(fields[name]) for name in ("name", "kind", "base")}
    return ViewInfo(**words, **{name: int(fields[name]) for name in ("lsn", "created", "tables", "writes")})


def parse_version(reply: Any) -> tuple[int, int]:
    """Return how often `main` was promoted or rolled back so far, and the LSN of the last time."""
    fields = _fields(reply)
    return int(fields["version"]), int(fields["version_lsn"])


def _fields(reply: Any) -> dict[str, Any]:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(key): value for key, value in pairs}


def parse_rows(name: str, reply: bytes | Array, row: np.dtype[Any], count: int, into: Array | None = None) -> Array:
    """Return rows (count, *shape) in a writable array, in the memory `into` if that is given.

    StaleTableError: the reply has another length."""
    if len(reply) != count * row.itemsize:
        raise StaleTableError(
            f"table '{name}' sent {len(reply)} bytes for {count} rows of {row.itemsize} bytes: "
            "it was dropped and created anew; call forget() on the client and ask for the table again"
        )
    element, shape = row.subdtype or (row, ())
    own = reply if isinstance(reply, np.ndarray) else np.frombuffer(reply, np.uint8)
    if into is None:
        own = own if own.flags.writeable else own.copy()
    elif own is not into:
        into[:] = own
        own = into
    return own.view(element).reshape(count, *shape)


def parse_flags(reply: bytes | Array, count: int) -> NDArray[np.bool_]:
    flags = np.frombuffer(reply, np.uint8)
    if len(flags) != count:
        raise ValueError(f"{len(flags)} flags came back for {count} ids")
    return flags.astype(bool)


def _concatenate(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
