"""What the sync client is, and how it sends: against a socket that answers as told."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import redis

import pmkv_client
from pmkv_client import AsyncClient, Client
from tests.unit.client.scripted import Scripted, eager


def test_they_are_redis_clients() -> None:
    client, twin = pmkv_client.connect(), pmkv_client.connect_async()
    assert isinstance(client, redis.Redis) and isinstance(twin, redis.asyncio.Redis)
    for one in (client, twin, Client(), AsyncClient()):
        assert one.connection_pool.connection_kwargs["port"] == 7379
    kwargs = pmkv_client.connect("pmkv://:pw@h:1/5", socket_timeout=9).connection_pool.connection_kwargs
    assert [kwargs[name] for name in ("host", "port", "db", "password", "socket_timeout")] == ["h", 1, 5, "pw", 9]
    assert Client("h", 1, 2).connection_pool.connection_kwargs["db"] == 2


def test_neither_hides_a_method_of_redis() -> None:
    for ours, base in ((Client, redis.Redis), (AsyncClient, redis.asyncio.Redis)):
        public = {name for name in vars(ours) if not name.startswith("_")} - {"from_url", "parse_response", "pipeline"}
        ours_alone = public | {"view_name", "_infos", "_reconnect", "_set_view", "_send_once"}
        assert not ours_alone & (set(dir(base)) | set(vars(base(host="h"))))


def test_an_add_whose_reply_is_lost_is_not_sent_again(scripted: Scripted) -> None:
    with eager(Client, scripted.port) as client:
        items = client.table("items")
        scripted.answers[b"TABLE.ADD"] = scripted.answers[b"TABLE.PUT"] = None
        with pytest.raises(redis.ConnectionError):
            items.add([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.ADD") == 1
        with pytest.raises(redis.ConnectionError):
            items.put([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.PUT") > 1
        del scripted.answers[b"TABLE.ADD"]
        items.add([1], [[1, 2]])


def test_an_error_among_pieces_leaves_the_connection_in_step(scripted: Scripted) -> None:
    rows, ids = np.zeros((1 << 21, 2), "f4"), np.arange(1 << 21)
    with eager(Client, scripted.port) as client:
        items = client.table("items")
        for name, write in ((b"TABLE.PUT", items.put), (b"TABLE.ADD", items.add)):
            scripted.answers[name] = b"-OOM no room\r\n"
            with pytest.raises(redis.ResponseError, match="no room"):
                write(ids, rows)
            assert scripted.seen.count(name) == 2
        assert client.set("a", "b") is True


def test_the_layout_is_asked_once(scripted: Scripted) -> None:
    with eager(Client, scripted.port) as client:
        for _ in range(3):
            client.table("items").put([1], [[1, 2]])
        assert scripted.seen.count(b"TABLE.INFO") == 1
        client.forget("items")
        client.table("items")
        client.forget()
        client.table("items")
        assert scripted.seen.count(b"TABLE.INFO") == 3
        assert client.gather({}) == client.pool({}) == {}


EXISTS = b"-ERR there is a table 'items' already\r\n"
LIST = b"*1\r\n$5\r\nitems\r\n"


def test_a_table_that_exists_is_returned_if_it_is_the_same(scripted: Scripted) -> None:
    scripted.answers |= {b"TABLE.CREATE": EXISTS, b"TABLE.LIST": LIST}
    with eager(Client, scripted.port) as client:
        assert client.create_table("items", ("f4", 2), exist_ok=True).shape == (2,)
        with pytest.raises(redis.ResponseError, match="already"):
            client.create_table("items", ("f4", 2))
        with pytest.raises(redis.ResponseError, match=r"exists with .*\(2,\).*; asked for was .*\(3,\)"):
            client.create_table("items", ("f4", 3), exist_ok=True)
        scripted.answers[b"TABLE.LIST"] = b"*0\r\n"
        with pytest.raises(redis.ResponseError, match="already"):  # any other error of the server
            client.create_table("items", ("f4", 2), exist_ok=True)
        del scripted.answers[b"TABLE.CREATE"]
        assert client.create_table("items", ("f4", 2), exist_ok=True).name == "items"


def test_a_client_pickles_as_its_url_and_settings(scripted: Scripted) -> None:
    made = pmkv_client.connect(f"pmkv://127.0.0.1:{scripted.port}/3", view="canary", protocol=2, client_name="me")
    positional = Client("127.0.0.1", scripted.port, 3, protocol=2, client_name="me", view="canary")
    for client in (made, positional):
        items = client.table("items")
        for other in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client), copy.copy(client)):
            kwargs = other.connection_pool.connection_kwargs
            assert [kwargs[name] for name in ("db", "client_name", "port")] == [3, "me", scripted.port]
            assert type(other) is Client and other.view_name == "canary"
            assert other.connection_pool is not client.connection_pool and other.set("a", "b")
            other.close()
        table = pickle.loads(pickle.dumps(items))
        assert (table.name, table.dtype, table.shape) == ("items", np.dtype("<f4"), (2,))
        client.close()
    with pytest.raises(TypeError, match=r"make it by connect\(url\)"):
        pickle.dumps(Client(connection_pool=redis.ConnectionPool()))
