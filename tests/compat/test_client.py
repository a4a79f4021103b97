"""pmkv-client against a served store: over RESP2 and RESP3, with the results that embedded tables give."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

import pmkv
import pmkv_client
from tests.served import Served, free_port, served

pytestmark = pytest.mark.compat

FEATURES = np.dtype(
    [("price", "<f4"), ("emb", "<f4", (3,)), ("name", "S8"), ("inner", [("a", "<i8")]), ("day", "M8[D]")]
)
DTYPES = ["f4", "f2", "i1", "u8", "?", "S5", "U3", "c8", ("f4", 3), ("f8", 1), FEATURES]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--pool", ":memory:", "--capacity", "1GiB") as running:
        yield running


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request: pytest.FixtureRequest, server: Served) -> Iterator[pmkv_client.Client]:
    with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}", protocol=request.param) as connected:
        for view in set(connected.views()) - {"main"}:
            connected.delete_view(view)
        for name in connected.tables():
            connected.drop_table(name)
        connected.flushall()
        yield connected


@pytest.fixture
def embedded() -> Iterator[pmkv.Store]:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        yield store


def some_rows(dtype: object, count: int, seed: int = 1) -> np.ndarray:
    row = np.dtype(dtype)  # type: ignore[call-overload]
    element, shape = row.subdtype or (row, ())
    rng = np.random.default_rng(seed)
    if element.names:
        rows = np.zeros((count, *shape), element)
        for name in element.names:
            rows[name] = some_rows(element[name], count, seed)
        return rows
    return rng.integers(0, 2, (count, *shape)).astype(element)


def test_newer_rows_as_embedded(client: pmkv_client.Client, embedded: pmkv.Store) -> None:
    row = np.dtype([("at", "i8"), ("price", "f4")])
    for store in (embedded, client):
        table = store.create_table("prices", row)
        assert table.put([1, 2], np.array([(5, 1), (5, 1)], row), newer="at") == 2
        assert table.put([1, 2, 2], np.array([(4, 2), (7, 3), (6, 2)], row), newer="at") == 1
        assert table.get([1, 2]).tolist() == [(5, 1), (7, 3)]


@pytest.mark.parametrize("dense", [None, 1000], ids=["hash", "dense"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[:20])
def test_as_embedded(client: pmkv_client.Client, embedded: pmkv.Store, dtype: object, dense: int | None) -> None:
    ids, asked = np.array([5, 3, 900, 3]), [3, 4, 900]
    rows = some_rows(dtype, len(ids))
    tables = [store.create_table("t", dtype, dense) for store in (embedded, client)]
    for table in tables:
        table.put(ids, rows)
    one, other = tables
    assert (one.dtype, one.shape, one.row_dtype, one.width, one.rows, one.name) == (
        other.dtype, other.shape, other.row_dtype, other.width, other.rows, other.name
    )  # fmt: skip
    assert len(one) == len(other) == 3
    for (got, found), (got_too, found_too) in [[table.get(asked, return_found=True) for table in tables]]:
        assert got.dtype == got_too.dtype and got.shape == got_too.shape
        assert got.tobytes() == got_too.tobytes() and found.tolist() == found_too.tolist() == [True, False, True]
    assert other.contains(asked).tolist() == [True, False, True]
    assert np.concatenate([found for found, _ in other.scan(2)]).size == 3
    assert other.delete([3, 4]) == one.delete([3, 4]) == 1
    assert other.get([]).shape == one.get([]).shape


def test_numbers_as_embedded(client: pmkv_client.Client, embedded: pmkv.Store) -> None:
    rng = np.random.default_rng(2)
    ids, offsets = rng.integers(-20, 20, 50), np.array([0, 10, 10, 45])
    for kind in ("f4", "f8", "i4", "i8"):
        rows = rng.integers(-9, 9, (50, 3)).astype(kind)
        one, other = (store.create_table(f"n{kind}", (kind, 3)) for store in (embedded, client))
        for table in (one, other):
            table.put(ids, rows)
            table.add(ids, rows)
        asked = np.concatenate([ids, [99]])
        assert np.array_equal(one.get(asked, default=7), other.get(asked, default=7))
        for more in ({}, {"mode": "mean"}, {"mode": "max"}, {"weights": rng.random(51).astype("f4")}):
            pooled, pooled_too = one.pool(asked, offsets, **more), other.pool(asked, offsets, **more)
            assert pooled.dtype == pooled_too.dtype and np.array_equal(pooled, pooled_too), (kind, more)


def test_fields_and_defaults(client: pmkv_client.Client) -> None:
    cities = client.create_table("cities", FEATURES)
    cities.put([1], [(1.5, [1, 2, 3], b"Oslo", (7,), "2024-02-03")])
    got = cities.get([1, 2], fields=["name", "price"])
    assert got.dtype.names == ("name", "price") and got.tolist() == [(b"Oslo", 1.5), (b"", 0.0)]
    floats = client.create_table("floats", "f4")
    assert np.isnan(floats.get([1], default=np.nan)).all() and floats.get([1], default=-2.5).tolist() == [-2.5]


def test_several_tables(client: pmkv_client.Client) -> None:
    for name, width in (("users", 2), ("items", 3)):
        client.create_table(name, ("f4", width)).put([1, 2], np.full((2, width), width, "f4"))
    found = client.gather({"items": [1, 9], "users": []})
    assert list(found) == ["items", "users"] and found["items"].tolist() == [[3, 3, 3], [0, 0, 0]]
    assert found["users"].shape == (0, 2)
    pooled = client.pool({"items": ([1, 2], [0]), "users": ([1, 2, 9], [0, 1])}, mode="mean")
    assert pooled["items"].tolist() == [[3, 3, 3]] and pooled["users"].tolist() == [[2, 2], [2, 2]]
    assert set(client.tables()) == {"users", "items"} and client.tables()["items"].shape == (3,)


def test_large_puts_and_gets_are_whole(client: pmkv_client.Client) -> None:
    items = client.create_table("large", ("f4", 1024))
    ids = np.arange(20_000)
    rows = np.random.default_rng(3).standard_normal((len(ids), 1024), dtype="f4")  # 80 MB: ten pieces, two replies
    items.put(ids, rows)
    assert len(items) == len(ids) and np.array_equal(items.get(ids), rows)
    seen = {int(one) for some, _ in items.scan() for one in some}
    assert seen == set(range(len(ids)))
    items.add(ids, rows)
    assert np.array_equal(items.get(ids[::7]), 2 * rows[::7])


def test_rows_are_bytes_also_where_replies_are_decoded(server: Served, client: pmkv_client.Client) -> None:
    url = f"pmkv://127.0.0.1:{server.port}"
    client.create_table("items", ("f4", 2), rows=10).put([1], np.full((1, 2), np.nan, "f4"))
    with pmkv_client.connect(url, decode_responses=True) as decoding:
        decoding.set("a", "é")
        assert decoding.get("a") == "é"
        items = decoding.tables()["items"]
        assert np.isnan(items.get([1])).all() and items.rows == 10 and items.contains([1]).all()
        assert next(items.scan())[0].tolist() == [1]


def test_errors(client: pmkv_client.Client) -> None:
    with pytest.raises(redis.ResponseError, match="nope"):
        client.table("nope")
    client.create_table("items", ("f4", 2), rows=4)
    for wrong in (lambda: client.create_table("items", "f4"), lambda: client.create_table("a b", "f4")):
        with pytest.raises(redis.ResponseError):
            wrong()
    items = client.table("items")
    with pytest.raises(redis.ResponseError, match="dense"):
        items.put([4], [[1, 2]])
    with pytest.raises(redis.ResponseError, match="offsets"):
        items.pool([1], [5])
    with pytest.raises(ValueError, match="shape"):
        items.put([1], [[1, 2, 3]])
    client.drop_table("items")
    with pytest.raises(redis.ResponseError, match="items"):
        items.get([1])
    assert client.ping()


def test_a_table_that_someone_else_made_anew(server: Served, client: pmkv_client.Client) -> None:
    items = client.create_table("items", ("f4", 2))
    with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as other:
        other.drop_table("items")
        other.create_table("items", ("f4", 3)).put([1], [[1, 2, 3]])
    with pytest.raises(pmkv_client.StaleTableError, match="forget"):
        items.get([1])
    client.forget("items")
    assert client.table("items").get([1]).tolist() == [[1, 2, 3]]


# views


def two_rows(value: int) -> np.ndarray:
    return np.full((2, 2), value, "f4")


def test_a_model_is_published_and_undone(client: pmkv_client.Client) -> None:
    items = client.create_table("items", ("f4", 2))
    items.put([1, 2], two_rows(1))
    client.set("session", "a")
    number, _ = client.version
    with client.branch("canary") as canary:
        canary.table("items").put([1, 2], two_rows(2))
        client.set("session", "b")
        assert items.get([1]).tolist() == [[1, 1]] and items.get([1], at="canary").tolist() == [[2, 2]]
        assert canary.table("items").get([1], at="main").tolist() == [[1, 1]]
        client.promote("canary")
        assert items.get([1, 2]).tolist() == two_rows(2).tolist() and client.get("session") == b"b"
        assert client.wait_version(number, timeout=5) == number + 1 == client.version[0]
        client.undo()
        assert items.get([1, 2]).tolist() == two_rows(1).tolist() and client.get("session") == b"b"
        assert canary.table("items").get([1]).tolist() == [[2, 2]]
    with pytest.raises(pmkv_client.NoViewError, match="nothing to undo"):
        client.undo()


def test_snapshots_and_rollbacks(client: pmkv_client.Client) -> None:
    for name in ("items", "users"):
        client.create_table(name, ("f4", 2)).put([1, 2], two_rows(1))
    client.set("a", "1")
    client.snapshot("v1")
    for name in ("items", "users"):
        client.table(name).put([1, 2], two_rows(2))
    client.set("a", "2")
    client.rollback("v1", tables=["items"])
    rows = client.gather({"items": [1], "users": [1]})
    assert rows["items"].tolist() == [[1, 1]] and rows["users"].tolist() == [[2, 2]] and client.get("a") == b"2"
    pooled = client.pool({"users": ([1, 2], [0])}, at="v1")
    assert pooled["users"].tolist() == [[2, 2]]
    client.rollback("v1")
    assert client.get("a") == b"1" and client.table("users").get([1]).tolist() == [[1, 1]]
    with client.view("v1") as old:
        assert old.table("users").get([2]).tolist() == [[1, 1]] and old.get("a") == b"1"
        for write in (lambda: old.set("a", "3"), lambda: old.table("users").put([1], [[3, 3]])):
            with pytest.raises(redis.ReadOnlyError):
                write()


def test_what_is_known_of_views(client: pmkv_client.Client) -> None:
    client.create_table("items", ("f4", 2))
    client.snapshot("v1")
    with client.branch("canary", at="v1") as canary:
        canary.table("items").put([1, 2], two_rows(1))
        found = client.views()
        assert list(found) == ["main", "v1", "canary"]
        assert {name: (info.kind, info.base, info.tables) for name, info in found.items()} == {
            "main": ("main", "", 1), "v1": ("snapshot", "main", 1), "canary": ("branch", "v1", 1)
        }  # fmt: skip
        assert client.view_info("canary") == found["canary"] and found["canary"].writes == 2
        assert found["v1"].created > 1e12 and found["v1"].lsn < found["canary"].lsn
    client.delete_view("v1")
    assert list(client.views()) == ["main", "canary"]
    for unknown in (lambda: client.view_info("v1"), lambda: client.delete_view("v1"), lambda: client.rollback("v1")):
        with pytest.raises(pmkv_client.NoViewError, match="v1"):
            unknown()
    with pytest.raises(redis.ResponseError, match="canary"):
        client.branch("canary")
    with pytest.raises(redis.ResponseError, match="main"):
        client.delete_view("main")


def test_a_conflict_names_what_would_be_lost(client: pmkv_client.Client) -> None:
    items = client.create_table("items", ("f4", 2))
    with client.branch("canary") as canary:
        canary.table("items").put([1], [[1, 1]])
    items.put([2, 3], two_rows(2))
    with pytest.raises(pmkv_client.ConflictError, match="2 writes in items"):
        client.promote("canary")
    client.promote("canary", force=True)
    assert items.contains([1, 2]).tolist() == [True, False]
    items.put([9], [[9, 9]])
    with pytest.raises(pmkv_client.ConflictError, match="items"):
        client.undo()
    client.undo(force=True)
    assert items.contains([1, 2, 9]).tolist() == [False, True, False]


def test_a_client_whose_view_is_deleted(client: pmkv_client.Client) -> None:
    client.create_table("items", ("f4", 2))
    with client.branch("canary") as canary:
        items = canary.table("items")
        items.put([1], [[1, 1]])
        client.delete_view("canary")
        for _ in range(2):
            for asked in (lambda: items.get([1]), lambda: canary.get("a"), lambda: items.add([1], [[1, 1]])):
                with pytest.raises(pmkv_client.NoViewError, match="canary"):
                    asked()
    with client.view("nobody") as nobody, pytest.raises(pmkv_client.NoViewError, match="nobody"):
        nobody.ping()


def test_a_view_outlives_connections(client: pmkv_client.Client) -> None:
    with client.branch("canary") as canary:
        canary.set("where", "canary")
        client.set("where", "main")
        canary.connection_pool.disconnect()
        assert canary.get("where") == b"canary" and canary.view_name == "canary"
        with canary.pipeline() as pipe:  # MULTI and EXEC
            assert pipe.get("where").set("more", "x").execute() == [b"canary", True]
    assert client.get("where") == b"main" and client.get("more") is None


def test_a_table_of_another_layout_in_another_view(client: pmkv_client.Client) -> None:
    client.create_table("items", ("f4", 2)).put([1], [[1, 1]])
    client.snapshot("v1")
    with client.branch("canary") as canary:
        canary.drop_table("items")
        canary.create_table("items", ("i4", 2)).put([1], [[7, 8]])
        assert client.table("items").get([1], at="canary").tolist() == [[7, 8]]
        assert canary.gather({"items": [1]}, at="v1")["items"].tolist() == [[1.0, 1.0]]
        client.promote("canary")
    now = client.table("items").get([1])
    assert now.dtype == "i4" and now.tolist() == [[7, 8]]
    assert [rows.tolist() for _, rows in client.table("items").scan(at="v1")] == [[[1.0, 1.0]]]


def test_no_promote_is_missed(client: pmkv_client.Client) -> None:
    client.create_table("items", ("f4", 2))
    seen, number = [], client.version[0]

    def follow() -> None:
        known = number
        while known < number + 3:
            known = client.wait_version(known, timeout=10)
            seen.append(known)

    follower = threading.Thread(target=follow)
    follower.start()
    for name in ("a", "b", "c"):
        with client.branch(name) as branch:
            branch.table("items").put([1], [[1, 1]])
        client.promote(name)
    follower.join(20)
    assert not follower.is_alive() and seen[-1] == number + 3 and seen == sorted(set(seen))


@pytest.mark.parametrize("protocol", [2, 3])
async def test_views_awaited(server: Served, protocol: int) -> None:
    async with pmkv_client.connect_async(f"pmkv://127.0.0.1:{server.port}", protocol=protocol) as client:
        for view in set(await client.views()) - {"main"}:
            await client.delete_view(view)
        for name in await client.tables():
            await client.drop_table(name)
        items = await client.create_table("items", ("f4", 2))
        await items.put([1], [[1, 1]])
        await client.snapshot("v1")
        number, _ = await client.version()
        following = asyncio.create_task(client.wait_version(number, timeout=10))
        async with await client.branch("canary") as canary:
            await canary.table("items").put([1], [[2, 2]])
            assert (await items.get([1], at="canary")).tolist() == [[2, 2]]
            await client.promote("canary")
        assert await following == number + 1
        assert (await items.get([1])).tolist() == [[2, 2]]
        await items.put([1], [[3, 3]])
        with pytest.raises(pmkv_client.ConflictError, match="items"):
            await client.undo()
        await client.undo(force=True)
        await client.rollback("v1", tables=["items"], keys=False)
        assert (await client.gather({"items": [1]}, at="v1"))["items"].tolist() == [[1, 1]]
        assert (await client.view_info("v1")).kind == "snapshot"
        async with client.view("v1") as old:
            with pytest.raises(redis.ReadOnlyError):
                await old.set("a", "b")
            await client.delete_view("v1")
            with pytest.raises(pmkv_client.NoViewError):
                await old.get("a")


# the rest


@pytest.mark.parametrize("protocol", [2, 3])
async def test_awaited(server: Served, protocol: int) -> None:
    async with pmkv_client.connect_async(f"pmkv://127.0.0.1:{server.port}", protocol=protocol) as client:
        await client.set("a", "b")
        for name in await client.tables():
            await client.drop_table(name)
        items = await client.create_table("items", dtype=("f4", 2), rows=100)
        info = await items.info()
        assert (info.shape, info.rows, info.width) == ((2,), 100, 8)
        rows = np.arange(20, dtype="f4").reshape(10, 2)
        await items.put(np.arange(10), rows)
        await items.add([1, 1], [[1, 1], [1, 1]])
        assert (await items.get([0, 1, 50])).tolist() == [[0, 1], [4, 5], [0, 0]]
        got, found = await items.get([50], default=3, return_found=True)
        assert got.tolist() == [[3, 3]] and not found.any()
        assert (await items.contains([9, 10])).tolist() == [True, False]
        assert (await items.pool([2, 3], [0], mode="max")).tolist() == [[6, 7]]
        assert sorted([int(one) async for ids, _ in items.scan(3) for one in ids]) == list(range(10))
        assert await items.delete([0, 99]) == 1 and await items.length() == 9
        assert (await client.gather({"items": [2]}))["items"].tolist() == [[4, 5]]
        assert (await client.pool({"items": ([2, 3], [0])}))["items"].tolist() == [[10, 12]]
        many = await asyncio.gather(*(items.get([i]) for i in range(1, 10)))
        assert np.array_equal(np.concatenate(many)[1:], rows[2:])
        wide = await client.create_table("wide", ("f4", 1024))
        await wide.put(np.arange(5000), np.ones((5000, 1024), "f4"))
        await wide.add(np.arange(5000), np.ones((5000, 1024), "f4"))
        assert (await wide.get(np.arange(5000)) == 2).all()
        await client.drop_table("wide")
        with pytest.raises(redis.ResponseError, match="wide"):
            await wide.get([1])


def test_with_a_password() -> None:
    with served("--pool", ":memory:", "--capacity", "256MiB", PMKV_PASSWORD="p@ss") as server:
        with pmkv_client.connect(f"pmkv://:p%40ss@127.0.0.1:{server.port}") as client:
            assert client.create_table("items", "f4").get([1]).tolist() == [0]
        with (
            pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.table("items")


def test_a_branch_goes_on_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    options = ("--data", str(tmp_path / "data"), "--capacity", "256MiB", "--port", str(port))
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client:
        with served(*options) as server:
            client.create_table("items", "f4").put([1], [1])
            canary = client.branch("canary")
            canary.table("items").put([1], [2])
            server.kill()
        with served(*options), canary:
            assert canary.table("items").get([1]).tolist() == [2] and client.table("items").get([1]).tolist() == [1]
            client.promote("canary")
            assert client.table("items").get([1]).tolist() == [2]


def test_what_was_acknowledged_is_found_after_a_kill(tmp_path: Path) -> None:
    options = ("--data", str(tmp_path / "data"), "--capacity", "256MiB")
    rows = np.arange(64_000, dtype="f4").reshape(1000, 64)
    with served(*options) as server:
        with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as client:
            client.create_table("items", ("f4", 64)).put(np.arange(1000), rows)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with served(*options) as server, pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as client:
        assert np.array_equal(client.table("items").get(np.arange(1000)), rows)


def test_arrays_as_people_have_them(client: pmkv_client.Client, embedded: pmkv.Store) -> None:
    ids = np.arange(40_000, dtype=np.uint32).reshape(200, 200)
    rows = np.random.default_rng(1).random((200, 200, 16), np.float32)
    places = {"id": [7, 9], "price": [1.5, 2.5], "name": ["Zoë", "b"]}
    for store in (embedded, client):
        items = store.create_table("items", ("f4", 16))
        items.put(ids, rows)
        out = np.empty_like(rows)
        assert items.get(ids, out=out) is out and np.array_equal(out, rows)
        assert np.array_equal(items.get(ids.T), rows.transpose(1, 0, 2))
        assert np.array_equal(store.gather({"items": ids[:2, :3]})["items"], rows[:2, :3])
        named = store.create_table("places", [("price", "f4"), ("name", "S8")])
        named.put([7, 9], places)
        assert named.get([9], as_="arrow").to_pylist() == [{"price": 2.5, "name": b"b"}]
        assert items.ids_of(["user:1"]).tolist() == [1304368944307141588]
        assert store.table("items.keys").get([1304368944307141588]).tolist() == [b"user:1"]
    assert client.table("items").count() == 40_000


async def test_arrays_as_people_have_them_awaited(server: Served) -> None:
    async with pmkv_client.connect_async(f"pmkv://127.0.0.1:{server.port}") as client:
        items = await client.create_table("awaited", ("f4", 16), exist_ok=True)
        ids = np.arange(4000).reshape(2, 2000)
        await items.put(ids, np.ones((2, 2000, 16)))
        out = np.zeros((2, 2000, 16), "f4")
        assert await items.get(ids, out=out) is out and out.all() and await items.count() == 4000
        assert (await items.ids_of(["user:1"])).tolist() == [1304368944307141588]
        await client.drop_table("awaited")


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_short_floats(client: pmkv_client.Client, embedded: pmkv.Store, name: str) -> None:
    rows = np.array([[1, -2.5], [0.125, 24]], "f4")
    for store in (embedded, client):
        table = store.create_table("t", (name, 2), default={"normal": (0, 1), "seed": 3})
        table.put([1, 2], rows)
        assert table.dtype.name == name and table.row_dtype.shape == (2,)
        assert table.get([2, 1]).astype("f4").tolist() == rows[::-1].tolist()
        assert table.pool([1, 2], [0]).tolist() == [[1.125, 21.5]] and table.pool([1], [0]).dtype == np.float32
    one, other = embedded.table("t"), client.table("t")
    assert one.get([5, 6]).tobytes() == other.get([5, 6]).tobytes()
    assert client.create_table("t", (name, 2), exist_ok=True, default={"normal": (0, 1), "seed": 3}).dtype.name == name
    with pytest.raises(ValueError, match="does not fit"):
        other.put([1], [[1e39, 0]])
