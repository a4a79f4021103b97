"""Checkpoints of small engines, step by step, with files in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pmkv.catalog.lmdb_catalog import MemoryCatalog
from pmkv.engine.engine import Engine
from pmkv.errors import CorruptionError, FlushError, FullError, ReadOnlyError, UnknownNameError
from pmkv.index.run_files import MemoryRunFiles
from pmkv.log.segments import Pool
from pmkv.media.memory import MemoryMedium
from pmkv.stats import stats_of
from tests.engines import Clock, contents, copy_of, eio, failing_engine, small_medium

SEGMENT = 16 << 10
FAR = 4_000_000_000_000


class World:
    """A medium, a catalog and a shelf that survive their engine."""

    def __init__(self, segments: int = 24) -> None:
        self.medium = small_medium(segments, SEGMENT)
        self.pool = Pool.create(self.medium, SEGMENT)
        self.catalog, self.shelf = MemoryCatalog(self.pool.pool_id), MemoryRunFiles(self.pool.pool_id)
        self.clock = Clock()
        self.engine = Engine(self.pool, now=self.clock, files=(self.catalog, self.shelf))

    def reopen(self, medium: MemoryMedium | None = None) -> Engine:
        """The process died; everything written so far reached the medium, the catalog and the files: copies of them."""
        files = self.catalog.survivor(committed=True), copied(self.shelf)
        return Engine(Pool.load(copy_of(medium or self.medium)), now=self.clock, files=files)

    def checkpoint(self) -> None:
        exhaust(self.engine.maintenance.checkpoint())


def copied(shelf: MemoryRunFiles) -> MemoryRunFiles:
    after = MemoryRunFiles(shelf._pool_id)
    after._files = {name: copy.deepcopy(file) for name, file in shelf._files.items()}
    return after


def exhaust(steps: Iterator[None]) -> int:
    return sum(1 for _ in steps)


def fill(engine: Engine, first: int = 0, count: int = 50) -> None:
    engine.keyspaces[0].put_many({b"key %d" % i: b"value %d" % i for i in range(first, first + count)})
    if "t" not in engine.tables:
        engine.create_table("t", "i8")
    engine.table("t").put(np.arange(first, first + count), np.arange(first, first + count))


def test_a_restart_replays_what_came_after() -> None:
    world = World()
    fill(world.engine)
    world.checkpoint()
    before = contents(world.engine)
    again = world.reopen()
    assert again.recovery.records == 0 and contents(again) == before
    world.engine.keyspaces[0].put(b"late", b"1")
    world.engine.table("t").delete([3])
    again = world.reopen()
    assert again.recovery.records == 2 and contents(again) == contents(world.engine) != before
    again.check()


def test_what_is_written_between_the_steps_is_kept() -> None:
    world = World()
    fill(world.engine)
    for number, _ in enumerate(world.engine.maintenance.checkpoint()):
        world.engine.keyspaces[0].put(b"key 7", b"step %d" % number)
        world.engine.table("t").add([7], [1])
        assert len(world.engine.keyspaces[0]) == len(world.engine.table("t")) == 50
        assert contents(world.reopen()) == contents(world.engine)
    assert contents(world.reopen()) == contents(world.engine)
    assert world.engine.keyspaces[0].get(b"key 7") == b"step %d" % number
    world.engine.check()


@pytest.mark.parametrize("change", ["drop", "clear", "clear all", "create again"])
def test_parts_that_go_while_a_checkpoint_writes_them(change: str) -> None:
    world = World()
    fill(world.engine)
    world.checkpoint()
    fill(world.engine, 25)
    steps = world.engine.maintenance.checkpoint()
    next(steps)
    match change:
        case "drop":
            world.engine.drop_table("t")
        case "clear":
            world.engine.keyspaces[0].clear()
        case "clear all":
            world.engine.clear_all()
        case "create again":
            world.engine.drop_table("t")
            world.engine.create_table("t", "f4").put([1], [1.5])
    expected = contents(world.engine)
    exhaust(steps)
    assert contents(world.engine) == contents(world.reopen()) == expected
    world.checkpoint()
    assert contents(world.engine) == contents(world.reopen()) == expected
    world.engine.check()


def test_abandoned_checkpoints_lose_nothing() -> None:
    world = World()
    for first in range(0, 60, 20):
        fill(world.engine, first, 20)
        steps = world.engine.maintenance.checkpoint()
        next(steps)
        next(steps)
        steps.close()
        assert contents(world.reopen()) == contents(world.engine)
    assert len(world.engine.table("t").stack.frozen) == 3
    world.checkpoint()
    assert world.engine.table("t").stack.frozen == () and len(world.engine.table("t").stack.runs) == 1
    assert contents(world.reopen()) == contents(world.engine)
    world.engine.check()


@pytest.mark.parametrize("where", ["create", "sync", "commit"])
def test_a_checkpoint_that_fails_is_taken_again(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    fill(world.engine)

    def full(*_: object, **__: object) -> Any:
        raise FullError("no room")

    with monkeypatch.context() as patch:
        if where == "commit":
            patch.setattr(world.catalog, "commit", full)
        elif where == "create":
            patch.setattr(world.shelf, "create", full)
        else:
            patch.setattr("pmkv.index.run_files.MemoryRunFileWriter.sync", full)
        with pytest.raises(FullError):
            world.checkpoint()
    assert contents(world.reopen()) == contents(world.engine)
    fill(world.engine, 40)
    world.checkpoint()
    assert world.reopen().recovery.records == 0
    assert contents(world.reopen()) == contents(world.engine)
    assert len(world.shelf.names()) == 1, "what a failed one left is gone"
    world.engine.check()


def test_expiries_count_wherever_they_stand() -> None:
    world = World()
    space, now = world.engine.keyspaces[0], world.clock.now
    for i in range(10):
        space.put(b"%d" % i, b"v", expire_at=now + 100 * (i + 1))
    world.checkpoint()
    space.put(b"0", b"v")  # never
    space.put(b"1", b"v", expire_at=now + 5000)
    space.delete(b"2")
    for _ in range(2):
        world.clock.now = now
        assert len(space) == 9
        world.clock.now = now + 450
        assert len(space) == 8  # "3" has expired; "0" and "1" would have
        world.clock.now = now + 1000
        assert len(space) == 2
        space.check()
        world.checkpoint()
    world.clock.now = now
    assert len(world.reopen().keyspaces[0]) == 9


def test_ordered_scans_see_what_is_on_file_and_what_is_not() -> None:
    world = World()
    space = world.engine.keyspaces[0]
    model: dict[bytes, bytes] = {}
    for number in range(5):
        for i in range(number, 60, 7):
            key = b"k" * (600 if i % 5 == 0 else 1) + b"%03d" % i
            space.put(key, model.setdefault(key, b"v"))
        gone = b"k%03d" % (number * 2 + 1)
        assert space.delete(gone) == (model.pop(gone, None) is not None)
        expected = sorted(model.items())
        assert list(space.scan()) == expected and list(space.scan(reverse=True)) == expected[::-1]
        assert list(space.scan(b"k0", limit=7)) == [item for item in expected if item[0].startswith(b"k0")][:7]
        some = [item for item in expected if b"k010" <= item[0] < b"k" * 600 + b"030"]
        assert list(space.scan(start=b"k010", stop=b"k" * 600 + b"030")) == some
        world.checkpoint()
    assert list(world.reopen().keyspaces[0].scan()) == sorted(model.items())


def test_keys_that_died_leave_the_directory() -> None:
    world = World()
    space = world.engine.keyspaces[0]
    fill(world.engine)
    world.checkpoint()
    space.clear()
    space.put(b"key 5", b"again")
    world.checkpoint()
    assert list(space.scan()) == [(b"key 5", b"again")]  # met 49 dead ones
    space.put(b"key 9", b"again")  # not dead any more at the second look
    world.checkpoint()
    names = world.catalog.keys(0, b"", None, False, 1000, lambda prefix, word: [])
    assert names == [b"key 5", b"key 9"]


def test_a_failed_flush_goes_back_behind_the_last_checkpoint() -> None:
    engine, medium = failing_engine(16)
    pool_id = engine.pool.pool_id
    catalog, shelf = MemoryCatalog(pool_id), MemoryRunFiles(pool_id)
    engine = Engine(Pool.load(medium), files=(catalog, shelf))
    fill(engine, 0, 20)
    exhaust(engine.maintenance.checkpoint())
    engine.keyspaces[0].put(b"durable", b"1")
    before = contents(engine)
    medium.flush_error = eio()
    with pytest.raises(Exception, match="refused a flush"):
        engine.keyspaces[0].put(b"lost", b"1")
    assert contents(engine) == before
    with pytest.raises(ReadOnlyError):
        exhaust(engine.maintenance.checkpoint())
    engine.check()


def test_a_rotation_that_waited_for_a_failing_flush_is_refused() -> None:
    engine, medium = failing_engine(16)
    files = MemoryCatalog(engine.pool.pool_id), MemoryRunFiles(engine.pool.pool_id)
    engine = Engine(Pool.load(medium), files=files)
    with engine.log.deferred():
        engine.keyspaces[0].put(b"lost", b"1")
    medium.flush_error = eio()
    real = engine.log.locks.append

    class Late:
        """The lock, which comes only when the flush has failed."""

        def __enter__(self) -> None:
            engine.log.locks.append = real
            with pytest.raises(FlushError):
                engine.log.flush(engine.log.lsn)

        def __exit__(self, *_: object) -> None: ...

    engine.log.locks.append = Late()
    with pytest.raises(ReadOnlyError):
        exhaust(engine.maintenance.checkpoint())
    assert files[0].load() is None


def test_damage_of_one_index_is_not_everybodys() -> None:
    world = World()
    fill(world.engine)
    world.checkpoint()
    other = world.engine.create_table("other", "i8")
    other.put([1], [1])
    world.checkpoint()
    world.engine = world.reopen()
    damaged = world.engine.table("t").stack.runs[0]
    files = world.engine.maintenance.run_files._files
    files[damaged.info.file].data[damaged.info.offset + 4] ^= 1
    world.engine.table("t").put([7], [70])
    world.engine.table("other").put([2], [2])
    exhaust(world.engine.maintenance.checkpoint())
    assert world.engine.table("other").get([1, 2]).tolist() == [1, 2] and len(world.engine.table("other")) == 2
    assert world.engine.table("t").get([7]).tolist() == [70]
    for look in (lambda: world.engine.table("t").get([8]), lambda: len(world.engine.table("t"))):
        with pytest.raises(CorruptionError):
            look()
    assert stats_of(world.engine, None).tables == {"other": 2}


def test_keys_are_entered_again_after_a_commit_that_only_seemed_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had taken the deleted key out of the directory."""
    world = World()
    space = world.engine.keyspaces[0]
    space.put_many({b"a": b"1", b"b": b"1"})
    world.checkpoint()
    space.delete(b"a")
    commit = world.catalog.commit

    def half(*arguments: Any) -> None:
        commit(*arguments)
        raise FlushError("input/output error, after the switch")

    with monkeypatch.context() as patch:
        patch.setattr(world.catalog, "commit", half)
        with pytest.raises(FlushError):
            world.checkpoint()
    space.put(b"a", b"2")
    world.checkpoint()
    space.ordered.forget_order()  # made anew, as after a restart
    assert list(space.scan()) == [(b"a", b"2"), (b"b", b"1")]
    assert list(world.reopen().keyspaces[0].scan()) == [(b"a", b"2"), (b"b", b"1")]


def test_what_a_clear_left_in_the_directory_leaves_it_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.engine.keyspace_scan.MAX_DEAD_KEYS", 20)
    world = World()
    space = world.engine.keyspaces[0]
    fill(world.engine)
    world.checkpoint()
    space.clear()
    space.put(b"key 5", b"again")
    for _ in range(4):
        world.checkpoint()
    assert world.catalog.keys(0, b"", None, False, 1000, lambda prefix, word: []) == [b"key 5"]


def test_a_table_that_an_undo_brings_back_is_read_on_by_its_handle() -> None:
    """The rollback closed the index stack of the table, which then was not told of the runs that checkpoints wrote:
    rows read by this handle, and by every other one, were absent."""
    world = World()
    engine = world.engine
    engine.versions.snapshot("before")
    table = engine.create_table("t", "i8")
    table.put([1, 2], [10, 20])
    engine.versions.rollback("before")
    with pytest.raises(UnknownNameError, match="table 't' was dropped"):
        table.get([1])
    engine.versions.undo()
    assert engine.table("t") is table and table.get([1, 2]).tolist() == [10, 20]
    for number in range(3):
        table.put([3], [number])
        world.checkpoint()
        assert table.get([1, 2, 3]).tolist() == [10, 20, number]
    engine.check()
