"""pmkv-client against a served store: over RESP2 and RESP3, with the results that embedded tables give."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

import pmkv
import pmkv_client
from tests.served import Served, served

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
        for name in connected.tables():
            connected.drop_table(name)
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
