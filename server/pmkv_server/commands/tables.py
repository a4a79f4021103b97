"""TABLE.*: int64 ids to fixed-width rows. Ids and rows travel as little-endian blobs, as NumPy has them in memory. What
reads takes `AT view` behind its options; without it, the view that the connection uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from pmkv import errors
from pmkv_server.commands.keys import MANY_UNCOUNTED
from pmkv_server.commands.registry import (
    SYNTAX,
    CommandError,
    Group,
    name_of,
    parse_float,
    parse_int,
    printable,
    syntax_error,
)
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import OK, Reply, a_map, array, blob, bulk, bulks, integer, joined

group = Group("table")
command = group.command

HEAVY_ROWS = 4 << 20  # bytes that leave the loop
HEAVY_PUT = 128 << 10  # of a put, beside which others are served while it fills its frames
MODES = (b"SUM", b"MEAN", b"MAX")


def _table(session: Session, name: bytes, at: str | None = None) -> Any:
    return session.at(at).table(name_of(name))


def _at(words: list[bytes]) -> str | None:
    """The view that is named where AT is the only option."""
    at = None
    for option, value in _options(words):
        if option != b"AT":
            raise syntax_error(option)
        at = name_of(value)
    return at


def _options(words: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Options that have a value each."""
    if len(words) % 2:
        raise syntax_error(words[-1])
    yield from zip(map(bytes.upper, words[::2]), words[1::2], strict=True)


def _ids(blob: bytes, what: str = "ids") -> np.ndarray:
    if len(blob) % 8:
        raise CommandError(f"ERR {what}: {len(blob)} bytes are not a whole number of little-endian int64")
    ids = np.frombuffer(blob, "<i8")
    return ids if ids.flags.aligned else ids.copy()  # where they came in they stand anywhere


def _rows(blob: bytes, items: Any, count: int) -> np.ndarray:
    if len(blob) != count * items.width:
        raise CommandError(
            f"ERR rows: {len(blob)} bytes, but {count} ids of table '{items.name}' take {count} x {items.width} bytes"
        )
    return np.frombuffer(blob, items.row_dtype) if items.width else np.empty((count, *items.shape), items.dtype)


def _blob(values: np.ndarray) -> Reply:
    """An array as one bulk string."""
    values = np.ascontiguousarray(values)
    return blob(memoryview(values.reshape(-1).view(np.uint8)))


def _reads_much(session: Session, arguments: list[bytes], at: str | None) -> bool:
    """Is it many bytes of rows that this asks for?"""
    try:
        return len(arguments[2]) // 8 * _table(session, arguments[1], at).width > HEAVY_ROWS
    except errors.UnknownNameError:
        return False


def _gets_much(session: Session, arguments: list[bytes]) -> bool:
    return _reads_much(session, arguments, _get_options(arguments[3:])[3] if len(arguments) > 3 else None)


def _pools_much(session: Session, arguments: list[bytes]) -> bool:
    return _reads_much(session, arguments, _pool_options(arguments[4:], weights=True)[2])


def _several_read_much(session: Session, arguments: list[bytes]) -> bool:
    return sum(map(len, arguments)) > HEAVY_ROWS // 32


def _writes_much(session: Session, arguments: list[bytes]) -> bool:
    return sum(map(len, arguments)) > HEAVY_ROWS


def _puts_much(session: Session, arguments: list[bytes]) -> bool:
    """Is it many bytes of rows that this brings?"""
    return len(arguments[3]) > HEAVY_PUT


@command("table.create", -4, "write denyoom")
def create(session: Session, arguments: list[bytes]) -> Reply:
    """Make a table: name DTYPE f4 [DIM n] | SCHEMA json [ROWS n]."""
    dtype, dim, schema, rows = _create_options(arguments[2:])
    description = schema if schema is not None else dtype if dim is None else (dtype, dim)
    session.view.create_table(name_of(arguments[1]), description, rows=rows)
    return OK


def _create_options(words: list[bytes]) -> tuple[Any, int | None, Any, int | None]:
    dtype = dim = schema = rows = None
    if len(words) % 2:
        raise CommandError(SYNTAX)
    for option, value in zip(words[::2], words[1::2], strict=True):
        match option.upper():
            case b"DTYPE":
                dtype = _dtype(value)
            case b"SCHEMA":
                schema = _schema(value)
            case b"DIM":
                dim = parse_int(value, "ERR DIM is not a positive integer", 1, 1 << 20)
            case b"ROWS":
                rows = parse_int(value, "ERR ROWS is not a positive integer", 1)
            case _:
                raise CommandError(SYNTAX)
    if (dtype is None) == (schema is None) or (schema is not None and dim is not None):
        raise CommandError("ERR syntax error: give DTYPE (with DIM if a row has several elements) or SCHEMA")
    return dtype, dim, schema, rows


def _dtype(word: bytes) -> np.dtype:
    try:
        return np.dtype(word.decode("ascii"))
    except (TypeError, ValueError, SyntaxError):
        raise CommandError(f"ERR DTYPE '{printable(word)}' is not a NumPy dtype") from None


def _schema(word: bytes) -> np.dtype:
    """A NumPy dtype from the JSON form of its `descr`: [["price", "<f4"], ["emb", "<f4", [16]]]."""
    try:
        return np.dtype([_field(entry) for entry in orjson.loads(word)])
    except (TypeError, ValueError, SyntaxError) as problem:
        raise CommandError(
            f"ERR SCHEMA is not a JSON list of [name, dtype] or [name, dtype, [shape]]: {problem}"
        ) from None


def _field(entry: list) -> tuple:
    name, kind, *shape = entry
    if isinstance(kind, list):
        kind = [_field(inner) for inner in kind]
    return (name, kind, tuple(shape[0])) if shape else (name, kind)


@command("table.drop", 2, "write")
def drop(session: Session, arguments: list[bytes]) -> Reply:
    """Remove a table with all its rows."""
    session.view.drop_table(name_of(arguments[1]))
    return OK


@command("table.list", -1, "readonly")
def list_(session: Session, arguments: list[bytes]) -> Reply:
    """The names of all tables: [AT view]."""
    return bulks(name.encode() for name in sorted(session.at(_at(arguments[1:])).tables()))


def _counts_much(session: Session, arguments: list[bytes]) -> bool:
    words, asks = _layout(arguments)
    return asks and _table(session, arguments[1], _at(words)).uncounted > MANY_UNCOUNTED


def _layout(arguments: list[bytes]) -> tuple[list[bytes], bool]:
    """The words behind LAYOUT, and whether it is not there: is a count asked for?"""
    words = arguments[2:]
    asks = not (words and words[0].upper() == b"LAYOUT")
    return words if asks else words[1:], asks


@command("table.info", -2, "readonly fast", heavy=_counts_much)
def info(session: Session, arguments: list[bytes]) -> Reply:
    """What a table is: its dtype as JSON, the shape and width of a row, and how many rows it has: name [LAYOUT] [AT
    view]. LAYOUT: without the last, which may have to be counted first."""
    words, asks = _layout(arguments)
    items = _table(session, arguments[1], _at(words))
    pairs = [
        (bulk(b"name"), bulk(items.name.encode())),
        (bulk(b"id"), integer(items.id)),
        (bulk(b"dtype"), bulk(describe(items.dtype))),
        (bulk(b"shape"), array(integer(n) for n in items.shape)),
        (bulk(b"width"), integer(items.width)),
        (bulk(b"rows"), integer(items.rows or 0)),
    ]
    if asks:
        pairs.append((bulk(b"len"), integer(len(items))))
    return a_map(pairs, session.protocol)


def describe(dtype: np.dtype) -> bytes:
    """A dtype as JSON: a list of fields, or one string."""
    return orjson.dumps(dtype.descr if dtype.names else dtype.str)


@command("table.len", -2, "readonly fast", heavy=_counts_much)
def length(session: Session, arguments: list[bytes]) -> Reply:
    """How many rows a table has: name [AT view]."""
    return integer(len(_table(session, arguments[1], _at(arguments[2:]))))


@command("table.put", 4, "write denyoom", heavy=_puts_much, values=slice(2, 4))
def put(session: Session, arguments: list[bytes]) -> Reply:
    """Write rows: name ids rows."""
    items = _table(session, arguments[1])
    ids = _ids(arguments[2])
    items.put(ids, _rows(arguments[3], items, len(ids)))
    return OK


@command("table.add", 4, "write denyoom", heavy=_writes_much)
def add(session: Session, arguments: list[bytes]) -> Reply:
    """Add to rows, element by element; an absent row counts as zeros."""
    items = _table(session, arguments[1])
    ids = _ids(arguments[2])
    items.add(ids, _rows(arguments[3], items, len(ids)))
    return OK


@command("table.del", 3, "write", heavy=_writes_much)
def delete(session: Session, arguments: list[bytes]) -> Reply:
    """Delete rows; how many there were."""
    return integer(int(_table(session, arguments[1]).delete(_ids(arguments[2]))))


@command("table.exists", -3, "readonly", heavy=_writes_much)
def exists(session: Session, arguments: list[bytes]) -> Reply:
    """A byte for each id, 1 if the table has it: name ids [AT view]."""
    items = _table(session, arguments[1], _at(arguments[3:]))
    return _blob(items.contains(_ids(arguments[2])).astype(np.uint8))


@command("table.get", -3, "readonly", heavy=_gets_much)
def get(session: Session, arguments: list[bytes]) -> Reply:
    """The rows of ids: name ids [DEFAULT x] [FIELDS n f...] [FOUND] [AT view]."""
    default, fields, want_found, at = _get_options(arguments[3:])
    items = _table(session, arguments[1], at)
    ids = _ids(arguments[2])
    if not want_found:
        return _blob(items.get(ids, default=default, fields=fields))
    rows, found = items.get(ids, default=default, return_found=True, fields=fields)
    return joined([_blob(rows), _blob(found.astype(np.uint8))])


def _get_options(words: list[bytes]) -> tuple[float, list[str] | None, bool, str | None]:
    default, fields, found, at, i = 0.0, None, False, None, 0
    while i < len(words):
        option = words[i].upper()
        if option == b"FOUND":
            found = True
        elif option == b"DEFAULT" and i + 1 < len(words):
            i += 1
            default = parse_float(words[i])
        elif option == b"AT" and i + 1 < len(words):
            i += 1
            at = name_of(words[i])
        elif option == b"FIELDS" and i + 1 < len(words):
            count = parse_int(words[i + 1], "ERR FIELDS takes a count and that many names", 1, len(words) - i - 2)
            fields = [name_of(word) for word in words[i + 2 : i + 2 + count]]
            i += 1 + count
        else:
            raise syntax_error(words[i])
        i += 1
    return default, fields, found, at


def _counted(words: list[bytes], size: int) -> tuple[list[list[bytes]], list[bytes]]:
    """`n`, then n groups of `size` words: the groups, and the words behind them."""
    n = parse_int(words[0], "ERR the number of tables is not a positive integer", 1, 1 << 16)
    stop = 1 + n * size
    if len(words) < stop:
        raise CommandError(f"ERR syntax error: {n} tables need {n * size} arguments, here are {len(words) - 1}")
    return [words[i : i + size] for i in range(1, stop, size)], words[stop:]


@command("table.mget", -4, "readonly", heavy=_several_read_much)
def mget(session: Session, arguments: list[bytes]) -> Reply:
    """The rows of several tables, of one version: n t1 ids t2 ids ... [AT view]."""
    groups, rest = _counted(arguments[1:], 2)
    view = session.at(_at(rest))
    if len({name for name, _ in groups}) == len(groups):
        found = view.gather({name_of(name): _ids(ids) for name, ids in groups})
        return joined([_blob(found[name_of(name)]) for name, _ in groups])
    with session.server.store.batch():
        return joined([_blob(view.table(name_of(name)).get(_ids(ids))) for name, ids in groups])


@command("table.scan", -3, "readonly")
def scan(session: Session, arguments: list[bytes]) -> Reply:
    """Some rows: cursor for the next, ids, rows; name cursor [COUNT n] [AT view]."""
    cursor = parse_int(arguments[2], "ERR invalid cursor", 0, (1 << 64) - 1)
    count, at = _scan_options(arguments[3:])
    items = _table(session, arguments[1], at)
    count = min(count, max(HEAVY_ROWS // (items.width + 8), 1))
    cursor, ids, rows = items.scan_from(cursor, count)
    return joined([bulk(b"%d" % cursor), _blob(ids), _blob(rows)])


def _scan_options(words: list[bytes]) -> tuple[int, str | None]:
    count, at = 1024, None
    for option, value in _options(words):
        if option == b"COUNT":
            count = parse_int(value, "ERR COUNT is not a positive integer", 1)
        elif option == b"AT":
            at = name_of(value)
        else:
            raise syntax_error(option)
    return count, at


@command("table.pool", -4, "readonly", heavy=_pools_much)
def pool(session: Session, arguments: list[bytes]) -> Reply:
    """Sums, means or maxima of bags of rows: name ids offsets [WEIGHTS blob] [MODE sum|mean|max] [AT view]."""
    weights, mode, at = _pool_options(arguments[4:], weights=True)
    items = _table(session, arguments[1], at)
    ids, offsets = _ids(arguments[2]), _ids(arguments[3], "offsets")
    return _blob(items.pool(ids, offsets, weights=weights, mode=mode))


def _pool_options(words: list[bytes], weights: bool) -> tuple[np.ndarray | None, str, str | None]:
    found, mode, at = None, "sum", None
    for option, value in _options(words):
        if option == b"MODE" and value.upper() in MODES:
            mode = value.decode().lower()
        elif option == b"AT":
            at = name_of(value)
        elif option == b"WEIGHTS" and weights:
            if len(value) % 4:
                raise CommandError(f"ERR WEIGHTS: {len(value)} bytes are not a whole number of little-endian f4")
            found = np.frombuffer(value, "<f4")
        else:
            raise syntax_error(option)
    return found, mode, at


@command("table.mpool", -5, "readonly", heavy=_several_read_much)
def mpool(session: Session, arguments: list[bytes]) -> Reply:
    """`TABLE.POOL` of several tables, of one version: n t1 ids offsets t2 ids offsets ... [MODE m] [AT view]."""
    groups, rest = _counted(arguments[1:], 3)
    _, mode, at = _pool_options(rest, weights=False)
    view = session.at(at)
    bags = [(name, (_ids(ids), _ids(offsets, "offsets"))) for name, ids, offsets in groups]
    if len({name for name, _ in bags}) == len(bags):
        found = view.pool({name_of(name): bag for name, bag in bags}, mode=mode)
        return joined([_blob(found[name_of(name)]) for name, _ in bags])
    with session.server.store.batch():
        return joined([_blob(view.table(name_of(name)).pool(*bag, mode=mode)) for name, bag in bags])
