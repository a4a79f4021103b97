"""Glob patterns: Redis' rules, against a slow matcher that is plainly right, and in linear time."""

from __future__ import annotations

import functools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmkv_server.resp.glob import LONGEST_KEY_BYTES, Pattern


def matches(pattern: bytes, key: bytes) -> bool:
    return Pattern(pattern).select([key]) == [key]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (b"h?llo", [b"hello", b"h\nllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeeello"], [b"hlo", b"xhllo"]),
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"hllo"]),
        (b"h[^e]llo", [b"hallo"], [b"hello"]),
        (b"h[a-c]llo", [b"hbllo"], [b"hdllo"]),
        (b"h[c-a]llo", [b"hbllo"], [b"hdllo"]),
        (rb"h\*llo", [b"h*llo"], [b"hello"]),
        (rb"[\]]", [b"]"], [b"\\"]),
        (rb"[\^]", [b"^"], [b"a"]),
        (b"[]", [], [b"", b"]", b"a"]),
        (b"[^]", [b"a", b"]"], [b"", b"aa"]),
        (b"h[", [], [b"h", b"h["]),
        (b"h[a", [b"ha"], [b"h[a"]),
        (b"\\", [b"\\"], [b""]),
        (b"", [b""], [b"a"]),
        (b"*", [b"", b"anything"], []),
        (b"**a**", [b"a", b"bab"], [b"", b"b"]),
        (b"\xff?\x00", [b"\xff\x80\x00"], [b"\xff\x00"]),
    ],
)
def test_the_rules(pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
    assert Pattern(pattern).select([*yes, *no]) == yes


def slowly(pattern: bytes, key: bytes) -> bool:
    """Stars, question marks and plain bytes, by definition."""

    @functools.cache
    def rest(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(key)
        if pattern[i] == ord("*"):
            return rest(i + 1, j) or (j < len(key) and rest(i, j + 1))
        return j < len(key) and pattern[i] in (ord("?"), key[j]) and rest(i + 1, j + 1)

    return rest(0, 0)


few = st.text("ab*?", max_size=10).map(str.encode)


@given(few, st.lists(st.text("ab", max_size=10).map(str.encode), max_size=6))
def test_agrees_with_the_definition(pattern: bytes, keys: list[bytes]) -> None:
    assert Pattern(pattern).select(keys) == [key for key in keys if slowly(pattern, key)]


@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 129, 1000])
def test_patterns_longer_than_a_word(length: int) -> None:
    key = bytes(97 + i % 26 for i in range(length))
    assert matches(key, key)
    assert matches(key[:-1] + b"?", key)
    assert matches(b"*" + key[1:], key)
    assert matches(key[:60] + b"*" + key[-1:], key)
    assert not matches(key[:-1] + b"!", key)
    assert not matches(key, key + b"a")
    assert not matches(key, key[:-1])


@pytest.mark.parametrize("pattern", [b"*a" * 40 + b"b", b"a*" * 60 + b"[^a]", b"*?" * 60 + b"b", b"*" * 5000 + b"b"])
def test_no_pattern_takes_long(pattern: bytes) -> None:
    """A matcher that backtracks would need longer than the universe has existed."""
    begun = time.perf_counter()
    assert not matches(pattern, b"a" * LONGEST_KEY_BYTES)
    assert time.perf_counter() - begun < 1


def test_time_grows_with_the_key_and_not_faster() -> None:
    def seconds(length: int) -> float:
        pattern, key = Pattern(b"*a" * 50 + b"b"), b"a" * length
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            pattern.select([key])
            times.append(time.perf_counter() - begun)
        return min(times)

    assert seconds(1 << 22) < 64 * max(seconds(1 << 18), 1e-4), "sixteen times the key took sixty times as long"


def test_a_pattern_longer_than_any_key_gets_no_table() -> None:
    assert Pattern(b"a" * (LONGEST_KEY_BYTES + 1)).select([b"a" * LONGEST_KEY_BYTES]) == []
    assert matches(b"*" * 200_000, b"a")


def test_nothing_to_select_from() -> None:
    assert Pattern(b"a").select([]) == []
    assert Pattern(b"*").select([]) == []
    assert Pattern(b"*").select([b"", b"b"]) == [b"", b"b"]
