"""Loading what shall be in DRAM: rows of pinned tables, after the start, a checkpoint and a switch of versions."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.cache import pinned_rows
from pmkv.cache.kept_ids import KeptIds
from pmkv.engine import row_loader
from pmkv.engine.row_loader import RowLoader, cached_ids
from pmkv.index.lookup_batch import IdBatch
from pmkv.kernels import location
from pmkv.runtime.background import Background

IDS = np.arange(1000)


class Now(Background):
    """Runs what is submitted when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[Callable[[], object]] = []

    def submit(self, work: Callable[[], object]) -> None:
        self.submitted.append(work)

    def catch_up(self) -> None:
        while self.submitted:
            self.submitted.pop(0)()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "the background thread loads nothing"
        time.sleep(0.001)


def pinned(store: pmkv.Store, name: str) -> pmkv.Table:
    table = store.create_table(name, "i8", rows=2000, dram="all")
    table.put(IDS, IDS)
    return table


def test_what_is_missing_is_loaded_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned_rows, "LOADED_IDS", 100)
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        loader = RowLoader(lambda: list(store.tables().values()), lambda: False)
        store._engine.dram.rows.on_need = None
        tables = [pinned(store, name) for name in "ab"]
        assert list(loader.load()) == [], "all is in memtables"
        store.checkpoint()
        tables[0].get([1])
        tables[1].get([1])
        steps = loader.load()
        next(steps)
        rows = tables[0].stack.rows
        assert 100 <= rows.known < 300
        tables[0].put([1500], [7])
        tables[0].delete([5])
        for _ in steps:
            pass
        assert rows.known == 1998, "but for what is in a memtable"
        store.checkpoint()
        tables[0].get([1])
        for _ in loader.load():
            pass
        assert all(table.stack.rows.is_complete for table in tables)
        assert tables[0].get([5, 6, 1500]).tolist() == [0, 6, 7] and len(rows) == 1000
        store.check()


def test_a_damaged_row_is_left_to_those_who_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned_rows, "LOADED_IDS", 100)
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        store._engine.dram.rows.on_need = None
        table = pinned(store, "t")
        found, _, data = table._look_up(IdBatch(np.array([150])))
        data[int(found[0] & location.OFFSET_MASK)] ^= 1
        store.checkpoint()
        table.get([1])
        for _ in RowLoader(lambda: [table], lambda: False).load():
            pass
        assert 1800 < table.stack.rows.known < 2000
        with pytest.raises(pmkv.CorruptionError):
            table.get([150])


def test_requests_during_a_run_lead_to_one_more(tmp_path: Path) -> None:
    background, runs = Now(), []

    def tables() -> list[pmkv.Table]:
        runs.append(1)
        if len(runs) == 1:
            loader.request(background)
            loader.request(background)
        return []

    loader = RowLoader(tables, lambda: False)
    loader.request(background)
    loader.request(background)
    assert len(background.submitted) == 1
    background.catch_up()
    background.catch_up()
    assert len(runs) == 2


def test_a_store_loads_in_the_background(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        table = pinned(store, "t")
        store.checkpoint()
        table.get([1])
        wait_until(lambda: table.stack.rows.is_complete)
        store.snapshot("s")
        table.put(IDS, IDS + 1)
        store.rollback("s")
        wait_until(lambda: table.stack.rows.is_complete)
        assert (table.get(IDS) == IDS).all()
    with pmkv.open(tmp_path, dram="4MiB") as store:
        rows = store.table("t").stack.rows
        wait_until(lambda: rows.is_complete)
        assert len(rows) == 1000


def test_the_rows_that_were_cached_are_loaded_after_a_restart(tmp_path: Path) -> None:
    hot = np.arange(0, 20_000, 7)
    with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB") as store:
        table = store.create_table("t", ("i8", 4))
        table.put(np.arange(20_000), np.repeat(np.arange(20_000), 4).reshape(-1, 4))
        store.checkpoint()
        for _ in range(12):
            table.get(hot)
        before = table.stack.rows.ids()
        assert before.size > 2500
    for damage in (False, True):
        with pmkv.open(tmp_path, dram="4MiB") as store:
            rows = store.table("t").stack.rows
            if damage:
                assert len(rows) == 0 and (store.table("t").get(hot)[:, 0] == hot).all()
                break
            wait_until(lambda: rows.admitted > 0.95 * before.size)  # noqa: B023
            assert np.isin(rows.ids(), before).all()
            assert rows.hits == rows.misses == 0, "nobody has asked for them yet"
            assert (store.table("t").get(hot)[:, 0] == hot).all() and rows.hits > 0.9 * hot.size
        (tmp_path / "row_ids").write_bytes(b"no ids")


def test_they_are_loaded_in_the_order_of_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_loader, "FORMER_IDS", 100)
    started: list[np.ndarray] = []
    monkeypatch.setattr(row_loader, "start_rows", lambda data, locations, width: started.append(locations))
    kept = KeptIds(tmp_path / "row_ids")
    kept.write({1: IDS})
    with pmkv.open(tmp_path / "data", capacity="64MiB", dram="4MiB") as store:
        table = store.create_table("t", "i8")
        ids = np.random.default_rng(1).permutation(IDS)
        for some in np.split(ids, 20):
            table.put(some, some)
        store.checkpoint()
        table.get(ids[:1])
        steps = RowLoader(lambda: [table], lambda: False, kept).load()
        while len(table.stack.rows) < 2:
            next(steps)
        assert sorted(table.stack.rows.ids().tolist()) == sorted(ids[:100].tolist()), "those that were written first"
        assert len(started) == 1 and np.isin(started[0], table._look_up(IdBatch(ids[100:200]))[0]).all()
        for _ in steps:
            pass
        assert len(table.stack.rows) > 900, "but for some whose sets are full"


def test_ids_are_kept_once_the_former_ones_are_loaded(tmp_path: Path) -> None:
    kept = KeptIds(tmp_path / "row_ids")
    kept.write({1: np.arange(5)})
    with pmkv.open(tmp_path / "data", capacity="64MiB", dram="4MiB") as store:
        table = store.create_table("t", "i8")
        table.put(IDS, IDS)
        store.checkpoint()
        loader = RowLoader(lambda: [table], lambda: False, kept)
        loader.keep(now=True)
        assert kept.read()[1].tolist() == [0, 1, 2, 3, 4], "they were not even read"
        for _ in loader.load():
            pass
        assert cached_ids(table).tolist() == [0, 1, 2, 3, 4]
        loader.keep()
        assert kept.read()[1].size == 5, "written less than a minute ago"
        table.get(np.arange(10))
        loader.keep(now=True)
        assert kept.read()[1].tolist() == list(range(10))
