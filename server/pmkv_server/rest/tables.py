"""/v1/tables: creating, describing and dropping tables; reading and writing their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from aiohttp import hdrs, web

import pmkv_server.rest.codec as codec
import pmkv_server.rest.jsonrows as jsonrows
from pmkv_server.parsing import SHORT_FLOATS, dtype_name, strict_float

from .codec import Message, Row
from .context import IN_THREAD, MAX_BODY_BYTES, integer, off_loop, payload_of, query, read_body, run, view_of
from .formats import JSON, NPZ, ROW_FORMATS, accepted_format, body_format
from .keys import reply
from .problems import invalid

CURSOR = "Pmkv-Cursor"
KNOWN = {"name", "dtype", "shape", "rows", "default", "codec", "dram"}
MAX_COUNT = 1 << 20
MODES = ("sum", "mean", "max")
NO_IDS = np.empty(0, np.int64)


def describe(table: Any) -> dict[str, Any]:
    return {
        "name": table.name,
        "id": table.id,
        "dtype": np.lib.format.dtype_to_descr(table.dtype) if table.dtype.names else dtype_name(table.dtype),
        "shape": list(table.shape),
        "width": table.row_dtype.itemsize,
        "rows": table.rows,
        **({} if table.codec is None else {"codec": table.codec, "stored": table.width}),
        **({} if table.default is None else {"default": table.default}),
        **({} if table.dram is None else {"dram": table.dram}),
        "length": len(table),
    }


async def list_tables(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    return reply(
        {"tables": await run(request, lambda: [describe(table) for table in view.tables().values()], IN_THREAD)}
    )


async def create_table(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    sent = await read_body(request)
    body = await off_loop(lambda: jsonrows.parse(sent), len(sent))
    if not isinstance(body, dict) or not {"name", "dtype"} <= body.keys() <= KNOWN:
        raise invalid(
            'the body must be {"name": "...", "dtype": NumPy descr, "shape": [...], "rows": bound or null, '
            '"default": of absent rows, "codec": how rows are stored, "dram": "all", bytes, a share or null}'
        )
    dtype = row_dtype(body["dtype"], body.get("shape", []))
    rows = None if body.get("rows") is None else integer(body["rows"], "rows", 1, 1 << 62)
    name = body["name"]
    if not isinstance(name, str):
        raise invalid("'name' must be a string")
    options = {option: body.get(option) for option in ("default", "codec", "dram")}
    made = await run(request, lambda: describe(view.create_table(name, dtype, rows, **options)))
    return reply(made, 201, {hdrs.LOCATION: f"/v1/tables/{name}"})


async def set_table(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    sent = await read_body(request)
    body = await off_loop(lambda: jsonrows.parse(sent), len(sent))
    if not isinstance(body, dict) or body.keys() != {"dram"}:
        raise invalid('the body must be {"dram": "all", bytes, a share or null}')

    def choose() -> dict[str, Any]:
        table = view.table(request.match_info["table"])
        table.set_dram(body["dram"])
        return describe(table)

    return reply(await run(request, choose))


def row_dtype(descr: Any, shape: Any) -> Any:
    """Return the dtype of a row from `dtype` ("<f4", "bfloat16", or a list of fields) and `shape`, in a form that
    `create_table` takes. Raises Problem 400."""
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise invalid("'shape' must be a list of positive integers")
    if descr in SHORT_FLOATS:
        return (descr, tuple(shape)) if shape else descr
    try:
        dtype = np.dtype((np.dtype(_descr(descr)), tuple(shape)))
    except (TypeError, ValueError, SyntaxError, RecursionError, OverflowError) as error:
        raise invalid(f"'dtype' is not a NumPy descr: {error}") from None
    if dtype.hasobject:
        raise invalid("'dtype' holds Python objects; rows are of fixed size")
    return dtype


def _descr(node: Any) -> Any:
    if isinstance(node, str):
        return node
    if not isinstance(node, list):
        raise TypeError(f"{node!r} is neither a string nor a list of fields")
    return [_field(field) for field in node]


def _field(field: Any) -> tuple[Any, ...]:
    if not isinstance(field, list) or len(field) not in (2, 3) or not isinstance(field[0], str):
        raise TypeError(f"{field!r} is not [name, dtype] or [name, dtype, shape]")
    return (field[0], _descr(field[1]), *(tuple(shape) for shape in field[2:]))


async def get_table(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    return reply(await run(request, lambda: describe(view.table(request.match_info["table"])), IN_THREAD))


async def delete_table(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    await run(request, lambda: view.drop_table(request.match_info["table"]))
    return web.Response(status=204)


# Rows


async def _message(request: web.Request, *options: str) -> tuple[Any, Message]:
    """Return the table and the decoded request. Options come in the query or the JSON body, `at` in the query."""
    given = query(request, "at", *options)
    view = await view_of(request, given)
    table = await run(request, lambda: view.table(request.match_info["table"]))
    form = body_format(request)
    body = await read_body(request)
    row, stored = _row(table.dtype, table.shape), None
    if "encoded" in options and table.codec is not None:
        none = await run(request, lambda: table.get(NO_IDS, encoded=True))
        stored = _row(none.dtype, none.shape[1:])
        row = stored if _flag(given, "encoded") else row
    message = await off_loop(lambda: codec.decode(body, form, row, MAX_BODY_BYTES, stored), len(body))
    if unknown := message.options.keys() - set(options):
        raise invalid(f"unknown {', '.join(sorted(unknown))} in the body")
    message.options.update({name: value for name, value in given.items() if name != "at"})
    return table, message


def _row(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Row:
    """Return the layout of rows in a body, where short floats travel as f4."""
    return Row(np.dtype("<f4") if dtype.name in SHORT_FLOATS else dtype, shape)


async def _encoded(
    request: web.Request, work: Callable[[], dict[str, Any]], size: int, default: str, scalars: tuple[str, ...] = ()
) -> web.Response:
    """Encode the arrays that `work` returns in the accepted format; `scalars` names entries for headers and JSON."""
    form = accepted_format(request, ROW_FORMATS, default)
    found = await run(request, work, size)
    plain = {name: found.pop(name) for name in scalars}
    body = await off_loop(lambda: codec.encode(form, found, plain), size)
    headers = {hdrs.VARY: hdrs.ACCEPT, **{f"Pmkv-{name.title()}": str(value) for name, value in plain.items()}}
    return web.Response(body=payload_of(body), headers=headers, content_type=form)


async def rows_get(request: web.Request) -> web.Response:
    table, message = await _message(request, "default", "return_found", "fields", "encoded")
    ids, fields = message.require("ids"), _fields(message.options.get("fields"))
    default = _number(message.options["default"]) if "default" in message.options else None
    with_found, encoded = _flag(message.options, "return_found"), _flag(message.options, "encoded")

    def work() -> dict[str, Any]:
        rows, found = table.get(ids, default=default, return_found=True, fields=fields, encoded=encoded)
        return {"rows": rows, "found": found} if with_found else {"rows": rows}

    return await _encoded(request, work, len(ids) * table.row_dtype.itemsize, body_format(request))


async def rows_put(request: web.Request) -> web.Response:
    table, message = await _message(request, "newer", "encoded")
    ids, rows, newer = message.require("ids"), message.require("rows"), message.options.get("newer")
    if newer is not None and not isinstance(newer, str):
        raise invalid("'newer' must be the name of a field")
    encoded = _flag(message.options, "encoded")
    written = await run(
        request, lambda: table.put(ids, rows, newer, encoded=encoded), len(ids) * table.row_dtype.itemsize
    )
    return reply({"count": len(ids) if written is None else written})


async def rows_add(request: web.Request) -> web.Response:
    table, message = await _message(request)
    ids, rows = message.require("ids"), message.require("rows")
    await run(request, lambda: table.add(ids, rows), len(ids) * table.row_dtype.itemsize)
    return reply({"count": len(ids)})


async def rows_delete(request: web.Request) -> web.Response:
    table, message = await _message(request)
    ids = message.require("ids")
    return reply({"count": await run(request, lambda: table.delete(ids), len(ids) * 8)})


async def rows_pool(request: web.Request) -> web.Response:
    table, message = await _message(request, "mode")
    ids, offsets, weights = message.require("ids"), message.require("offsets"), message.arrays.get("weights")
    mode = message.options.get("mode", "sum")
    if mode not in MODES:
        raise invalid(f"'mode' must be one of {', '.join(MODES)}")

    def work() -> dict[str, Any]:
        return {"rows": table.pool(ids, offsets, weights=weights, mode=mode)}

    return await _encoded(request, work, (len(ids) + len(offsets)) * table.row_dtype.itemsize, body_format(request))


async def rows_scan(request: web.Request) -> web.Response:
    table, message = await _message(request, "cursor", "count", "encoded")
    cursor = integer(message.options.get("cursor", "0"), "cursor", 0, (1 << 64) - 1)
    count = integer(message.options.get("count", 1000), "count", 1, MAX_COUNT)
    encoded = _flag(message.options, "encoded")

    def work() -> dict[str, Any]:
        next_cursor, ids, rows = table.scan_from(cursor, count, encoded)
        # The cursor is a string, because JavaScript would round the number.
        return {"cursor": str(next_cursor), "ids": ids, "rows": rows}

    return await _encoded(request, work, count * table.row_dtype.itemsize, body_format(request), ("cursor",))


async def gather(request: web.Request) -> web.Response:
    """Return rows of several tables, all of one version."""
    view = await view_of(request, query(request, "at"))
    form, body = body_format(request), await read_body(request)
    offered = (JSON, NPZ)
    accepted = accepted_format(request, offered, form if form in offered else JSON)
    ids = await off_loop(lambda: codec.decode_ids(body, form, MAX_BODY_BYTES), len(body))
    tables = await run(request, lambda: {name: view.table(name) for name in ids})
    size = sum(len(ids[name]) * table.row_dtype.itemsize for name, table in tables.items())
    found = await run(request, lambda: view.gather(ids), size)
    encoded = await off_loop(lambda: _gathered(accepted, found), size)
    return web.Response(body=payload_of(encoded), headers={hdrs.VARY: hdrs.ACCEPT}, content_type=accepted)


def _gathered(form: str, found: dict[str, Any]) -> bytes:
    if form == NPZ:
        return codec.encode(form, found)
    return jsonrows.dump({"tables": {name: jsonrows.jsonable(rows) for name, rows in found.items()}})


def _fields(value: Any) -> list[str] | None:
    names = value.split(",") if isinstance(value, str) else value
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise invalid("'fields' must be a list of field names")
    return names


def _number(value: Any) -> float | int:
    number = strict_float(value) if isinstance(value, str) else value
    if value is None:
        return float("nan")
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise invalid(f"'default' must be a number, not {str(value)[:40]!r}")
    return number


def _flag(options: Mapping[str, Any], name: str) -> bool:
    """Return an option that is true or false, false if it is not given. Raises Problem 400."""
    flags, value = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}, options.get(name)
    if value is None and name not in options:
        return False
    if not isinstance(value, bool | str) or value not in flags:
        raise invalid(f"{name!r} must be true or false")
    return flags[value]
