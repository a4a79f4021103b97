"""Numbers are taken in strict forms only."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pmkv_server.parsing import memory_size, strict_cursor, strict_float, strict_int, strict_long_double


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-1", -1), ("18446744073709551615", (1 << 64) - 1)])
def test_integers(text: str, value: int) -> None:
    assert strict_int(text) == value


@pytest.mark.parametrize("text", ["", "+3", "-0", "01", "1_0", " 1", "1\n", "1\0", "\u0663", "1.0", "9" * 5000])
def test_not_integers(text: str) -> None:
    assert strict_int(text) is None


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("-.5", -0.5), ("+3.e2", 300), ("-INF", -math.inf)])
def test_floats(text: str, value: float) -> None:
    assert strict_float(text) == value


@pytest.mark.parametrize("text", ["", ".", "1_0", " 1", "1.5\0", "1.5\n", "\u0663", "1e", "0x10"])
def test_not_floats(text: str) -> None:
    assert strict_float(text) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1024", 1024), ("1b", 1), ("1k", 1000), ("1kb", 1024), ("2MB", 2 << 20), ("1g", 10**9),
     ("1gb", 1 << 30), ("-1", None), ("1.5mb", None), ("mb", None), ("1 mb", None), ("1tb", None), ("١", None)],
)  # fmt: skip
def test_memory_size(text: str, size: int | None) -> None:
    assert memory_size(text) == size


@pytest.mark.parametrize(
    ("text", "value"),
    [("0x10", 16), ("-0X1.8p1", -3), ("1e-4940", np.longdouble(10) ** -4940), ("INF", math.inf), ("0e9", 0)],
)
def test_long_doubles(text: str, value: float) -> None:
    assert strict_long_double(text) == value


@pytest.mark.parametrize(
    "text", ["", "nan", "0x", "0xg", "1e5000", "-1e5000", "1e-5000", "1 ", "1\0", "nan(1)", "0x1p99999"]
)
def test_not_long_doubles(text: str) -> None:
    assert strict_long_double(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("\0x", 0),
        ("07", 7),
        ("+5", 5),
        ("-1", (1 << 64) - 1),
        ("5\0x", 5),
        ("18446744073709551615", (1 << 64) - 1),
    ],
)
def test_cursors(text: str, value: int) -> None:
    assert strict_cursor(text) == value


@pytest.mark.parametrize("text", [" 1", "1 ", "-", "x", "1x", "18446744073709551616", "\u0663", "9" * 5000])
def test_not_cursors(text: str) -> None:
    assert strict_cursor(text) is None
