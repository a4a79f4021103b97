"""Figures of a store: each against what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import pmkv
from pmkv.engine.engine import Engine
from pmkv.errors import FlushError
from pmkv.media.base import Granularity
from pmkv.media.simulated import SimulatedMedium
from pmkv.stats import stats_of

CAPACITY = 8 << 20


def filled(path: Path) -> pmkv.Store:
    store = pmkv.open(path, capacity=CAPACITY)
    store.put_many({b"a": b"1", b"b": b"2", b"c": b"3"})
    store.keyspace(5).put(b"k", b"v")
    store.delete(b"a")
    items = store.create_table("items", ("f4", 4))
    items.put([1, 2, 3], np.ones((3, 4), "f4"))
    items.delete([2])
    return store


def test_figures_of_an_open_store(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        stats = store.stats()
        assert stats.keys == {0: 2, 5: 1}
        assert stats.tables == {"items": 2}
        assert stats.path == str(tmp_path)
        assert (stats.granularity, stats.durability, stats.readonly, stats.failed) == ("page", "commit", False, None)
        assert stats.capacity == CAPACITY and stats.segments == (CAPACITY - 4096) // stats.segment_size
        assert stats.used == stats.segment_size and stats.segments_free == stats.segments - 1
        assert stats.lsn == stats.durable_lsn == store.durable_lsn and stats.epoch == 1
        assert stats.flushes >= 6, "each write of one thread is a flush of its own"
        assert stats.index_bytes > 0
        assert json.loads(json.dumps(stats.asdict()))["tables"] == {"items": 2}


def test_figures_of_the_row_cache(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        assert store.stats().row_cache == {} and store.stats().row_cache_bytes < store.stats().row_cache_budget
        store.checkpoint()
        items = store.table("items")
        for _ in range(3):
            items.get([1, 2, 3, 4])
        stats = store.stats()
        assert stats.row_cache["items"] | {"bytes": 0, "pages_read": 0} == {
            "rows": 2, "bytes": 0, "reserved": 0, "hits": 4, "misses": 8, "fills": 2, "evictions": 0, "pages_read": 0
        }  # fmt: skip
        assert (stats.row_cache_hits, stats.row_cache_misses) == (4, 8)
    with pmkv.open(pool=":memory:", capacity=CAPACITY) as store:
        assert store.stats().row_cache_budget == 0


def test_figures_of_a_recovery(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        stats = store.stats()
        assert stats.epoch == 2
        assert stats.recovery_records == 3 + 1 + 1 + 3 + 1
        assert stats.recovery_frames >= 7 and stats.recovery_seconds > 0
        assert stats.keys == {0: 2, 5: 1} and stats.tables == {"items": 2}
    with pmkv.open(tmp_path, readonly=True) as store:
        assert store.stats().readonly


def test_what_is_not_durable_yet_is_told_apart() -> None:
    engine = Engine.on_medium(SimulatedMedium(4096 + 14 * 4096, Granularity.PAGE), 4096)
    with engine.log.deferred():
        engine.keyspaces[0].put(b"k", b"v")
        stats = stats_of(engine, None)
    assert stats.lsn == stats.durable_lsn + 1
    assert stats.path is None


def test_a_failed_flush_is_told() -> None:
    medium = SimulatedMedium(4096 + 14 * 4096, Granularity.PAGE)
    engine = Engine.on_medium(medium, 4096)
    medium.fail_flush()
    try:
        engine.keyspaces[0].put(b"k", b"v")
    except FlushError as error:
        stats = stats_of(engine, None)
        assert stats.failed == str(error) and stats.readonly and stats.keys == {}
    else:
        raise AssertionError("a write succeeded whose flush failed")
