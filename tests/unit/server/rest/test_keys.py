"""/v1/keys, as a client sees it."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from pmkv import errors
from pmkv_server.rest import jsonrows
from pmkv_server.rest.context import SERVER
from pmkv_server.rest.keys import MAX_CONDITIONAL_BYTES, base64url, etag_of

PROBLEM = "application/problem+json"


def at(key: bytes, **parameters: str) -> URL:
    """The URL of a key, every byte percent-encoded, and nothing normalised on the way."""
    path = "/v1/keys/" + "".join(f"%{byte:02X}" for byte in key)
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return URL(path + ("?" + query if query else ""), encoded=True)


async def problem(reply: ClientResponse, status: int, word: str = "") -> None:
    assert reply.status == status, await reply.text()
    assert reply.content_type == PROBLEM
    said = await reply.json(content_type=PROBLEM)
    assert said["status"] == status and said["type"].startswith("pmkv:") and said["title"]
    assert word in said["detail"], said["detail"]


async def test_put_get_delete(rest: TestClient) -> None:
    value = b"\0\xffraw"
    put = await rest.put("/v1/keys/a", data=value)
    assert put.status == 201
    got = await rest.get("/v1/keys/a")
    assert (got.status, await got.read(), got.content_type) == (200, value, "application/octet-stream")
    assert got.headers["ETag"] == put.headers["ETag"] == f'"{etag_of(value)}"'
    assert got.headers["Pmkv-Version"].startswith("0-")
    assert (await rest.put("/v1/keys/a", data=b"")).status == 204
    assert await (await rest.get("/v1/keys/a")).read() == b""
    assert (await rest.delete("/v1/keys/a")).status == 204
    await problem(await rest.delete("/v1/keys/a"), 404, "b'a'")
    await problem(await rest.get("/v1/keys/a"), 404, "b'a'")


KEYS = [b"", b"/", b"a/b//c", b"../x", b"%2F", b"caf\xc3\xa9", b"\0\n\r\xff", b"a b+c?d#e", b"k" * 60_000]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key[:20]))
async def test_any_key(rest: TestClient, key: bytes) -> None:
    assert (await rest.put(at(key), data=b"1")).status == 201
    assert rest.app[SERVER].store.get(key) == b"1"
    assert await (await rest.get(at(key))).read() == b"1"
    assert await (await rest.get(URL("/v1/keys?key64=" + base64url(key), encoded=True))).read() == b"1"
    assert (await rest.put("/v1/keys", params={"key64": base64url(key)}, data=b"2")).status == 204
    assert (await rest.delete("/v1/keys", params={"key64": base64url(key)})).status == 204


async def test_slashes_may_stay_as_they_are(rest: TestClient) -> None:
    await rest.put("/v1/keys/users/1/name", data=b"Ada")
    assert rest.app[SERVER].store.get(b"users/1/name") == b"Ada"


async def test_a_key_that_is_too_long(rest: TestClient) -> None:
    await problem(await rest.put(at(b"k" * 65_537), data=b""), 400, "65,537")


async def test_head(rest: TestClient) -> None:
    await rest.put("/v1/keys/a", data=b"12345")
    got = await rest.head("/v1/keys/a")
    assert got.status == 200 and got.headers["Content-Length"] == "5" and etag_of(b"12345") in got.headers["ETag"]
    assert await got.read() == b""
    assert (await rest.head("/v1/keys/b")).status == 404


async def test_json_values(rest: TestClient) -> None:
    for body, stored in [
        ({"value": "né"}, "né".encode()),
        ({"value": "/w==", "encoding": "base64"}, b"\xff"),
        ({"value": "_w", "encoding": "base64"}, b"\xff"),
    ]:
        assert (await rest.put("/v1/keys/a", json=body)).status in (201, 204)
        assert rest.app[SERVER].store.get(b"a") == stored
        got = await (await rest.get("/v1/keys/a", headers={"Accept": "application/json"})).json()
        encoded = base64.b64decode(got["value"]) if got["encoding"] == "base64" else got["value"].encode()
        assert encoded == stored and got["expire_at"] is None


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b'{"a": 1}', b'{"value": 1}', b'{"value": "a", "encoding": "rot13"}', b'{"value": "a", "x": 1}'],
)
async def test_json_that_is_no_value(rest: TestClient, body: bytes) -> None:
    await problem(await rest.put("/v1/keys/a", data=body, headers={"Content-Type": "application/json"}), 400)
    assert rest.app[SERVER].store.get(b"a") is None


async def test_ttl(rest: TestClient) -> None:
    before = time.time() * 1000
    await rest.put("/v1/keys/a?ttl_ms=60000", data=b"1")
    got = await rest.get("/v1/keys/a", headers={"Accept": "application/json"})
    expire_at = (await got.json())["expire_at"]
    assert before + 59_000 < expire_at < before + 61_000 and got.headers["Pmkv-Expire-At"] == str(expire_at)
    await rest.put("/v1/keys/a?ttl_ms=30", data=b"1")
    await asyncio.sleep(0.05)
    await problem(await rest.get("/v1/keys/a"), 404)
    await rest.put("/v1/keys/a?ttl_ms=30", data=b"1")
    await rest.put("/v1/keys/a", data=b"2")
    await asyncio.sleep(0.05)
    assert await (await rest.get("/v1/keys/a")).read() == b"2"


@pytest.mark.parametrize("ttl", ["0", "-1", "1.5", "x", "", "1e3", str(1 << 60)])
async def test_what_is_no_ttl(rest: TestClient, ttl: str) -> None:
    await problem(await rest.put("/v1/keys/a", params={"ttl_ms": ttl}, data=b"1"), 400, "ttl_ms")


async def test_keyspaces(rest: TestClient) -> None:
    await rest.put("/v1/keys/a?db=3", data=b"3")
    assert rest.app[SERVER].store.keyspace(3).get(b"a") == b"3"
    await problem(await rest.get("/v1/keys/a"), 404)
    assert await (await rest.get("/v1/keys/a?db=3")).read() == b"3"
    for db in ("16", "-1", "x"):
        await problem(await rest.get("/v1/keys/a", params={"db": db}), 400, "db")


async def test_unknown_parameters_are_refused(rest: TestClient) -> None:
    await problem(await rest.put("/v1/keys/a?ttl=5", data=b"1"), 400, "ttl")
    await problem(await rest.get("/v1/keys/a?db=1&db=2"), 400, "twice")


async def test_if_none_match(rest: TestClient) -> None:
    tag = (await rest.put("/v1/keys/a", data=b"1", headers={"If-None-Match": "*"})).headers["ETag"]
    await problem(await rest.put("/v1/keys/a", data=b"2", headers={"If-None-Match": "*"}), 412, "ETag")
    for tags, status in [(tag, 304), (f"W/{tag}", 304), (f'"x", {tag}', 304), ("*", 304), ('"x"', 200)]:
        got = await rest.get("/v1/keys/a", headers={"If-None-Match": tags})
        assert got.status == status and got.headers["ETag"] == tag
        assert await got.read() == (b"1" if status == 200 else b"")


async def test_if_match(rest: TestClient) -> None:
    await problem(await rest.put("/v1/keys/a", data=b"1", headers={"If-Match": "*"}), 412, "no such key")
    tag = (await rest.put("/v1/keys/a", data=b"1")).headers["ETag"]
    for tags in ('"x"', f"W/{tag}"):
        await problem(await rest.put("/v1/keys/a", data=b"2", headers={"If-Match": tags}), 412)
        await problem(await rest.delete("/v1/keys/a", headers={"If-Match": tags}), 412)
        await problem(await rest.get("/v1/keys/a", headers={"If-Match": tags}), 412)
    second = (await rest.put("/v1/keys/a", data=b"2", headers={"If-Match": tag})).headers["ETag"]
    await problem(await rest.put("/v1/keys/a", data=b"3", headers={"If-Match": tag}), 412)
    assert (await rest.get("/v1/keys/a", headers={"If-Match": second})).status == 200
    assert (await rest.delete("/v1/keys/a", headers={"If-Match": second})).status == 204


async def test_one_of_many_wins_a_conditional_put(rest: TestClient) -> None:
    puts = (rest.put("/v1/keys/a", data=b"%d" % i, headers={"If-None-Match": "*"}) for i in range(20))
    statuses = sorted([reply.status for reply in await asyncio.gather(*puts)])
    assert statuses == [201] + [412] * 19


async def test_large_values_go_to_a_thread(rest: TestClient) -> None:
    value = bytes(range(256)) * (12 << 10)
    assert (await rest.put("/v1/keys/a", data=value, headers={"If-None-Match": "*"})).status == 201
    assert await (await rest.get("/v1/keys/a")).read() == value
    assert (await rest.put("/v1/keys/a", data=value)).status == 204


async def test_how_large_a_conditional_put_may_be(rest: TestClient) -> None:
    value = bytes(MAX_CONDITIONAL_BYTES + 1)
    key = at(b"k" * 65_536)
    await problem(await rest.put(key, data=value, headers={"If-None-Match": "*"}), 413, str(MAX_CONDITIONAL_BYTES))
    assert (await rest.put(key, data=value[:-1], headers={"If-None-Match": "*"})).status == 201
    assert (await rest.put(key, data=value)).status == 204


async def test_no_reply_before_it_is_durable(rest: TestClient) -> None:
    stand = rest.app[SERVER]
    stand.gate.clear()
    put = asyncio.ensure_future(rest.put("/v1/keys/a", data=b"1"))
    await asyncio.sleep(0.05)
    assert stand.store.get(b"a") == b"1" and not put.done()
    stand.gate.set()
    assert (await put).status == 201


async def test_a_failed_flush(rest: TestClient) -> None:
    stand = rest.app[SERVER]
    stand.failure = errors.FlushError("the disk said no")
    await problem(await rest.put("/v1/keys/a", data=b"1"), 503, "the disk said no")


async def test_list(rest: TestClient) -> None:
    store = rest.app[SERVER].store
    store.put_many({b"user:%d" % i: b"" for i in range(10)} | {b"\xff\xfe": b"", b"other": b""})
    keys, cursor = [], ""
    while cursor is not None:
        page = await (await rest.get("/v1/keys", params={"prefix": "user:", "limit": "3", "cursor": cursor})).json()
        assert len(page["keys"]) <= 3
        keys += page["keys"]
        cursor = page["cursor"]
    assert keys == [{"key": f"user:{i}"} for i in range(10)]
    page = await (await rest.get("/v1/keys", params={"prefix64": base64url(b"\xff")})).json()
    assert page == {"keys": [{"key64": base64url(b"\xff\xfe")}], "cursor": None}
    assert len((await (await rest.get("/v1/keys")).json())["keys"]) == 12
    for bad in ({"limit": "0"}, {"limit": "x"}, {"cursor": "?"}, {"prefix64": "?"}):
        await problem(await rest.get("/v1/keys", params=bad), 400)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("span", [{}, {"start": "b"}, {"stop": "d"}, {"start": "b", "stop": "d", "prefix": "b"}])
async def test_ranges_in_both_directions(rest: TestClient, span: dict[str, str], reverse: bool) -> None:
    keys = [b"", b"a", b"b", b"b1", b"b2", b"c", b"d", b"\xff"]
    rest.app[SERVER].store.put_many(dict.fromkeys(keys, b""))
    low, high, prefix = (span.get(name, "").encode() for name in ("start", "stop", "prefix"))
    expected = [key for key in keys if low <= key and (key < high or not high) and key.startswith(prefix)]
    query = span | {"limit": "2", "reverse": str(reverse).lower()}
    found, cursor = [], ""
    while cursor is not None:
        page = await (await rest.get("/v1/keys", params=query | {"cursor": cursor})).json()
        found += [one["key"].encode() if "key" in one else jsonrows.from_base64(one["key64"]) for one in page["keys"]]
        cursor = page["cursor"]
    assert found == (expected[::-1] if reverse else expected)


async def test_a_cursor_belongs_to_its_direction(rest: TestClient) -> None:
    rest.app[SERVER].store.put_many({b"a": b"", b"b": b""})
    cursor = (await (await rest.get("/v1/keys?limit=1")).json())["cursor"]
    await problem(await rest.get("/v1/keys", params={"cursor": cursor, "reverse": "true"}), 400, "'cursor' is not")
    await problem(await rest.get("/v1/keys?reverse=yes"), 400, "'reverse' must be true or false")
    page = await (await rest.get("/v1/keys", params={"start64": base64url(b"b"), "stop64": base64url(b"\xff")})).json()
    assert page == {"keys": [{"key": "b"}], "cursor": None}


async def test_batch_get(rest: TestClient) -> None:
    rest.app[SERVER].store.put_many({b"a": b"1", b"\xff": b"\xfe"})
    got = await (await rest.post("/v1/keys:batchGet", json={"keys": ["a", "b"]})).json()
    assert got == {"values": [{"value": "1", "encoding": "utf8"}, None]}
    got = await (await rest.post("/v1/keys:batchGet", json={"keys": ["/w=="], "encoding": "base64"})).json()
    assert got == {"values": [{"value": "/g==", "encoding": "base64"}]}
    for bad in ({}, [], {"keys": "a"}, {"keys": [1]}, {"keys": [], "more": 1}, {"keys": ["a"] * 10_001}):
        await problem(await rest.post("/v1/keys:batchGet", json=bad), 400)


async def test_a_full_pool(start) -> None:
    rest = await start(capacity="32MiB")
    value = bytes(1 << 20)
    statuses = [(await rest.put(f"/v1/keys/{i}", data=value)).status for i in range(40)]
    assert statuses[0] == 201 and statuses[-1] == 507
    await problem(await rest.put("/v1/keys/x", data=value), 507)
    assert await (await rest.get("/v1/keys/0")).read() == value
    assert (await rest.delete("/v1/keys/0")).status == 204


@given(st.binary(max_size=30))
def test_base64url_needs_no_encoding_in_a_query(key: bytes) -> None:
    assert URL("/").with_query(key64=base64url(key)).raw_query_string == f"key64={base64url(key)}"
