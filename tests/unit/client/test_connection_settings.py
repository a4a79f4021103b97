"""What is said of views, on which connection, and what the replies become: against a socket that answers as told."""

from __future__ import annotations

import inspect

import pytest
import redis
from redis.exceptions import ResponseError

import pmkv_client
from pmkv_client import AsyncClient, Client, ConflictError, NoViewError, connection_settings
from pmkv_client import requests as protocol
from tests.unit.client.scripted import Scripted, eager


def words(work: protocol.Request) -> str:
    [call] = work.calls
    return " ".join(map(str, call))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (protocol.snapshot("v1"), "SNAPSHOT.CREATE v1"),
        (protocol.rollback("v1"), "SNAPSHOT.ROLLBACK v1"),
        (protocol.rollback("v1", ["a", "b"]), "SNAPSHOT.ROLLBACK v1 TABLES 2 a b"),
        (protocol.rollback("v1", ["a"], True), "SNAPSHOT.ROLLBACK v1 TABLES 1 a KEYS yes"),
        (protocol.branch("b"), "BRANCH.CREATE b AT main"),
        (protocol.branch("b", "v1"), "BRANCH.CREATE b AT v1"),
        (protocol.promote("b"), "BRANCH.PROMOTE b"),
        (protocol.promote("b", [], False, force=True), "BRANCH.PROMOTE b TABLES 0 KEYS no FORCE"),
        (protocol.undo(), "VIEW.UNDO"),
        (protocol.undo(force=True), "VIEW.UNDO FORCE"),
        (protocol.delete_view("v1"), "VIEW.DELETE v1"),
        (protocol.wait_version(3, 0.25), "VIEW.WAIT 3 250"),
        (protocol.wait_version(3, -1.0), "VIEW.WAIT 3 1"),
    ],
)
def test_what_is_said(work: protocol.Request, said: str) -> None:
    assert words(work) == said
    assert work.once == (not said.startswith("VIEW.WAIT"))


def test_a_name_is_no_list_of_names() -> None:
    with pytest.raises(ValueError, match=r"give a list of names: \['items'\]"):
        protocol.promote("b", tables="items")


@pytest.mark.parametrize("kind", [list, dict])
def test_what_is_known_of_a_view(kind: type) -> None:
    fields = {b"name": b"v1", b"kind": b"snapshot", b"lsn": 7, b"created": 9, b"base": b"main", b"tables": 2}
    fields |= {b"writes": 0, b"more": b"later"}
    reply = fields if kind is dict else [part for pair in fields.items() for part in pair]
    info = protocol.parse_view_info(reply)
    assert info == pmkv_client.ViewInfo("v1", "snapshot", 7, 9, "main", 2, 0)
    assert info.asdict()["base"] == "main"


def test_errors_have_a_class_of_their_own() -> None:
    for code, kind in (("NOVIEW", NoViewError), ("CONFLICT", ConflictError)):
        error = protocol.specific_error(ResponseError(f"{code} what was wrong"))
        assert type(error) is kind and str(error) == "what was wrong"
    other = ResponseError("ERR NOVIEW")
    assert protocol.specific_error(other) is other


def test_reads_of_another_view(scripted: Scripted) -> None:
    one, four = b"$8\r\n" + bytes(8) + b"\r\n", b"*1\r\n$8\r\n" + bytes(8) + b"\r\n"
    scripted.answers |= {b"TABLE.GET": one, b"TABLE.POOL": one, b"TABLE.MGET": four, b"TABLE.MPOOL": four}
    scripted.answers |= {b"TABLE.EXISTS": b"$1\r\n\1\r\n", b"TABLE.SCAN": b"*3\r\n:0\r\n$0\r\n\r\n$0\r\n\r\n"}
    with eager(Client, scripted.port) as client:
        items = client.table("items")
        items.get([1], 2.0, at="v1")
        items.pool([1], [0], at="v1")
        items.contains([1], at="v1")
        list(items.scan(at="v1"))
        client.gather({"items": [1]}, at="v1")
        client.pool({"items": ([1], [0])}, "mean", at="v1")
    assert [words[-2:] for words in scripted.said[1:]] == [[b"AT", b"v1"]] * 7
    assert scripted.seen.count(b"TABLE.INFO") == 2  # there it may be laid out otherwise, which is asked once


async def test_awaited_reads_of_another_view(scripted: Scripted) -> None:
    scripted.answers[b"TABLE.GET"] = b"$8\r\n" + bytes(8) + b"\r\n"
    async with eager(AsyncClient, scripted.port) as client:
        items = client.table("items")
        assert (await items.get([1], at="v1")).tolist() == [[0, 0]]
        await items.get([1])
    assert [words[-1] for words in scripted.said[:3]] == [b"v1", b"v1", b"LAYOUT"]


def test_every_connection_stands_on_the_view(scripted: Scripted) -> None:
    with eager(Client, scripted.port, view="canary") as client:
        connections = [client.connection_pool.get_connection() for _ in range(3)]
        for connection in connections:
            client.connection_pool.release(connection)
        assert scripted.used == [b"canary"] * 3
        connections[0].disconnect()
        connections[0].connect()
        with client.pipeline(transaction=False) as pipe:
            pipe.set("a", "b").execute()
        assert set(scripted.used) == {b"canary"} and len(scripted.used) == 4
        assert client.view_name == "canary"


def test_a_server_that_hung_up_is_told_again(scripted: Scripted) -> None:
    with eager(Client, scripted.port, view="canary") as client:
        client.set("a", "b")
        scripted.answers[b"SET"] = None
        with pytest.raises(redis.ConnectionError):
            client.set("a", "b")
        del scripted.answers[b"SET"]
        client.set("a", "b")
        assert len(scripted.used) >= 2 and set(scripted.used) == {b"canary"}


async def test_awaited_every_connection_too(scripted: Scripted) -> None:
    async with eager(AsyncClient, scripted.port, view="canary") as client:
        connections = [await client.connection_pool.get_connection() for _ in range(3)]
        await connections[0].disconnect()
        await connections[0].connect()
        for connection in connections:
            await client.connection_pool.release(connection)
        assert scripted.used == [b"canary"] * 4


def test_main_needs_no_saying(scripted: Scripted) -> None:
    with eager(Client, scripted.port) as client:
        client.set("a", "b")
    assert scripted.said == [] and client.view_name == "main"


def test_what_was_to_be_done_on_connecting_is_done(scripted: Scripted) -> None:
    done = []

    def first(connection: redis.Connection) -> None:
        connection.on_connect()
        done.append(scripted.used[-1])

    with eager(Client, scripted.port, view="canary", redis_connect_func=first) as client:
        client.set("a", "b")
    assert done == [b"main"] and scripted.used == [b"canary"]


@pytest.mark.parametrize("awaited", [True, False])
async def test_awaited_or_not(scripted: Scripted, awaited: bool) -> None:
    done = []

    async def first(connection: redis.asyncio.Connection) -> None:
        await connection.on_connect()
        done.append(scripted.used[-1])

    def plainly(connection: redis.asyncio.Connection) -> object:
        return first(connection)

    use = first if awaited else plainly
    async with eager(AsyncClient, scripted.port, view="canary", redis_connect_func=use) as client:
        await client.set("a", "b")
    assert done == [b"main"] and scripted.used == [b"canary"]


def test_a_view_that_is_gone(scripted: Scripted) -> None:
    scripted.answers[b"VIEW.USE"] = b"-NOVIEW there is no view 'canary'\r\n"
    with eager(Client, scripted.port, view="canary") as client:
        for _ in range(2):
            with pytest.raises(NoViewError, match="there is no view 'canary'"):
                client.get("a")
        scripted.answers |= {b"VIEW.USE": b"+OK\r\n", b"TABLE.ADD": b"-NOVIEW gone\r\n", b"GET": b"-NOVIEW gone\r\n"}
        for asked in (lambda: client.get("a"), lambda: client.table("items").add([1], [[1, 2]])):
            with pytest.raises(NoViewError, match="gone"):
                asked()
        assert client.set("a", "b") is True


async def test_awaited_a_view_that_is_gone(scripted: Scripted) -> None:
    scripted.answers[b"VIEW.USE"] = b"-NOVIEW there is no view 'canary'\r\n"
    async with eager(AsyncClient, scripted.port, view="canary") as client:
        with pytest.raises(NoViewError, match="there is no view 'canary'"):
            await client.get("a")
        scripted.answers |= {b"VIEW.USE": b"+OK\r\n", b"GET": b"-NOVIEW gone\r\n"}
        with pytest.raises(NoViewError, match="gone"):
            await client.get("a")
        assert await client.set("a", "b") is True


@pytest.mark.parametrize("how", ["url", "arguments"])
def test_a_client_of_another_view_has_the_settings(scripted: Scripted, how: str) -> None:
    settings = {"protocol": 2, "socket_timeout": 9.0, "client_name": "me"}
    if how == "url":
        client = pmkv_client.connect(f"pmkv://127.0.0.1:{scripted.port}/3", **settings)
    else:
        client = Client("127.0.0.1", scripted.port, 3, view="other", **settings)
    with client, client.branch("canary", at="v1") as branch, branch.view("main") as back:
        assert scripted.said[-1] == [b"BRANCH.CREATE", b"canary", b"AT", b"v1"]
        assert (client.view_name, branch.view_name, back.view_name) == (client.view_name, "canary", "main")
        for one in (branch, back):
            assert type(one) is Client and one.connection_pool is not client.connection_pool
            kwargs = one.connection_pool.connection_kwargs
            assert [kwargs[name] for name in ("db", *settings)] == [3, *settings.values()]
        branch.set("a", "b")
        back.set("a", "b")
        assert scripted.used[-2:] == [b"canary", b"main"]


async def test_awaited_a_client_of_another_view(scripted: Scripted) -> None:
    url = f"pmkv://127.0.0.1:{scripted.port}/3"
    async with pmkv_client.connect_async(url, protocol=2) as client, await client.branch("canary") as branch:
        await branch.set("a", "b")
        assert scripted.used == [b"main", b"canary"]
        async with branch.view("v1") as other:
            await other.set("a", "b")
        assert type(other) is AsyncClient and other.connection_pool.connection_kwargs["db"] == 3
        assert scripted.used[-1] == b"v1"


def test_a_pool_from_elsewhere() -> None:
    pool = redis.ConnectionPool()
    with pytest.raises(ValueError, match="leave connection_pool out"):
        Client(connection_pool=pool, view="canary")
    for made in (Client(connection_pool=pool), Client.from_pool(pool), AsyncClient(connection_pool=pool)):
        with pytest.raises(ValueError, match="view="):
            made.view("canary")


def test_a_promote_whose_reply_is_lost_is_not_sent_again(scripted: Scripted) -> None:
    with eager(Client, scripted.port) as client:
        client.table("items")
        scripted.answers[b"BRANCH.PROMOTE"] = None
        with pytest.raises(redis.ConnectionError):
            client.promote("canary")
        assert scripted.seen.count(b"BRANCH.PROMOTE") == 1
        scripted.answers[b"BRANCH.PROMOTE"] = b"-CONFLICT main has 3 writes\r\n"
        with pytest.raises(ConflictError, match=r"^main has 3"):
            client.promote("canary")
        client.table("items")
        assert scripted.seen.count(b"TABLE.INFO") == 1
        del scripted.answers[b"BRANCH.PROMOTE"]
        for change in (lambda: client.promote("canary"), lambda: client.rollback("v1"), lambda: client.undo()):
            asked = scripted.seen.count(b"TABLE.INFO")
            change()
            client.table("items")
            assert scripted.seen.count(b"TABLE.INFO") == asked + 1


IN_TIME, TOO_LATE = b"*2\r\n:3\r\n:99\r\n", b"*-1\r\n"


def test_waiting_asks_in_turns(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_settings, "VIEW_WAIT_S", 0.01)
    scripted.answers[b"VIEW.WAIT"] = TOO_LATE
    with eager(Client, scripted.port) as client:
        client.table("items")
        assert client.wait_version(2, timeout=0.05) == client.wait_version(2, timeout=0) == 2
        assert scripted.seen.count(b"VIEW.WAIT") >= 3
        client.table("items")
        assert scripted.seen.count(b"TABLE.INFO") == 1
        scripted.answers[b"VIEW.WAIT"] = IN_TIME
        assert client.wait_version(2) == client.wait_version(1, timeout=9) == 3
        client.table("items")
        assert scripted.seen.count(b"TABLE.INFO") == 2


def test_no_turn_outlasts_the_wait_for_a_reply(scripted: Scripted) -> None:
    scripted.answers[b"VIEW.WAIT"] = IN_TIME
    for seconds, said in ((0.5, b"250"), (None, b"2000"), (60.0, b"2000")):
        with eager(Client, scripted.port, socket_timeout=seconds) as client:
            client.wait_version(2)
        assert scripted.said[-1] == [b"VIEW.WAIT", b"2", said]


async def test_awaiting_a_version(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_settings, "VIEW_WAIT_S", 0.01)
    scripted.answers[b"VIEW.WAIT"] = TOO_LATE
    async with eager(AsyncClient, scripted.port) as client:
        assert await client.wait_version(2, timeout=0.03) == 2
        scripted.answers[b"VIEW.WAIT"] = IN_TIME
        assert await client.wait_version(2) == 3


def test_twins_have_the_same_arguments() -> None:
    for name in (
        "snapshot",
        "rollback",
        "branch",
        "promote",
        "undo",
        "views",
        "view_info",
        "delete_view",
        "wait_version",
    ):
        ours, awaited = inspect.signature(getattr(Client, name)), inspect.signature(getattr(AsyncClient, name))
        assert ours.parameters == awaited.parameters, name


@pytest.mark.skipif(not hasattr(redis, "DriverInfo"), reason="this redis-py knows its version without looking it up")
def test_redis_py_looks_its_version_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (Client, AsyncClient, pmkv_client.connect, pmkv_client.connect_async):
        make()
        with monkeypatch.context() as patched:
            patched.setattr("redis.utils.get_lib_version", None)
            made = make().connection_pool.make_connection()
        assert made.driver_info.lib_version == redis.__version__
    own = redis.DriverInfo("mine", "1")
    assert Client(driver_info=own).connection_pool.make_connection().driver_info is own
    assert Client(driver_info=None).connection_pool.make_connection().driver_info is None
    assert "driver_info" not in connection_settings.connection_settings(None, "main", {"lib_name": "mine"})
