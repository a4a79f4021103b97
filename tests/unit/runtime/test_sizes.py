"""Sizes as people write them."""

from __future__ import annotations

import pytest

from pmkv.errors import InvalidError
from pmkv.runtime.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        (" 1.5g ", 3 << 29),
        ("10GB", 10_000_000_000),
        ("16GiB", 16 << 30),
        ("2T", 2 << 40),
        ("1kb", 1000),
        ("1k", 1024),
        ("7b", 7),
        ("9007199254740993", 9007199254740993),
        ("1.1k", 1126),
    ],
)
def test_a_size(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", -1, "1e9", "1 000", "5 apples", "1.GiB", "0x10", "1,5g", "١٢x"])
def test_what_is_no_size_is_named(text: int | str) -> None:
    with pytest.raises(InvalidError, match="is no size"):
        parse_size(text)
