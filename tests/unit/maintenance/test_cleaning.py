"""Passes of the cleaner over small engines, step by step, with files in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.row_reads import RowRead
from pmkv.errors import CorruptionError, FullError
from pmkv.index.lookup_batch import IdBatch
from pmkv.kernels.location import OFFSET_MASK
from pmkv.log.segments import Reserve
from pmkv.maintenance.compaction_policy import CompactionPlan
from pmkv.stats import stats_of
from tests.engines import contents
from tests.unit.maintenance.test_checkpoint import FAR, World, exhaust

PAUSE = 3  # steps of a pass between two operations


def overwrite(engine: Engine, rounds: int, ids: int = 200) -> None:
    """Write the same rows and keys again and again."""
    if "t" not in engine.tables:
        engine.create_table("t", ("f4", 16))
    rng = np.random.default_rng(rounds)
    for number in range(rounds):
        some = rng.permutation(ids)[: ids // 2]
        engine.table("t").put(some, np.repeat(some[:, None] + number, 16, 1))
        engine.keyspaces[1].put_many({b"key %d" % i: b"%d of round %d" % (i, number) for i in some.tolist()})


def clean(world: World, **how: Any) -> int:
    """A checkpoint and a pass; return how many segments came back."""
    world.checkpoint()
    totals = world.engine.maintenance.cleaner.totals
    before = totals.freed
    exhaust(world.engine.maintenance.clean(**how))
    world.engine.check()
    return totals.freed - before


def test_dead_space_comes_back_and_nothing_is_lost() -> None:
    world = World(60)
    overwrite(world.engine, 14)
    before, free = contents(world.engine), world.engine.pool.free
    assert clean(world) >= 8 and world.engine.pool.free > free + 6
    again = world.reopen()
    assert contents(world.engine) == before == contents(again)
    again.check()
    assert again.pool.free == world.engine.pool.free and again.recovery.records == 0


def test_with_the_newest_snapshot_what_was_written_over_since_goes() -> None:
    """Nothing seals what `main` writes to, and yet it is merged with what the snapshot alone had named."""
    world = World(60)
    table = world.engine.create_table("t", ("f4", 16))
    table.put(np.arange(400), np.ones((400, 16)))
    world.engine.versions.snapshot("old")
    table.put(np.arange(400), np.zeros((400, 16)))
    world.engine.versions.delete_view("old")
    clean(world)
    assert int(world.engine.maintenance.cleaner.live.sum()) == 400 * 64
    table.delete(np.arange(400))
    clean(world)
    assert int(world.engine.maintenance.cleaner.live.sum()) == 0
    assert len(world.reopen().table("t")) == 0


def test_a_pool_is_written_many_times_over() -> None:
    world = World(24)
    for number in range(30):
        overwrite(world.engine, 3)
        world.engine.table("t").put([0], np.full((1, 16), number))
        clean(world)
    assert max(world.engine.pool.generations.values()) > 2
    again = world.reopen()
    assert contents(world.engine) == contents(again)
    overwrite(again, 3)
    exhaust(again.maintenance.checkpoint())
    before = contents(again)
    exhaust(again.maintenance.clean())
    assert again.maintenance.cleaner.totals.freed and contents(again) == before
    again.check()


def test_all_versions_are_kept_and_come_back_when_their_views_go() -> None:
    world = World(100)
    overwrite(world.engine, 3)
    world.engine.versions.snapshot("old")
    overwrite(world.engine, 3)
    world.engine.versions.branch("other")
    world.engine.view("other").table("t").put([1, 2], np.ones((2, 16)))
    old = world.engine.view("old").table("t").get(np.arange(200))
    other = world.engine.view("other").table("t").get(np.arange(200))
    overwrite(world.engine, 6)
    clean(world)
    for engine in (world.engine, world.reopen()):
        assert (engine.view("old").table("t").get(np.arange(200)) == old).all()
        assert (engine.view("other").table("t").get(np.arange(200)) == other).all()
    used = world.engine.pool.used
    for name in ("old", "other"):
        world.engine.versions.delete_view(name)
    clean(world)
    assert world.engine.pool.used < used


def test_what_was_dropped_and_deleted_gives_all_back() -> None:
    world = World(60)
    overwrite(world.engine, 10)
    world.engine.drop_table("t")
    world.engine.clear_all()
    clean(world)
    clean(world)
    assert world.engine.pool.used <= 2
    assert contents(world.reopen()) == contents(world.engine)


def test_a_reader_under_way_keeps_what_it_looks_at() -> None:
    world = World(60)
    overwrite(world.engine, 10)
    table, pool = world.engine.table("t"), world.engine.pool
    expected = table.get(np.arange(200))
    world.checkpoint()
    read = RowRead(table, np.arange(200), np.empty(200 * table.width, np.uint8))
    read.begin_alone()
    clean(world)
    assert pool.leases.retired
    assert read.rows(np.zeros(table.width, np.uint8))[0].tobytes() == expected.tobytes()
    world.engine.maintenance.cleaner.recycle()
    assert pool.leases.retired, "its lease ends with the read"
    del read
    world.engine.maintenance.cleaner.recycle()
    assert not pool.leases.retired
    pool.check()


def test_a_checkpoint_and_writes_beside_a_pass() -> None:
    world = World(100)
    overwrite(world.engine, 10)
    world.checkpoint()
    for number, _ in enumerate(world.engine.maintenance.clean()):
        if number % PAUSE == 0:
            world.engine.table("t").put([number % 200], np.full((1, 16), -number))
            world.engine.keyspaces[1].delete(b"key %d" % (number % 200))
        if number % 7 == 5:
            world.checkpoint()
        assert contents(world.reopen()) == contents(world.engine)
    world.engine.check()
    assert world.engine.maintenance.cleaner.totals.freed and contents(world.reopen()) == contents(world.engine)


def test_long_values_and_copied_lists_of_their_chunks() -> None:
    world = World(100)
    keyspace = world.engine.keyspaces[0]
    long = {b"long %d" % i: bytes([i]) * (9000 + i) for i in range(4)}
    for _ in range(3):
        keyspace.put_many(long)
        overwrite(world.engine, 3)
    world.engine.versions.snapshot("before")
    world.checkpoint()
    assert keyspace.expire(b"long 1", FAR), "the list of its chunks stands in two layers now"
    overwrite(world.engine, 6)
    world.checkpoint()
    steps = world.engine.maintenance.clean()
    next(step for step in steps if world.engine.log.chunk_pins.emptying)
    assert keyspace.expire(b"long 2", FAR), "while its chunks are moved"
    exhaust(steps)
    overwrite(world.engine, 5)
    clean(world)
    for engine in (world.engine, world.reopen()):
        for view in ("main", "before"):
            found = {key: engine.view(view).keyspaces[0].get(key) for key in long}
            assert found == long
    assert world.engine.maintenance.cleaner.totals.freed > 10


def test_a_value_being_written_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(100)
    overwrite(world.engine, 3)
    write = type(world.engine.keyspaces[0])._write

    def late(self: Any, *how: Any) -> int:
        monkeypatch.undo()
        overwrite(world.engine, 6)
        clean(world)
        return write(self, *how)

    monkeypatch.setattr(type(world.engine.keyspaces[0]), "_write", late)
    world.engine.keyspaces[0].put(b"long", b"x" * 9000)
    clean(world)
    assert world.engine.keyspaces[0].get(b"long") == world.reopen().keyspaces[0].get(b"long") == b"x" * 9000


def test_damage_is_reported_and_never_copied() -> None:
    world = World(60)
    overwrite(world.engine, 10)
    world.checkpoint()
    table, pool = world.engine.table("t"), world.engine.pool
    where = int(table._look_up(IdBatch(np.array([7])))[0][0] & OFFSET_MASK)
    index = (where - pool.start(0)) // pool.segment_size
    pool.medium.data[where] ^= 1
    exhaust(world.engine.maintenance.clean())
    assert world.engine.maintenance.cleaner.totals.freed > 5
    assert (
        index in pool.taken and f"segment {index} cannot be emptied" in stats_of(world.engine, None).maintenance_error
    )
    with pytest.raises(CorruptionError, match="row 7 of table 't'"):
        table.get([7])
    pool.medium.data[where] ^= 1
    assert table.get([7], return_found=True)[1].all()


def test_a_pass_that_finds_no_room_leaves_everything_as_it_was() -> None:
    world = World(40)
    overwrite(world.engine, 9)
    world.checkpoint()
    before = contents(world.engine)
    while world.engine.pool.free > Reserve.LOG + 1:
        world.engine.pool.take_for_moving()
    with pytest.raises(FullError):
        for _ in range(3):
            exhaust(world.engine.maintenance.clean())
            world.engine.pool.take_for_moving()
    assert contents(world.engine) == before


def test_a_full_pool_is_emptied_by_deletes() -> None:
    world = World(20)
    engine = world.engine
    table = engine.create_table("t", ("f4", 64))
    with pytest.raises(FullError):
        for first in range(0, 10_000, 10):
            table.put(np.arange(first, first + 10), np.zeros((10, 64)))
    count = len(table)
    for first in range(0, count, 100):
        table.delete(np.arange(first, first + 100))
        if engine.pool.free <= Reserve.DELETE:
            clean(world)
    clean(world)
    assert len(table) == 0 and engine.pool.used <= 5
    table.put([1], np.ones((1, 64)))


def test_what_moves_gets_a_run_of_its_own_and_other_runs_stay() -> None:
    """A pass writes as much of the index as it moves, not the table's whole index anew."""
    world = World(100)
    engine = world.engine
    table = engine.create_table("t", ("f4", 16))
    for first in range(0, 1200, 200):
        table.put(np.arange(first, first + 200), np.full((200, 16), first))
    keyspace = engine.keyspaces[1]
    keyspace.put_many({b"key %d" % i: b"%d" % i for i in range(600)})
    world.checkpoint()
    some = np.flatnonzero(np.arange(200) % 10)
    table.put(some, np.full((some.size, 16), -1))
    keyspace.put_many({b"key %d" % i: b"new" for i in some.tolist()})
    world.checkpoint()
    before = contents(engine)
    exhaust(engine.maintenance.clean(None, 0.3))
    cleaner = engine.maintenance.cleaner
    assert cleaner.totals.freed and contents(engine) == before
    for name in ("table/1", "keyspace/1"):
        runs = [run for layer in cleaner.manifest.collections[name].layers for run in layer.runs]
        assert len(runs) == 3 and 0 < runs[0].info.count < 300 and runs[0].info.live == 0
        assert not runs[0].info.emptied and runs[-1].info.emptied
    again = world.reopen()
    assert contents(again) == before and len(again.table("t")) == 1200
    assert list(again.keyspaces[1].scan()) == list(keyspace.scan())
    for one in (engine, again):
        exhaust(one.maintenance.checkpoint())
        exhaust(one.maintenance.clean(None, 0.01))
        exhaust(one.maintenance.compact())
        one.check()
        assert contents(one) == before


def test_moved_deletes_hide_what_they_deleted() -> None:
    """Also where the segment of the delete is emptied, and that of what it deleted is not."""
    world = World(100)
    world.engine.versions.snapshot("first")
    keyspace, table = world.engine.keyspaces[1], world.engine.create_table("t", ("f4", 16))
    keyspace.put_many({b"%d" % i: bytes(100) for i in range(200)})
    table.put(np.arange(300), np.ones((300, 16)))
    world.checkpoint()
    for i in range(0, 40, 4):
        keyspace.delete(b"%d" % i)
    table.delete(np.arange(0, 40, 4))
    for number in range(8):
        keyspace.put_many({b"%d" % i: bytes([number]) * 100 for i in range(100, 110)})
        table.put(np.arange(100, 140), np.full((40, 16), number))
    before = contents(world.engine)
    for _ in range(6):
        clean(world, wanted=2, min_win=0.01)
        assert contents(world.engine) == before == contents(world.reopen())
        keyspace.put(b"another", bytes(2000))
        before = contents(world.engine)


def test_the_age_of_a_segment_is_when_it_was_filled() -> None:
    """What was moved long ago is not older than what was written before it."""
    world = World(100)
    overwrite(world.engine, 10)
    world.clock.now += 5000
    clean(world)
    cleaner = world.engine.maintenance.cleaner
    moved = world.engine.pool.moved[0]
    assert cleaner._filled_at(moved) == cleaner._filled_at(world.engine.pool.taken[0]) + 5000


def test_counts_outlive_the_entries_that_they_came_from() -> None:
    """All that two runs name has moved to a run above them, and they are merged without it."""
    world = World(100)
    keyspace = world.engine.keyspaces[1]
    for number in range(2):
        keyspace.put_many({b"%d %d" % (number, i): bytes(60) for i in range(50)}, FAR)
        world.checkpoint()
    keyspace.put_many({b"last %d" % i: bytes(60) for i in range(300)})
    world.checkpoint()
    cleaner, state = world.engine.maintenance.cleaner, world.engine.maintenance
    runs = cleaner.manifest.collections["keyspace/1"].layers[0].runs
    victims = {index for run in runs[1:] for index in run.info.segments}
    layers = [one for one in values_of(cleaner._survey(cleaner.manifest)) if one.plan.tree.keyed]
    exhaust(cleaner._empty(victims - {index for index, _ in cleaner.manifest.end.segments[-1:]}, layers))
    runs = cleaner.manifest.collections["keyspace/1"].layers[0].runs
    assert len(runs) == 4 and not any(locations.size for _, locations in runs[3].entries())
    layer = cleaner.manifest.collections["keyspace/1"].layers[0]
    plan = CompactionPlan(cleaner._state.trees()["keyspace/1"], layer.id, runs[2:], True)
    exhaust(state._compactor._compact([plan]))
    assert len(cleaner.manifest.collections["keyspace/1"].layers[0].runs) == 3
    assert len(keyspace) == 400 == len(world.reopen().keyspaces[1])
    world.engine.check()


def values_of(steps: Any) -> Any:
    """What a generator of steps returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_small_records_fill_segments_but_for_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no segment that is dead to a quarter would fit into the one that is kept back for cleaning."""
    world = World(100)
    overwrite(world.engine, 10)
    world.checkpoint()
    cleaner, pool = world.engine.maintenance.cleaner, world.engine.pool
    layers = values_of(cleaner._survey(cleaner.manifest))

    def room() -> float:
        return cleaner._room(layers) / (1 + pool.promised) / pool.segment_size

    assert 0.75 < room() < 0.9

    def full(*how: Any) -> Any:
        yield
        raise FullError("the pool is full")

    with monkeypatch.context() as patch, pytest.raises(FullError):
        patch.setattr(cleaner, "_pass", full)
        exhaust(cleaner.clean())
    assert room() < 0.72, "records may be longer than they seem"
    assert clean(world) and room() > 0.75
