"""The committed state of small engines: run files that belong to it, and that do not."""

from __future__ import annotations

import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import CorruptionError, FullError
from pmkv.log.segments import Pool
from pmkv.maintenance.compaction_policy import TIER
from tests.engines import contents, copy_of
from tests.unit.maintenance.test_checkpoint import World, copied, fill


def test_a_fold_takes_no_name_of_an_earlier_process() -> None:
    """It covers the LSNs of its newest input, and is so named; another table may have a run in that input's file."""
    world = World(60)
    for first in range(0, 10 * TIER, 10):
        world.engine.keyspaces[1].put(b"%d" % first, b"elsewhere")
        fill(world.engine, first, 10)
        world.checkpoint()
        pool = Pool.load(copy_of(world.medium))
        world.medium, world.shelf = pool.medium, copied(world.shelf)
        world.engine = Engine(pool, now=world.clock, files=(world.catalog, world.shelf))
    before = contents(world.engine)
    for _ in world.engine.maintenance.compact():
        assert contents(world.reopen()) == before
    assert world.engine.maintenance.compactions == 3 and contents(world.reopen()) == before


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "older pool"])
def test_derived_files_that_do_not_fit_are_refused(damage: str) -> None:
    world = World()
    fill(world.engine)
    world.checkpoint()
    (name,) = world.shelf.names()
    older = copy_of(world.medium)
    fill(world.engine, 100)
    world.checkpoint()
    match damage:
        case "gone":
            world.shelf.remove(name)
        case "cut":
            world.shelf._files[name].data = world.shelf._files[name].data[:6000]
        case "flipped":
            world.shelf._files[name].data[4100] ^= 1
        case "older pool":
            with pytest.raises(CorruptionError, match="older"):
                world.reopen(older)
            return
    with pytest.raises(CorruptionError, match=name.partition(":")[0]):
        contents(world.reopen())


def test_without_room_for_a_commit_its_file_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    fill(world.engine)

    def full(*_: object) -> None:
        raise FullError("no room")

    monkeypatch.setattr(world.catalog, "commit", full)
    for _ in range(3):
        with pytest.raises(FullError):
            world.checkpoint()
    assert world.shelf.names() == []
