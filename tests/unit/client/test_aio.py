"""The client for asyncio against a socket that answers as told; and tables of both clients have the embedded face."""

from __future__ import annotations

import asyncio
import inspect
import pickle

import pytest
import redis

import pmkv
import pmkv_client
from pmkv_client import AsyncClient, AsyncTable, Table
from tests.unit.client.scripted import Scripted, eager

METHODS = ["put", "add", "get", "changes", "contains", "delete", "ids_of", "pool", "scan"]
READS = ["get", "changes", "contains", "ids_of", "pool", "scan"]
ATTRIBUTES = ["name", "id", "dtype", "shape", "row_dtype", "width", "rows"]


def parameters(function: object) -> list[tuple[str, object]]:
    return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_arguments_are_those_of_the_embedded_table(name: str) -> None:
    """Reads may be of another view, for which the embedded table has `store.view(name).table(...)`."""
    embedded = parameters(getattr(pmkv.Table, name)) + ([("at", None)] if name in READS else [])
    assert parameters(getattr(Table, name)) == embedded
    assert parameters(getattr(AsyncTable, name)) == embedded


@pytest.mark.parametrize("name", METHODS)
def test_the_twin_is_awaited(name: str) -> None:
    method = getattr(AsyncTable, name)
    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def test_what_describes_a_table() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        embedded = store.create_table("items", ("f4", 2))
        for name in ATTRIBUTES:
            assert hasattr(embedded, name) and isinstance(getattr(Table, name), property)


async def test_an_awaited_add_neither(scripted: Scripted) -> None:
    async with eager(AsyncClient, scripted.port) as client:
        items = client.table("items")
        scripted.answers[b"TABLE.ADD"] = None
        with pytest.raises(redis.ConnectionError):
            await items.add([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.ADD") == 1
        del scripted.answers[b"TABLE.ADD"]
        await items.add([1], [[1, 2]])


async def test_the_layout_is_asked_once_awaited(scripted: Scripted) -> None:
    async with eager(AsyncClient, scripted.port) as client:
        items = client.table("items")
        assert scripted.seen == []
        await asyncio.gather(*(items.put([1], [[1, 2]]) for _ in range(3)))
        asked = scripted.seen.count(b"TABLE.INFO")
        await items.put([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.INFO") == asked


def test_the_length_is_awaited() -> None:
    table = pmkv_client.connect_async().table("items")
    with pytest.raises(RuntimeError, match=r"await table.count\(\)"):
        len(table)
    assert table and pickle.loads(pickle.dumps(table)).name == "items"


async def test_a_table_that_exists_is_returned_if_it_is_the_same(scripted: Scripted) -> None:
    scripted.answers[b"TABLE.CREATE"] = b"-ERR there is a table 'items' already\r\n"
    scripted.answers[b"TABLE.LIST"] = b"*1\r\n$5\r\nitems\r\n"
    async with eager(AsyncClient, scripted.port) as client:
        assert (await client.create_table("items", ("f4", 2), exist_ok=True)).name == "items"
        with pytest.raises(redis.ResponseError, match="already"):
            await client.create_table("items", ("f4", 2))
        with pytest.raises(redis.ResponseError, match="asked for was"):
            await client.create_table("items", ("f4", 2), rows=7, exist_ok=True)


async def test_a_client_pickles_as_its_url_and_settings(scripted: Scripted) -> None:
    url = f"pmkv://127.0.0.1:{scripted.port}/3"
    async with pmkv_client.connect_async(url, view="canary", protocol=2) as client:
        async with pickle.loads(pickle.dumps(client)) as other:
            assert await other.set("a", "b") and other.view_name == "canary"
            assert type(other) is AsyncClient and other.connection_pool.connection_kwargs["db"] == 3
