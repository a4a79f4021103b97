"""Expiry: replies and error texts of Redis 7."""

from __future__ import annotations

import time

import pytest

from tests.unit.server.stand import Client


def test_times_to_live(client: Client) -> None:
    client.follows("""
        TTL none => :-2
        PTTL none => :-2
        EXPIRETIME none => :-2
        PEXPIRETIME none => :-2
        SET a 1 => OK
        TTL a => :-1
        PTTL a => :-1
        EXPIRETIME a => :-1
        EXPIRE a 100 => :1
        TTL a => :100
        PEXPIRE a 5400 => :1
        TTL a => :5
        EXPIREAT a 99999999999 => :1
        EXPIRETIME a => :99999999999
        PEXPIREAT a 99999999999600 => :1
        PEXPIRETIME a => :99999999999600
        EXPIRETIME a => :100000000000
        PERSIST a => :1
        PERSIST a => :0
        PERSIST none => :0
        EXPIRE none 1 => :0
    """)


def test_conditions(client: Client) -> None:
    client.follows("""
        SET a 1 => OK
        EXPIRE a 100 XX => :0
        EXPIRE a 100 GT => :0
        EXPIRE a 100 LT => :1
        EXPIRE a 200 NX => :0
        EXPIRE a 50 GT => :0
        EXPIRE a 200 GT => :1
        EXPIRE a 300 LT => :0
        EXPIRE a 150 XX LT => :1
        TTL a => :150
        EXPIRE a 1 NX XX => -ERR NX and XX, GT or LT options at the same time are not compatible
        EXPIRE a 1 GT LT => -ERR GT and LT options at the same time are not compatible
        EXPIRE a 1 FOO => -ERR Unsupported option FOO
        PERSIST a => :1
        EXPIRE a 10 NX => :1
    """)


@pytest.mark.parametrize("line", ["EXPIRE a 0", "EXPIRE a -1", "PEXPIREAT a 1", "EXPIREAT a 1 LT"])
def test_a_time_in_the_past_deletes(line: str, client: Client) -> None:
    client.says("SET a 1")
    assert client.says(line) == ":1"
    client.follows("""
        EXISTS a => :0
        DBSIZE => :0
        TTL a => :-2
    """)


def test_numbers_that_are_none(client: Client) -> None:
    client.follows("""
        SET a 1 => OK
        EXPIRE a x => -ERR value is not an integer or out of range
        EXPIRE a 9223372036854775808 => -ERR value is not an integer or out of range
        EXPIRE a 9223372036854775807 => -ERR invalid expire time in 'expire' command
        EXPIRE a -9223372036854775808 => -ERR invalid expire time in 'expire' command
        PEXPIRE a 9223372036854775807 => -ERR invalid expire time in 'pexpire' command
        EXPIREAT a 9223372036854775807 => -ERR invalid expire time in 'expireat' command
        TTL a => :-1
    """)


def test_what_ceased_is_gone_for_every_command(client: Client) -> None:
    client.follows("""
        MSET a 1 b 2 => OK
        PEXPIRE a 20 => :1
    """)
    time.sleep(0.03)
    client.follows("""
        EXISTS a => :0
        TYPE a => none
        DBSIZE => :1
        KEYS * => ["b"]
        SCAN 0 => ["0", ["b"]]
        RANDOMKEY => "b"
        DEL a => :0
        PERSIST a => :0
        RENAME a c => -ERR no such key
        COPY a c => :0
        EXPIRE a 10 => :0
    """)
