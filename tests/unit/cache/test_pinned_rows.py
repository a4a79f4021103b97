"""Pinned rows of a table: they serve what the ordinary way would, take what was reserved, and return after writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmkv
from pmkv.cache import pinned_rows
from pmkv.cache.pinned_rows import PinnedHits, PinnedRows, pinned_bytes
from pmkv.cache.row_cache import RowBudget, RowCache
from pmkv.kernels import location
from pmkv.kernels.records import locate_rows
from pmkv.versions.index_stack import RunSet

WIDTH, OWNER, COUNT = 24, 5, 600


def make(budget: RowBudget | None = None, count: int = COUNT) -> PinnedRows:
    return PinnedRows(budget or RowBudget(1 << 20), WIDTH, count, OWNER)


def offer(pinned: PinnedRows, ids: np.ndarray, versions: np.ndarray) -> None:
    """Offer rows that tell their id and version; those of version 0 are absent."""
    rows = np.stack([ids, versions[ids], ids], axis=1).astype(np.int64).reshape(-1).view(np.uint8)
    locations = np.empty(ids.size, np.uint64)
    locate_rows(rows, 0, ids, WIDTH, np.uint64(OWNER), locations)
    locations[versions[ids] == 0] = 0
    pinned.admit(ids, locations, np.arange(ids.size), rows)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_it_never_has_what_was_written_since(data: st.DataObject) -> None:
    pinned, versions = make(), np.zeros(COUNT, np.int64)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 30))):
        ids = rng.integers(0, COUNT, rng.integers(1, 200))
        match data.draw(st.sampled_from(["read", "read long", "write", "clear"])):
            case "write":
                versions[ids] += 1
                pinned.forget(ids)
            case "clear":
                versions += 1
                pinned.clear()
            case how:
                found, out = np.zeros(ids.size, np.uint64), np.zeros(ids.size * WIDTH, np.uint8)
                hits = pinned.find(ids, found, out if how == "read" else None)
                hits.copy_to(out, found)
                here, rows = found == location.CACHED, out.view(np.int64).reshape(-1, 3)
                assert (rows[here, 1] == versions[ids[here]]).all() and (rows[here, 0] == ids[here]).all()
                known = np.ones(ids.size, bool)
                known[hits.missed] = False
                assert (versions[ids[known & ~here]] == 0).all(), "what is known to be absent is"
                offer(pinned, np.unique(ids[hits.missed]), versions)
        pinned.check()


def test_a_block_is_taken_at_a_time_and_from_other_caches() -> None:
    row = pinned_bytes(WIDTH, 1)
    with patch.object(pinned_rows, "PINNED_BLOCK_BYTES", 100 * row):
        budget = RowBudget(700 * row + (1 << 14))
        cache = RowCache(budget, WIDTH, OWNER, 7)
        ids, rows = np.arange(5000), np.zeros(5000 * WIDTH, np.uint8)
        locations = np.empty(5000, np.uint64)
        locate_rows(rows, 0, ids, WIDTH, np.uint64(OWNER), locations)
        for _ in range(4):
            cache.admit(ids, locations, ids, rows)
        before = cache.nbytes
        pinned = make(budget)
        assert pinned.nbytes == 100 * row and budget.promised() == 500 * row
        cache.admit(ids, locations, ids, rows)
        assert cache.nbytes <= before, "what is promised is not taken"
        cursor = 0
        while cursor < COUNT:
            some, cursor = pinned.next_to_load(cursor)
            offer(pinned, some, np.ones(COUNT, np.int64))
        assert pinned.is_complete and pinned.nbytes == pinned.reserved == COUNT * row and cache.nbytes < before
        for one in (pinned, cache):
            one.check()
        assert budget.free_for(None) == budget.size - budget.marks.nbytes - COUNT * row
        pinned.close()
        assert pinned.words.size == pinned.rows.size == 0 and len(pinned) == 0
        assert budget.used == budget.marks.nbytes + cache.nbytes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pmkv.Store]:
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        yield store


@pytest.fixture
def table(store: pmkv.Store) -> pmkv.Table:
    """A pinned table of a hundred ids; the first fifty have a row, which is on file and known."""
    table = store.create_table("t", ("f4", 3), rows=100, dram="all")
    table.put(np.arange(50), np.arange(150).reshape(50, 3))
    store.checkpoint()
    table.get(np.arange(100))
    assert isinstance(table.stack.rows, PinnedRows) and table.stack.rows.is_complete
    return table


def test_reads_of_what_is_known_look_nothing_up(table: pmkv.Table) -> None:
    ids = np.arange(-5, 105)
    with patch.object(RunSet, "find_on_disk", None):
        rows, found = table.get(ids, default=9, return_found=True)
        assert found.tolist() == [0 <= one < 50 for one in ids]
        assert (rows[5:55] == np.arange(150).reshape(50, 3)).all() and (rows[~found] == 9).all()
        assert table.pool([1, 60, 2, -1], [0, 2]).tolist() == [[3, 4, 5], [6, 7, 8]]
        assert table.contains(ids).tolist() == found.tolist() and not table.may_wait(ids)


def test_what_is_written_or_deleted_is_not_served_from_there(store: pmkv.Store, table: pmkv.Table) -> None:
    table.put([3, 70], np.full((2, 3), 7))
    table.add([4], np.ones((1, 3)))
    table.delete([5])
    for _ in range(2):
        assert table.get([3, 70, 4, 5, 6]).tolist() == [[7] * 3, [7] * 3, [13, 14, 15], [0] * 3, [18, 19, 20]]
        assert table.contains([3, 70, 4, 5, 71]).tolist() == [True, True, True, False, False]
        store.checkpoint()
    table.get(np.arange(100))
    assert table.stack.rows.is_complete and len(table.stack.rows) == 50
    store.check()


def test_other_views_are_read_the_ordinary_way_and_main_follows_a_switch(store: pmkv.Store, table: pmkv.Table) -> None:
    store.snapshot("old")
    new = store.branch("new").table("t")
    new.put([1, 60], np.full((2, 3), 8))
    store.checkpoint()
    assert isinstance(new.stack.rows, RowCache) and new.dram == "all"
    assert table.get([1, 60]).tolist() == [[3, 4, 5], [0] * 3]
    store.promote("new")
    assert table.get([1, 60, 2]).tolist() == [[8] * 3, [8] * 3, [6, 7, 8]]
    assert store.view("old").table("t").get([1, 60]).tolist() == [[3, 4, 5], [0] * 3]
    store.rollback("old")
    assert table.get([1, 60]).tolist() == [[3, 4, 5], [0] * 3]
    store.undo()
    assert table.get([1, 60]).tolist() == [[8] * 3, [8] * 3]
    store.check()


def test_rows_that_change_after_the_lookup_are_those_of_the_lookup(table: pmkv.Table) -> None:
    copy_to, ids = PinnedHits.copy_to, np.resize(np.arange(50), 6000)  # too many to be copied under the lock

    def overtaken(hits: PinnedHits, *how: Any) -> int:
        with patch.object(PinnedHits, "copy_to", copy_to):
            table.put([3, 4], np.zeros((2, 3)))
        lost = copy_to(hits, *how)
        assert lost == 240
        return lost

    with patch.object(PinnedHits, "copy_to", overtaken):
        assert table.get(ids)[3].tolist() == [9, 10, 11]
    assert table.get(ids)[3].tolist() == [0, 0, 0]
