"""/v1/views, /v1/snapshots, /v1/branches, /v1/version: versions by name. Snapshots and rollbacks are of `main`, or with
?at= of a branch; promotes and undos are of `main`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

import pmkv_server.rest.jsonrows as jsonrows

from .context import PROMOTIONS, SERVER, integer, query, read_body, run, store_of, view_of
from .keys import reply
from .problems import invalid

MOST_SECONDS, SECONDS = 300.0, 30.0  # that a request for the next version may wait, and does unless it says so


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
    name = (await _asked(request, ["name"]))["name"]
    await run(request, lambda: view.snapshot(name))
    return await _described(request, name, created=True)


async def create_branch(request: web.Request) -> web.Response:
    query(request)
    asked, store = await _asked(request, ["name"], ["at"]), store_of(request)
    await run(request, lambda: store.branch(**asked))
    return await _described(request, asked["name"], created=True)


async def rollback(request: web.Request) -> web.Response:
    view = await view_of(request, query(request, "at"))
    parts = await _asked(request, [], ["tables", "keys"])
    await run(request, lambda: view.rollback(request.match_info["view"], **parts))
    return _version(request)


async def promote(request: web.Request) -> web.Response:
    query(request)
    parts, store = await _asked(request, [], ["tables", "keys", "force"]), store_of(request)
    await run(request, lambda: store.promote(request.match_info["view"], **parts))
    return _version(request)


async def undo(request: web.Request) -> web.Response:
    query(request)
    parts, store = await _asked(request, [], ["force"]), store_of(request)
    await run(request, lambda: store.undo(**parts))
    return _version(request)


async def get_version(request: web.Request) -> web.Response:
    """How often `main` was promoted and rolled back; with ?after=, as soon as that is more often than so."""
    parameters = query(request, "after", "timeout")
    if "after" in parameters:
        after = integer(parameters["after"], "after", 0, 1 << 62)
        await request.app[SERVER].switches.wait(after, _seconds(parameters.get("timeout", str(SECONDS))))
    return _version(request)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_SECONDS:
        raise invalid(f"'timeout' must be seconds from 0 to {MOST_SECONDS:g}, not {text[:40]!r}")
    return seconds


def _version(request: web.Request) -> web.Response:
    promotions, lsn = request.app[SERVER].switches.latest
    request[PROMOTIONS] = promotions
    return reply({"promotions": promotions, "lsn": lsn})


async def _asked(request: web.Request, needed: list[str], others: list[str] | None = None) -> dict[str, Any]:
    """The JSON object sent, with these fields and no others; null is as good as nothing."""
    body = await read_body(request)
    asked = jsonrows.parse(body) if body else {}
    known = {name: FIELDS[name] for name in (*needed, *(others or ()))}
    if not isinstance(asked, dict) or not set(needed) <= asked.keys() <= known.keys():
        fields = ", ".join(f"{name} ({kind})" for name, (kind, _) in known.items())
        raise invalid(f"the body must be a JSON object of {fields}; needed: {', '.join(needed) or 'none of them'}")
    given = {name: value for name, value in asked.items() if value is not None or name in needed}
    for name, value in given.items():
        kind, fits = FIELDS[name]
        if not fits(value):
            raise invalid(f"'{name}' must be {kind}, not {str(value)[:40]!r}")
    return given
