"""SNAPSHOT.*, BRANCH.*, VIEW.*: what they do to the view in use, their options, and what a view refuses."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pmkv_server.commands import find
from pmkv_server.commands.execution import is_heavy
from pmkv_server.net.connection import IDLE
from tests.unit.server.stand import Client, Gate, Stub, settled, until


def ids(*numbers: int) -> bytes:
    return np.array(numbers, "<i8").tobytes()


def row(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def info(client: Client, *words: str) -> dict[str, Any]:
    """VIEW.INFO, as a dict."""
    kind, flat = client("VIEW.INFO", *words)
    assert kind == "*", flat
    values = [int(value) if kind == ":" else value.decode() for kind, value in flat]
    return dict(zip(values[::2], values[1::2]))


def test_a_snapshot_and_back(client: Client) -> None:
    client.follows("""
        SET a 1 => OK
        SNAPSHOT.CREATE v1 => OK
        SET a 2 => OK
        SET b 2 => OK
        SNAPSHOT.ROLLBACK v1 => OK
        SNAPSHOT.ROLLBACK v1 => OK, nothing changed: the view has that state already; `undo` is what it was
        MGET a b => ["1", nil]
        VIEW.UNDO => OK
        MGET a b => ["2", "2"]
    """)


def test_a_branch_is_written_and_promoted(client: Client, another: Client) -> None:
    client.follows("""
        SET a 1 => OK
        BRANCH.CREATE next => OK
        VIEW.USE next => OK
        GET a => "1"
        SET a 2 => OK
        MSET b 2 c 2 => OK
        DEL c => :1
        DBSIZE => :2
    """)
    another.follows("""
        MGET a b => ["1", nil]
        BRANCH.PROMOTE next => OK
        MGET a b => ["2", "2"]
        VIEW.UNDO => OK
        MGET a b => ["1", nil]
    """)
    assert client.says("GET a") == '"2"'


def test_the_view_in_use_is_the_one_that_is_cut(client: Client) -> None:
    client.follows("""
        SET a 1 => OK
        BRANCH.CREATE b => OK
        VIEW.USE b => OK
        SET a 2 => OK
        SNAPSHOT.CREATE of_b => OK
        BRANCH.CREATE under_b => OK
        BRANCH.CREATE under_main AT main => OK
        SET a 3 => OK
        SNAPSHOT.ROLLBACK of_b => OK
        GET a => "2"
        VIEW.USE under_b => OK
        GET a => "2"
        VIEW.USE under_main => OK
        GET a => "1"
        VIEW.USE of_b => OK
        GET a => "2"
        VIEW.USE main => OK
        GET a => "1"
        VIEW.LIST => ["main", "b", "of_b", "under_b", "under_main"]
    """)


def test_info(client: Client) -> None:
    client.says("TABLE.CREATE t DTYPE f4")
    client.says("SNAPSHOT.CREATE v1")
    client.says("BRANCH.CREATE b AT v1")
    client.says("VIEW.USE b")
    client.says("SET a 1")
    found = info(client)
    assert (found["name"], found["kind"], found["base"], found["tables"]) == ("b", "branch", "v1", 1)
    assert found["lsn"] > 0 and found["created"] > 0
    assert (info(client, "v1")["kind"], info(client, "v1")["writes"]) == ("snapshot", 0)
    assert (info(client, "main")["version"], info(client, "main")["version_lsn"]) == (0, 0)
    client.says("BRANCH.PROMOTE b")
    assert (info(client)["version"], info(client, "main")["version_lsn"] > found["lsn"]) == (1, True)
    client.session.protocol = 3
    assert client("VIEW.INFO")[0] == "%"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("VIEW.USE none", "-NOVIEW "),
        ("VIEW.INFO none", "-NOVIEW "),
        ("VIEW.DELETE none", "-NOVIEW "),
        ("SNAPSHOT.ROLLBACK none", "-NOVIEW "),
        ("BRANCH.PROMOTE none", "-NOVIEW "),
        ("BRANCH.CREATE b AT none", "-NOVIEW "),
        ("TABLE.GET t 12345678 AT none", "-NOVIEW "),
        ("TABLE.LIST AT none", "-NOVIEW "),
        ("VIEW.UNDO", "-NOVIEW there is nothing to undo"),
        ("VIEW.DELETE main", "-ERR "),
        ("SNAPSHOT.CREATE main", "-ERR "),
        ("SNAPSHOT.CREATE -no", "-ERR "),
        ("SNAPSHOT.CREATE v1", "-ERR "),
        ("SNAPSHOT.CREATE", "-ERR wrong number of arguments for 'snapshot.create' command"),
        ("SNAPSHOT.ROLLBACK v1 FORCE", "-ERR syntax error near 'FORCE'"),
        ("SNAPSHOT.ROLLBACK v1 TABLES 2 t", "-ERR TABLES takes a count and that many names"),
        ("SNAPSHOT.ROLLBACK v1 TABLES x t", "-ERR TABLES takes a count and that many names"),
        ("SNAPSHOT.ROLLBACK v1 KEYS maybe", "-ERR syntax error near 'KEYS'"),
        ("SNAPSHOT.ROLLBACK v1 KEYS", "-ERR syntax error near 'KEYS'"),
        ("BRANCH.PROMOTE b NOW", "-ERR syntax error near 'NOW'"),
        ("BRANCH.CREATE b AT", "-ERR syntax error near 'AT'"),
        ("VIEW.UNDO NOW", "-ERR syntax error near 'NOW'"),
        ("VIEW.UNDO TABLES 1 t", "-ERR syntax error near 'TABLES'"),
        ("VIEW.UNDO FORCE FORCE", "-ERR syntax error near 'FORCE'"),
        ("VIEW.INFO a b", "-ERR syntax error"),
        ("VIEW.TRACK maybe", "-ERR syntax error"),
        ("VIEW.TRACK on", "-ERR VIEW.TRACK needs RESP3"),
        ("VIEW.WAIT x 1", "-ERR version is not an integer or out of range"),
        ("VIEW.WAIT -1 1", "-ERR version is not an integer or out of range"),
        ("VIEW.WAIT 0 x", "-ERR timeout is not an integer or out of range"),
        ("VIEW.WAIT 0 -1", "-ERR timeout is negative"),
        ("TABLE.LEN t BY x", "-ERR syntax error near 'BY'"),
        ("TABLE.LEN t AT", "-ERR syntax error near 'AT'"),
    ],
)
def test_what_is_refused(line: str, said: str, client: Client) -> None:
    client.says("TABLE.CREATE t DTYPE f4")
    client.says("SNAPSHOT.CREATE v1")
    client.says("VIEW.DELETE undo")
    assert client.says(line).startswith(said), client.says(line)


WRITES = [
    "SET a 2", "MSET a 2", "DEL a", "APPEND a x", "INCR n", "EXPIRE a 100", "RENAME a b", "COPY a b", "FLUSHDB",
    "FLUSHALL", "SETEX a 100 x", "TABLE.CREATE u DTYPE f4", "TABLE.DROP t", "TABLE.DEL t 12345678",
    "TABLE.PUT t 12345678 1234", "TABLE.ADD t 12345678 1234",
]  # fmt: skip


@pytest.mark.parametrize("line", WRITES)
def test_a_snapshot_is_read_only(line: str, client: Client) -> None:
    client.says("SET a 1")
    client.says("TABLE.CREATE t DTYPE f4")
    client.says("TABLE.PUT t 12345678 1234")
    client.says("SNAPSHOT.CREATE v1")
    client.says("VIEW.USE v1")
    assert client.says(line).startswith("-READONLY "), client.says(line)
    client.follows("""
        MULTI => OK
        GET a => QUEUED
        EXEC => ["1"]
    """)


def test_who_uses_a_deleted_view_is_told_so(client: Client, another: Client) -> None:
    client.says("TABLE.CREATE t DTYPE f4")
    client.says("BRANCH.CREATE b")
    client.says("VIEW.USE b")
    assert another.says("VIEW.DELETE b") == "OK"
    reads = ["GET a", "MGET a b", "DBSIZE", "KEYS *", "SCAN 0", "TABLE.LEN t", "TABLE.LIST", "SELECT 1", "VIEW.INFO"]
    for line in [*reads, *WRITES]:
        assert client.says(line).startswith("-NOVIEW "), (line, client.says(line))
    client.says("MULTI")
    client.says("GET a")
    assert client.says("EXEC").startswith("[-NOVIEW ")
    another.says("BRANCH.CREATE b")
    assert client.says("GET a").startswith("-NOVIEW "), "another view of that name is another view"
    client.follows("""
        VIEW.USE b => OK
        SET a 1 => OK
        VIEW.USE main => OK
        GET a => nil
    """)


def test_a_keyspace_of_its_own_number_in_each_view(client: Client) -> None:
    client.follows("""
        SELECT 3 => OK
        SET a main3 => OK
        BRANCH.CREATE b => OK
        VIEW.USE b => OK
        SET a b3 => OK
        SELECT 0 => OK
        GET a => nil
        COPY a x DB 3 => :0
        SET a b0 => OK
        COPY a x DB 3 => :1
        VIEW.USE main => OK
        GET a => nil
        SELECT 3 => OK
        MGET a x => ["main3", nil]
        VIEW.USE b => OK
        MGET a x => ["b3", "b0"]
        RESET => RESET
        GET a => nil
        VIEW.USE b => OK
        GET a => "b0"
    """)


def test_in_a_transaction(client: Client, another: Client) -> None:
    client.follows("""
        SET a 1 => OK
        BRANCH.CREATE b => OK
        VIEW.USE b => OK
        MULTI => OK
        SET a 2 => QUEUED
        VIEW.USE main => -ERR Command not allowed inside a transaction
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        WATCH a => OK
        MULTI => OK
        INCR a => QUEUED
        VIEW.WAIT 0 0 => QUEUED
    """)
    another.says("SET a 10")
    assert client.says("EXEC") == "[:2, nil]", "what is written to main is not written to the branch"
    client.says("WATCH a")
    another.says("VIEW.USE b")
    another.says("SET a 20")
    client.says("MULTI")
    client.says("INCR a")
    assert client.says("EXEC") == "nil"
    client.says("WATCH a")
    client.says("VIEW.USE main")
    client.says("MULTI")
    client.says("INCR a")
    assert client.says("EXEC") == "[:11]"


def test_a_watched_key_that_a_promote_exchanges(client: Client, another: Client) -> None:
    client.says("SET a 1")
    another.says("BRANCH.CREATE b")
    another.says("VIEW.USE b")
    another.says("SET a 2")
    client.says("WATCH a")
    another.says("BRANCH.PROMOTE b")
    client.says("MULTI")
    client.says("INCR a")
    assert client.says("EXEC") == "nil"


def test_parts(client: Client) -> None:
    """Tables alone, keys alone, and what a conflict says."""
    for line in ("TABLE.CREATE t DTYPE f4", "TABLE.CREATE u DTYPE f4", "BRANCH.CREATE b", "VIEW.USE b"):
        assert client.says(line) == "OK"
    for name in ("t", "u"):
        assert client("TABLE.PUT", name, ids(1), row(2)) == ("+", b"OK")
    client.says("SET a 2")
    client.follows("""
        RESET => RESET
        BRANCH.PROMOTE b TABLES 1 t => OK
        TABLE.LEN t => :1
        TABLE.LEN u => :0
        GET a => nil
        SET a 1 => OK
    """)
    assert client.says("BRANCH.PROMOTE b KEYS yes TABLES 1 u").startswith("-CONFLICT main has 1 write")
    client.follows("""
        TABLE.LEN u => :0
        BRANCH.PROMOTE b KEYS no => OK
        TABLE.LEN u => :1
        GET a => "1"
        BRANCH.PROMOTE b FORCE => OK
        GET a => "2"
        SET a 3 => OK
    """)
    assert client.says("VIEW.UNDO").startswith("-CONFLICT ")
    assert client.says("VIEW.UNDO FORCE") == "OK"
    assert client.says("GET a") == '"1"'


def test_at(client: Client) -> None:
    """Every command that reads a table, in a view that differs from main in all that it may answer."""
    client.says("TABLE.CREATE t DTYPE f4 DIM 2")
    client("TABLE.PUT", "t", ids(1), row(1, 1))
    client.says("SNAPSHOT.CREATE v1")
    client("TABLE.PUT", "t", ids(1, 2), row(5, 5, 6, 6))
    client.says("TABLE.CREATE u DTYPE f4")
    one, at = ("t", ids(1)), ("AT", "v1")
    assert client("TABLE.GET", *one, *at) == ("$", row(1, 1))
    assert client("TABLE.GET", "t", ids(2), "DEFAULT", 9, "FOUND", *at) == ("*", (("$", row(9, 9)), ("$", b"\0")))
    assert client("TABLE.MGET", 1, *one, *at) == ("*", (("$", row(1, 1)),))
    assert client("TABLE.MGET", 2, *one, *one, *at) == ("*", (("$", row(1, 1)),) * 2)
    assert client("TABLE.SCAN", "t", 0, *at)[1][2] == ("$", row(1, 1))
    assert client("TABLE.SCAN", "t", 0, *at, "COUNT", 10)[1][1] == ("$", ids(1))
    assert client("TABLE.POOL", "t", ids(1, 2), ids(0), *at) == ("$", row(1, 1))
    assert client("TABLE.POOL", "t", ids(1, 2), ids(0), "MODE", "max", *at) == ("$", row(1, 1))
    assert client("TABLE.MPOOL", 1, "t", ids(1, 2), ids(0), *at, "MODE", "sum") == ("*", (("$", row(1, 1)),))
    assert client("TABLE.MPOOL", 2, *("t", ids(1, 2), ids(0)) * 2, *at) == ("*", (("$", row(1, 1)),) * 2)
    assert client("TABLE.EXISTS", "t", ids(1, 2), *at) == ("$", b"\1\0")
    assert client("TABLE.LEN", "t", *at) == (":", b"1")
    assert client("TABLE.LIST", *at) == ("*", (("$", b"t"),))
    assert client("TABLE.INFO", "t", *at)[1][-2:] == (("$", b"len"), (":", b"1"))
    assert client("TABLE.GET", *one, "AT", "main") == ("$", row(5, 5))
    client.says("VIEW.USE v1")
    assert client("TABLE.GET", *one) == ("$", row(1, 1))
    assert client("TABLE.GET", *one, "AT", "main") == ("$", row(5, 5))


def test_how_much_is_read_is_judged_where_it_is_read(client: Client) -> None:
    """A table that is wide in a snapshot, and narrow or absent in main."""
    client.says("TABLE.CREATE t DTYPE f4 DIM 4096")
    client.says("SNAPSHOT.CREATE v1")
    client.says("TABLE.DROP t")
    some = bytes(8 * 1000)

    def heavy(*words: str | bytes) -> bool:
        arguments = [word if isinstance(word, bytes) else word.encode() for word in words]
        return is_heavy(client.session, find(arguments), arguments)

    for tail in (("AT", "v1"), ("AT", "main"), ("AT", "none"), ()):
        wanted = tail == ("AT", "v1")
        assert heavy("TABLE.GET", "t", some, "FOUND", *tail) == wanted
        assert heavy("TABLE.POOL", "t", some, bytes(8), "MODE", "max", *tail) == wanted
    client.says("VIEW.USE v1")
    assert heavy("TABLE.GET", "t", some) and not heavy("TABLE.GET", "t", some, "AT", "main")


# over connections: who waits, and what is held back


async def test_waiting_holds_up_its_own_connection_only(connect: Any, server: Stub) -> None:
    wire, other = connect(), connect()
    wire.ask("PING", "VIEW.WAIT 0 0", "PING")
    await settled()
    assert wire.replies() == ["PONG"]
    assert server.version_events.waiting == 1
    wire.ask("ECHO later")
    assert await other.answers("SNAPSHOT.CREATE v1", "SET a 1", "SNAPSHOT.ROLLBACK v1", "GET a") == [
        "OK", "OK", "OK", "nil",
    ]  # fmt: skip
    replies: list[str] = []
    await until(lambda: replies.extend(wire.replies()) or len(replies) >= 3)
    count, lsn = server.store.main_changes
    assert (count, replies) == (1, [f"[:1, :{lsn}]", "PONG", '"later"'])
    assert await wire.answers("VIEW.WAIT 0 0") == [f"[:1, :{lsn}]"]


async def test_a_wait_has_an_end(connect: Any, server: Stub) -> None:
    wire = connect()
    assert await wire.answers("VIEW.WAIT 0 5", "PING") == ["nil", "PONG"]
    await wire.answers("HELLO 3")
    assert await wire.answers("VIEW.WAIT 5 5") == ["null"]
    assert await wire.answers("VIEW.WAIT x 5", "PING") == ["-ERR version is not an integer or out of range", "PONG"]
    assert server.version_events.waiting == 0


async def test_who_goes_waits_no_longer(connect: Any, server: Stub) -> None:
    gone, done, last = connect(), connect(), connect()
    for wire in (gone, done, last):
        wire.ask("VIEW.WAIT 0 0", "PING")
    await settled()
    gone.connection.connection_lost(None)
    assert done.connection.eof_received()
    await until(lambda: server.version_events.waiting == 1)
    assert done.replies() == ["nil", "PONG"] and not gone.transport.sent
    await until(lambda: done.transport.closed)
    last.connection.close()
    server.version_events.close()
    await until(lambda: last.transport.closed)
    assert last.replies() == ["nil"]


async def test_a_switch_is_told_once_it_is_durable(connect: Any, gate: Gate, server: Stub) -> None:
    waiter, follower, wire, asker = (connect() for _ in range(4))
    await wire.answers("SNAPSHOT.CREATE v1", "SET a 1")
    assert (await follower.answers("HELLO 3", "VIEW.TRACK on"))[1] == "OK"
    waiter.ask("VIEW.WAIT 0 0")
    await settled()
    gate.shut()
    wire.ask("SNAPSHOT.ROLLBACK v1", "VIEW.INFO")
    await settled()
    assert await follower.answers("GET a") == ['"1"']  # as it was
    asker.ask("VIEW.INFO main")
    await settled()
    threading.Event().wait(0.02)
    await settled()
    assert [one.replies() for one in (waiter, follower, wire, asker)] == [[]] * 4
    assert server.version_events.latest == (0, 0)
    gate.open()
    await until(lambda: waiter.transport.sent and wire.transport.sent and len(follower.transport.sent) > 10)
    assert '"version", :1' in asker.replies()[0]
    count, lsn = server.store.main_changes
    assert (count, waiter.replies()) == (1, [f"[:1, :{lsn}]"])
    assert follower.replies() == [f'push "view.switch", :1, :{lsn}']
    assert await follower.answers("GET a") == ["null"]
    replies = wire.replies()
    assert replies[0] == "OK" and f'"version", :1, "version_lsn", :{lsn}' in replies[1]


async def test_tracking_ends(connect: Any, server: Stub) -> None:
    """By VIEW.TRACK off, by RESET, by HELLO 2 and with the connection."""
    wires = [connect() for _ in range(5)]
    for wire in wires:
        assert (await wire.answers("HELLO 3", "VIEW.TRACK on"))[1] == "OK"
    await wires[0].answers("VIEW.TRACK off")
    await wires[1].answers("RESET")
    await wires[2].answers("HELLO 2")
    wires[3].connection.connection_lost(None)
    assert len(server.version_events.followers) == 2
    await connect().answers("SNAPSHOT.CREATE v1", "SET a 1", "SNAPSHOT.ROLLBACK v1")
    await until(lambda: wires[4].transport.sent)
    assert [wire.replies() for wire in wires[:4]] == [[]] * 4
    assert len(wires[4].replies()) == 1


async def test_who_does_not_read_is_told_the_last_only(connect: Any, server: Stub) -> None:
    slow, wire = connect(), connect()
    await slow.answers("HELLO 3", "VIEW.TRACK on")
    slow.connection.pause_writing()
    await wire.answers("SNAPSHOT.CREATE v1", *["SET a 1", "SNAPSHOT.ROLLBACK v1"] * 5)
    await until(lambda: server.version_events.latest[0] == 5)
    await settled()
    assert not slow.transport.sent
    slow.connection.resume_writing()
    assert slow.replies() == [f'push "view.switch", :5, :{server.store.main_changes[1]}']


async def test_single_gets_and_sets_of_connections_on_views(connect: Any, store: Any) -> None:
    """The short way is main's; others are served beside it, in the same tick."""
    wires = [connect() for _ in range(3)]
    await wires[0].answers("SET a main", "BRANCH.CREATE b", "SNAPSHOT.CREATE v1")
    await wires[1].answers("VIEW.USE b")
    await wires[2].answers("VIEW.USE v1")
    for word in ("SET a {}", "GET a"):
        for number, wire in enumerate(wires):
            wire.ask(word.format(number))
        await settled()
        replies = [wire.replies()[0].partition(" ")[0] for wire in wires]
        assert replies == (["OK", "OK", "-READONLY"] if "SET" in word else ['"0"', '"1"', '"main"'])
    assert await wires[1].answers(*["GET a"] * 3, "VIEW.USE main", "GET a") == ['"1"'] * 3 + ["OK", '"0"']
    assert [wire.connection.state == IDLE for wire in wires] == [True, True, False]
    await wires[0].answers("VIEW.DELETE v1")
    assert [reply.partition(" ")[0] for reply in await wires[2].answers("GET a", "SET a 1", "PING")] == [
        "-NOVIEW", "-NOVIEW", "PONG",
    ]  # fmt: skip
