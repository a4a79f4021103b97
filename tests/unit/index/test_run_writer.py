"""Runs are written in short steps, of memtables and other runs, and hold what these hold together."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmkv.errors import CorruptionError
from pmkv.index.hash_table import HashTable
from pmkv.index.run import Run, RunInfo
from pmkv.index.run_files import PAGE, DiskRunFiles
from pmkv.index.run_writer import write_run
from pmkv.kernels.location import DELETE, OFFSET_MASK
from tests.unit.index.run_maker import (
    FIRST,
    HEAP,
    NONE,
    SEED,
    SEGMENT,
    Keys,
    Maker,
    damaged,
    entries_of,
    find,
    finish,
    index_of,
    some,
    weights_of,
)


@settings(max_examples=30)
@given(st.data())
def test_runs_are_dicts_however_they_are_folded(data: st.DataObject) -> None:
    rng, maker = np.random.default_rng(data.draw(st.integers(0, 2**32))), Maker()
    ids = data.draw(st.sampled_from([5, 300, 30_000]))
    sources: list[HashTable | Run] = []
    for _ in range(data.draw(st.integers(1, 5))):
        index = some(rng, int(rng.integers(1, 2 * ids)), ids)
        sources.append(maker.run([index]) if data.draw(st.booleans()) else index)
    bottom = data.draw(st.booleans())
    model: dict[int, int] = {}
    for source in reversed(sources):
        model |= entries_of(source)
    if bottom:
        model = {word: where for word, where in model.items() if not where & int(DELETE)}
    info = maker.info(sources, bottom=bottom)
    assert info.count == len(model)
    if not model:
        assert maker.shelf.open(info.file).size == PAGE and not info.segments
        return
    run = Run(info, maker.shelf.open(info.file), "run")
    assert entries_of(run) == model
    asked = np.arange(-10, ids + 10)
    assert find(run, asked) == [model.get(i, 0) for i in asked.tolist()]
    assert info.segments == weights_of(model, 8)
    assert run.nbytes <= 24 * info.count + 3 * PAGE
    assert RunInfo.from_dict(info.asdict()) == info
    run.check(SEED)


@pytest.mark.parametrize("sample", [1, 3000, 10**9])
def test_the_capacity_of_a_long_run_is_estimated(sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.index.run_writer.SAMPLE_ENTRIES", sample)
    rng, maker = np.random.default_rng(1), Maker()
    run = maker.run([some(rng, 100_000, 10**9), maker.run([some(rng, 150_000, 10**9)])], bottom=True)
    assert 0.7 < run.info.count / run.info.capacity < 0.85
    run.check(SEED)


def test_several_runs_stand_in_one_file() -> None:
    maker, infos = Maker(), []
    out = maker.shelf.create("all.runs")
    for i in range(3):
        ids = np.arange(1000) + i * 1000
        steps = write_run(
            out, [index_of(ids, (ids + FIRST).astype(np.uint64))], pool_data=maker.data, width=8,
            seed=np.uint64(SEED), segments=(FIRST, SEGMENT), bottom=True, live=1000,
            added=NONE, gone=NONE, first=i, last=i + 1,
        )  # fmt: skip
        infos.append(finish(steps))
    runs = [Run(info, maker.shelf.open("all.runs"), "run") for info in infos]
    assert [info.offset for info in infos] == [PAGE, PAGE + infos[0].nbytes, PAGE + infos[0].nbytes + infos[1].nbytes]
    for i, run in enumerate(runs):
        asked = np.arange(3000)
        assert find(run, asked) == [FIRST + j if j // 1000 == i else 0 for j in range(3000)]
        run.check(SEED)


def test_a_fold_looks_only_at_the_records_that_it_drops() -> None:
    maker = Maker()
    keys = Keys(maker, 10**9)
    old, new = HashTable(HEAP, int(SEED)), HashTable(HEAP, int(SEED))
    below = keys.put(old, {b"%d" % i: bytes(i) for i in range(200)})
    above = keys.put(new, {b"%d" % i: bytes(300 - i) for i in range(150, 250)})
    runs = [maker.run([new]), maker.run([old])]
    expected = keys.weight(list((below | above).values()))
    for name, where in below.items():
        if name not in above:
            maker.data[where & int(OFFSET_MASK) :][:16] = 255
    assert maker.run(runs).info.segments == expected


def test_a_fold_of_a_damaged_run_raises_and_gives_nothing() -> None:
    maker = Maker()
    runs = [maker.run([some(np.random.default_rng(i), 20_000, 10**6)]) for i in range(3)]
    runs[1] = damaged(maker, runs[1], runs[1].info.offset + 30 * PAGE + 5)
    with pytest.raises(CorruptionError, match=r"run of items is damaged.*of 2\.runs"):
        maker.info(runs)


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    rng, maker = np.random.default_rng(2), Maker(DiskRunFiles(tmp_path, bytes(16)))
    runs = [maker.run([some(rng, 200_000, 10**9)]) for _ in range(4)]
    tracemalloc.start()
    info = maker.info(runs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert info.count > 790_000 and peak < 4 << 20


def test_writing_is_in_short_steps() -> None:
    rng, maker = np.random.default_rng(9), Maker()
    maker.data = np.zeros(1 << 24, np.uint8)
    runs = [maker.run([some(rng, 100_000, 10**9)]) for _ in range(4)]
    out, times = maker.shelf.create("slow.runs"), []
    steps = write_run(
        out, runs, pool_data=maker.data, width=8, seed=np.uint64(SEED), segments=(FIRST, SEGMENT), bottom=True,
        live=0, added=NONE, gone=NONE, first=1, last=2,
    )  # fmt: skip
    while True:
        before = time.thread_time()
        if next(steps, "end") == "end":
            break
        times.append(time.thread_time() - before)
    assert len(times) > 40 and sorted(times)[len(times) // 2] < 0.01


def test_a_run_of_moved_entries_has_those_of_emptied_segments_alone() -> None:
    maker, ids = Maker(), np.arange(3000)
    below = maker.run([index_of(ids, (FIRST + 64 * ids).astype(np.uint64))], bottom=True)
    moving = np.array([False, True, False])

    def relocate(_: np.ndarray, locations: np.ndarray, keep: np.ndarray, weights: np.ndarray) -> tuple:
        return locations + np.uint64(1 << 19), weights

    run = maker.run([below], moving=(moving, 1000), relocate=relocate)
    inside = (64 * ids >= SEGMENT) & (64 * ids < 2 * SEGMENT)
    assert entries_of(run) == {int(i): FIRST + 64 * int(i) + (1 << 19) for i in ids[inside]}
    assert run.info.ids == (int(ids[inside][0]), int(ids[inside][-1])) and run.info.lists == 0
    run.check(SEED)
    emptied = below.without({1, 77})
    assert entries_of(emptied) == {int(i): FIRST + 64 * int(i) for i in ids[~inside]}
    assert emptied.info.emptied == (1,) and 1 not in emptied.info.segments and 1 in below.info.segments
    assert RunInfo.from_dict(emptied.info.asdict()) == emptied.info
    emptied.check(SEED)
    merged = maker.run([run, emptied], bottom=True)
    assert entries_of(merged) == entries_of(emptied) | entries_of(run)
