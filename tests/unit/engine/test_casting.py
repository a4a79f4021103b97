"""Values that a dtype cannot represent are refused, and sums are exact or rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pmkv
from pmkv.engine.casting import add_rows, cast_default, cast_values
from pmkv.errors import InvalidError


@pytest.mark.parametrize(
    ("value", "given", "dtype"),
    [
        (2**40, "i8", "i4"),
        (300, "i8", "u1"),
        (-1, "i8", "u8"),
        (2**63, "u8", "i8"),
        (1e300, "f8", "f4"),
        (70000, "i8", "f2"),
        (1e300 + 0j, "c16", "c8"),
        ("long", "U4", "U2"),
        (b"long", "S4", "S2"),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any, given: str, dtype: str) -> None:
    with pytest.raises(InvalidError, match="does not fit dtype"):
        cast_values(np.array([value], given), np.dtype(dtype), "rows")


@pytest.mark.parametrize(
    ("value", "given", "dtype"),
    [
        (0.1, "f8", "f4"),
        (np.inf, "f8", "f4"),
        (np.nan, "f8", "f2"),
        (200, "i8", "u1"),
        (-128, "i8", "i1"),
        ("a", "U4", "U1"),
    ],
)
def test_values_that_fit_are_rounded_at_most(value: Any, given: str, dtype: str) -> None:
    array = np.array([value], given)
    np.testing.assert_array_equal(cast_values(array, np.dtype(dtype), "rows"), array.astype(dtype))


def test_fields_are_checked_one_by_one() -> None:
    row = np.array([(1, 2**40)], [("a", "f4"), ("b", "i8")])
    with pytest.raises(InvalidError, match="1099511627776 does not fit"):
        cast_values(row, np.dtype([("a", "f4"), ("b", "i4")]), "rows")


@pytest.mark.parametrize(("default", "dtype"), [(2**40, "i4"), (300, "u1"), (1e300, "f4"), (0.5, "i4"), ("ab", "U1")])
def test_a_default_must_fit(default: Any, dtype: str) -> None:
    with pytest.raises(InvalidError, match="does not fit"):
        cast_default(default, (2,), np.dtype(dtype), "a row")


def test_defaults_that_fit() -> None:
    assert cast_default(-1.0, (2,), np.dtype("i4"), "a row").tolist() == [-1, -1]
    assert cast_default([1, 2], (2,), np.dtype("f4"), "a row").tolist() == [1, 2]
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        assert store.create_table("t", "U3").get([1]).tolist() == [""]  # 0 means zero bytes, whatever the dtype


def test_sums_are_rounded_once() -> None:
    ones = np.ones(4096, "f2")
    assert add_rows(np.zeros(1, "f2"), np.zeros(4096, np.int64), ones, "a sum").tolist() == [4096]
    assert add_rows(np.array([2**62]), np.zeros(2, np.int64), np.array([2**61, 2**61 - 1]), "a sum").tolist() == [
        2**63 - 1
    ]
    with pytest.raises(InvalidError, match="a sum: 9223372036854775808 does not fit"):
        add_rows(np.array([2**62]), np.zeros(2, np.int64), np.array([2**61, 2**61]), "a sum")
    with pytest.raises(InvalidError, match="a sum: 256 does not fit dtype uint8"):
        add_rows(np.array([255], "u1"), np.zeros(1, np.int64), np.array([1], "u1"), "a sum")


def test_a_table_refuses_what_it_cannot_hold_and_keeps_what_it_has() -> None:
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        table = store.create_table("t", "i4")
        table.put([1], [7])
        for wrong in (2**40, -(2**40)):
            with pytest.raises(InvalidError, match="does not fit dtype int32"):
                table.put([1], np.array([wrong]))
        with pytest.raises(InvalidError, match="does not fit"):
            table.add([1], np.array([2**31 - 1]))
        with pytest.raises(InvalidError, match="does not fit"), store.transaction() as txn:
            txn.table("t").add([1], [2**31 - 1])
        assert table.get([1]).tolist() == [7]
        table.put([1, 2], [16777217, 1])
        assert table.pool([1, 2], [0]).tolist() == [16777218]


def test_dtypes_that_would_not_come_back_are_refused() -> None:
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        for wrong in (np.dtype([(("Title", "a"), "f4")]), np.dtype([("x", [(("Title", "a"), "f4")])])):
            with pytest.raises(InvalidError, match="has a title"):
                store.create_table("t", wrong)
        ml_dtypes = pytest.importorskip("ml_dtypes")
        with pytest.raises(InvalidError, match="extension of NumPy: store its bits"):
            store.create_table("t", (ml_dtypes.float8_e4m3b11fnuz, 4))
        assert store.tables() == {}


def test_an_expiry_has_one_unit_and_one_source() -> None:
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        store.put(b"k", b"v")
        for wrong, said in (
            ({"expire_at": 1_900_000_000}, "multiply seconds by 1000"),
            ({"expire_at": True}, "an integer"),
            ({"expire_at": 0}, "before 2001"),
            ({"expire_at": -1}, "before 2001"),
            ({"ttl": True}, "seconds above 0"),
            ({"ttl": 5, "expire_at": 1_900_000_000_000}, "give one of them"),
        ):
            with pytest.raises(InvalidError, match=said):
                store.put(b"k", b"w", **wrong)
            with pytest.raises(InvalidError, match=said):
                store.put_many({b"k": b"w"}, **wrong)
            with pytest.raises(InvalidError, match=said), store.transaction() as txn:
                txn.put(b"k", b"w", **wrong)
        assert store.get(b"k") == b"v"
