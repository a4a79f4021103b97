"""Runs against a dict: probes, walks, expiries, damage, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmkv.errors import CorruptionError
from pmkv.index.hash_table import HashTable
from pmkv.index.run import STEP_SLOTS, Run
from pmkv.index.run_files import PAGE, DiskRunFiles
from pmkv.kernels.location import DELETE, OFFSET_MASK
from tests.unit.index.run_maker import (
    FIRST,
    HEAP,
    SEED,
    Keys,
    Maker,
    damaged,
    find,
    index_of,
    some,
)


@pytest.mark.parametrize("size", [1, 2, *range(199, 211), 409, 410])
def test_slots_at_the_end_are_left_free_however_they_fill_the_pages(size: int) -> None:
    run = Maker().run([index_of(np.arange(size), np.arange(9, 9 + size).astype(np.uint64))])
    assert find(run, np.arange(-5, size + 5)) == [0] * 5 + list(range(9, 9 + size)) + [0] * 5
    run.check(SEED)


def test_a_walk_can_be_taken_up_behind_any_place() -> None:
    rng = np.random.default_rng(3)
    run = Maker().run([some(rng, 60_000, 10**9)])
    whole = [int(place) for places, _, _ in run.walk(0, SEED) for place in places]
    assert whole == sorted(whole) and len(whole) == run.info.count
    for start in (whole[17], whole[30_000] + 1, whole[-1], whole[-1] + 1, 2**64 - 1):
        rest = [int(place) for places, _, _ in run.walk(start, SEED) for place in places]
        assert rest == [place for place in whole if place >= start]
        assert run.at(start).size == whole.count(start)


@settings(max_examples=30)
@given(st.data())
def test_keys_with_equal_hashes_live_beside_each_other(data: st.DataObject) -> None:
    rng, maker = np.random.default_rng(data.draw(st.integers(0, 2**32))), Maker()
    keys = Keys(maker, data.draw(st.sampled_from([1, 7, 10**9])))
    names = [b"%d" % i for i in range(data.draw(st.sampled_from([3, 60])))]
    sources: list[HashTable | Run] = []
    written: list[dict[bytes, int]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        index, last = HashTable(HEAP, int(SEED)), {}
        for _ in range(2):
            chosen = [name for name in names if rng.random() < 0.4]
            last |= keys.put(
                index, {name: None if rng.random() < 0.3 else bytes(rng.integers(0, 40)) for name in chosen}
            )
        if last:
            written.append(last)
            sources.append(maker.run([index]) if data.draw(st.booleans()) else index)
    if not sources:
        return
    model: dict[bytes, int] = {}
    for last in reversed(written):
        model |= last
    info = maker.info(sources)
    run = Run(info, maker.shelf.open(info.file), "run")
    assert info.count == len(model) and keys.find(run, names) == [model.get(name, 0) for name in names]
    assert info.segments == keys.weight(list(model.values()))
    run.check(SEED)
    lowest = maker.info([run], bottom=True)
    run = Run(lowest, maker.shelf.open(lowest.file), "run") if lowest.count else run
    for name, where in zip(names, keys.find(run, names), strict=True):
        alive = name in model and not model[name] & int(DELETE)
        assert where == model[name] if alive else where == 0 or where & int(DELETE)
    assert lowest.count >= sum(not where & int(DELETE) for where in model.values())


def test_a_group_of_equal_hashes_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.index.run.STEP_SLOTS", 256)
    monkeypatch.setattr("pmkv.index.run_writer.STEP_SLOTS", 256)
    maker = Maker()
    keys, index = Keys(maker, 3), HashTable(HEAP, int(SEED))
    names = [b"%d" % i for i in range(900)]
    where = keys.put(index, dict.fromkeys(names, b"v"))
    run = maker.run([index])
    windows = [places for places, _, _ in run.walk(0, SEED) if places.size]
    assert [len({int(p) for p in places}) for places in windows] == [1, 1, 1]
    for places in windows:
        assert run.at(int(places[0])).tolist() == index.at(int(places[0])).tolist() and places.size > 256
    again = keys.put(newer := HashTable(HEAP, int(SEED)), dict.fromkeys(names[:100], b"w"))
    folded = maker.run([maker.run([newer]), run])
    assert folded.info.count == 900 and keys.find(folded, names) == list((where | again).values())
    folded.check(SEED)


def test_damaged_records_are_found_not_their_predecessors() -> None:
    maker = Maker()
    keys = Keys(maker, 10**9)
    old, new = HashTable(HEAP, int(SEED)), HashTable(HEAP, int(SEED))
    keys.put(old, {b"key": b"old"})
    where = keys.put(new, {b"key": b"new"})[b"key"]
    maker.data[(where & int(OFFSET_MASK)) + 16] ^= 1
    folded = maker.run([maker.run([new]), maker.run([old])])
    assert folded.info.count == 2 and keys.find(folded, [b"key"]) == [where]


def test_expiries_count_from_their_moment_on() -> None:
    rng, maker = np.random.default_rng(5), Maker()
    added, gone = np.sort(rng.integers(1, 10_000, 3000)), np.sort(rng.integers(1, 10_000, 700))
    run = maker.run([index_of(np.arange(5), np.arange(5, 10).astype(np.uint64))], added=added, gone=gone, live=-3)
    assert (run.info.added, run.info.gone, run.info.live) == (3000, 700, -3)
    for now in (-5, 0, 1, 5000, 9999, 10**15):
        assert run.expired(now) == (added <= now).sum() - (gone <= now).sum()
    assert run.added.tolist() == added.tolist() and run.gone.tolist() == gone.tolist()
    assert run.added.dtype == np.int64
    run.check(SEED)


def touch(run: Run) -> None:
    find(run, np.arange(20_000))
    run.expired(10**15)
    assert run.added.size == 5000 and run.gone.size == 600


def test_any_damage_is_named_when_it_is_touched_and_never_served() -> None:
    maker, ids = Maker(), np.arange(20_000)
    index = index_of(ids, (ids + FIRST).astype(np.uint64))
    run = maker.run([index], added=np.arange(5000), gone=np.arange(600))
    touch(run)
    sums = run.info.offset + run.info.pages * PAGE
    for at in range(run.info.offset, sums + 8 * run.info.pages, 997):
        bad = damaged(maker, run, at)
        page = (at - bad.info.offset) // PAGE if at < sums else (at - sums) // 8
        named = rf"the run of items is damaged.*byte {bad.info.offset + page * PAGE:,} of {bad.info.file}"
        with pytest.raises(CorruptionError, match=named):
            touch(bad)
        for steps in (bad.warm(), bad.walk(0, SEED) if page < run.info.slot_pages else bad.warm()):
            with pytest.raises(CorruptionError, match=named):
                list(steps)
        assert not bad.is_warm


def test_damage_elsewhere_in_the_run_hinders_nobody() -> None:
    maker, ids = Maker(), np.arange(20_000)
    run = maker.run([index_of(ids, (ids + FIRST).astype(np.uint64))])
    bad, served = damaged(maker, run, run.info.offset + 10 * PAGE), 0
    for one in ids[:2000]:
        try:
            assert find(bad, np.array([one])) == [one + FIRST]
            served += 1
        except CorruptionError:
            pass
    assert 1900 < served < 2000


def test_pages_of_another_run_are_refused() -> None:
    maker, ids = Maker(), np.arange(100)
    mine, other = (maker.run([index_of(ids, (ids + i + FIRST).astype(np.uint64))]) for i in range(2))
    mixed = Run(mine.info, maker.shelf.open(other.info.file), "mine")
    with pytest.raises(CorruptionError, match="mine is damaged"):
        find(mixed, ids)


def test_a_file_that_was_cut_short_is_refused() -> None:
    maker = Maker()
    info = maker.info([index_of(np.arange(9), np.arange(1, 10).astype(np.uint64))])
    with pytest.raises(CorruptionError, match=r"run 1 ends at byte 8,192.*restore 1\.runs"):
        Run(info, maker.shelf.open(info.file)[: 2 * PAGE], "run 1")


def test_warming_touches_everything_in_steps(tmp_path: Path) -> None:
    maker = Maker(DiskRunFiles(tmp_path, bytes(16)))
    ids = np.arange(60_000)
    run = maker.run([index_of(ids, (ids + FIRST).astype(np.uint64))], added=np.arange(5000))
    steps = run.warm()
    next(steps)
    assert not run.is_warm and 0 < run._verified.sum() < run.info.pages
    rest = sum(1 for _ in steps)
    assert rest == -(-run.info.pages * PAGE // (16 * STEP_SLOTS)) - 1 and run.is_warm and run._verified.all()


def test_threads_need_no_lock() -> None:
    ids = np.arange(10**5)
    run = Maker().run([index_of(ids, (ids + FIRST).astype(np.uint64))])

    def probe(number: int) -> bool:
        mine = np.random.default_rng(number).permutation(ids)
        return (
            find(run, mine) == (mine + FIRST).tolist()
            and sum(places.size for places, _, _ in run.walk(0, SEED)) == 10**5
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(probe, range(8)))
