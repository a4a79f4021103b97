"""Reads of rows: pooling in place gives the bits of gathered rows, wherever they stand; tables are of one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import pmkv
from pmkv.cache.row_cache import RowHits
from pmkv.engine import row_reads
from pmkv.engine.row_reads import RowRead
from pmkv.errors import CorruptionError
from pmkv.index.lookup_batch import IdBatch
from pmkv.kernels import location
from pmkv.versions.index_stack import IndexStack

IDS = np.arange(1000)
OFFSETS = np.arange(0, 1200, 4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pmkv.Store]:
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        yield store


def filled(store: pmkv.Store, dtype: str, **how: object) -> pmkv.Table:
    """A table with rows on file, all in the row cache but for some that were written again since, or deleted."""
    table = store.create_table(dtype, (dtype, 5), **how)
    table.put(IDS, (np.random.default_rng(1).normal(size=(1000, 5)) * 50).astype(dtype))
    store.checkpoint()
    table.stack.reads.is_cold, table.stack.reads.share = False, 0.0
    for _ in range(12):  # it grows with each
        table.get(IDS)
    assert len(table.stack.rows) > 900
    table.put(IDS[:50], np.ones((50, 5), dtype))
    table.delete(IDS[60:70])
    return table


def gathered(table: pmkv.Table, *how: object, **more: object) -> np.ndarray:
    with patch.object(RowRead, "_may_pool_in_place", lambda self, bags: False):
        return table.pool(*how, **more)


def in_place(table: pmkv.Table, *how: object, **more: object) -> np.ndarray:
    with patch.object(RowRead, "_pool_gathered", None):
        return table.pool(*how, **more)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", "weighted"])
def test_in_place_gives_the_bits_of_gathered_rows(store: pmkv.Store, dtype: str, mode: str) -> None:
    table, rng = filled(store, dtype), np.random.default_rng(2)
    weights = rng.normal(size=1200) if mode == "weighted" else None
    how = {"weights": weights, "mode": "sum" if mode == "weighted" else mode}
    for rows in (table.stack.rows, None):  # a store whose pool is no file has none
        table.stack.rows = rows
        asked = rng.integers(-20, 1020, 1200)
        expected = gathered(table, asked, OFFSETS, **how)
        assert in_place(table, asked, OFFSETS, **how).tobytes() == expected.tobytes()


def test_other_dtypes_and_tables_with_a_default_pool_copies(store: pmkv.Store) -> None:
    for table in (filled(store, "f2"), filled(store, "i8"), filled(store, "f4", default=2.0)):
        pooled = table.pool([60, 5000, 0], [0, 1, 2])
        absent = 2.0 if table.default else 0.0
        assert pooled.tolist() == [[absent] * 5, [absent] * 5, [1.0] * 5]
    assert in_place(table, [0, 1], [0]).tolist() == [[2.0] * 5], "no row of them is absent"


def test_rows_that_leave_the_row_cache_meanwhile_are_pooled_from_the_log(store: pmkv.Store) -> None:
    table, drop = filled(store, "f4"), RowHits.drop_changed
    expected, overtaken = gathered(table, IDS, OFFSETS[:200]), []

    def forget_some(hits: RowHits, found: np.ndarray) -> int:
        with patch.object(RowHits, "drop_changed", drop):
            if not overtaken:
                table.put(IDS[100:300], np.zeros((200, 5)))
        overtaken.append(drop(hits, found))
        return overtaken[-1]

    with patch.object(RowHits, "drop_changed", forget_some):
        assert table.pool(IDS, OFFSETS[:200]).tobytes() == expected.tobytes(), "as of the lookup"
    assert 150 < overtaken[0] <= 200 and overtaken[1:] == [0], "all of the 200 but those whose sets were full"
    assert (table.get(IDS[100:300]) == 0).all()


def test_pooled_rows_of_the_log_are_offered_to_the_row_cache(store: pmkv.Store) -> None:
    table = filled(store, "f4")
    rows = table.stack.rows
    rows.forget(IDS[500:520])
    before = len(rows)
    in_place(table, IDS, [0])
    assert before < 940 and len(rows) >= before + 20


def test_a_damaged_row_is_not_pooled(store: pmkv.Store) -> None:
    table = filled(store, "f4")
    found, _, data = table._look_up(IdBatch(np.array([7])))  # which is in a memtable
    data[int(found[0] & location.OFFSET_MASK)] ^= 1
    for pool in (in_place, gathered):
        with pytest.raises(CorruptionError, match=r"row 7 of table 'f4', at offset .* is damaged"):
            pool(table, IDS, [0])


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.gather({"a": [1, 2], "b": [[1], [2]]}),
        lambda store: store.pool({"a": ([1, 2], [0, 1]), "b": ([1, 2], [0, 1])}),
    ],
    ids=["gather", "pool"],
)
def test_several_tables_are_looked_up_in_one_hold_of_the_lock_and_read_without_it(
    store: pmkv.Store, read: Callable[[pmkv.Store], dict[str, np.ndarray]]
) -> None:
    tables = [store.create_table(name, "f8") for name in "ab"]
    for table in tables:
        table.put([1, 2], [1, 2])
    store.checkpoint()
    find, held = IndexStack.find_on_disk, []

    def overtaken(stack: IndexStack, *how: object) -> None:
        held.append(store._log.locks.state.is_held)
        with patch.object(IndexStack, "find_on_disk", find):
            for table in tables:
                table.put([1], [9])
        find(stack, *how)

    with patch.object(IndexStack, "find_on_disk", overtaken):
        found = read(store)
    assert held == [False, False]
    assert {name: rows.reshape(-1).tolist() for name, rows in found.items()} == {"a": [1, 2], "b": [1, 2]}
    assert store.gather({"b": [1]})["b"].tolist() == [9]


@pytest.mark.parametrize("limit", [3000, 100], ids=["all tables at once", "some tables at a time"])
def test_what_several_tables_have_on_the_disk_is_started_before_any_is_read(store: pmkv.Store, limit: int) -> None:
    tables = [store.create_table(name, "i8") for name in ("a", "b", "c")]
    for number, table in enumerate(tables):
        table.put(IDS, IDS + number)
    store.checkpoint()
    events, start, rows = [], IdBatch.start_in_runs, RowRead.rows
    asked = {"a": IDS[:60] - 30, "b": IDS[:30], "c": IDS[:200]}

    def started(batch: IdBatch, *rest: object) -> None:
        events.append(f"start {batch.ids.size}")
        start(batch, *rest)

    def read(read: RowRead, default: np.ndarray) -> object:
        events.append(f"read {read.batch.ids.size}")
        return rows(read, default)

    with (
        patch.object(row_reads, "COLD_IDS", limit),
        patch.object(IdBatch, "start_in_runs", started),
        patch.object(RowRead, "rows", read),
    ):
        found = store.gather(asked, default=-1)
    for number, (name, ids) in enumerate(asked.items()):
        assert (found[name] == np.where(ids >= 0, ids + number, -1)).all()
    ends = ["start 60", "start 30", "start 200"] if limit == 3000 else ["start 60", "start 30"]
    assert events == [*ends, "read 60", "read 30", "read 200"]
    pooled = store.pool({name: (IDS[:100], [0, 50]) for name in asked})
    assert pooled["b"].tolist() == [sum(range(1, 51)), sum(range(51, 101))]


def test_a_walk_over_many_rows_is_admitted_to_no_cache(store: pmkv.Store) -> None:
    table, ids = store.create_table("t", ("f4", 4)), np.arange(row_reads.WALKED_IDS)
    table.put(ids, np.ones((ids.size, 4), "f4"))
    store.checkpoint()
    for _ in range(3):
        assert table.get(ids).all() and not len(table.stack.rows)
    table.get(ids[::-1])
    assert len(table.stack.rows)
    assert not row_reads.is_walk(ids[1:]) and not row_reads.is_walk(np.append(ids[1:], 7)) and row_reads.is_walk(ids)
    for _ in range(12):
        table.get(ids[::-1])
    assert table.get(ids).all()  # and takes what is there from it
