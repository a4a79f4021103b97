"""Whether reads wait for the disk: what the system counts decides, and what is in memory never waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.cache import cold_reads
from pmkv.cache.cold_reads import COLD_IDS, COLD_SHARE, MEASURED_IDS, STRIDE_PAGES, WARM_SHARE, ColdReads
from pmkv.kernels.readahead import PAGE_BYTES

N = 100


def read(reads: ColdReads, share: float, times: int = 1) -> bool:
    for _ in range(times):
        reads.learn(share * MEASURED_IDS, MEASURED_IDS)
    return reads.is_cold


def test_a_table_is_cold_until_its_reads_have_shown_otherwise() -> None:
    reads = ColdReads()
    assert reads.is_cold and read(reads, 1.0, 10)
    assert not read(reads, 0.0, 40)
    assert read(reads, 5 * COLD_SHARE, 3), "a few reads that waited are enough"
    assert reads.pages >= 10 * MEASURED_IDS


def test_between_the_bounds_it_stays_as_it_was() -> None:
    cold, warm = ColdReads(), ColdReads()
    share = (COLD_SHARE + WARM_SHARE) / 2
    read(warm, 0.0, 40)
    assert read(cold, share, 100) and not read(warm, share, 100)


def test_few_ids_are_gathered_before_they_count() -> None:
    reads = ColdReads()
    for _ in range(MEASURED_IDS - 1):
        reads.learn(0.0, 1)
    assert reads.share == 1.0
    reads.learn(0.0, 1)
    assert reads.share < 1.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pmkv.Store]:
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store.create_table("t", "i8").put(np.arange(N), np.arange(N))
        yield store


def test_what_is_in_memory_never_waits(store: pmkv.Store) -> None:
    table, some = store.table("t"), np.arange(10)
    assert not table.may_wait(some), "all is in the memtable"
    store.checkpoint()
    assert table.may_wait(some)
    table.get(some)
    assert not table.may_wait(some) and table.may_wait(np.arange(11)), "the row cache has ten of them"
    table.put([10], [5])
    assert not table.may_wait(np.arange(11))
    table.stack.reads.is_cold = False
    assert not table.may_wait(np.arange(N))


def test_a_cold_batch_is_read_in_parts_and_is_right(store: pmkv.Store) -> None:
    table, ids = store.table("t"), np.arange(3 * COLD_IDS + 5)
    table.put(ids, ids)
    store.checkpoint()
    assert table.stack.reads.is_cold and table.may_wait(ids)
    asked = np.random.default_rng(1).permutation(np.append(ids, -ids))
    assert (table.get(asked, default=-1) == np.where(asked >= 0, asked, -1)).all()


def test_rows_are_started_in_the_order_of_their_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[int], int]] = []
    monkeypatch.setattr(cold_reads, "start_reads", lambda base, pages, step: asked.append((pages.tolist(), step)))
    locations = np.array([page * PAGE_BYTES + 8 for page in (30, 1, 7)], np.uint64)
    cold_reads.start_rows(np.empty(8, np.uint8), locations, 64)
    assert asked == [([1, 7, 30], STRIDE_PAGES)]
