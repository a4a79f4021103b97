"""Keys of any type: replies and error texts of Redis 7; SCAN's guarantee."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from pmkv_server.commands import COMMANDS, keys, registry, transactions
from pmkv_server.commands.execution import is_heavy
from tests.unit.server.stand import Client


def test_delete_and_look(client: Client) -> None:
    client.follows("""
        MSET a 1 b 2 c 3 => OK
        EXISTS a b a none => :3
        TOUCH a none => :1
        TYPE a => string
        TYPE none => none
        DBSIZE => :3
        DEL a a none => :1
        UNLINK b none => :1
        DBSIZE => :1
        RANDOMKEY => "c"
        KEYS * => ["c"]
        DEL c => :1
        RANDOMKEY => nil
        KEYS * => []
    """)


def test_rename(client: Client) -> None:
    client.follows("""
        RENAME none x => -ERR no such key
        RENAMENX none x => -ERR no such key
        SET a 1 EX 100 => OK
        SET b 2 => OK
        RENAMENX a b => :0
        RENAMENX a a => :0
        RENAME a a => OK
        RENAME a b => OK
        GET b => "1"
        TTL b => :100
        EXISTS a => :0
        RENAMENX b c => :1
        DBSIZE => :1
    """)


def test_copy(client: Client) -> None:
    client.follows("""
        SET a 1 EX 100 => OK
        COPY a b => :1
        TTL b => :100
        COPY a b => :0
        SET a 2 => OK
        COPY a b REPLACE => :1
        TTL b => :-1
        COPY none b => :0
        COPY a a => -ERR source and destination objects are the same
        COPY a a DB 0 => -ERR source and destination objects are the same
        COPY a a DB 16 => -ERR DB index is out of range
        COPY a a DB => -ERR syntax error
        COPY a c FOO => -ERR syntax error
        COPY a a DB 1 => :1
        SELECT 1 => OK
        GET a => "2"
    """)


def test_flush_leaves_tables_and_other_keyspaces(client: Client, store: Any) -> None:
    store.create_table("t", "f4").put([1], [1.0])
    client.follows("""
        SET a 1 => OK
        SELECT 1 => OK
        SET b 1 => OK
        FLUSHDB => OK
        DBSIZE => :0
        SELECT 0 => OK
        DBSIZE => :1
        FLUSHALL ASYNC => OK
        DBSIZE => :0
        FLUSHALL NOW => -ERR syntax error
        FLUSHDB SYNC ASYNC => -ERR syntax error
        TABLE.LEN t => :1
    """)


def test_scan_options(client: Client) -> None:
    client.follows("""
        SCAN 0 => ["0", []]
        MSET a 1 => OK
        SCAN 0 COUNT 100 MATCH a* TYPE string => ["0", ["a"]]
        SCAN 0 MATCH b* => ["0", []]
        SCAN 0 TYPE hash => ["0", []]
        SCAN x => -ERR invalid cursor
        SCAN -x => -ERR invalid cursor
        SCAN -1 => ["0", []]
        SCAN 18446744073709551616 => -ERR invalid cursor
        SCAN 0 COUNT => -ERR syntax error
        SCAN 0 COUNT 0 => -ERR syntax error
        SCAN 0 COUNT x => -ERR value is not an integer or out of range
        SCAN 0 FOO 1 => -ERR syntax error
    """)


def test_scan_finds_what_was_there_all_the_time(client: Client, store: Any) -> None:
    """Also while others come and go between the steps, and the index grows."""
    rng = random.Random(7)
    lasting = {b"lasting%d" % i for i in range(500)}
    store.put_many([(key, b"") for key in lasting])
    found, cursor = set(), b"0"
    for step in range(10_000):
        _, ((_, cursor), (_, names)) = client("SCAN", cursor, "COUNT", 20)
        found.update(name for _, name in names)
        if cursor == b"0":
            break
        store.put_many([(b"new%d.%d" % (step, i), b"") for i in range(50)])
        store.keyspace(0).delete_many([b"new%d.%d" % (step, i) for i in range(rng.randrange(50))])
    assert cursor == b"0", "the scan never ended"
    assert lasting <= found


def test_keys_finds_each_once_by_pattern(client: Client, store: Any) -> None:
    store.put_many([(b"k%d" % i, b"") for i in range(10_001)])
    words = [b"KEYS", b"*"]
    assert is_heavy(client.session, COMMANDS[b"keys"], words), "it is work for a worker"
    _, names = client("KEYS", "k1?")
    assert sorted(name for _, name in names) == [b"k1%d" % i for i in range(10)]
    assert len(client("KEYS", "*")[1]) == 10_001


def test_a_scan_of_any_count_looks_at_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.server.store.put_many({b"k%d" % i: b"" for i in range(5000)})
    asked: list[int] = []
    look = type(client.session.keyspace).keys

    def watched(keyspace: Any, cursor: int, count: int) -> Any:
        asked.append(count)
        return look(keyspace, cursor, count)

    monkeypatch.setattr(type(client.session.keyspace), "keys", watched)
    _, ((_, cursor), (_, found)) = client("SCAN", 0, "COUNT", 10_000_000)
    assert (cursor, len({name for _, name in found})) == (b"0", 5000)
    assert max(asked) == keys.LOOK_KEYS
    monkeypatch.setattr(keys, "SCAN_BYTES", 100)
    _, ((_, cursor), (_, found)) = client("SCAN", 0, "COUNT", 4000)
    assert cursor != b"0" and len(found) <= 2 * keys.LOOK_KEYS, "many bytes end a page early"


def test_a_random_key_among_many_that_have_expired(client: Client) -> None:
    store = client.server.store
    now = int(time.time() * 1000)
    store.put_many({b"gone%d" % i: b"" for i in range(20_000)}, expire_at=now + 1)
    time.sleep(0.005)
    assert client("RANDOMKEY") == ("$", b"-1")
    store.put(b"there", b"")
    assert client("RANDOMKEY") == ("$", b"there")


def test_a_reply_that_is_too_long_is_refused_before_it_is_made(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_REPLY_BYTES", 6 << 20)
    client.server.store.put(b"a", bytes(1 << 20))
    assert len(client("MGET", *["a"] * 6)[1]) == 6
    _, said = client("MGET", *["a"] * 7)
    assert said == b"ERR the reply would take 7340032 bytes, more than 6291456: ask for less at once"


def test_replies_of_exec_are_bounded_and_its_commands_are_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "MAX_REPLY_BYTES", 2500)
    client.server.store.put(b"a", bytes(1000))
    for line in ("MULTI", *["GET a", "DBSIZE"] * 3, "INCR n"):  # DBSIZE is for no wave, whose replies go together
        client.says(line)
    (_, replies) = client("EXEC")
    assert [kind for kind, _ in replies] == ["$", ":", "$", ":", "-", ":", ":"]
    assert client.says("GET n") == '"1"'
