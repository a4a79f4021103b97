"""How much DRAM a table's owner may choose, and that the choice is kept with the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.cache.pinned_rows import PinnedRows
from pmkv.cache.row_cache import RowBudget, RowCache
from pmkv.engine.table_dram import check_fits
from pmkv.errors import InvalidError, ReadOnlyError
from tests.engines import small_engine


def test_what_fits_and_what_does_not() -> None:
    budget = RowBudget(1 << 16)
    check_fits(budget, "all", 24, 1000, None, "t")
    check_fits(budget, "all", 24, None, None, "t")
    check_fits(budget, 1 << 15, 24, None, None, "t")
    check_fits(None, "all", 24, 1 << 40, None, "t")
    for choice, bound in (("all", 10_000), (1 << 17, None), (1.0, None)):
        with pytest.raises(InvalidError, match=r"table 't' takes [\d,]+ bytes, and of the row cache's 65,536"):
            check_fits(budget, choice, 24, bound, None, "t")


def test_what_others_reserve_is_not_free() -> None:
    budget = RowBudget(1 << 16)
    other = RowCache(budget, 24, 1, 7)
    other.reserved = 1 << 15
    check_fits(budget, 1 << 15, 24, None, other, "other")
    with pytest.raises(InvalidError, match="are not reserved"):
        check_fits(budget, 1 << 15, 24, None, None, "t")


def test_it_is_kept_with_the_table(tmp_path: Path) -> None:
    ids = np.arange(10)
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        made = store.create_table("made", "f4", rows=10, dram="all")
        store.create_table("told", "f4", rows=10).set_dram("25%")
        store.create_table("neither", "f4", rows=10, dram="all").set_dram(None)
        with pytest.raises(InvalidError, match="give 'all'"):
            store.create_table("wrong", "f4", dram="much")
        with pytest.raises(InvalidError, match="open the store with a larger dram"):
            store.create_table("large", "f4", rows=10_000_000, dram="all")
        assert sorted(store.tables()) == ["made", "neither", "told"]
        for table in store.tables().values():
            table.put(ids, ids)
        store.checkpoint()
        made.get(ids)
        assert isinstance(made.stack.rows, PinnedRows)
        asked = made.stack.rows.hits + made.stack.rows.misses
        made.set_dram(None)
        assert made.stack.rows.hits + made.stack.rows.misses == asked > 0, "the counters go on"
        store.snapshot("s")
        with pytest.raises(ReadOnlyError):
            store.view("s").table("made").set_dram(None)
        made.set_dram("1MiB")  # after the checkpoint: replayed
    for dram in ("4MiB", "1MiB"):
        with pmkv.open(tmp_path, dram=dram) as store:
            choices = {name: table.dram for name, table in store.tables().items()}
            assert choices == {"made": 1 << 20, "told": 0.25, "neither": None}
            rows = {name: table.stack.rows for name, table in store.tables().items()}
            budget = store.stats().row_cache_budget
            assert rows["told"].reserved == budget // 4 and rows["neither"].reserved == 0
            assert rows["made"].reserved <= 1 << 20, "as far as there is so much"
            store.check()
            store.table("made").set_dram("all")
            assert store.table("made").get(ids).tolist() == ids.tolist()
            store.table("made").set_dram("1MiB" if dram == "4MiB" else None)


def test_a_branch_chooses_for_main_what_it_is_promoted_with(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        branch = store.branch("b")
        table = branch.create_table("t", "f4", rows=10)
        table.put([1], [5])
        table.set_dram("all")
        store.checkpoint()
        assert table.get([1]).tolist() == [5] and not isinstance(table.stack.rows, PinnedRows)
        store.promote("b")
        assert isinstance(store.table("t").stack.rows, PinnedRows) and store.table("t").get([1, 2]).tolist() == [5, 0]


def test_a_store_in_memory_has_all_rows_in_dram_anyway() -> None:
    engine = small_engine()
    table = engine.create_table("t", "f4", 1 << 40, dram="all")
    table.set_dram(0.5)
    assert table.dram == 0.5 and table.stack.rows is None
    engine.drop_table("t")
    with pytest.raises(pmkv.UnknownNameError):
        table.set_dram(None)
