"""MULTI, EXEC, DISCARD, WATCH: replies of Redis 7, all or nothing, and what counts as written."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.unit.server.stand import Client


def test_multi_and_exec(client: Client) -> None:
    client.follows("""
        EXEC => -ERR EXEC without MULTI
        DISCARD => -ERR DISCARD without MULTI
        MULTI => OK
        MULTI => -ERR MULTI calls can not be nested
        SET a 1 => QUEUED
        INCR a => QUEUED
        GET none => QUEUED
        EXEC => [OK, :2, nil]
        EXEC => -ERR EXEC without MULTI
        MULTI => OK
        EXEC => []
        MULTI => OK
        SET a 9 => QUEUED
        DISCARD => OK
        GET a => "2"
    """)


def test_an_error_while_queueing_discards_all(client: Client) -> None:
    client.follows("""
        MULTI => OK
        SET a 1 => QUEUED
        SET a => -ERR wrong number of arguments for 'set' command
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        EXISTS a => :0
        PING => PONG
    """)


def test_an_error_while_running_leaves_the_others(client: Client) -> None:
    client.follows("""
        MULTI => OK
        SET a x => QUEUED
        INCR a => QUEUED
        SET b 1 => QUEUED
        EXEC => [OK, -ERR value is not an integer or out of range, OK]
        GET b => "1"
    """)


def test_a_transaction_selects_for_itself_and_after(client: Client) -> None:
    client.follows("""
        MULTI => OK
        SELECT 1 => QUEUED
        SET a 1 => QUEUED
        EXEC => [OK, OK]
        GET a => "1"
        SELECT 0 => OK
        GET a => nil
    """)


@pytest.mark.parametrize(
    ("line", "stops"),
    [
        ("SET a 2", True),
        ("SET a 1", True),
        ("DEL a", True),
        ("EXPIRE a 100", True),
        ("RENAME a b", True),
        ("FLUSHALL", True),
        ("GET a", False),
        ("SET b 1", False),
        ("DEL nosuch", False),
        ("SET a 5 NX", False),
        ("EXPIRE a 5 XX", False),
    ],
)
def test_what_another_does_to_a_watched_key(line: str, stops: bool, client: Client, another: Client) -> None:
    client.says("SET a 1")
    client.says("WATCH a")
    client.says("MULTI")
    client.says("SET c 1")
    another.says(line)
    assert client.says("EXEC") == ("nil" if stops else "[OK]")
    assert client.says("EXISTS c") == (":0" if stops else ":1")
    client.says("MULTI")
    client.says("PING")
    assert client.says("EXEC") == "[PONG]", "nothing is watched after EXEC"


def test_a_watched_key_that_comes_or_ceases(client: Client, another: Client) -> None:
    client.says("WATCH none")
    another.says("SET none 1")
    client.says("MULTI")
    assert client.says("EXEC") == "nil"
    client.says("SET brief 1 PX 30")
    client.says("WATCH brief")
    time.sleep(0.04)
    client.says("MULTI")
    assert client.says("EXEC") == "nil"


def test_unwatch_discard_and_keyspaces(client: Client, another: Client) -> None:
    for forget in ("UNWATCH", "MULTI\nDISCARD"):
        client.says("WATCH a")
        another.says("INCR a")
        for line in forget.splitlines():
            client.says(line)
        client.says("MULTI")
        assert client.says("EXEC") == "[]"
    client.says("WATCH a")
    client.says("SELECT 1")
    another.says("INCR a")
    client.says("MULTI")
    assert client.says("WATCH a") == "-ERR WATCH inside MULTI is not allowed"
    assert client.says("EXEC") == "nil", "the key is watched in the keyspace where it was when WATCH was said"


def test_resp3_says_null_where_exec_did_nothing(client: Client, another: Client) -> None:
    client.says("HELLO 3")
    client.says("WATCH a")
    another.says("SET a 1")
    client.says("MULTI")
    assert client.says("EXEC") == "null"


def test_exec_is_one_batch_of_the_store(client: Client, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its room is asked for first: what does not fit is refused as a whole."""
    asked, batch = [], store.batch

    def counted(reserve: int = 0) -> Any:
        asked.append(reserve)
        return batch(reserve=reserve)

    client.says("MULTI")
    client("SET", "a", b"x" * 1000)
    client("SET", "b", b"x" * 2000)
    monkeypatch.setattr(store, "batch", counted)
    assert client.says("EXEC") == "[OK, OK]"
    assert asked[0] >= 3000
    monkeypatch.setattr(store, "batch", batch)
    client.says("MULTI")
    for i in range(80):
        client("SET", f"k{i}", b"x" * 1_000_000)
    assert client.says("EXEC").startswith("-")
    assert client.says("EXISTS k0 k79") == ":0"


def test_many_small_writes_are_one_transaction(client: Client) -> None:
    """As each is counted with what it takes, not with what it might take."""
    client.says("MULTI")
    for i in range(50_000):
        client("SET", f"k{i}", "v")
    assert client.says("EXEC").startswith("[OK, OK")
    assert client.says("DBSIZE") == ":50000"


def test_what_a_transaction_rewrites_is_reserved(client: Client, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client("SET", "a", b"x" * 100_000)
    asked, batch = [], store.batch
    client.says("MULTI")
    client.says("APPEND a y")
    client.says("GET a")
    monkeypatch.setattr(store, "batch", lambda reserve=0: asked.append(reserve) or batch(reserve=reserve))
    client.says("EXEC")
    assert 100_000 < asked[0] < 130_000
