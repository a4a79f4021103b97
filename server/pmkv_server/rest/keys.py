"""/v1/keys: reading, writing and listing of keys and values, both bytes.

A key is the percent-encoded rest of the path, slashes included, or ?key64=, its base64url, which suits binary keys.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import xxhash
from aiohttp import ETag, hdrs, web

import pmkv_server.rest.jsonrows as jsonrows

from .context import (
    IN_THREAD,
    INLINE_BYTES,
    MAX_BODY_BYTES,
    MAX_VALUE_BYTES,
    integer,
    keyspace_of,
    off_loop,
    payload_of,
    query,
    read_body,
    run,
    store_of,
)
from .formats import BYTES, JSON, accepted_format
from .problems import Problem, invalid

PATH = "/v1/keys/"
EXPIRES = "Pmkv-Expire-At"  # a header: milliseconds since the epoch
MAX_LIMIT, MAX_BATCH = 10_000, 10_000
MAX_TTL_MS = 1 << 52
BATCH_OVERHEAD_BYTES = 256  # of the log, for a batch of one write
MAX_CONDITIONAL_BYTES = (16 << 20) - (128 << 10)  # a batch has at most 16 MiB with key and overhead
PARAMETERS = ("db", "at", "key64")
LISTING = ("db", "at", "prefix", "prefix64", "start", "start64", "stop", "stop64", "reverse", "limit", "cursor")
FORWARD, BACKWARD = b">", b"<"  # the first byte of a cursor


def etag_of(value: bytes) -> str:
    if len(value) <= INLINE_BYTES:
        return xxhash.xxh3_128_hexdigest(value)
    view, tag = memoryview(value), xxhash.xxh3_128()
    for at in range(0, len(view), INLINE_BYTES):  # other threads may run in between
        tag.update(view[at : at + INLINE_BYTES])
    return tag.hexdigest()


def key_of(request: web.Request, parameters: dict[str, str]) -> bytes:
    """Return the key of a request, decoded from the raw path to keep %2F and bytes that are not UTF-8."""
    if "key64" in parameters:
        return jsonrows.from_base64(parameters["key64"])
    return unquote_to_bytes(request.rel_url.raw_path.removeprefix(PATH))


class Conditions:
    """The headers If-Match and If-None-Match of a request."""

    def __init__(self, request: web.Request) -> None:
        self.match, self.none = request.if_match, request.if_none_match

    def __bool__(self) -> bool:
        return self.match is not None or self.none is not None

    def refused(self, value: bytes | None) -> bool:
        """Tell whether the stored value (None: no such key) forbids the request."""
        tag = None if value is None else etag_of(value)
        missed = self.match is not None and not _covers(self.match, tag, weakly=False)
        return missed or (self.none is not None and _covers(self.none, tag, weakly=True))

    def refusal(self, value: bytes | None) -> Problem | None:
        if not self.refused(value):
            return None
        stored = "there is no such key" if value is None else f'its ETag is "{etag_of(value)}"'
        return Problem(412, "precondition", f"If-Match or If-None-Match forbids it: {stored}")


def _covers(tags: Iterable[ETag], tag: str | None, weakly: bool) -> bool:
    return tag is not None and any(one.value in ("*", tag) and (weakly or not one.is_weak) for one in tags)


def missing(key: bytes) -> Problem:
    return Problem(404, "unknown-key", f"there is no key {key[:80]!r}")


async def get_key(request: web.Request) -> web.Response:
    parameters = query(request, *PARAMETERS)
    key, keyspace = key_of(request, parameters), await keyspace_of(request, parameters)
    form = accepted_format(request, (BYTES, JSON), BYTES)
    size = await run(request, lambda: keyspace.size(key))
    entry = await run(request, lambda: keyspace.entry(key), size or 0)
    conditions = Conditions(request)
    return await off_loop(lambda: _found(key, entry, conditions, form), size or 0)


def _found(key: bytes, entry: tuple[bytes, int] | None, conditions: Conditions, form: str) -> web.Response:
    """Return the reply to a GET of a key."""
    refusal = conditions.refusal(None if entry is None else entry[0])
    if refusal and conditions.match is not None:
        raise refusal
    if entry is None:
        raise missing(key)
    value, expire_at = entry
    headers = {hdrs.ETAG: f'"{etag_of(value)}"', hdrs.VARY: hdrs.ACCEPT}
    if expire_at:
        headers[EXPIRES] = str(expire_at)
    if refusal:
        return web.Response(status=304, headers=headers)
    body = value if form == BYTES else jsonrows.dump({**to_json(value), "expire_at": expire_at or None})
    return web.Response(body=payload_of(body), headers=headers, content_type=form)


def to_json(value: bytes) -> dict[str, str]:
    """Return {value, encoding}: the text of a value that is UTF-8, else its base64."""
    try:
        return {"value": value.decode(), "encoding": "utf8"}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(value).decode(), "encoding": "base64"}


def from_json(body: bytes) -> bytes:
    value = jsonrows.parse(body)
    if not isinstance(value, dict) or not {"value"} <= value.keys() <= {"value", "encoding"}:
        raise invalid(
            f'as {JSON} a value is {{"value": "...", "encoding": "utf8" or "base64"}}; '
            f"to store JSON text itself, send it as {BYTES}"
        )
    return text_to_bytes(value["value"], value.get("encoding", "utf8"))


def text_to_bytes(text: Any, encoding: Any) -> bytes:
    if encoding not in ("utf8", "base64") or not isinstance(text, str):
        raise invalid("'encoding' must be utf8 or base64, and the encoded value a string")
    return text.encode() if encoding == "utf8" else jsonrows.from_base64(text)


def conditionally(
    store: Any, keyspace: Any, key: bytes, conditions: Conditions, write: Callable[[], bool], size: int
) -> bool:
    """Call `write` if the conditions allow it; no other write comes in between. Raises Problem 412."""
    if not conditions:
        return write()
    with store.batch(reserve=size + BATCH_OVERHEAD_BYTES):
        refusal = conditions.refusal(keyspace.get(key))
        done = refusal is None and write()
    if refusal:  # after the batch, which registers what was read: the reply waits until that is durable
        raise refusal
    return done


async def put_key(request: web.Request) -> web.Response:
    parameters = query(request, *PARAMETERS, "ttl_ms")
    key, store = key_of(request, parameters), store_of(request)
    keyspace = await keyspace_of(request, parameters)
    expire_at = None
    if "ttl_ms" in parameters:
        expire_at = int(time.time() * 1000) + integer(parameters["ttl_ms"], "ttl_ms", 1, MAX_TTL_MS)
    conditions = Conditions(request)
    value = await read_body(request, MAX_CONDITIONAL_BYTES if conditions else MAX_VALUE_BYTES)
    if request.content_type == JSON:
        sent = value
        value = await off_loop(lambda: from_json(sent), len(sent))

    def work() -> bool:
        existed = key in keyspace
        keyspace.put(key, value, expire_at=expire_at)
        return existed

    size = len(key) + len(value)
    existed = await run(request, lambda: conditionally(store, keyspace, key, conditions, work, size), size)
    tag = await off_loop(lambda: etag_of(value), size)
    return web.Response(status=204 if existed else 201, headers={hdrs.ETAG: f'"{tag}"'})


async def delete_key(request: web.Request) -> web.Response:
    parameters = query(request, *PARAMETERS)
    key, store = key_of(request, parameters), store_of(request)
    keyspace, conditions = await keyspace_of(request, parameters), Conditions(request)

    def work() -> bool:
        return conditionally(store, keyspace, key, conditions, lambda: bool(keyspace.delete(key)), len(key))

    if not await run(request, work):
        raise missing(key)
    return web.Response(status=204)


async def get_keys(request: web.Request) -> web.Response:
    """Return the value of ?key64=, or a list of keys in ascending or descending order."""
    if "key64" in request.query:
        return await get_key(request)
    parameters = query(request, *LISTING)
    keyspace = await keyspace_of(request, parameters)
    limit = integer(parameters.get("limit", "100"), "limit", 1, MAX_LIMIT)
    reverse = flag(parameters, "reverse")
    prefix, start, stop = (bound(parameters, name) for name in ("prefix", "start", "stop"))
    if parameters.get("cursor"):
        last = from_cursor(parameters["cursor"], reverse)
        if reverse:
            stop = last if stop is None else min(last, stop)
        else:
            start = max(last + b"\0", start or b"")

    def work() -> list[bytes]:
        return [key for key, _ in keyspace.scan(prefix or b"", start, stop, reverse, limit)]

    found = await run(request, work, IN_THREAD)  # the first scan sorts
    cursor = to_cursor(found[-1], reverse) if len(found) == limit else None
    return reply({"keys": [key_to_json(key) for key in found], "cursor": cursor})


def bound(parameters: dict[str, str], name: str) -> bytes | None:
    """Return the bytes of a parameter: text, or base64url under its name with the suffix 64."""
    if f"{name}64" in parameters:
        return jsonrows.from_base64(parameters[f"{name}64"])
    return parameters[name].encode("utf-8", "surrogateescape") if name in parameters else None


def flag(parameters: dict[str, str], name: str) -> bool:
    value = parameters.get(name, "false")
    if value not in ("true", "false"):
        raise invalid(f"'{name}' must be true or false, not {value[:40]!r}")
    return value == "true"


def to_cursor(last: bytes, reverse: bool) -> str:
    """Return the cursor of the page after this key."""
    return base64url((BACKWARD if reverse else FORWARD) + last)


def from_cursor(text: str, reverse: bool) -> bytes:
    raw = jsonrows.from_base64(text)
    if raw[:1] != (BACKWARD if reverse else FORWARD):
        raise invalid("'cursor' is not of this list: give the cursor of the previous page, with the same parameters")
    return raw[1:]


def key_to_json(key: bytes) -> dict[str, str]:
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key64": base64url(key)}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def batch_get(request: web.Request) -> web.Response:
    keyspace = await keyspace_of(request, query(request, "db", "at"))
    sent = await read_body(request)
    names = await off_loop(lambda: _batch_names(sent), len(sent))
    sizes = await run(request, lambda: keyspace.sizes(names), IN_THREAD)
    total = sum(size or 0 for size in sizes)
    if total > MAX_BODY_BYTES:
        raise Problem(413, "too-long", f"the values take {total} bytes, more than {MAX_BODY_BYTES}: ask for fewer keys")
    values = await run(request, lambda: keyspace.get_many(names), total)
    return await off_loop(lambda: reply({"values": [None if v is None else to_json(v) for v in values]}), total)


def _batch_names(sent: bytes) -> list[bytes]:
    body = jsonrows.parse(sent)
    if not isinstance(body, dict) or not {"keys"} <= body.keys() <= {"keys", "encoding"}:
        raise invalid('the body must be {"keys": [...], "encoding": "utf8" or "base64"}')
    names, encoding = body["keys"], body.get("encoding", "utf8")
    if not isinstance(names, list) or len(names) > MAX_BATCH:
        raise invalid(f"'keys' must be a list of at most {MAX_BATCH} strings")
    return [text_to_bytes(name, encoding) for name in names]


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=payload_of(jsonrows.dump(value)), status=status, headers=headers, content_type=JSON)
