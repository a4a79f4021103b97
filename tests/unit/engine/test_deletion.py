"""Deletes of any size: in one piece where there is room, in several in a full pool."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.engine.deletion import cut
from pmkv.errors import FullError

CAPACITY = 8 << 20
BATCH = 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pmkv.Store]:
    with pmkv.open(tmp_path / "d", capacity=CAPACITY, durability="interval") as store:
        yield store


def test_pieces_are_about_as_long_as_allowed() -> None:
    assert cut(np.array([], np.int64), 10) == []
    assert cut(np.array([25]), 10) == [(0, 1)]
    assert cut(np.array([4, 4, 4, 4, 4]), 8) == [(0, 2), (2, 4), (4, 5)]
    assert cut(np.broadcast_to(8, (5,)), 1000) == [(0, 5)]
    pieces = cut(sizes := np.random.default_rng(0).integers(1, 50, 1000), 100)
    assert pieces[0][0] == 0 and pieces[-1][1] == 1000
    assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces))
    assert max(int(sizes[start:stop].sum()) for start, stop in pieces) < 150


def fill(store: pmkv.Store, table: pmkv.Table) -> int:
    """Put new rows until the pool is full; return how many are there."""
    rows = np.ones((BATCH, 16), "f4")
    with pytest.raises(FullError, match="delete what nobody needs"):
        for start in range(0, CAPACITY // 64, BATCH):
            table.put(np.arange(start, start + BATCH), rows)
    return len(table)


def test_one_delete_empties_a_full_pool_of_rows(store: pmkv.Store) -> None:
    table = store.create_table("t", "(16,)f4")
    count = fill(store, table)
    assert count * 8 > 2 * store.stats().segment_size, "the ids fit into no segment"
    assert table.delete(np.arange(-10, count + 10)) == count
    assert len(table) == 0 and table.delete(np.arange(count)) == 0
    table.put(np.arange(BATCH), np.ones((BATCH, 16), "f4"))
    assert table.get([5]).sum() == 16


def test_one_delete_empties_a_full_pool_of_keys(store: pmkv.Store) -> None:
    keys = [b"key:%040d" % number for number in range(40_000)]
    kept = 0
    with pytest.raises(FullError):
        for start in range(0, len(keys), BATCH):
            store.put_many(dict.fromkeys(keys[start : start + BATCH], b"v" * 400))
            kept += BATCH
    assert kept * 60 > 2 * store.stats().segment_size
    assert store.keyspace(0).delete_many(keys) == kept
    assert len(store.keyspace(0)) == 0
    store.put(b"a", b"1")


def test_a_batch_in_a_full_pool_deletes_all_or_nothing(store: pmkv.Store) -> None:
    table = store.create_table("t", "(16,)f4")
    count = fill(store, table)
    with pytest.raises(FullError), store.batch():
        table.delete(np.arange(count))
    assert len(table) == count


def test_sums_of_many_pieces_are_added_once(store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = store.create_table("t", "(2,)f4")
    monkeypatch.setattr(type(table), "_atomic", lambda self, width: 7)
    ids = np.array([1, 2, 3, 1, 20, 19, 18, 17, 16, 15, 14, 13, 12, 1])
    table.add(ids, np.ones((ids.size, 2), "f4"))
    table.add(ids[:1], np.ones((1, 2), "f4"))
    unique, counts = np.unique(ids, return_counts=True)
    assert table.get(unique)[:, 0].tolist() == [count + (id == 1) for id, count in zip(unique, counts)]


def test_a_full_pool_names_the_views_that_pin_most(store: pmkv.Store) -> None:
    table = store.create_table("t", "(16,)f4")
    for name in ("first", "second"):
        table.put(np.arange(20_000), np.ones((20_000, 16), "f4"))
        store.snapshot(name)
    table.put(np.arange(20_000), np.ones((20_000, 16), "f4"))
    with pytest.raises(FullError, match=r"Of the views these pin most: '(first|second)' about \d+,\d+,"):
        for start in range(100_000, 300_000, BATCH):
            table.put(np.arange(start, start + BATCH), np.ones((BATCH, 16), "f4"))
