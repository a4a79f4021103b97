"""Runs, written from open indexes and folded from others, against a dict; damage, expiries, weights, steps."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmkv.engine.byte_batch import join
from pmkv.errors import CorruptionError
from pmkv.index.arena import Arena
from pmkv.index.hash_table import HashTable
from pmkv.index.run import STEP, Run, RunInfo, write_run
from pmkv.index.run_files import PAGE, DiskRunFiles, MemoryRunFiles, RunFiles
from pmkv.kernels.location import DELETE, OFFSET_MASK
from pmkv.kernels.records import FLAG_DELETE, record_sizes, write_records

SEED = np.uint64(4242)
OWNER = np.uint64(1 << 32)
SEGMENT, FIRST = 1 << 16, 4096
NONE = np.empty(0, np.int64)
HEAP = Arena()


def finish(steps: Generator[None, None, RunInfo]) -> RunInfo:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@dataclass
class Maker:
    """Writes runs to one shelf, of one pool."""

    shelf: RunFiles = field(default_factory=lambda: MemoryRunFiles(bytes(16)))
    data: np.ndarray = field(default_factory=lambda: np.zeros(1 << 20, np.uint8))
    width: int = 8
    number: int = 0

    def info(self, sources: list[HashTable | Run], **other: Any) -> RunInfo:
        self.number += 1
        out = self.shelf.create(f"{self.number}.runs")
        given = {"bottom": False, "live": 0, "added": NONE, "gone": NONE, "first": 1, "last": 2} | other
        pool = {"pool_data": self.data, "width": self.width, "seed": np.uint64(SEED), "segments": (FIRST, SEGMENT)}
        info = finish(write_run(out, sources, **pool, **given))
        out.sync()
        out.close()
        return info

    def run(self, sources: list[HashTable | Run], **other: Any) -> Run:
        info = self.info(sources, **other)
        return Run(info, self.shelf.open(info.file), f"run {info.file}")


def index_of(ids: np.ndarray, locations: np.ndarray) -> HashTable:
    index = HashTable(HEAP, int(SEED))
    index.insert(ids, locations)
    return index


def find(run: Run, ids: np.ndarray) -> list[int]:
    found = np.zeros(ids.size, np.uint64)
    run.find(SEED, ids, found)
    return found.tolist()


def some(rng: np.random.Generator, size: int, ids: int) -> HashTable:
    """An open index with some of so many ids, some deleted."""
    where = rng.integers(FIRST, 1 << 20, size).astype(np.uint64)
    where[rng.random(size) < 0.2] |= DELETE
    return index_of(rng.integers(0, ids, size), where)


def entries_of(source: HashTable | Run) -> dict[int, int]:
    windows = source.walk(0, SEED) if isinstance(source, Run) else source.walk()
    return {
        int(word): int(where)
        for _, some_words, places in windows
        for word, where in zip(some_words, places, strict=True)
    }


def weights_of(entries: dict[int, int], width: int) -> dict[int, int]:
    """What rows weigh, by segment."""
    weights: dict[int, int] = {}
    for where in entries.values():
        if not where & int(DELETE):
            segment = ((where & int(OFFSET_MASK)) - FIRST) // SEGMENT
            weights[segment] = weights.get(segment, 0) + width
    return weights


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
    monkeypatch.setattr("pmkv.index.run.SAMPLE", sample)
    rng, maker = np.random.default_rng(1), Maker()
    run = maker.run([some(rng, 100_000, 10**9), maker.run([some(rng, 150_000, 10**9)])], bottom=True)
    assert 0.7 < run.info.count / run.info.capacity < 0.85
    run.check(SEED)


@pytest.mark.parametrize("size", [1, 2, *range(199, 211), 409, 410])
def test_slots_at_the_end_are_left_free_however_they_fill_the_pages(size: int) -> None:
    run = Maker().run([index_of(np.arange(size), np.arange(9, 9 + size).astype(np.uint64))])
    assert find(run, np.arange(-5, size + 5)) == [0] * 5 + list(range(9, 9 + size)) + [0] * 5
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


def test_a_walk_can_be_taken_up_behind_any_place() -> None:
    rng = np.random.default_rng(3)
    run = Maker().run([some(rng, 60_000, 10**9)])
    whole = [int(place) for places, _, _ in run.walk(0, SEED) for place in places]
    assert whole == sorted(whole) and len(whole) == run.info.count
    for start in (whole[17], whole[30_000] + 1, whole[-1], whole[-1] + 1, 2**64 - 1):
        rest = [int(place) for places, _, _ in run.walk(start, SEED) for place in places]
        assert rest == [place for place in whole if place >= start]
        assert run.at(start).size == whole.count(start)


# keys


@dataclass
class Keys:
    """Keys whose records are written to a pool one behind the other; `word` gives their hashes."""

    maker: Maker
    words: int  # so many different hashes
    at: int = FIRST

    def __post_init__(self) -> None:
        self.maker.width = 0

    def hashes(self, keys: list[bytes]) -> np.ndarray:
        return np.array([sum(key) % self.words for key in keys], np.uint64)

    def put(self, index: HashTable, items: dict[bytes, bytes | None]) -> dict[bytes, int]:
        """Enter records, deletes where the value is None; returns where they stand."""
        keys, values = join(list(items)), join([value or b"" for value in items.values()])
        flags = np.array([FLAG_DELETE if value is None else 0 for value in items.values()], np.int64)
        locations, sizes = np.empty(len(items), np.uint64), np.empty(len(items), np.int64)
        write_records(self.maker.data, self.at, OWNER, *keys, *values, flags * 0, flags, locations)
        self.at += record_sizes(keys[1], values[1], sizes)
        index.insert_keys(self.maker.data, self.hashes(list(items)), *keys, locations)
        return dict(zip(items, locations.tolist(), strict=True))

    def find(self, run: Run, keys: list[bytes]) -> list[int]:
        found = np.zeros(len(keys), np.uint64)
        run.find_keys(self.maker.data, SEED, self.hashes(keys), *join(keys), OWNER, True, found)
        return found.tolist()

    def weight(self, locations: list[int]) -> dict[int, int]:
        weights: dict[int, int] = {}
        for where in locations:
            at = where & int(OFFSET_MASK)
            head = int.from_bytes(self.maker.data[at : at + 8].tobytes(), "little")
            size = 16 + -(-((head >> 32 & 0xFFFFFF) + (head & 0xFFFFFFFF)) // 8) * 8
            weights[(at - FIRST) // SEGMENT] = weights.get((at - FIRST) // SEGMENT, 0) + size
        return weights


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
    monkeypatch.setattr("pmkv.index.run.STEP", 256)
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


# the rest of what is in a file


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


def damaged(maker: Maker, run: Run, at: int) -> Run:
    """The same run with one bit of its file flipped."""
    data = maker.shelf.open(run.info.file).copy()
    data[at] ^= 4
    return Run(run.info, data, "the run of items")


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
    assert not run.is_warm and 0 < run._seen.sum() < run.info.pages
    rest = sum(1 for _ in steps)
    assert rest == -(-run.info.pages * PAGE // (16 * STEP)) - 1 and run.is_warm and run._seen.all()


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
