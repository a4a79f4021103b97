"""The committed state of small engines: run files that belong to it, and that do not."""

from __future__ import annotations

import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import CorruptionError, FullError
from pmkv.log.segments import Pool
from pmkv.maintenance.committed import CommittedState
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


def interrupt_a_write(engine: Engine) -> None:
    """Let Ctrl-C come in the middle of a write, so that memory is rebuilt from the log."""
    with pytest.raises(KeyboardInterrupt), engine.batch():
        engine.keyspaces[0].put(b"never", b"written")
        raise KeyboardInterrupt


@pytest.mark.parametrize("step", range(4))
def test_memory_that_is_rebuilt_beside_a_checkpoint_follows_it(step: int) -> None:
    """It was rebuilt from the manifest before the one that the checkpoint commits. A compaction then gave up runs that
    memory still named, and the next checkpoint named them again: the directory did not open any more."""
    world = World(60)
    for first in range(0, 10 * (TIER - 1), 10):
        fill(world.engine, first, 10)
        world.checkpoint()
    fill(world.engine, 100, 10)
    steps = world.engine.maintenance.checkpoint()
    for _ in range(step):
        next(steps)
    interrupt_a_write(world.engine)
    for _ in steps:
        pass
    before = contents(world.engine)
    world.engine.check()
    for _ in world.engine.maintenance.compact():
        pass
    fill(world.engine, 200, 10)
    world.checkpoint()
    world.engine.check()
    assert world.engine.maintenance.compactions and contents(world.reopen()) == contents(world.engine) != before


def test_what_an_exception_kept_from_following_a_commit_follows_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(60)
    for first in range(0, 10 * TIER, 10):
        fill(world.engine, first, 10)
        world.checkpoint()

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(CommittedState, "adopt", fail)
        for _ in world.engine.maintenance.compact():
            pass
    assert world.engine.maintenance.is_ahead
    fill(world.engine, 200, 10)
    world.checkpoint()
    assert not world.engine.maintenance.is_ahead
    world.engine.check()
    assert contents(world.reopen()) == contents(world.engine)
