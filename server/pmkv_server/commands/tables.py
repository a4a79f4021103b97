"""TABLE.*: tables map int64 ids to fixed-width rows.

Ids and rows are sent as bulk strings with the bytes of a little-endian NumPy array. Reads take `AT view`; without it
they read the view that the connection uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from pmkv import errors
from pmkv_server.commands.keys import HEAVY_UNCOUNTED
from pmkv_server.commands.registry import (
    SYNTAX,
    CommandError,
    Group,
    check_reply_size,
    name_of,
    parse_float,
    parse_int,
    printable,
    syntax_error,
)
from pmkv_server.net.session import Session
from pmkv_server.parsing import SHORT_FLOATS, dtype_name
from pmkv_server.resp.scan import OK, Reply, a_map, array, blob, bulk, bulks, integer, joined

group = Group("table")
command = group.command

HEAVY_READ_BYTES = 4 << 20  # reads of more rows run in a worker
HEAVY_PUT = 128 << 10  # bytes; longer puts run in a worker, while the loop serves other clients
HEAVY_HASHES = 1 << 10  # more keys are hashed and compared in a worker
MODES = (b"SUM", b"MEAN", b"MAX")


def _table_of(session: Session, name: bytes, at: str | None = None) -> Any:
    return session.at(at).table(name_of(name))


def _at(words: list[bytes]) -> str | None:
    """Return the view named by AT, where AT is the only option."""
    at = None
    for option, value in _options(words):
        if option != b"AT":
            raise syntax_error(option)
        at = name_of(value)
    return at


def _options(words: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield pairs of option and value, for commands whose options all take a value."""
    if len(words) % 2:
        raise syntax_error(words[-1])
    yield from zip(map(bytes.upper, words[::2]), words[1::2], strict=True)


def _ids(blob: bytes, name: str = "ids") -> np.ndarray:
    if len(blob) % 8:
        raise CommandError(f"ERR {name}: {len(blob)} bytes are not a whole number of little-endian int64")
    ids = np.frombuffer(blob, "<i8")
    return ids if ids.flags.aligned else ids.copy()  # in the receive buffer they start at any offset


def _rows(blob: bytes, table: Any, count: int) -> np.ndarray:
    width = table.row_dtype.itemsize
    if len(blob) != count * width:
        raise CommandError(
            f"ERR rows: {len(blob)} bytes, but {count} ids of table '{table.name}' take {count} x {width} bytes"
        )
    return np.frombuffer(blob, table.row_dtype) if width else np.empty((count, *table.shape), table.dtype)


def _blob(values: np.ndarray) -> Reply:
    """Return an array as one bulk string of its bytes."""
    values = np.ascontiguousarray(values)
    return blob(memoryview(values.reshape(-1).view(np.uint8)))


def _reads_many_bytes(session: Session, arguments: list[bytes], at: str | None) -> bool:
    """Tell whether the ids ask for more than HEAVY_READ_BYTES of rows."""
    try:
        return len(arguments[2]) // 8 * _table_of(session, arguments[1], at).row_dtype.itemsize > HEAVY_READ_BYTES
    except errors.UnknownNameError:
        return False


def _may_wait(session: Session, name: bytes, ids: bytes, at: str | None) -> bool:
    """Tell whether reading these ids may have to wait for the disk."""
    try:
        return _table_of(session, name, at).may_wait(_ids(ids))
    except errors.UnknownNameError:
        return False


def _gets_much(session: Session, arguments: list[bytes]) -> bool:
    at = _get_options(_encoded(arguments[3:])[0])[3] if len(arguments) > 3 else None
    return _reads_many_bytes(session, arguments, at) or _may_wait(session, arguments[1], arguments[2], at)


def _pools_much(session: Session, arguments: list[bytes]) -> bool:
    at = _pool_options(arguments[4:], weights=True)[2]
    return _reads_many_bytes(session, arguments, at) or _may_wait(session, arguments[1], arguments[2], at)


def _several_read_much(session: Session, arguments: list[bytes], size: int = 2) -> bool:
    """Tell whether a command that names several tables, each with `size` arguments, reads much or may wait."""
    if sum(map(len, arguments)) > HEAVY_READ_BYTES // 32:
        return True
    groups, rest = _counted(arguments[1:], size)
    at = _at(rest) if size == 2 else _pool_options(rest, weights=False)[2]
    return any(_may_wait(session, group[0], group[1], at) for group in groups)


def _several_pool_much(session: Session, arguments: list[bytes]) -> bool:
    return _several_read_much(session, arguments, 3)


def _writes_much(session: Session, arguments: list[bytes]) -> bool:
    return sum(map(len, arguments)) > HEAVY_READ_BYTES


def _looks_for_much(session: Session, arguments: list[bytes]) -> bool:
    return _writes_much(session, arguments) or _may_wait(session, *arguments[1:3], _at(arguments[3:]))


def _puts_much(session: Session, arguments: list[bytes]) -> bool:
    """Tell whether the rows sent are longer than HEAVY_PUT."""
    return len(arguments[3]) > HEAVY_PUT


@command("table.create", -4, "write denyoom")
def create(session: Session, arguments: list[bytes]) -> Reply:
    """Create a table of fixed-width rows; ROWS: a dense one, with the ids 0 to n-1.

    DEFAULT: of rows that were never written, in JSON: a number, {"uniform": [low, high], "seed": n}, {"normal": [mean,
    deviation], "seed": n}. CODEC: how rows of f4 are stored: int8, int4, f2, bfloat16, float8_e4m3fn, float8_e5m2.

    DRAM: how much of it the rows may count on, as of TABLE.SET.

    Syntax: TABLE.CREATE name DTYPE dtype [DIM n] [ROWS n] [DEFAULT json] [CODEC name] [DRAM all|bytes|share]
    Syntax: TABLE.CREATE name SCHEMA json [ROWS n] [DEFAULT json] [DRAM all|bytes|share]
    """
    dtype, dim, schema, options = _create_options(arguments[2:])
    description = schema if schema is not None else dtype if dim is None else (dtype, dim)
    session.view.create_table(name_of(arguments[1]), description, **options)
    return OK


def _create_options(words: list[bytes]) -> tuple[Any, int | None, Any, dict[str, Any]]:
    """Return DTYPE, DIM, SCHEMA, and the other options of `create_table` by name."""
    dtype = dim = schema = None
    others: dict[str, Any] = {}
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
            case b"DEFAULT":
                others["default"] = _default(value)
            case b"CODEC":
                others["codec"] = name_of(value)
            case b"ROWS":
                others["rows"] = parse_int(value, "ERR ROWS is not a positive integer", 1)
            case b"DRAM":
                others["dram"] = name_of(value)
            case _:
                raise CommandError(SYNTAX)
    if (dtype is None) == (schema is None) or (schema is not None and dim is not None):
        raise CommandError("ERR syntax error: give DTYPE (with DIM if a row has several elements) or SCHEMA")
    return dtype, dim, schema, others


@command("table.set", 4, "write")
def set_(session: Session, arguments: list[bytes]) -> Reply:
    """Choose how much DRAM the rows of a table may count on in `main`; kept with the table.

    all: of a dense table every row is then addressed by its id. Bytes (64MiB) or a share of the row cache (0.25, 25%)
    are reserved; none: what reads make of it.

    Syntax: TABLE.SET name DRAM all|bytes|share|none
    """
    if arguments[2].upper() != b"DRAM":
        raise syntax_error(arguments[2])
    _table_of(session, arguments[1]).set_dram(name_of(arguments[3]))
    return OK


def _default(word: bytes) -> Any:
    try:
        return json.loads(word)  # which takes NaN, too
    except ValueError:
        raise CommandError(f"ERR DEFAULT '{printable(word)}' is not JSON") from None


def _dtype(word: bytes) -> np.dtype | str:
    if (name := word.decode("latin-1")) in SHORT_FLOATS:
        return name
    try:
        return np.dtype(word.decode("ascii"))
    except (TypeError, ValueError, SyntaxError):
        raise CommandError(f"ERR DTYPE '{printable(word)}' is not a NumPy dtype") from None


def _schema(word: bytes) -> np.dtype:
    """Return the NumPy dtype for the JSON form of its `descr`: [["price", "<f4"], ["emb", "<f4", [16]]]."""
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
    """Remove a table with all its rows.

    Syntax: TABLE.DROP name
    """
    session.view.drop_table(name_of(arguments[1]))
    return OK


@command("table.list", -1, "readonly")
def list_(session: Session, arguments: list[bytes]) -> Reply:
    """Return the names of all tables.

    Syntax: TABLE.LIST [AT view]
    """
    return bulks(name.encode() for name in sorted(session.at(_at(arguments[1:])).tables()))


def _counts_much(session: Session, arguments: list[bytes]) -> bool:
    words, with_count = _layout(arguments)
    return with_count and _table_of(session, arguments[1], _at(words)).uncounted > HEAVY_UNCOUNTED


def _layout(arguments: list[bytes]) -> tuple[list[bytes], bool]:
    """Return the arguments after LAYOUT, and whether a count is asked for (LAYOUT is absent)."""
    words = arguments[2:]
    with_count = not (words and words[0].upper() == b"LAYOUT")
    return words if with_count else words[1:], with_count


@command("table.info", -2, "readonly fast", heavy=_counts_much)
def info(session: Session, arguments: list[bytes]) -> Reply:
    """Return dtype (JSON), shape and width of a row, count of rows; LAYOUT: no count.

    Counting may take long after a restart or many writes, so clients that need the layout alone ask for that. A table
    with a codec has two more: `codec`, and `stored`, the bytes that a row takes.

    Syntax: TABLE.INFO name [LAYOUT] [AT view]
    """
    words, with_count = _layout(arguments)
    table = _table_of(session, arguments[1], _at(words))
    pairs = [
        (bulk(b"name"), bulk(table.name.encode())),
        (bulk(b"id"), integer(table.id)),
        (bulk(b"dtype"), bulk(describe(table.dtype))),
        (bulk(b"shape"), array(integer(n) for n in table.shape)),
        (bulk(b"width"), integer(table.row_dtype.itemsize)),
        (bulk(b"rows"), integer(table.rows or 0)),
    ]
    if table.codec is not None:
        pairs.append((bulk(b"codec"), bulk(table.codec.encode())))
        pairs.append((bulk(b"stored"), integer(table.width)))
    if table.default is not None:
        pairs.append((bulk(b"default"), bulk(orjson.dumps(table.default))))
    if table.dram is not None:
        pairs.append((bulk(b"dram"), bulk(str(table.dram).encode())))
    if with_count:
        pairs.append((bulk(b"len"), integer(len(table))))
    return a_map(pairs, session.protocol)


def describe(dtype: np.dtype) -> bytes:
    """Return a dtype as JSON: a list of fields, or one string."""
    return orjson.dumps(dtype.descr if dtype.names else dtype_name(dtype))


@command("table.len", -2, "readonly fast", heavy=_counts_much)
def length(session: Session, arguments: list[bytes]) -> Reply:
    """Return the count of rows of a table.

    Syntax: TABLE.LEN name [AT view]
    """
    return integer(len(_table_of(session, arguments[1], _at(arguments[2:]))))


@command("table.put", -4, "write denyoom", heavy=_puts_much, values=slice(2, 4))
def put(session: Session, arguments: list[bytes]) -> Reply:
    """Write rows; an id that occurs several times keeps its last row.

    NEWER: a row is written unless the stored one has a greater value in that field, an id that occurs several times
    keeps the row with the greatest value, and the reply is the count of rows written. ENCODED: the rows are as the
    table's codec stores them.

    Syntax: TABLE.PUT name ids rows [NEWER field] [ENCODED]
    """
    words, encoded = _encoded(arguments[4:])
    newer = None
    for option, value in _options(words):
        if option != b"NEWER":
            raise syntax_error(option)
        newer = name_of(value)
    table = _table_of(session, arguments[1])
    ids = _ids(arguments[2])
    rows = bytes(arguments[3]) if encoded else _rows(arguments[3], table, len(ids))
    written = table.put(ids, rows, newer, encoded=encoded)
    return OK if written is None else integer(written)


def _encoded(words: list[bytes]) -> tuple[list[bytes], bool]:
    """Return the words without ENCODED, the last one, and whether it is there."""
    encoded = bool(words) and words[-1].upper() == b"ENCODED"
    return (words[:-1] if encoded else words), encoded


@command("table.add", 4, "write denyoom", heavy=_writes_much)
def add(session: Session, arguments: list[bytes]) -> Reply:
    """Add to rows element by element; an absent row counts as zeros.

    Syntax: TABLE.ADD name ids rows
    """
    table = _table_of(session, arguments[1])
    ids = _ids(arguments[2])
    table.add(ids, _rows(arguments[3], table, len(ids)))
    return OK


@command("table.del", 3, "write", heavy=_writes_much)
def delete(session: Session, arguments: list[bytes]) -> Reply:
    """Delete rows and return how many existed.

    Syntax: TABLE.DEL name ids
    """
    return integer(int(_table_of(session, arguments[1]).delete(_ids(arguments[2]))))


def _names_many(session: Session, arguments: list[bytes]) -> bool:
    return len(arguments) > HEAVY_HASHES


@command("table.ids", -4, "write denyoom", heavy=_names_many)
def ids_of(session: Session, arguments: list[bytes]) -> Reply:
    """Return the int64 ids of entities named by keys, and keep the keys in `name.keys`.

    An id is the first 8 bytes of BLAKE2b (digest size 8), little-endian, without the highest bit. A key with the id of
    another one is refused. ONLY compares, and keeps nothing.

    Syntax: TABLE.IDS name n key [key ...] [ONLY] [AT view]
    """
    count = parse_int(arguments[2], "ERR the number of keys is not a positive integer", 1, 1 << 20)
    words = arguments[3 + count :]
    if len(arguments) < 3 + count:
        raise CommandError(f"ERR syntax error: {count} keys are said to follow, here are {len(arguments) - 3}")
    keep = not (words and words[0].upper() == b"ONLY")
    table = _table_of(session, arguments[1], _at(words if keep else words[1:]))
    return _blob(table.ids_of([bytes(key) for key in arguments[3 : 3 + count]], keep))


@command("table.exists", -3, "readonly", heavy=_looks_for_much)
def exists(session: Session, arguments: list[bytes]) -> Reply:
    """Return one byte per id: 1 if the table has a row for it, else 0.

    Syntax: TABLE.EXISTS name ids [AT view]
    """
    table = _table_of(session, arguments[1], _at(arguments[3:]))
    return _blob(table.contains(_ids(arguments[2])).astype(np.uint8))


@command("table.get", -3, "readonly", heavy=_gets_much)
def get(session: Session, arguments: list[bytes]) -> Reply:
    """Return the rows of ids, absent ones as DEFAULT or the table says; FOUND: flags, too.

    ENCODED: rows as the table's codec stores them.

    Syntax: TABLE.GET name ids [DEFAULT x] [FIELDS n f...] [FOUND] [AT view] [ENCODED]
    """
    words, encoded = _encoded(arguments[3:])
    default, fields, return_found, at = _get_options(words)
    table = _table_of(session, arguments[1], at)
    ids = _ids(arguments[2])
    check_reply_size(len(ids) * table.row_dtype.itemsize)
    if not return_found:
        return _blob(table.get(ids, default=default, fields=fields, encoded=encoded))
    rows, found = table.get(ids, default=default, return_found=True, fields=fields, encoded=encoded)
    return joined([_blob(rows), _blob(found.astype(np.uint8))])


def _get_options(words: list[bytes]) -> tuple[float | None, list[str] | None, bool, str | None]:
    default, fields, found, at, i = None, None, False, None, 0
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
    """Split `n`, then n groups of `size` words, into the groups and the words after them."""
    n = parse_int(words[0], "ERR the number of tables is not a positive integer", 1, 1 << 16)
    stop = 1 + n * size
    if len(words) < stop:
        raise CommandError(f"ERR syntax error: {n} tables need {n * size} arguments, here are {len(words) - 1}")
    return [words[i : i + size] for i in range(1, stop, size)], words[stop:]


@command("table.mget", -4, "readonly", heavy=_several_read_much)
def mget(session: Session, arguments: list[bytes]) -> Reply:
    """Return rows of several tables, all of one version.

    Syntax: TABLE.MGET n t1 ids t2 ids ... [AT view]
    """
    groups, rest = _counted(arguments[1:], 2)
    view = session.at(_at(rest))
    check_reply_size(sum(len(ids) // 8 * view.table(name_of(name)).row_dtype.itemsize for name, ids in groups))
    if len({name for name, _ in groups}) == len(groups):
        found = view.gather({name_of(name): _ids(ids) for name, ids in groups})
        return joined([_blob(found[name_of(name)]) for name, _ in groups])
    with session.server.store.batch():
        return joined([_blob(view.table(name_of(name)).get(_ids(ids))) for name, ids in groups])


@command("table.scan", -3, "readonly")
def scan(session: Session, arguments: list[bytes]) -> Reply:
    """Return the next cursor (0 at the end), ids, and rows.

    ENCODED: rows as the table's codec stores them.

    Syntax: TABLE.SCAN name cursor [COUNT n] [AT view] [ENCODED]
    """
    cursor = parse_int(arguments[2], "ERR invalid cursor", 0, (1 << 64) - 1)
    words, encoded = _encoded(arguments[3:])
    count, at = _scan_options(words)
    table = _table_of(session, arguments[1], at)
    count = min(count, max(HEAVY_READ_BYTES // (table.row_dtype.itemsize + 8), 1))
    cursor, ids, rows = table.scan_from(cursor, count, encoded)
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


@command("table.changes", -5, "readonly")
def changes(session: Session, arguments: list[bytes]) -> Reply:
    """Return the next cursor, ids and rows changed since a view, ids deleted.

    The cursor is 0 at the end. Only what was written since is read. A row that was written
    again with the same content counts as changed. ENCODED: rows as the table's codec stores them.

    Syntax: TABLE.CHANGES name cursor SINCE view [COUNT n] [AT view] [ENCODED]
    """
    cursor = parse_int(arguments[2], "ERR invalid cursor", 0, (1 << 64) - 1)
    words, encoded = _encoded(arguments[3:])
    options = dict(_options(words))
    since = name_of(options.pop(b"SINCE", b""))
    if not since:
        raise CommandError("ERR syntax error: SINCE and the name of a view are missing")
    count, at = _scan_options([word for pair in options.items() for word in pair])
    table = _table_of(session, arguments[1], at)
    count = min(count, max(HEAVY_READ_BYTES // (table.row_dtype.itemsize + 8), 1))
    cursor, (ids, rows, deleted) = table.changes_from(since, cursor, count, encoded)
    return joined([bulk(b"%d" % cursor), _blob(ids), _blob(rows), _blob(deleted)])


@command("table.pool", -4, "readonly", heavy=_pools_much)
def pool(session: Session, arguments: list[bytes]) -> Reply:
    """Return sum, mean or maximum of each bag of rows; `offsets` are the bags' starts.

    Syntax: TABLE.POOL name ids offsets [WEIGHTS blob] [MODE sum|mean|max] [AT view]
    """
    weights, mode, at = _pool_options(arguments[4:], weights=True)
    table = _table_of(session, arguments[1], at)
    ids, offsets = _ids(arguments[2]), _ids(arguments[3], "offsets")
    check_reply_size(len(offsets) * max(table.row_dtype.itemsize, 8))
    return _blob(table.pool(ids, offsets, weights=weights, mode=mode))


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


@command("table.mpool", -5, "readonly", heavy=_several_pool_much)
def mpool(session: Session, arguments: list[bytes]) -> Reply:
    """Do TABLE.POOL for several tables, all of one version.

    Syntax: TABLE.MPOOL n t1 ids offsets t2 ids offsets ... [MODE sum|mean|max] [AT view]
    """
    groups, rest = _counted(arguments[1:], 3)
    _, mode, at = _pool_options(rest, weights=False)
    view = session.at(at)
    bags = [(name, (_ids(ids), _ids(offsets, "offsets"))) for name, ids, offsets in groups]
    if len({name for name, _ in bags}) == len(bags):
        found = view.pool({name_of(name): bag for name, bag in bags}, mode=mode)
        return joined([_blob(found[name_of(name)]) for name, _ in bags])
    with session.server.store.batch():
        return joined([_blob(view.table(name_of(name)).pool(*bag, mode=mode)) for name, bag in bags])
