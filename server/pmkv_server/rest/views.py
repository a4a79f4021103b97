"""/v1/views, /v1/snapshots, /v1/branches, /v1/version: named versions of all data.

Snapshots and rollbacks apply to `main`, or with ?at= to a branch; promotes and undos apply to `main`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

import pmkv_server.rest.jsonrows as jsonrows
from pmkv_server.parsing import strict_float

from .context import INLINE_BYTES, PROMOTIONS, SERVER, integer, query, read_body, run, store_of, view_of
from .keys import reply
from .problems import invalid

MAX_WAIT_S, DEFAULT_WAIT_S = 300.0, 30.0  # of a request for the next version


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a string", is_text),
    "at": ("a string", is_text),
    "tables": ("a list of names", are_names),
    "keys": ("a boolean", is_flag),
    "force": ("a boolean", is_flag),
}


async def list_views(request: web.Request) -> web.Response:
    query(request)
    store = store_of(request)
    found = await run(request, store.views)
    return reply({"views": [info.asdict() for info in found.values()]})


async def get_view(request: web.Request) -> web.Response:
    query(request)
    return await _described(request, request.match_info["view"])


async def _described(request: web.Request, name: str, created: bool = False) -> web.Response:
    store = store_of(request)
    info = await run(request, lambda: store.view_info(name))
    headers = {hdrs.LOCATION: f"/v1/views/{name}"} if created else None
    return reply(info.asdict(), 201 if created else 200, headers)


async def delete_view(request: web.Request) -> web.Response:
    query(request)
    store = store_of(request)
    await run(request, lambda: store.delete_view(request.match_info["view"]))
    return web.Response(status=204)


async def create_snapshot(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    name = (await _body_fields(request, ["name"]))["name"]
    await run(request, lambda: view.snapshot(name))
    return await _described(request, name, created=True)


async def create_branch(request: web.Request) -> web.Response:
    query(request)
    fields, store = await _body_fields(request, ["name"], ["at"]), store_of(request)
    await run(request, lambda: store.branch(**fields))
    return await _described(request, fields["name"], created=True)


async def rollback(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    scope = await _body_fields(request, [], ["tables", "keys"])
    changed = await run(request, lambda: view.rollback(request.match_info["view"], **scope))
    return _version(request, changed=changed)


async def promote(request: web.Request) -> web.Response:
    query(request)
    scope, store = await _body_fields(request, [], ["tables", "keys", "force"]), store_of(request)
    await run(request, lambda: store.promote(request.match_info["view"], **scope))
    return _version(request)


async def undo(request: web.Request) -> web.Response:
    query(request)
    scope, store = await _body_fields(request, [], ["force"]), store_of(request)
    await run(request, lambda: store.undo(**scope))
    return _version(request)


async def get_version(request: web.Request) -> web.Response:
    """Return the version of `main`; with ?after=, as soon as it is greater than that, or at the timeout."""
    parameters = query(request, "after", "timeout")
    if "after" in parameters:
        after = integer(parameters["after"], "after", 0, 1 << 62)
        await request.app[SERVER].version_events.wait(after, _seconds(parameters.get("timeout", str(DEFAULT_WAIT_S))))
    return _version(request)


def _seconds(text: str) -> float:
    seconds = strict_float(text)
    if seconds is None or not 0 <= seconds <= MAX_WAIT_S:
        raise invalid(f"'timeout' must be seconds from 0 to {MAX_WAIT_S:g}, not {text[:40]!r}")
    return seconds


def _version(request: web.Request, **more: bool) -> web.Response:
    promotions, lsn = request.app[SERVER].version_events.latest
    request[PROMOTIONS] = promotions
    return reply({"promotions": promotions, "lsn": lsn, **more})


async def _body_fields(request: web.Request, required: list[str], others: list[str] | None = None) -> dict[str, Any]:
    """Return the JSON object of the body, which may have these fields only; a null counts as an absent field."""
    body = await read_body(request, INLINE_BYTES)
    fields = jsonrows.parse(body) if body else {}
    known = {name: FIELDS[name] for name in (*required, *(others or ()))}
    if not isinstance(fields, dict) or not set(required) <= fields.keys() <= known.keys():
        allowed = ", ".join(f"{name} ({kind})" for name, (kind, _) in known.items())
        raise invalid(f"the body must be a JSON object of {allowed}; required: {', '.join(required) or 'none of them'}")
    given = {name: value for name, value in fields.items() if value is not None or name in required}
    for name, value in given.items():
        kind, fits = FIELDS[name]
        if not fits(value):
            raise invalid(f"'{name}' must be {kind}, not {str(value)[:40]!r}")
    return given
