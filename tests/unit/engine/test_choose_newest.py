"""Puts of what is newer: which rows are taken, which are left alone, and which fields can order them."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.engine import table as table_module
from pmkv.engine.choose_newest import newest_of_each, order_values
from pmkv.engine.engine import Engine
from pmkv.engine.table import Table
from pmkv.errors import InvalidError
from pmkv.media.memory import MemoryMedium

ROW = np.dtype([("at", "i8"), ("price", "f4")])


@pytest.fixture
def table() -> Table:
    return Engine.on_medium(MemoryMedium(1 << 22), segment_size=1 << 16).create_table("t", ROW)


def test_an_older_row_is_left_alone_and_an_equal_one_replaced(table: Table) -> None:
    assert table.put([1, 2, 3], np.array([(5, 1), (5, 1), (5, 1)], ROW), newer="at") == 3
    assert table.put([1, 2, 3, 4], np.array([(4, 2), (5, 2), (6, 2), (-7, 2)], ROW), newer="at") == 3
    assert table.get([1, 2, 3, 4])["price"].tolist() == [1, 2, 2, 2]
    assert table.put([1], np.array([(4, 9)], ROW), newer="at") == 0
    assert table.put([], np.empty(0, ROW), newer="at") == 0
    table.put([1], np.array([(1, 9)], ROW))  # without `newer` a put is a put
    assert table.get([1])["at"].tolist() == [1]


def test_of_one_id_the_newest_is_taken_and_of_equal_ones_the_last(table: Table) -> None:
    assert table.put([1, 1, 2, 1, 2], np.array([(3, 1), (9, 2), (4, 3), (8, 4), (4, 5)], ROW), newer="at") == 2
    assert table.get([1, 2]).tolist() == [(9, 2), (4, 5)]


def test_pieces_of_a_long_put_count_together(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_BATCH", 1 << 10)
    ids = np.arange(10_000)
    rows = np.zeros(ids.size, ROW)
    rows["at"] = ids % 7
    table.put(ids, np.array([(3, 1)] * ids.size, ROW))
    assert table.put(ids, rows, newer="at") == np.count_nonzero(ids % 7 >= 3)
    assert np.array_equal(table.get(ids)["at"], np.maximum(ids % 7, 3))
    table.check()


def test_times_are_ordered_and_what_is_deleted_is_not_newer() -> None:
    engine = Engine.on_medium(MemoryMedium(1 << 22), segment_size=1 << 16)
    table = engine.create_table("t", [("at", "M8[us]"), ("n", "i4")])
    at = np.array(["2026-01-02", "2026-01-01"], "M8[us]")
    rows = np.array(list(zip(at, [1, 2])), table.dtype)
    assert table.put([1, 1], rows, newer="at") == 1 and table.get([1])["n"].tolist() == [1]
    table.delete([1])
    assert table.put([1], rows[1:], newer="at") == 1


@pytest.mark.parametrize(
    ("dtype", "field", "said"),
    [
        ("f4", "at", "no fields"),
        ([("a", "f4")], "at", "they have a"),
        ([("at", "S4")], "at", "dtype |S4"),
        ([("at", "f4", (2,))], "at", "one integer, float or time"),
        ([("at", "f4")], "at", "NaN"),
    ],
)
def test_fields_that_order_nothing_are_refused(dtype: object, field: str, said: str) -> None:
    rows = np.zeros(2, dtype)
    if said == "NaN":
        rows["at"] = np.nan
    with pytest.raises(InvalidError, match=said.replace("|", r"\|")):
        order_values(rows, field, "rows of table 't'")


def test_newest_of_each() -> None:
    ids = np.array([7, 7, -1, 7, -1])
    assert newest_of_each(ids, np.array([1.0, 2.0, 0.0, 2.0, -1.0])).tolist() == [2, 3]
    assert newest_of_each(ids[:0], np.empty(0)).tolist() == []
