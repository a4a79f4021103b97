"""The row cache: hit rates, scans, its budget, and rows against a dict, whatever is admitted, written and cleared."""

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
from pmkv.cache.row_cache import (
    FIRST_SETS,
    LOOKUPS_PER_SLOT,
    OFFERS_PER_ADMIT,
    SWITCH,
    RowBudget,
    RowCache,
    is_switched_off,
)
from pmkv.kernels import location
from pmkv.kernels.records import locate_rows
from pmkv.kernels.row_cache import WAYS
from pmkv.versions.index_stack import IndexStack, RunSet

WIDTH, OWNER, BATCH = 24, 5, 1024


def make(budget: int | RowBudget = 1 << 20, width: int = WIDTH) -> RowCache:
    return RowCache(budget if isinstance(budget, RowBudget) else RowBudget(budget), width, OWNER, 7)


def rows_of(ids: np.ndarray, salt: int = 0) -> np.ndarray:
    """Rows that tell their id and a version of it."""
    return np.stack([ids, ids + salt, ids], axis=1).astype(np.int64).reshape(-1).view(np.uint8)


def offer(cache: RowCache, ids: np.ndarray, salt: int = 0) -> None:
    rows, locations = rows_of(ids, salt), np.empty(ids.size, np.uint64)
    locate_rows(rows, 0, ids, WIDTH, np.uint64(OWNER), locations)
    cache.admit(ids, locations, np.arange(ids.size), rows)


def look(cache: RowCache, ids: np.ndarray, salt: int = 0) -> np.ndarray:
    """Return which ids are here. Their rows must be right."""
    found, out = np.zeros(ids.size, np.uint64), np.zeros(ids.size * WIDTH, np.uint8)
    hits = cache.find(ids, found)
    cache.note(ids, hits)
    hits.copy_to(out, found)
    here = found == location.CACHED
    assert hits.missed.tolist() == np.flatnonzero(~here).tolist()
    assert (out.reshape(-1, WIDTH)[here] == rows_of(ids, salt).reshape(-1, WIDTH)[here]).all()
    return here


def read(cache: RowCache, ids: np.ndarray) -> float:
    """Look ids up in batches and offer what is missing; return the share of hits."""
    before = cache.hits
    for start in range(0, ids.size, BATCH):
        part = ids[start : start + BATCH]
        offer(cache, part[~look(cache, part)])
    return (cache.hits - before) / ids.size


def zipf(exponent: float, ids: int, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids drawn, cumulated shares by rank)."""
    shares = np.cumsum(1 / np.arange(1, ids + 1) ** exponent)
    rng = np.random.default_rng(seed)
    return rng.permutation(ids)[np.searchsorted(shares, rng.random(count) * shares[-1])], shares / shares[-1]


def test_the_hit_ratio_is_near_that_of_the_best_rows() -> None:
    cache = make(1 << 19)
    ids, shares = zipf(1.05, 1 << 16, 400_000)
    read(cache, ids[:200_000])
    slots = cache._budget.size // cache.set_bytes * WAYS
    assert read(cache, ids[200_000:]) > shares[slots - 1] - 0.05
    cache.check()


def test_a_scan_evicts_nothing_that_is_read_often() -> None:
    cache, hot = make(1 << 16), np.arange(200)
    for _ in range(8):
        read(cache, hot)
    before = np.count_nonzero(look(cache, hot))
    read(cache, np.arange(1000, 50_000))
    assert before > 180 and np.count_nonzero(look(cache, hot)) > before - 10


def test_the_budget_holds_whatever_caches_do() -> None:
    budget = RowBudget(1 << 18)
    caches = [make(budget), make(budget)]
    for cache in caches:
        read(cache, zipf(0.9, 1 << 15, 50_000)[0])
        cache.check()
    assert budget.used == budget.marks.nbytes + sum(cache.nbytes for cache in caches) <= budget.size
    first = caches.pop(0)
    first.close()
    assert first.sets == 0 and not look(first, np.arange(100)).any()
    read(caches[0], np.arange(10_000))
    assert budget.used == budget.marks.nbytes + caches[0].nbytes, "the memory is given back piece by piece"


def test_a_cache_that_is_asked_takes_over_from_one_that_is_not() -> None:
    budget = RowBudget(1 << 18)
    idle, busy = make(budget), make(budget)
    read(idle, np.arange(20_000))
    most = idle.nbytes
    ids, _ = zipf(0.8, 1 << 14, 150_000)
    read(busy, ids)
    assert busy.nbytes > most / 2 > idle.nbytes > 0
    for cache in (idle, busy):
        cache.check()


def test_a_reader_of_a_closed_cache_gets_its_rows_or_none() -> None:
    budget = RowBudget(1 << 22)
    cache, other, ids = make(budget), make(budget), np.arange(5000)
    read(cache, ids)
    read(cache, ids)
    found, out = np.zeros(ids.size, np.uint64), np.zeros(ids.size * WIDTH, np.uint8)
    hits = cache.find(ids, found)
    cache.close()
    offer(other, ids[:1])  # gives a piece of the memory back
    lost = hits.copy_to(out, found)
    assert lost > 0
    here = found == location.CACHED
    assert (out.reshape(-1, WIDTH)[here] == rows_of(ids).reshape(-1, WIDTH)[here]).all()
    assert hits.missed.tolist() == np.flatnonzero(found == 0).tolist()


def test_what_is_cleared_is_gone_and_readers_of_before_get_it_still() -> None:
    cache, ids = make(), np.arange(100)
    offer(cache, ids)
    found, out = np.zeros(ids.size, np.uint64), np.zeros(ids.size * WIDTH, np.uint8)
    hits = cache.find(ids, found)
    cache.clear()
    assert not look(cache, ids).any() and len(cache) == 0
    hits.copy_to(out, found)
    here = found == location.CACHED
    assert here.any() and (out.reshape(-1, WIDTH)[here] == rows_of(ids).reshape(-1, WIDTH)[here]).all()


def test_offers_are_taken_seldom_where_nothing_is_found() -> None:
    cache = make(1 << 16)
    limit = LOOKUPS_PER_SLOT * (1 << 16) // (cache.set_bytes // WAYS)
    assert all(cache.wants() for _ in range(100))
    cache.misses = limit
    assert sum(cache.wants() for _ in range(10 * OFFERS_PER_ADMIT)) == 10
    cache.hits = limit
    assert all(cache.wants() for _ in range(100))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_it_never_has_what_was_written_since(data: st.DataObject) -> None:
    cache, versions = make(1 << 15), np.zeros(600, np.int64)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 30))):
        ids = rng.integers(0, 600, rng.integers(1, 200))
        match data.draw(st.sampled_from(["read", "write", "clear", "shrink"])):
            case "read":
                found, out = np.zeros(ids.size, np.uint64), np.zeros(ids.size * WIDTH, np.uint8)
                cache.find(ids, found).copy_to(out, found)
                here, rows = found == location.CACHED, out.view(np.int64).reshape(-1, 3)
                assert (rows[here, 1] == ids[here] + versions[ids[here]]).all()
                missing = np.unique(ids[~here])
                for version in np.unique(versions[missing]):
                    offer(cache, missing[versions[missing] == version], int(version))
            case "write":
                versions[ids] += 1
                cache.forget(ids)
            case "clear":
                cache.clear()
                versions += 1
            case "shrink":
                cache.shrink(int(rng.integers(1, 4000)))
        cache.check()
    assert cache.sets == 0 or cache.sets >= FIRST_SETS
    assert sorted(cache.ids().tolist()) == np.flatnonzero(in_cache(cache)).tolist()


def in_cache(cache: RowCache) -> np.ndarray:
    found = np.zeros(600, np.uint64)
    cache.find(np.arange(600), found)
    return found == location.CACHED


@pytest.fixture
def table(tmp_path: Path) -> Iterator[pmkv.Table]:
    """Ten rows on file: row i is i."""
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        table = store.create_table("t", "i8")
        table.put(np.arange(10), np.arange(10))
        store.checkpoint()
        yield table


def test_a_row_that_is_written_after_it_was_looked_up_is_not_admitted(table: pmkv.Table) -> None:
    find_on_disk = RunSet.find_on_disk

    def overtaken(*how: Any) -> None:
        find_on_disk(*how)
        with patch.object(RunSet, "find_on_disk", find_on_disk):
            table.put([3, 4], [30, 40])
            table.delete([5])

    with patch.object(RunSet, "find_on_disk", overtaken):
        assert table.get(np.arange(10)).tolist() == list(range(10)), "as of the lookup"
    assert sorted(table.stack.rows.ids().tolist()) == [0, 1, 2, 6, 7, 8, 9]
    assert table.get(np.arange(3, 6), default=-1).tolist() == [30, 40, -1]


def test_rows_are_not_admitted_once_their_runs_were_replaced(table: pmkv.Table) -> None:
    find_on_disk = RunSet.find_on_disk

    def overtaken(*how: Any) -> None:
        find_on_disk(*how)
        table.stack.tree.invalidate_stacks()

    with patch.object(RunSet, "find_on_disk", overtaken):
        assert table.get([1, 2]).tolist() == [1, 2]
    assert table.stack.rows.ids().tolist() == []


def test_rows_of_memtables_are_not_admitted(table: pmkv.Table) -> None:
    table.put([3, 20], [30, 200])
    assert table.get([2, 3, 20, 21]).tolist() == [2, 30, 200, 0]
    assert table.stack.rows.ids().tolist() == [2]


def test_what_a_user_does_to_a_result_meanwhile_is_not_cached(table: pmkv.Table) -> None:
    out, admit_rows = np.zeros(2, np.int64), IndexStack.admit_rows

    def scribbled(*how: Any) -> None:
        out[0] = 77
        admit_rows(*how)

    with patch.object(IndexStack, "admit_rows", scribbled):
        table.get([1, 2], out=out)
    assert table.stack.rows.ids().tolist() == [2] and table.get([1, 2]).tolist() == [1, 2]


def test_each_view_has_rows_of_its_own(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        table, ids = store.create_table("t", "i8"), np.arange(10)
        table.put(ids, ids)
        store.snapshot("old")
        store.checkpoint()
        assert table.get(ids).tolist() == store.view("old").table("t").get(ids).tolist() == ids.tolist()
        store.branch("new").table("t").put(ids, ids + 100)
        store.checkpoint()
        assert store.view("new").table("t").get(ids).tolist() == (ids + 100).tolist()
        store.promote("new")
        for _ in range(2):
            assert table.get(ids).tolist() == (ids + 100).tolist()
            assert store.view("old").table("t").get(ids).tolist() == ids.tolist()
        store.rollback("old")
        assert table.get(ids).tolist() == ids.tolist()
        store.undo()
        assert table.get(ids).tolist() == (ids + 100).tolist()
        store.check()


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_switched_off()
    monkeypatch.setenv(SWITCH, "off")
    assert is_switched_off()


def test_a_cache_grows_for_rows_that_are_to_come() -> None:
    cache, ids = make(), np.arange(2000)
    for _ in range(20):
        cache.expect(ids.size)
    assert cache.nbytes == cache.bytes_for(2000)
    offer(cache, ids)
    assert np.count_nonzero(look(cache, ids)) > 1950
    sets = cache.sets
    assert sorted(np.concatenate([cache.ids_in(0, 7), cache.ids_in(7, sets + 9)]).tolist()) == sorted(cache.ids())
    small = make(1 << 14)
    small.expect(1 << 20)
    small.check()


class Lender:
    """Another budget of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self.on_take: Any = None


def test_caches_use_what_another_budget_has_free_until_it_takes_it_back() -> None:
    lender = Lender(1 << 18)
    budget = RowBudget(1 << 18, lender)
    cache = make(budget)
    ids, _ = zipf(0.8, 60_000, 200_000)
    read(cache, ids)
    assert 1.9 * budget.size < budget.used <= 2 * budget.size
    for free in (100_000, 0):
        lender.free = free
        lender.on_take()
        assert budget.size + free - 2 * cache.set_bytes < budget.used <= budget.size + free
        cache.check()
    kept = cache.ids()
    assert kept.size > 1000 and look(cache, kept).all()
    assert budget.free_for(None) < budget.size, "what is lent cannot be reserved"


def test_tables_whose_seeds_differ_in_a_bit_have_other_doorkeepers(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        stacks = [store.create_table(name, "i8").stack for name in ("a", "b")]
        for name in ("a", "b"):
            store.table(name).put([1], [1])
        store.checkpoint()
        assert store.gather({"a": [1], "b": [1]})["b"].tolist() == [1]
        seeds = [int(stack.rows.seed) for stack in stacks]
        assert (seeds[0] ^ seeds[1]).bit_length() > 40
        assert all(stack.cache is None for stack in stacks), "rows take the place of locations"
