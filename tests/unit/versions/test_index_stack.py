"""A stack against a dict, whatever of it is open, closed or on file, and whatever is hot."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmkv.errors import CorruptionError
from pmkv.index import lookup_batch as module
from pmkv.index.arena import Arena
from pmkv.index.live_count import CountBatch
from pmkv.index.location_cache import CacheBudget
from pmkv.index.lookup_batch import NOTHING, IdBatch, lives, new_keys
from pmkv.index.memtable import MemTable
from pmkv.index.run import Run
from pmkv.index.run_files import MemoryRunFiles
from pmkv.index.run_writer import write_run
from pmkv.kernels.location import DELETE
from pmkv.versions.index_stack import IndexStack, RunSet, merge_windows, net_expiries
from pmkv.versions.layer import IndexMemory, Layer, LayerTree, replaced

POOL = bytes(16)
DATA = np.zeros(1 << 20, np.uint8)
GONE = int(DELETE)


class Small:
    """A stack of ids whose closed runs are written to a shelf in memory."""

    def __init__(self, hot: int = 1 << 20) -> None:
        self.dram = IndexMemory(Arena(), CacheBudget(hot))
        self.tree, self.layers = LayerTree("table/1", self.dram, 77, 8), 1
        self.stack = IndexStack(self.tree.begin(1).acquire())
        self.shelf, self.files = MemoryRunFiles(POOL), 0

    def put(self, *pairs: tuple[int, int]) -> None:
        ids, locations = np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.uint64)
        self.stack.enter(IdBatch(ids), locations, 1)

    def get(self, *ids: int) -> list[int]:
        wanted = IdBatch(np.array(ids, np.int64))
        found, _ = self.stack.find_in_memory(wanted, NOTHING)
        self.stack.find_on_disk(wanted, found, self.stack.runs, Lock())
        assert found.tolist() == self.stack.find(wanted).tolist()
        return found.tolist()

    def close(self) -> tuple[MemTable, ...]:
        """What a rotation does; returns all that is closed."""
        self.stack.top.freeze()
        self.tree.invalidate_stacks()
        return self.stack.frozen

    def seal(self) -> Layer:
        """What a snapshot does; returns the sealed layer."""
        below = self.stack.top.seal()
        self.layers += 1
        self.stack.rebase(self.tree.begin(self.layers, below).acquire())
        below.release()
        return below

    def write(self) -> None:
        """What a checkpoint does with the closed runs, from the oldest layer to the newest."""
        self.close()
        self.stack.count(0)
        for layer in reversed(list(self.stack.top.down())):
            closed, below = layer.frozen, any(one.runs for one in layer.down())
            live = sum(mutable.index.live - mutable.counter.covered for mutable in closed)
            if closed:
                layer.adopt(closed, self._run([mutable.index for mutable in closed], not below, live))
        self.tree.invalidate_stacks()

    def fold(self, layer: Layer, first: int, stop: int) -> None:
        inputs = layer.runs[first:stop]
        live = sum(run.info.live for run in inputs)
        bottom = layer.below is None and stop == len(layer.runs)
        layer.runs = replaced(layer.runs, inputs, self._run(list(inputs), bottom, live))
        self.tree.invalidate_stacks()

    def _run(self, sources: list, bottom: bool, live: int) -> Run | None:
        self.files += 1
        out, none = self.shelf.create(f"{self.files}.runs"), np.empty(0, np.int64)
        steps = write_run(out, sources, pool_data=DATA, width=8, seed=self.stack.seed, segments=(4096, 1 << 18),
                          bottom=bottom, live=live, added=none, gone=none, first=1, last=2)  # fmt: skip
        while True:
            try:
                next(steps)
            except StopIteration as end:
                info = end.value
                return Run(info, self.shelf.open(out.name), out.name) if info.count else None


class Lock:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_the_newest_word_counts_wherever_it_stands() -> None:
    small = Small()
    small.put((1, 8192), (2, 8200), (3, 8208))
    small.write()
    small.put((2, 9000), (3, 9008 | GONE))
    assert small.get(1, 2, 3, 4) == [8192, 9000, 9008 | GONE, 0]
    small.close()
    small.put((1, 9100))
    assert small.get(1, 2, 3, 4) == [9100, 9000, 9008 | GONE, 0]
    assert small.stack.count(0) == 2


def test_pending_is_told_of_closed_runs_too() -> None:
    small = Small()
    small.put((1, 8192))
    small.close()
    small.put((2, 9000))
    _, waiting = small.stack.find_in_memory(IdBatch(np.array([1, 2, 3])), np.array([[8192, 8200], [9000, 9001]]))
    assert waiting == 2


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_is_hot_is_forgotten_when_it_is_written(rounds: int) -> None:
    small = Small()
    small.put(*((i, 8192 + 8 * i) for i in range(100)))
    small.write()
    for _ in range(4):
        small.get(*range(100))
    assert small.stack.cache is not None and small.stack.cache.hits > 0
    for _ in range(rounds):
        small.put((7, 20_000))
        assert small.get(7) == [20_000]
        small.write()
        assert small.get(7) == [20_000]


@pytest.mark.parametrize("offered", ["before", "behind"])
@pytest.mark.parametrize("asked", ["before", "within"])
def test_what_the_runs_say_beside_a_batch_does_not_stay_hot(asked: str, offered: str) -> None:
    """Before its words are entered, or while they are, when others of the batch are there already."""
    small, both, found = Small(), IdBatch(np.array([7, 8], np.int64)), np.empty(0)
    small.put((7, 8192), (8, 8200), (9, 8208))
    small.write()
    small.get(7, 8)  # offered once: what is offered again gets in

    class Entered(IdBatch):
        def enter(self, *arguments: Any) -> np.ndarray:
            nonlocal found
            if asked == "within":
                found, _ = small.stack.find_in_memory(both, NOTHING)
            return super().enter(*arguments)

    if asked == "before":
        found, _ = small.stack.find_in_memory(both, NOTHING)
    for ids, locations in ([9], [20_000]), ([7, 8], [20_008, 20_016]):
        batch, there = Entered(np.array(ids)), np.array(locations, np.uint64)
        before = small.stack.insert(batch, there)
        if offered == "before":
            small.stack.find_on_disk(both, found, small.stack.runs, Lock())
        small.stack.finish_insert(batch, new_keys(batch, there, before))
    if offered == "behind":
        small.stack.find_on_disk(both, found, small.stack.runs, Lock())
    assert found.tolist() == [8192, 8200], "whoever asked before is shown what was there"
    small.write()
    assert small.get(7, 8, 9) == [20_008, 20_016, 20_000]
    assert small.stack.count(0) == 3


class Exchanged(Small):
    """A stack with some words on file, hot, that stands on one branch or another."""

    def __init__(self) -> None:
        super().__init__()
        self.put(*((i, 8192 + 8 * i) for i in range(20)))
        self.write()
        self.base = self.seal()
        self.write()
        self.look()

    def look(self) -> None:
        for _ in range(4):
            self.get(*range(20))

    def branch(self) -> Layer:
        self.layers += 1
        return self.tree.begin(self.layers, self.base).acquire()

    @property
    def is_hot(self) -> list[bool]:
        found, ids = np.zeros(20, np.uint64), np.arange(20)
        self.stack.cache.find(ids, found)
        return lives(found).tolist()


@pytest.mark.parametrize("written", [False, True])
def test_what_two_chains_have_in_common_stays_hot(written: bool) -> None:
    small = Exchanged()
    main, branch = small.stack.top, small.branch()
    assert all(small.is_hot)
    assert small.stack.rebase(branch) and all(small.is_hot)
    small.put((7, 20_000))
    if written:
        small.write()
        small.look()
    assert small.stack.rebase(main)
    assert small.is_hot == [i != 7 for i in range(20)]
    assert small.get(7, 8) == [8192 + 56, 8192 + 64]
    small.put((9, 30_000))
    if written:
        small.write()
        small.look()
    assert small.stack.rebase(branch)
    assert small.is_hot == [i not in (7, 9) for i in range(20)]
    assert small.get(7, 9) == [20_000, 8192 + 72]
    small.write()
    assert small.get(7, 9) == [20_000, 8192 + 72]


def test_where_much_was_exchanged_nothing_stays_hot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.versions.index_stack.WALKED_ENTRIES_MAX", 3)
    small = Exchanged()
    branch, other = small.branch(), small.branch()
    small.stack.rebase(branch)
    small.put(*((i, 20_000 + 8 * i) for i in range(4)))
    small.stack.rebase(other)
    assert small.is_hot == [i > 3 for i in range(20)]
    small.look()
    assert all(small.is_hot)
    small.stack.rebase(branch)
    assert not any(small.is_hot)
    assert small.get(0, 10) == [20_000, 8192 + 80]


def test_a_chain_whose_runs_are_not_known_forgets_all() -> None:
    small = Exchanged()
    branch = small.branch()
    small.stack.invalidate()
    small.stack.rebase(branch)
    assert not any(small.is_hot) and small.get(7) == [8192 + 56]


def test_damage_in_what_was_exchanged_is_told_to_who_reads_it() -> None:
    small = Exchanged()
    main, branch = small.stack.top, small.branch()
    small.stack.rebase(branch)
    small.put((7, 20_000))
    small.write()
    with patch.object(Run, "walk", side_effect=CorruptionError("damaged")):
        small.stack.rebase(main)
    assert not any(small.is_hot) and small.get(7) == [8192 + 56]


def test_a_reader_that_was_slow_teaches_nothing_old() -> None:
    """It looked above, then the word was written, then it looked below."""
    small = Small()
    small.put((7, 8192))
    small.write()
    slow = IdBatch(np.array([7]))
    for _ in range(3):  # offered again and again: the doorkeeper would let it in
        found, _ = small.stack.find_in_memory(slow, NOTHING)
        runs = small.stack.runs
        small.put((7, 20_000))
        small.stack.find_on_disk(slow, found, runs, Lock())
        assert found.tolist() in ([8192], [20_000])
    small.write()
    assert small.get(7) == [20_000]


def test_a_fold_that_leaves_nothing_leaves_nothing_hot() -> None:
    small = Small()
    small.put((7, 8192))
    small.write()
    small.put((7, 9000 | GONE))
    small.write()
    for _ in range(4):
        assert small.get(7) == [9000 | GONE]
    small.fold(small.stack.top, 0, 2)
    assert small.stack.runs == () and small.get(7) == [0]
    small.put((7, 10_000))
    small.write()
    assert small.get(7) == [10_000]


def test_a_chain_that_was_discarded_learns_nothing() -> None:
    small = Small()
    small.put((7, 8192))
    small.write()
    wanted, runs = IdBatch(np.array([7])), small.stack.runs
    budget = small.dram.budget
    small.stack.close()
    used = budget.used
    for _ in range(4):
        small.stack.find_on_disk(wanted, np.zeros(1, np.uint64), runs, Lock())
    assert budget.used == used


def test_memory_of_a_discarded_chain_waits_for_who_reads_it() -> None:
    small = Small()
    small.put((1, 8192))
    (held,) = small.close()
    held.held = True
    small.stack.top.release()
    assert held.index.count == 1
    held.release(contextlib.nullcontext())
    assert small.dram.arena.used == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_a_dict(data: st.DataObject) -> None:
    small, model, at = Small(data.draw(st.sampled_from([0, 1 << 20]))), {}, 8192
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["put", "put", "write", "close", "seal", "merge", "fold", "read"])):
            case "put":
                pairs = []
                for word in data.draw(st.lists(st.integers(-20, 20), min_size=1, max_size=30)):
                    at += 8
                    deleted = data.draw(st.integers(0, 3)) == 0 and word in model
                    pairs.append((word, at | GONE if deleted else at))
                    model.pop(word, None) if deleted else model.update({word: at})
                small.put(*pairs)
            case "write":
                small.write()
            case "close":
                small.close()
            case "seal" if small.stack.top.writes:
                small.seal()
            case "merge":
                small.tree.merge(set())
            case "fold" if layers := [layer for layer in small.stack.top.down() if len(layer.runs) > 1]:
                layer = data.draw(st.sampled_from(layers))
                first = data.draw(st.integers(0, len(layer.runs) - 2))
                small.fold(layer, first, data.draw(st.integers(first + 2, len(layer.runs))))
            case _:
                small.get(*range(-20, 20))
        found = small.get(*range(-22, 23))
        assert {i: a for i, a in zip(range(-22, 23), found) if a and not a & GONE} == model
        assert small.stack.count(0) == len(model)
    start = data.draw(st.integers(0, 2**64 - 1))
    places = [int(p) for some, _, _ in small.stack.walk(start) for p in some]
    assert places == sorted(places) and all(p >= start for p in places)
    for place in (start, *places[:3]):
        windows = small.stack.walk(place)
        same = [int(a) for some, _, found in windows for p, a in zip(some, found) if p == place]
        assert small.stack.at(place).tolist() == same
    walked = {int(w) for _, words, _ in small.stack.walk() for w in words.view(np.int64)}
    assert walked >= set(model)
    small.stack.check()
    small.tree.check()


def test_what_was_noted_is_counted_as_a_whole_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 7)
    small = Small()
    small.put(*((i, 64 * i + 8) for i in range(500)))
    small.write()
    small.put(*((i, 64 * i + 16) for i in range(400, 600)))
    closed = small.close()
    below = RunSet(closed, small.stack.runs, small.stack.seed)
    notes = [IdBatch(np.array(ids, np.int64)) for ids in (range(390, 410), [], [1000, 3, 3, 599])]
    breaks: list[int] = []
    covered = below.count_batch(CountBatch(0, notes), lambda: breaks.append(1))
    assert covered.count == sum(int(np.count_nonzero(lives(below.find(note)))) for note in notes) == 23
    assert not covered.expiries
    assert len(breaks) == 5, "one before each piece, one when all are in order"

    def give_up() -> None:
        raise InterruptedError("the store is being closed")

    with pytest.raises(InterruptedError):
        below.count_batch(CountBatch(0, notes), give_up)


@pytest.mark.parametrize("deletes", [0, 1, None])
def test_counting_asks_the_oldest_run_first_where_nothing_was_deleted(
    deletes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small()
    small.put(*((i, 64 * i + 8) for i in range(100)))
    small.write()
    small.put(*((i, 64 * i + 16) for i in range(50)))
    small.put((3, GONE | 64 if deletes else 72))
    small.write()
    newest, oldest = small.stack.runs
    assert (newest.info.deletes, oldest.info.deletes) == (deletes or 0, 0)
    if deletes is None:  # as an earlier version left it
        monkeypatch.setattr(newest, "info", replace(newest.info, deletes=None))
    asked: list[Run] = []
    find = Run.find_slot_hashes
    monkeypatch.setattr(Run, "find_slot_hashes", lambda run, *how: (asked.append(run), find(run, *how))[1])
    covered = RunSet((), (newest, oldest), small.stack.seed).count_batch(CountBatch(0, [IdBatch(np.arange(1, 5))]))
    assert covered.count == (3 if deletes else 4)
    assert asked == ([oldest] if deletes == 0 else [newest])
    monkeypatch.undo()
    small.put((1, GONE), (3, 80), (200, 88))
    assert small.stack.count(0) == 100
    small.write()
    assert small.stack.count(0) == 100 and sum(run.info.deletes or 0 for run in small.stack.runs) == 1 + (deletes or 0)
    small.tree.check()


def test_counting_asks_only_runs_that_may_have_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small()
    for first in (0, 100, 200):
        small.put(*((i, 64 * i + 8) for i in range(first, first + 100)))
        small.write()
    newest, middle, oldest = small.stack.runs
    assert [run.info.ids for run in (newest, middle, oldest)] == [(200, 299), (100, 199), (0, 99)]
    asked: list[Run] = []
    find = Run.find_slot_hashes
    monkeypatch.setattr(Run, "find_slot_hashes", lambda run, *how: (asked.append(run), find(run, *how))[1])
    below = RunSet((), small.stack.runs, small.stack.seed)
    for ids, covered, runs in [
        ([299, 300], 1, [newest]),
        ([199], 1, [middle]),
        ([-1, 0, 99], 2, [oldest]),
        ([150, 250], 2, [middle, newest]),
        ([300, 400], 0, []),
        ([-5, 500, 50], 1, [oldest, middle, newest]),
    ]:
        asked.clear()
        notes = [IdBatch(np.array([some], np.int64)) for some in ids]
        assert below.count_batch(CountBatch(0, notes)).count == covered
        assert asked == runs, ids
    monkeypatch.setattr(oldest, "info", replace(oldest.info, ids=None))  # as an earlier version left it
    assert below.count_batch(CountBatch(0, [IdBatch(np.array([300]))])).count == 0 and asked[-1] is oldest
    small.put((300, 8), (5, GONE), (-7, 8))
    assert small.stack.count(0) == 301
    small.write()
    assert small.stack.runs[0].info.ids == (-7, 300) and small.stack.count(0) == 301
    small.tree.check()


def test_walks_merge_in_order() -> None:
    def walk(*windows: list[int]) -> list[np.ndarray]:
        return iter([tuple(np.array(window, np.uint64) for _ in range(3)) for window in windows])

    both = merge_windows([walk([1, 4], [], [9]), walk([2, 3, 4], [10]), walk()])
    assert [int(p) for places, _, _ in both for p in places] == [1, 2, 3, 4, 4, 9, 10]


def test_expiries_that_come_and_go_cancel_out() -> None:
    added, gone = net_expiries(np.array([5, 1, 5, 7]), np.array([5, 7, 9]))
    assert (added.tolist(), gone.tolist()) == ([1, 5], [9])
