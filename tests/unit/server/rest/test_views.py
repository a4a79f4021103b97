"""/v1/views, /v1/snapshots, /v1/branches, /v1/version, and ?at= everywhere."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from pmkv_server.rest.context import SERVER

PROBLEM = "application/problem+json"
Call = tuple[str, str, object]


async def problem(reply: ClientResponse, status: int, kind: str, word: str = "") -> None:
    assert reply.status == status, await reply.text()
    said = await reply.json(content_type=PROBLEM)
    assert said["type"] == f"pmkv:{kind}" and word in said["detail"], said


async def post(rest: TestClient, path: str, **fields: object) -> ClientResponse:
    return await rest.post(path, json=fields)


async def text(rest: TestClient, path: str) -> str:
    return await (await rest.get(path)).text()


async def test_a_snapshot_and_back(rest: TestClient) -> None:
    await rest.put("/v1/keys/a", data=b"1")
    made = await post(rest, "/v1/snapshots", name="v1")
    assert (made.status, made.headers["Location"]) == (201, "/v1/views/v1")
    assert (await made.json())["kind"] == "snapshot"
    await rest.put("/v1/keys/a", data=b"2")
    assert [await text(rest, f"/v1/keys/a{at}") for at in ("", "?at=v1", "?at=main")] == ["2", "1", "2"]
    reply = await rest.post("/v1/snapshots/v1:rollback")
    version = await reply.json()
    assert (reply.status, version["promotions"]) == (200, 1)
    assert reply.headers["Pmkv-Version"].startswith("1-")
    assert await text(rest, "/v1/keys/a") == "1"
    assert (await (await rest.post("/v1/views:undo")).json())["promotions"] == 2
    assert await text(rest, "/v1/keys/a") == "2"
    assert await (await rest.get("/v1/version")).json() == {
        "promotions": 2,
        "lsn": rest.app[SERVER].store.main_changes[1],
    }


async def test_the_version_of_a_reply_is_never_ahead_of_its_data(rest: TestClient) -> None:
    await rest.put("/v1/keys/a", data=b"1")
    await post(rest, "/v1/snapshots", name="v1")
    await rest.put("/v1/keys/a", data=b"2")
    stand, looks = rest.app[SERVER], []

    async def switch(lsn: int) -> None:
        """Behind what a request reads last (it asks how long the value is, then for the value), before its reply."""
        looks.append(lsn)
        if len(looks) == 2:
            stand.store.rollback("v1")

    stand.durable = switch
    reply = await rest.get("/v1/keys/a")
    assert (await reply.text(), reply.headers["Pmkv-Version"][:2], len(looks)) == ("2", "0-", 2)
    del stand.durable
    reply = await rest.get("/v1/keys/a")
    assert (await reply.text(), reply.headers["Pmkv-Version"][:2]) == ("1", "1-")


async def test_a_branch_is_written_by_at_and_promoted(rest: TestClient) -> None:
    await rest.post("/v1/tables", json={"name": "t", "dtype": "f4"})
    assert (await post(rest, "/v1/branches", name="b", at="main")).status == 201
    assert (await rest.put("/v1/keys/a?at=b", data=b"2")).status == 201
    assert (await rest.post("/v1/tables/t/rows:put?at=b", json={"ids": [1], "rows": [2]})).status == 200
    assert (await rest.post("/v1/tables/t/rows:add?at=b", json={"ids": [1], "rows": [2]})).status == 200
    assert (await rest.post("/v1/tables?at=b", json={"name": "u", "dtype": "f4"})).status == 201
    assert (await rest.get("/v1/keys/a")).status == 404
    assert (await rest.get("/v1/tables/u")).status == 404
    assert (await post(rest, "/v1/branches/b:promote")).status == 200
    assert await text(rest, "/v1/keys/a") == "2"
    assert (await (await rest.get("/v1/tables/t")).json())["length"] == 1
    assert (await rest.delete("/v1/tables/u?at=b")).status == 204
    assert (await rest.get("/v1/tables/u")).status == 200


READS: list[tuple[str, str, object, str]] = [
    ("GET", "/v1/keys/a", None, "1"),
    ("GET", "/v1/keys?key64=YQ", None, "1"),
    ("GET", "/v1/keys", None, '{"keys":[{"key":"a"}],"cursor":null}'),
    ("POST", "/v1/keys:batchGet", {"keys": ["a", "b"]}, '{"values":[{"value":"1","encoding":"utf8"},null]}'),
    ("POST", "/v1/tables/t/rows:get", {"ids": [1, 2]}, '{"rows":[1.0,0.0]}'),
    ("POST", "/v1/tables/t/rows:pool", {"ids": [1, 2], "offsets": [0]}, '{"rows":[1.0]}'),
    ("POST", "/v1/tables/t/rows:scan", {}, '{"cursor":"0","ids":[1],"rows":[1.0]}'),
    ("POST", "/v1/rows:get", {"tables": {"t": [1, 2]}}, '{"tables":{"t":[1.0,0.0]}}'),
]


@pytest.mark.parametrize(("method", "path", "body", "then"), READS, ids=lambda part: str(part)[:30])
async def test_every_read_takes_at(rest: TestClient, method: str, path: str, body: object, then: str) -> None:
    await rest.post("/v1/tables", json={"name": "t", "dtype": "f4"})
    await rest.put("/v1/keys/a", data=b"1")
    await rest.post("/v1/tables/t/rows:put", json={"ids": [1], "rows": [1]})
    await post(rest, "/v1/snapshots", name="v1")
    await rest.put("/v1/keys/a", data=b"2")
    await rest.put("/v1/keys/b", data=b"2")
    await rest.post("/v1/tables/t/rows:put", json={"ids": [1, 2], "rows": [2, 2]})
    mark = "&" if "?" in path else "?"
    old = await rest.request(method, f"{path}{mark}at=v1", json=body)
    assert (old.status, await old.text()) == (200, then)
    new = await rest.request(method, path, json=body)
    assert new.status == 200 and await new.text() != then
    await problem(await rest.request(method, f"{path}{mark}at=none", json=body), 404, "unknown-view", "none")


WRITES: list[Call] = [
    ("PUT", "/v1/keys/a", {}),
    ("DELETE", "/v1/keys/a", None),
    ("POST", "/v1/tables", {"name": "u", "dtype": "f4"}),
    ("DELETE", "/v1/tables/t", None),
    ("POST", "/v1/tables/t/rows:put", {"ids": [1], "rows": [2]}),
    ("POST", "/v1/tables/t/rows:add", {"ids": [1], "rows": [2]}),
    ("POST", "/v1/tables/t/rows:delete", {"ids": [1]}),
    ("POST", "/v1/snapshots", {"name": "v2"}),
    ("POST", "/v1/snapshots/v1:rollback", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=lambda part: str(part)[:30])
async def test_a_snapshot_is_read_only(rest: TestClient, method: str, path: str, body: object) -> None:
    await rest.post("/v1/tables", json={"name": "t", "dtype": "f4"})
    await rest.put("/v1/keys/a", data=b"1")
    await post(rest, "/v1/snapshots", name="v1")
    sent = {"data": b"2"} if body == {} and method == "PUT" else {"json": body}
    await problem(await rest.request(method, f"{path}?at=v1", **sent), 403, "read-only", "v1")
    assert await text(rest, "/v1/keys/a") == "1"


async def test_views(rest: TestClient) -> None:
    await post(rest, "/v1/snapshots", name="v1")
    await post(rest, "/v1/branches", name="b:1.x", at="v1")
    found = (await (await rest.get("/v1/views")).json())["views"]
    assert [(view["name"], view["kind"], view["base"]) for view in found] == [
        ("main", "main", ""),
        ("v1", "snapshot", "main"),
        ("b:1.x", "branch", "v1"),
    ]
    assert await (await rest.get("/v1/views/b:1.x")).json() == found[2]
    await rest.put("/v1/keys/a?at=b:1.x", data=b"1")
    assert (await rest.post("/v1/branches/b:1.x:promote", json={"keys": True, "tables": []})).status == 200
    assert await text(rest, "/v1/keys/a") == "1"
    assert (await rest.delete("/v1/views/b:1.x")).status == 204
    await problem(await rest.get("/v1/views/b:1.x"), 404, "unknown-view", "b:1.x")
    await problem(await rest.delete("/v1/views/b:1.x"), 404, "unknown-view")
    await problem(await rest.delete("/v1/views/main"), 400, "invalid")
    await problem(await post(rest, "/v1/snapshots", name="v1"), 409, "exists")
    await problem(await post(rest, "/v1/snapshots", name="-no"), 400, "invalid")


async def test_conflicts(rest: TestClient) -> None:
    await post(rest, "/v1/branches", name="b")
    await rest.put("/v1/keys/a?at=b", data=b"2")
    await rest.put("/v1/keys/a", data=b"1")
    await problem(await post(rest, "/v1/branches/b:promote", force=False), 409, "conflict", "main has 1 write")
    assert await text(rest, "/v1/keys/a") == "1"
    assert (await post(rest, "/v1/branches/b:promote", force=True)).status == 200
    await rest.put("/v1/keys/a", data=b"3")
    await problem(await rest.post("/v1/views:undo"), 409, "conflict")
    assert (await post(rest, "/v1/views:undo", force=True)).status == 200
    assert await text(rest, "/v1/keys/a") == "1"
    assert (await rest.delete("/v1/views/undo")).status in (204, 404)
    await problem(await rest.post("/v1/views:undo"), 404, "unknown-view", "nothing to undo")


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/v1/snapshots", {}, "required: name"),
        ("/v1/snapshots", [], "required: name"),
        ("/v1/snapshots", {"name": None}, "'name' must be a string"),
        ("/v1/snapshots", {"name": "v", "at": "main"}, "name (a string)"),
        ("/v1/branches", {"name": "b", "at": 1}, "'at' must be a string"),
        ("/v1/snapshots/v:rollback", {"tables": "t"}, "'tables' must be a list of names"),
        ("/v1/snapshots/v:rollback", {"tables": [1]}, "'tables' must be a list of names"),
        ("/v1/snapshots/v:rollback", {"force": True}, "tables (a list of names)"),
        ("/v1/branches/b:promote", {"keys": "yes"}, "'keys' must be a boolean"),
        ("/v1/views:undo", {"force": 1}, "'force' must be a boolean"),
        ("/v1/views:undo?at=b", {}, "unknown query parameter at"),
    ],
)
async def test_what_is_wrong_is_said(rest: TestClient, path: str, body: object, word: str) -> None:
    await problem(await rest.post(path, json=body), 400, "invalid", word)


async def test_waiting_for_a_version(rest: TestClient) -> None:
    await post(rest, "/v1/snapshots", name="v1")
    await rest.put("/v1/keys/a", data=b"1")
    waiting = asyncio.ensure_future(rest.get("/v1/version?after=0&timeout=20"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await rest.post("/v1/snapshots/v1:rollback")
    reply = await asyncio.wait_for(waiting, 5)
    assert (await reply.json())["promotions"] == 1
    assert (await (await rest.get("/v1/version?after=0")).json())["promotions"] == 1
    began = time.monotonic()
    assert (await (await rest.get("/v1/version?after=1&timeout=0.05")).json())["promotions"] == 1
    assert 0.04 < time.monotonic() - began < 5
    for wrong in ("after=x", "after=-1", "after=0&timeout=x", "after=0&timeout=301", "after=0&timeout=nan", "until=1"):
        await problem(await rest.get(f"/v1/version?{wrong}"), 400, "invalid")


async def test_no_version_is_told_before_it_is_durable(rest: TestClient) -> None:
    """A flush that has not happened: the promote is not answered, and nothing else tells of it."""
    stand = rest.app[SERVER]
    await post(rest, "/v1/snapshots", name="v1")
    await rest.put("/v1/keys/a", data=b"1")
    stand.gate.clear()
    waiting = asyncio.ensure_future(rest.get("/v1/version?after=0&timeout=20"))
    going = asyncio.ensure_future(rest.post("/v1/snapshots/v1:rollback"))
    await asyncio.sleep(0.05)
    assert not waiting.done() and not going.done()
    stand.gate.set()
    assert (await going).status == 200
    assert (await (await waiting).json())["promotions"] == 1
