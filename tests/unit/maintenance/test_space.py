"""Where the bytes of a pool are, and what each view pins."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.log.segments import Reserve
from pmkv.maintenance.space import PinReport, SpaceStats, space_of
from tests.unit.maintenance.test_checkpoint import World
from tests.unit.maintenance.test_cleaning import clean, overwrite


def space(world: World) -> SpaceStats:
    engine = world.engine
    with engine.log.locks.append, engine.log.locks.state:
        return space_of(engine.log, engine.view_set, engine.maintenance.cleaner)


def test_all_bytes_are_used_reserved_or_free() -> None:
    world = World(40)
    size = world.engine.pool.segment_size
    before = space(world)
    assert (before.used, before.reserved, before.takes_writes) == (size, Reserve.WRITE * size, True)
    overwrite(world.engine, 8)
    world.checkpoint()
    after = space(world)
    assert after.used + after.reserved + after.free == 40 * size
    assert 0 < after.live < after.used and after.dead == after.used - after.live and after.write_amplification == 1


def test_a_pass_of_the_cleaner_shows() -> None:
    world = World(60)
    overwrite(world.engine, 10)
    before = space(world)
    freed = clean(world)
    after = space(world)
    assert after.freed == freed * world.engine.pool.segment_size > 0 == before.freed
    assert after.moved > 0 and after.write_amplification > 1 and after.dead < before.dead


def test_a_view_pins_what_only_it_reads_and_what_main_wrote_over() -> None:
    world = World(60)
    table = world.engine.create_table("t", ("f4", 16))
    table.put(np.arange(100), np.ones((100, 16)))
    world.engine.versions.snapshot("old")
    assert space(world).pinned_by == {"old": 0}, "main needs all of it"
    table.put(np.arange(40), np.zeros((40, 16)))
    assert space(world).pinned_by["old"] == 40 * 64
    world.checkpoint()
    assert space(world).pinned_by["old"] == 40 * 64
    world.engine.drop_table("t")
    assert space(world).pinned_by["old"] == 100 * 64


def test_a_full_pool_takes_no_writes() -> None:
    world = World(10)
    while world.engine.pool.free > Reserve.WRITE:
        world.engine.pool.take_for_moving()
    assert not space(world).takes_writes and space(world).free == 0


def test_the_views_that_pin_most_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world, now = World(60), [100.0]
    monkeypatch.setattr("pmkv.maintenance.space.time.monotonic", lambda: now[0])
    report = PinReport(world.engine.log, lambda: world.engine.view_set)
    assert report() == ""
    table = world.engine.create_table("t", ("f4", 16))
    table.put(np.arange(100), np.ones((100, 16)))
    world.engine.versions.snapshot("old")
    table.put(np.arange(40), np.zeros((40, 16)))
    assert report() == ". Of the views these pin most: 'old' about 2,560 bytes"
    table.put(np.arange(50), np.zeros((50, 16)))
    assert report() == ". Of the views these pin most: 'old' about 2,560 bytes"
    now[0] += 1.0
    assert report() == ". Of the views these pin most: 'old' about 3,200 bytes"
    world.engine.versions.delete_view("old")
    assert report() == "", "no view is named that is gone"
