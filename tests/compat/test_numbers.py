"""Texts of numbers beside a real redis-server: generated ones, in every command that parses numbers.

A text is curated, or cut from the alphabet of what numbers are written with. Both servers get the same commands on the
same keys, and must give the same replies, byte for byte.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.compat.test_redis import pmkv_port, redis_port  # noqa: F401 - fixtures
from tests.served import Raw

pytestmark = pytest.mark.compat

CURATED = [
    b"", b" ", b"0", b"-0", b"+0", b"00", b"1", b"+1", b"-1", b"01", b"-01", b" 1", b"1 ", b"\t1", b"1\n", b"1_0",
    b"1\x00", b"1\x002", b"\x001", b"1.0", b"1.5", b".5", b"5.", b"-.5", b"+.5", b".", b"-", b"+", b"e", b"1e", b"1e2",
    b"1E2", b"1e+2", b"1e-2", b"1e2.5", b"1.5e3", b"1,5", b"0x10", b"0X1p3", b"0x", b"0b1", b"0o7", b"1e400", b"1e4000",
    b"-1e4000", b"1e5000", b"1e-5000", b"1e-4950", b"inf", b"-inf", b"+inf", b"infinity", b"INF", b"nan", b"-nan",
    b"NaN", b"nan(1)", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809",
    b"18446744073709551615", b"18446744073709551616", b"4611686018427387904", b"2147483647", b"2147483648",
    b"-2147483648", b"-2147483649", b"4294967296", b"99999999999999999999999", b"9223372036854775", b"9223372036854776",
    "٣".encode(), "１".encode(), b"\xff", b"1" * 30, b"0." + b"3" * 40, b"0." + b"0" * 300 + b"1", b"7" * 254 + b".5",
    b"7" * 300, b"1" * 5000, b"17", b"15", b"16", b"abc", b"1abc", b"--1", b"+-1", b"0.1", b"3.0e3",
    b"0.30000000000000004",    b"1e17", b"123456789.123456789", b"-5.0", b"-0.0", b"0.0", b"1e-17", b"4.9e-324",
]  # fmt: skip
ALPHABET = [b"0", b"1", b"9", b"5", b"-", b"+", b".", b"e", b"E", b" ", b"x", b"_", b"\x00", b"12345678", b"inf", b"n"]
RANDOM_TEXTS = 250


def texts() -> list[bytes]:
    dice = random.Random(20)
    return CURATED + [b"".join(dice.choices(ALPHABET, k=dice.randrange(1, 5))) for _ in range(RANDOM_TEXTS)]


def is_short(text: bytes) -> bool:
    """As an offset it does not make a long value."""
    return len(text.strip()) < 7


def commands(text: bytes) -> Iterator[tuple[bytes | str | int, ...]]:
    """All commands that parse this as a number, each with what it needs, and what shows its effect."""
    yield ("FLUSHALL",)
    for name in ("INCRBY", "DECRBY", "INCRBYFLOAT"):
        yield from ((name, "new", text), ("SET", "ten", 10), (name, "ten", text), ("GET", "ten"), ("DEL", "new"))
    for name in ("INCR", "DECR"):
        yield from (("SET", "k", text), (name, "k"), ("GET", "k"))
    yield from (("SET", "k", text), ("INCRBYFLOAT", "k", "0"), ("GET", "k"), ("INCRBYFLOAT", "k", "-1.25"))
    yield from (("SET", "k", "hello world"), ("GETRANGE", "k", text, 5), ("GETRANGE", "k", -3, text))
    if is_short(text):
        yield from (("SETRANGE", "k", text, "x"), ("STRLEN", "k"))
    is_brief = text.isdigit() and len(text) < 6  # it may expire at any moment
    for name in ("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"):
        yield from (("SET", "k", 1), (name, "k", text), ("PING",) if is_brief else ("PERSIST", "k"))
    for name in ("SETEX", "PSETEX"):
        yield from ((name, "k", text, "v"), ("PING",) if is_brief else ("PERSIST", "k"))
    for unit in ("EX", "PX", "EXAT", "PXAT"):
        yield from (("SET", "k", 1), ("GETEX", "k", unit, text), ("SET", "k", "v", unit, text))
        yield ("PING",) if is_brief else ("PERSIST", "k")
    yield from (("SCAN", 0, "COUNT", text), ("SCAN", 0, "MATCH", "none", "COUNT", text), ("SELECT", text))
    yield from (("SELECT", 0), ("SET", "k", 1), ("COPY", "k", "l", "DB", text), ("HELLO", text), ("HELLO", 2))
    if not (text.isdigit() and text != b"0"):  # the ID of a client
        yield "CLIENT", "LIST", "ID", text


@pytest.mark.parametrize("first", range(0, len(texts()), 50))
def test_numbers_are_parsed_as_by_redis(first: int, redis_port: int, pmkv_port: int) -> None:  # noqa: F811
    servers, different = (Raw(redis_port), Raw(pmkv_port)), []
    for text in texts()[first : first + 50]:
        for words in commands(text):
            theirs, ours = (server(*words) for server in servers)
            if words[0] == "HELLO" and theirs[0] != "-":
                theirs, ours = theirs[0], ours[0]
            if words[0] == "SCAN" and theirs[0] == "*":  # the order of keys is nobody's business
                theirs, ours = theirs[0], ours[0]
            if theirs != ours:
                different.append(
                    f"{text[:40]!r}: {words[0]} {words[1:]!r:.80}: redis {theirs!r:.160}, pmkv {ours!r:.160}"
                )
    assert not different, "\n".join(different)


def test_cursors_are_parsed_as_by_redis(redis_port: int, pmkv_port: int) -> None:  # noqa: F811
    servers, different = (Raw(redis_port), Raw(pmkv_port)), []
    for text in texts():
        theirs, ours = (server("SCAN", text)[0] for server in servers)
        if theirs != ours:
            different.append(f"{text[:40]!r}: redis {theirs}, pmkv {ours}")
    assert not different, "\n".join(different)
