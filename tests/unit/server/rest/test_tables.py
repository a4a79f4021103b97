"""/v1/tables and their rows, as a client sees them."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from pmkv_server.rest.arrow import write_arrow
from pmkv_server.rest.codec import widened
from pmkv_server.rest.context import SERVER
from pmkv_server.rest.formats import ARROW, JSON, NPY, NPZ
from pmkv_server.rest.npy import read_npy, read_npz, write_npy, write_npz

LIMIT = 1 << 26
STRUCT = [["price", "<f4"], ["emb", "<f4", [2]], ["name", "|S8"]]
WIDE = 64


async def detail(reply: ClientResponse, status: int) -> str:
    assert reply.status == status, await reply.text()
    return (await reply.json(content_type="application/problem+json"))["detail"]


async def ok(reply: ClientResponse) -> dict:
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def make(rest: TestClient, name: str = "items", dtype: object = "f4", **more: object) -> str:
    made = await rest.post("/v1/tables", json={"name": name, "dtype": dtype, **more})
    assert made.status == 201, await made.text()
    return made.headers["Location"] + "/rows"


async def test_life_of_a_table(rest: TestClient) -> None:
    made = await rest.post("/v1/tables", json={"name": "a.b:c-1", "dtype": "f4", "shape": [3], "rows": 10})
    info = await made.json()
    assert made.status == 201 and made.headers["Location"] == "/v1/tables/a.b:c-1"
    assert info | {"id": 0} == {
        "name": "a.b:c-1",
        "id": 0,
        "dtype": "<f4",
        "shape": [3],
        "width": 12,
        "rows": 10,
        "length": 0,
    }
    assert await ok(await rest.get("/v1/tables/a.b:c-1")) == info
    assert await ok(await rest.get("/v1/tables")) == {"tables": [info]}
    assert "a.b:c-1" in await detail(await rest.post("/v1/tables", json={"name": "a.b:c-1", "dtype": "f4"}), 409)
    assert (await rest.delete("/v1/tables/a.b:c-1")).status == 204
    for reply in (await rest.get("/v1/tables/a.b:c-1"), await rest.delete("/v1/tables/a.b:c-1")):
        assert "a.b:c-1" in await detail(reply, 404)
    assert "nope" in await detail(await rest.post("/v1/tables/nope/rows:get", json={"ids": []}), 404)


async def test_a_table_with_a_codec(rest: TestClient) -> None:
    rows = await make(rest, shape=[4], codec="int8")
    info = await ok(await rest.get("/v1/tables/items"))
    assert (info["codec"], info["stored"], info["width"]) == ("int8", 12, 16)
    await ok(await rest.post(rows + ":put", json={"ids": [1], "rows": [[0, 1, 2, 255]]}))
    assert (await ok(await rest.post(rows + ":get", json={"ids": [1]})))["rows"] == [[0, 1, 2, 255]]
    assert "choose one of" in await detail(
        await rest.post("/v1/tables", json={"name": "t", "dtype": "f4", "codec": 8}), 400
    )
    fused = np.array([[0, 1, 2, 255, *np.array([0.5, -1], "<f4").view(np.uint8)]], np.uint8)
    body = write_npz({"ids": np.array([2]), "rows": fused})
    await ok(await rest.post(rows + ":put", data=body, headers={"Content-Type": NPZ, "Accept": JSON}))
    assert (await ok(await rest.post(rows + ":get", json={"ids": [2]})))["rows"] == [[-1, -0.5, 0, 126.5]]


BAD_TABLES = [
    {},
    [],
    {"name": "a"},
    {"name": 1, "dtype": "f4"},
    {"name": "a b", "dtype": "f4"},
    {"name": "", "dtype": "f4"},
    {"name": "a", "dtype": "nope"},
    {"name": "a", "dtype": "O"},
    {"name": "a", "dtype": 4},
    {"name": "a", "dtype": [["x"]]},
    {"name": "a", "dtype": [["x", "f4", 3]]},
    {"name": "a", "dtype": [["x", "f4"], ["x", "f4"]]},
    {"name": "a", "dtype": [["x", "O"]]},
    {"name": "a", "dtype": []},
    {"name": "a", "dtype": "f4", "shape": [0]},
    {"name": "a", "dtype": "f4", "shape": 3},
    {"name": "a", "dtype": "f4", "shape": [1 << 40, 1 << 40]},
    {"name": "a", "dtype": "f4", "shape": [1 << 30]},
    {"name": "a", "dtype": "f4", "shape": [1] * 100},
    {"name": "a", "dtype": "f4", "rows": 0},
    {"name": "a", "dtype": "f4", "rows": True},
    {"name": "a", "dtype": "f4", "more": 1},
]


@pytest.mark.parametrize("body", BAD_TABLES, ids=lambda body: str(body)[:60])
async def test_what_is_no_table(rest: TestClient, body: object) -> None:
    assert await detail(await rest.post("/v1/tables", json=body), 400)
    assert await ok(await rest.get("/v1/tables")) == {"tables": []}


async def test_rows_in_json(rest: TestClient) -> None:
    rows = await make(rest, shape=[2])
    ids = [2**63 - 1, -(2**63), 2**53 + 1]
    put = {"ids": ids, "rows": [[0.1, 1], [None, 2], [3, 4.5]]}
    assert await ok(await rest.post(f"{rows}:put", json=put)) == {"count": 3}
    got = await ok(await rest.post(f"{rows}:get", json={"ids": [*ids, 7]}))
    assert got == {"rows": [[0.1, 1.0], [None, 2.0], [3.0, 4.5], [0.0, 0.0]]}
    asked = {"ids": [7, ids[0]], "default": None, "return_found": True}
    got = await ok(await rest.post(f"{rows}:get", json=asked))
    assert got == {"rows": [[None, None], [0.1, 1.0]], "found": [False, True]}
    assert await ok(await rest.post(f"{rows}:add", json={"ids": [7, 7], "rows": [[1, 2], [1, 2]]})) == {"count": 2}
    assert (await ok(await rest.post(f"{rows}:get", json={"ids": [7]})))["rows"] == [[2.0, 4.0]]
    assert await ok(await rest.post(f"{rows}:delete", json={"ids": [7, 8, 7]})) == {"count": 1}


async def test_newer_rows(rest: TestClient) -> None:
    rows = await make(rest, dtype=[["at", "<i8"], ["price", "<f4"]])
    first = {"ids": [1, 2], "rows": [{"at": 5, "price": 1}, {"at": 5, "price": 1}], "newer": "at"}
    assert await ok(await rest.post(f"{rows}:put", json=first)) == {"count": 2}
    later = {"ids": [1, 2], "rows": [{"at": 4, "price": 2}, {"at": 6, "price": 2}]}
    assert await ok(await rest.post(f"{rows}:put?newer=at", json=later)) == {"count": 1}
    got = await ok(await rest.post(f"{rows}:get", json={"ids": [1, 2]}))
    assert got == {"rows": [{"at": 5, "price": 1.0}, {"at": 6, "price": 2.0}]}
    assert "no such field" in await detail(await rest.post(f"{rows}:put", json=first | {"newer": "x"}), 400)
    assert "'newer'" in await detail(await rest.post(f"{rows}:put", json=first | {"newer": 1}), 400)


async def test_rows_in_npz_and_npy(rest: TestClient) -> None:
    rows = await make(rest, shape=[2])
    ids, values = np.arange(5), np.arange(10, dtype="f4").reshape(5, 2)
    body = write_npz({"ids": ids, "rows": values})
    assert await ok(await rest.post(f"{rows}:put", data=body, headers={"Content-Type": NPZ})) == {"count": 5}
    got = await rest.post(f"{rows}:get?return_found=1", data=write_npz({"ids": ids}), headers={"Content-Type": NPZ})
    assert got.content_type == NPZ
    arrays = read_npz(await got.read(), LIMIT)
    assert np.array_equal(arrays["rows"], values) and arrays["found"].all()
    got = await rest.post(f"{rows}:get?default=-1.5", data=write_npy(np.array([4, 9])), headers={"Content-Type": NPY})
    assert read_npy(await got.read()).tolist() == [[8.0, 9.0], [-1.5, -1.5]]
    got = await rest.post(f"{rows}:get", json={"ids": [1]}, headers={"Accept": NPY})
    assert read_npy(await got.read()).tolist() == [[2.0, 3.0]]
    got = await rest.post(f"{rows}:get", json={"ids": [1], "return_found": True}, headers={"Accept": NPY})
    assert NPZ in await detail(got, 406)


async def test_rows_in_arrow(rest: TestClient) -> None:
    pa = pytest.importorskip("pyarrow")
    rows = await make(rest, dtype=STRUCT)
    values = [{"price": 1.5, "emb": [1.0, 2.0], "name": b"caf\xc3\xa9"}, {"price": 2.5, "emb": [3.0, 4.0], "name": b""}]
    kind = pa.struct([("price", pa.float32()), ("emb", pa.list_(pa.float32(), 2)), ("name", pa.binary())])
    batch = pa.record_batch([pa.array([7, 8]), pa.array(values, kind)], ["ids", "rows"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    assert await ok(await rest.post(f"{rows}:put", data=body, headers={"Content-Type": ARROW})) == {"count": 2}
    got = await rest.post(f"{rows}:get", json={"ids": [8, 7]}, headers={"Accept": ARROW})
    table = pa.ipc.open_stream(await got.read()).read_all()
    assert table.column("rows").to_pylist() == values[::-1]


async def test_structured_rows(rest: TestClient) -> None:
    rows = await make(rest, dtype=STRUCT)
    one = {"price": 0.1, "emb": [1.0, 2.0], "name": "café"}
    assert await ok(await rest.post(f"{rows}:put", json={"ids": [1], "rows": [one]})) == {"count": 1}
    assert await ok(await rest.post(f"{rows}:get", json={"ids": [1]})) == {"rows": [one]}
    for asked in (
        {"json": {"ids": [1], "fields": ["name", "price"]}},
        {"json": {"ids": [1]}, "params": {"fields": "name,price"}},
    ):
        got = await ok(await rest.post(f"{rows}:get", **asked))
        assert got == {"rows": [{"name": "café", "price": 0.1}]}
    assert "nope" in await detail(await rest.post(f"{rows}:get", json={"ids": [1], "fields": ["nope"]}), 400)


async def test_pool(rest: TestClient) -> None:
    rows = await make(rest, shape=[2])
    ids, values = np.arange(4), np.arange(8, dtype="f4").reshape(4, 2)
    rest.app[SERVER].store.table("items").put(ids, values)
    bags = {"ids": [0, 1, 2, 99], "offsets": [0, 2]}
    assert (await ok(await rest.post(f"{rows}:pool", json=bags)))["rows"] == [[2.0, 4.0], [4.0, 5.0]]
    assert (await ok(await rest.post(f"{rows}:pool", json={**bags, "mode": "mean"})))["rows"][0] == [1.0, 2.0]
    weighted = {**bags, "weights": [1, 0.5, 2, 1]}
    assert (await ok(await rest.post(f"{rows}:pool", json=weighted)))["rows"] == [[1.0, 2.5], [8.0, 10.0]]
    body = write_npz({"ids": np.array([0, 1]), "offsets": np.array([0]), "weights": np.array([1, 1])})
    got = await rest.post(f"{rows}:pool", data=body, headers={"Content-Type": NPZ, "Accept": NPY})
    assert read_npy(await got.read()).tolist() == [[2.0, 4.0]]
    for bad in ({**bags, "mode": "median"}, {"ids": [1]}, {**bags, "offsets": [5]}, {**bags, "weights": [1]}):
        assert await detail(await rest.post(f"{rows}:pool", json=bad), 400)


async def test_scan(rest: TestClient) -> None:
    rows = await make(rest)
    rest.app[SERVER].store.table("items").put(np.arange(1000), np.arange(1000, dtype="f4"))
    seen: dict[int, float] = {}
    cursor, calls = "0", 0
    while calls == 0 or cursor != "0":
        reply = await rest.post(f"{rows}:scan", json={"cursor": cursor, "count": 100})
        got = await ok(reply)
        assert reply.headers["Pmkv-Cursor"] == got["cursor"]
        seen |= dict(zip(got["ids"], got["rows"], strict=True))
        cursor, calls = got["cursor"], calls + 1
    assert seen == {i: float(i) for i in range(1000)} and calls > 1
    got = await rest.post(f"{rows}:scan?count=10", headers={"Accept": NPZ})
    arrays = read_npz(await got.read(), LIMIT)
    assert set(arrays) == {"ids", "rows"} and got.headers["Pmkv-Cursor"] != "0"
    for bad in ({"cursor": "x"}, {"cursor": -1}, {"count": 0}, {"count": 1.5}, {"cursor": str(1 << 64)}):
        assert await detail(await rest.post(f"{rows}:scan", json=bad), 400)


async def test_gather(rest: TestClient) -> None:
    for name in ("users", "items"):
        await make(rest, name)
        rest.app[SERVER].store.table(name).put([1], np.ones(1, "f4"))
    asked = {"tables": {"users": [1, 2], "items": []}}
    assert await ok(await rest.post("/v1/rows:get", json=asked)) == {"tables": {"users": [1.0, 0.0], "items": []}}
    body = write_npz({"users": np.array([2, 1])})
    got = await rest.post("/v1/rows:get", data=body, headers={"Content-Type": NPZ})
    assert read_npz(await got.read(), LIMIT)["users"].tolist() == [0.0, 1.0]
    assert "nope" in await detail(await rest.post("/v1/rows:get", json={"tables": {"nope": [1]}}), 404)
    await detail(await rest.post("/v1/rows:get", json=asked, headers={"Accept": NPY}), 406)


async def test_large_batches_go_to_a_thread(rest: TestClient) -> None:
    rows = await make(rest, shape=[WIDE])
    ids = np.arange(20_000)
    values = np.random.default_rng(1).standard_normal((len(ids), WIDE)).astype("f4")
    headers = {"Content-Type": NPZ}
    assert await ok(await rest.post(f"{rows}:put", data=write_npz({"ids": ids, "rows": values}), headers=headers))
    replies = [rest.post(f"{rows}:get", data=write_npy(ids), headers={"Content-Type": NPY}) for _ in range(4)]
    for got in await asyncio.gather(*replies):
        assert np.array_equal(read_npy(await got.read()), values)
    some = ids[:2000].tolist()
    got = await ok(await rest.post(f"{rows}:get", json={"ids": some}))
    assert np.array_equal(np.array(got["rows"], "f4"), values[:2000])
    put = {"ids": some, "rows": values[:2000].tolist()}
    assert await ok(await rest.post(f"{rows}:put", json=put)) == {"count": 2000}


BAD_ROWS = [
    ("put", b"{"),
    ("put", b"nonsense"),
    ("put", b"[]"),
    ("put", b"{}"),
    ("put", b'{"ids": [1]}'),
    ("put", b'{"ids": [1], "rows": [[1]]}'),
    ("put", b'{"ids": [1], "rows": [[1, 2], [3, 4]]}'),
    ("put", b'{"ids": [1, 2], "rows": [[1, 2]]}'),
    ("put", b'{"ids": [1], "rows": [["a", "b"]]}'),
    ("put", b'{"ids": [1.5], "rows": [[1, 2]]}'),
    ("put", b'{"ids": [9223372036854775808], "rows": [[1, 2]]}'),
    ("put", b'{"ids": [1], "rows": [[1, 2]], "default": 1}'),
    ("add", b'{"ids": [1], "rows": [[1]]}'),
    ("get", b'{"ids": [1], "default": "x"}'),
    ("get", b'{"ids": [1], "default": true}'),
    ("get", b'{"ids": [1], "return_found": "perhaps"}'),
    ("get", b'{"ids": [1], "fields": ["a"]}'),
    ("get", b'{"ids": [1], "fields": 3}'),
    ("delete", b"{}"),
    ("delete", b'{"ids": "all"}'),
]


@pytest.mark.parametrize(("verb", "body"), BAD_ROWS, ids=str)
async def test_bad_rows(rest: TestClient, verb: str, body: bytes) -> None:
    rows = await make(rest, shape=[2])
    assert await detail(await rest.post(f"{rows}:{verb}", data=body, headers={"Content-Type": JSON}), 400)
    assert len(rest.app[SERVER].store.table("items")) == 0


async def test_arrays_of_the_wrong_kind(rest: TestClient) -> None:
    rows = await make(rest, shape=[2])
    for values in (np.zeros((1, 3), "f4"), np.zeros((1, 2), "S4"), np.zeros(2, "f4"), np.zeros((1, 2), "c16")):
        body = write_npz({"ids": np.array([1]), "rows": values})
        assert "items" in await detail(await rest.post(f"{rows}:put", data=body, headers={"Content-Type": NPZ}), 400)
    for form, status in [("text/plain", 415), ("application/x-www-form-urlencoded", 415), (NPY, 400), (NPZ, 400)]:
        assert await detail(await rest.post(f"{rows}:put", data=b"noise", headers={"Content-Type": form}), status)


async def test_dense_tables_bound_their_ids(rest: TestClient) -> None:
    rows = await make(rest, rows=4)
    assert "3" in await detail(await rest.post(f"{rows}:put", json={"ids": [4], "rows": [1]}), 400)
    assert (await ok(await rest.post(f"{rows}:get", json={"ids": [4], "return_found": True})))["found"] == [False]


async def test_a_body_that_is_too_long(rest: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = await make(rest)
    for told in (True, False):

        async def endless():
            for _ in range(70):
                yield bytes(1 << 20)

        headers = {"Content-Type": NPZ, **({"Content-Length": str(65 << 20)} if told else {})}
        try:
            reply = await rest.post(f"{rows}:put", data=endless(), headers=headers)
        except ConnectionError:
            continue  # it was told while it was still sending, and the connection closed
        assert "67108864" in await detail(reply, 413)
    assert await ok(await rest.post(f"{rows}:get", json={"ids": []})) == {"rows": []}


async def test_a_full_pool(start) -> None:
    rest = await start(capacity="32MiB")
    rows = await make(rest, shape=[1024])
    body = {"rows": np.zeros((1024, 1024), "f4")}
    statuses = []
    for first in range(0, 12 * 1024, 1024):
        data = write_npz({"ids": np.arange(first, first + 1024), **body})
        statuses.append((await rest.post(f"{rows}:put", data=data, headers={"Content-Type": NPZ})).status)
    assert statuses[0] == 200 and statuses[-1] == 507
    assert json.loads(await (await rest.post(f"{rows}:get", json={"ids": [0]})).read())["rows"][0][0] == 0.0
    assert await ok(await rest.post(f"{rows}:delete", json={"ids": [0]})) == {"count": 1}


async def test_defaults_of_tables(rest: TestClient) -> None:
    made = await rest.post("/v1/tables", json={"name": "d", "dtype": "f4", "shape": [2], "default": 1.5})
    assert made.status == 201 and (await made.json())["default"] == {"value": 1.5}
    for body, rows in (({"ids": [1]}, [[1.5, 1.5]]), ({"ids": [1], "default": 0}, [[0, 0]])):
        found = await rest.post("/v1/tables/d/rows:get", json=body)
        assert (await found.json())["rows"] == rows
    assert (await rest.post("/v1/tables", json={"name": "e", "dtype": "f4", "default": {"what": 1}})).status == 400


async def test_reads_that_create_rows(rest: TestClient) -> None:
    rows = await make(rest, default={"value": 2, "create": True})
    assert (await rest.post("/v1/snapshots", json={"name": "s"})).status == 201
    assert await ok(await rest.post(f"{rows}:get?at=s", json={"ids": [1]})) == {"rows": [2.0]}
    assert await ok(await rest.post(f"{rows}:get", json={"ids": [1], "default": 0})) == {"rows": [0.0]}
    assert (await ok(await rest.get("/v1/tables/items")))["length"] == 0
    assert await ok(await rest.post(f"{rows}:get", json={"ids": [1]})) == {"rows": [2.0]}
    await ok(await rest.post(f"{rows}:pool", json={"ids": [2], "offsets": [0]}))
    await ok(await rest.post("/v1/rows:get", json={"tables": {"items": [3]}}))
    assert (await ok(await rest.get("/v1/tables/items")))["length"] == 3


async def test_dram_of_tables(rest: TestClient) -> None:
    made = await rest.post("/v1/tables", json={"name": "d", "dtype": "f4", "rows": 5, "dram": "all"})
    assert made.status == 201 and (await made.json())["dram"] == "all"
    for choice, kept in (("64KiB", 65536), (0.5, 0.5), (None, None)):
        told = await rest.patch("/v1/tables/d", json={"dram": choice})
        assert told.status == 200 and (await told.json()).get("dram") == kept
    for body in ({"dram": "much"}, {"dram": [1]}, {"dram": 1, "rows": 5}, {}, "all"):
        assert (await rest.patch("/v1/tables/d", json=body)).status == 400
    assert (await rest.patch("/v1/tables/nosuch", json={"dram": None})).status == 404


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2"])
async def test_short_floats_travel_as_f4(rest: TestClient, name: str) -> None:
    made = await rest.post("/v1/tables", json={"name": "s", "dtype": name, "shape": [2]})
    assert made.status == 201 and (await made.json())["dtype"] == name
    put = await rest.post("/v1/tables/s/rows:put", json={"ids": [1], "rows": [[1.5, -2]]})
    assert put.status == 200, await put.text()
    found = await rest.post("/v1/tables/s/rows:get", json={"ids": [1]})
    assert (await found.json())["rows"] == [[1.5, -2.0]]
    found = await rest.post("/v1/tables/s/rows:get", json={"ids": [1]}, headers={"Accept": NPY})
    array = read_npy(await found.read())
    assert array.dtype == np.float32 and array.tolist() == [[1.5, -2]]


@pytest.mark.parametrize("name", ["int8", "int4", "bfloat16", "f2"])
async def test_rows_as_they_are_stored(rest: TestClient, name: str) -> None:
    for table in ("c", "copy"):
        body = {"name": table, "dtype": "f4", "shape": [4], "codec": name}
        assert (await rest.post("/v1/tables", json=body)).status == 201
    rows, ids = [[0, 0.25, 0.5, 1], [-1, 2, 3, 4]], [1, 2]
    await ok(await rest.post("/v1/tables/c/rows:put", json={"ids": ids, "rows": rows}))
    plain = await ok(await rest.post("/v1/tables/c/rows:get", json={"ids": ids}))
    copied = "/v1/tables/copy/rows"

    stored = await ok(await rest.post("/v1/tables/c/rows:get", json={"ids": ids, "encoded": True}))
    assert stored["rows"] == widened(rest.app[SERVER].store.table("c").get(ids, encoded=True)).tolist()
    await ok(await rest.post(f"{copied}:put", json={"ids": ids, **stored, "encoded": True}))
    assert await ok(await rest.post(f"{copied}:get", json={"ids": ids})) == plain

    scanned = await rest.post("/v1/tables/c/rows:scan?encoded=1", json={}, headers={"Accept": NPZ})
    found = read_npz(await scanned.read(), 1 << 20)
    for form, body in ((NPZ, write_npz(found)), (ARROW, write_arrow(found))):
        await ok(await rest.post(f"{copied}:delete", json={"ids": ids}))
        await ok(await rest.post(f"{copied}:put?encoded=true", data=body, headers={"Content-Type": form}))
        assert await ok(await rest.post(f"{copied}:get", json={"ids": ids})) == plain


async def test_encoded_is_true_or_false(rest: TestClient) -> None:
    rows = await make(rest)
    assert "'encoded'" in await detail(await rest.post(f"{rows}:get", json={"ids": [1], "encoded": 1}), 400)
    assert "'encoded'" in await detail(await rest.post(f"{rows}:get?encoded=yes", json={"ids": [1]}), 400)
    assert await ok(
        await rest.post(f"{rows}:get", json={"ids": [7], "encoded": True})
    )  # no codec: the rows as they are
