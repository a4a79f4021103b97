"""Strings: replies and error texts of Redis 7."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import pmkv
from pmkv.engine.collection import Collection
from pmkv_server.commands.registry import CommandError
from pmkv_server.commands.strings import long_double
from tests.unit.server.stand import Client, Stub, shown


@pytest.mark.parametrize("protocol", [2, 3])
def test_many_values_are_looked_up_together(client: Client, store: Any, monkeypatch: pytest.MonkeyPatch,
                                            protocol: int) -> None:  # fmt: skip
    """Of any length, some of them absent; not key by key, which took Redis' time 25 times over."""
    values = {b"k%d" % i: b"v" * (i * i) for i in range(200)}
    long = {b"long": b"x" * (1 << 20), b"parts": b"y" * (3 << 20)}
    store.put_many({**values, **long})
    if protocol == 3:
        client("HELLO", "3")
    looks: list[int] = []
    look_up = Collection._look_up
    monkeypatch.setattr(Collection, "_look_up", lambda self, wanted: (looks.append(1), look_up(self, wanted))[1])
    for asked in ([*values], [*values, b"none"], [b"none", *values, *long], [b"parts"], [b"none"], [b"k0"]):
        looks.clear()
        null = ("$", b"-1") if protocol == 2 else ("_", b"")
        wanted = [("$", value) if (value := {**values, **long}.get(key)) is not None else null for key in asked]
        assert client("MGET", *asked) == ("*", tuple(wanted))
        assert len(looks) <= 3


def test_get_set_and_relatives(client: Client) -> None:
    client.follows("""
        GET a => nil
        SET a b => OK
        GET a => "b"
        SETNX a c => :0
        SETNX n c => :1
        GETSET a d => "b"
        GETSET m d => nil
        GETDEL a => "d"
        GETDEL a => nil
        STRLEN n => :1
        STRLEN none => :0
        SET e "" => OK
        GET e => ""
        APPEND n de => :3
        APPEND fresh x => :1
        MSET a 1 b 2 a 3 => OK
        MGET a none b => ["3", nil, "2"]
        MSETNX a 1 z 1 => :0
        EXISTS z => :0
        MSETNX y 1 z 1 => :1
        MSET a 1 b => -ERR wrong number of arguments for 'mset' command
        MSETNX a 1 b => -ERR wrong number of arguments for 'msetnx' command
    """)


def test_keys_and_values_are_any_bytes(client: Client) -> None:
    key, value = bytes(range(256)), b"\r\n$-1\r\n\0"
    assert shown(client("SET", key, value)) == "OK"
    assert client("GET", key) == ("$", value)
    assert client("SET", b"", b"") == ("+", b"OK")
    assert client("GET", b"") == ("$", b"")
    assert client("GET", b"k" * 65536) == ("$", b"-1")
    assert shown(client("SET", b"k" * 65537, b"x")).startswith("-ERR ")


def test_set_options(client: Client) -> None:
    client.follows("""
        SET a 1 XX => nil
        SET a 1 NX => OK
        SET a 2 NX => nil
        SET a 2 XX GET => "1"
        SET new 3 GET => nil
        SET a 9 NX GET => "2"
        SET a 3 EX 100 => OK
        TTL a => :100
        SET a 4 KEEPTTL => OK
        TTL a => :100
        SET a 5 => OK
        TTL a => :-1
        SET a 6 PXAT 99999999999999 => OK
        PEXPIRETIME a => :99999999999999
        SET a 7 EXAT 99999999999 => OK
        EXPIRETIME a => :99999999999
        SET a 1 nx xx => -ERR syntax error
        SET a 1 EX => -ERR syntax error
        SET a 1 EX 1 PX 1 => -ERR syntax error
        SET a 1 EX 1 KEEPTTL => -ERR syntax error
        SET a 1 PERSIST => -ERR syntax error
        SET a 1 EX x => -ERR value is not an integer or out of range
        SET a 1 EX 0 => -ERR invalid expire time in 'set' command
        SET a 1 PX -1 => -ERR invalid expire time in 'set' command
        SET a 1 EX 9223372036854775807 => -ERR invalid expire time in 'set' command
        GET a => "7"
        SET a 8 EXAT 1 => OK
        GET a => nil
    """)


def test_setex_psetex_getex(client: Client) -> None:
    client.follows("""
        SETEX a 10 v => OK
        TTL a => :10
        PSETEX a 20000 v => OK
        TTL a => :20
        SETEX a 0 v => -ERR invalid expire time in 'setex' command
        PSETEX a -1 v => -ERR invalid expire time in 'psetex' command
        GETEX a => "v"
        TTL a => :20
        GETEX a PERSIST => "v"
        TTL a => :-1
        GETEX a EX 30 => "v"
        TTL a => :30
        GETEX a EX 0 => -ERR invalid expire time in 'getex' command
        GETEX a KEEPTTL => -ERR syntax error
        GETEX none EX 10 => nil
        GETEX a EXAT 1 => "v"
        EXISTS a => :0
    """)


def test_values_cease(client: Client, store: Any) -> None:
    client.says("SET a 1 PX 30")
    client.says("SET b 1")
    time.sleep(0.04)
    client.follows("""
        GET a => nil
        MGET a b => [nil, "1"]
        STRLEN a => :0
        SET a 2 XX => nil
        INCR a => :1
        TTL a => :-1
    """)


def test_ranges(client: Client) -> None:
    client.follows("""
        SET a Hello => OK
        GETRANGE a 0 -1 => "Hello"
        GETRANGE a 1 2 => "el"
        GETRANGE a -3 -1 => "llo"
        GETRANGE a 3 1 => ""
        GETRANGE a 100 200 => ""
        GETRANGE a -100 100 => "Hello"
        GETRANGE a -1 -3 => ""
        GETRANGE a x 1 => -ERR value is not an integer or out of range
        SUBSTR a 0 1 => "He"
        SETRANGE a 4 p! => :6
        GET a => "Hellp!"
        SETRANGE z 2 x => :3
        GET z => "\\x00\\x00x"
        SETRANGE none 2 "" => :0
        EXISTS none => :0
        SETRANGE a -1 x => -ERR offset is out of range
        SETRANGE a 536870911 xx => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        SETRANGE a 9223372036854775807 x => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
    """)


def test_integers(client: Client) -> None:
    client.follows("""
        INCR a => :1
        DECR a => :0
        INCRBY a 10 => :10
        DECRBY a 20 => :-10
        SET a 9223372036854775807 => OK
        INCR a => -ERR increment or decrement would overflow
        GET a => "9223372036854775807"
        DECRBY a -9223372036854775808 => -ERR decrement would overflow
        INCRBY a 1.5 => -ERR value is not an integer or out of range
        SET b 01 => OK
        INCR b => -ERR value is not an integer or out of range
        SET c 5 EX 100 => OK
        INCR c => :6
        TTL c => :100
    """)
    client("SET", "b", "")
    assert client.says("INCR b") == "-ERR value is not an integer or out of range"


def test_fractions(client: Client) -> None:
    client.follows("""
        INCRBYFLOAT f 0.1 => "0.1"
        INCRBYFLOAT f 0.2 => "0.3"
        INCRBYFLOAT f 1e3 => "1000.29999999999999999"
        SET f 5.0e3 => OK
        INCRBYFLOAT f -5000 => "0"
        INCRBYFLOAT f abc => -ERR value is not a valid float
        INCRBYFLOAT f nan => -ERR value is not a valid float
        INCRBYFLOAT f inf => -ERR increment would produce NaN or Infinity
        GET f => "0"
    """)


@pytest.mark.parametrize("word", [b"", b" 1", b"1 ", b"1_0", b"x", b"nan", b"\xff", b"1e5000", b"1" * 5120])
def test_no_fractions(word: bytes) -> None:
    with pytest.raises(CommandError, match="not a valid float"):
        long_double(word)


def test_long_values(client: Client) -> None:
    long = bytes(range(256)) * 12_000
    assert client("SET", "long", long) == ("+", b"OK")
    assert client("GET", "long") == ("$", long)
    assert client("APPEND", "long", b"end") == (":", b"%d" % (len(long) + 3))
    assert client("GETRANGE", "long", -4, -1) == ("$", b"\xffend")


def test_null_in_resp3(client: Client) -> None:
    client.session.protocol = 3
    client.follows("""
        GET a => null
        MGET a => [null]
        SET a 1 XX => null
        GETSET a 1 => null
    """)


LONGER_THAN_A_BATCH = 17 << 20
LONG_AFTER_MS = 4_102_444_800_000  # the year 2100


@pytest.fixture
def roomy() -> Iterator[Client]:
    with pmkv.open(pool=":memory:", capacity="512MiB") as store:
        yield Client(Stub(store))


def test_values_longer_than_a_batch(roomy: Client) -> None:
    """What is atomic up to 16 MiB is several writes; a command on one key is one, whatever its length."""
    long = bytes(LONGER_THAN_A_BATCH)
    assert roomy("SET", "a", long, "NX", "PXAT", LONG_AFTER_MS) == ("+", b"OK")
    assert roomy("APPEND", "a", b"end") == (":", b"%d" % (LONGER_THAN_A_BATCH + 3))
    assert roomy("PEXPIRETIME", "a") == (":", b"%d" % LONG_AFTER_MS)
    assert roomy("RENAME", "a", "b") == ("+", b"OK")
    assert roomy("SETRANGE", "far", LONGER_THAN_A_BATCH, "x") == (":", b"%d" % (LONGER_THAN_A_BATCH + 1))
    assert roomy("GETRANGE", "b", -4, -1) == ("$", b"\0end")
    assert roomy("MULTI") == ("+", b"OK")
    assert roomy("SET", "c", long) == ("+", b"QUEUED")
    assert roomy("EXEC")[1].startswith(b"ERR a batch of 17,8"), "a transaction is refused whole, with the reason"
    assert roomy("EXISTS", "c") == (":", b"0")
