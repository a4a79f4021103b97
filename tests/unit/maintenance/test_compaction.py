"""Compactions of small engines, step by step, with files in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmkv.errors import FlushError
from pmkv.maintenance.compaction_policy import MOST, TIER
from tests.engines import contents
from tests.unit.maintenance.test_checkpoint import FAR, World, exhaust, fill


def test_folds_keep_runs_few_and_drop_nothing() -> None:
    world = World(60)
    world.clock.now = 1000
    rng = np.random.default_rng(1)
    for number in range(20):
        ids = rng.integers(0, 300, 40)
        fill(world.engine, int(rng.integers(0, 100)), 10)
        world.engine.table("t").put(ids, ids + number)
        world.engine.table("t").delete(rng.integers(0, 300, 10))
        world.engine.keyspaces[1].put(b"%d" % rng.integers(0, 9), b"v", expire_at=FAR + number)
        world.engine.keyspaces[0].delete(b"key %d" % rng.integers(0, 100))
        world.checkpoint()
        before = contents(world.engine)
        exhaust(world.engine.maintenance.compact())
        assert contents(world.engine) == before
        assert len(world.engine.table("t").stack.runs) <= MOST
    assert world.engine.maintenance.compactions
    world.engine.check()
    again = world.reopen()
    assert contents(again) == before and again.recovery.records == 0
    again.check()
    assert set(world.shelf.names()) == again.maintenance.manifest.files


def test_a_checkpoint_beside_a_fold() -> None:
    world = World(60)
    for first in range(0, 10 * TIER, 10):
        fill(world.engine, first, 10)
        world.checkpoint()
    fold = world.engine.maintenance.compact()
    next(fold)
    fill(world.engine, 5, 10)
    world.checkpoint()
    exhaust(fold)
    assert len(world.engine.table("t").stack.runs) == 2
    assert contents(world.reopen()) == contents(world.engine)


def test_a_fold_within_a_fold_leaves_it_alone() -> None:
    """Whatever becomes due beside a fold runs within its steps: checkpoints, and then folds, too."""
    world = World(60)
    for first in range(0, 10 * TIER, 10):
        fill(world.engine, first, 10)
        world.checkpoint()
    fold = world.engine.maintenance.compact()
    next(fold)
    assert exhaust(world.engine.maintenance.compact()) == 0
    fill(world.engine, 5, 10)
    world.checkpoint()
    exhaust(fold)
    assert len(world.engine.table("t").stack.runs) == 2
    assert contents(world.reopen()) == contents(world.engine)


@pytest.mark.parametrize("beside", [False, True])
def test_keys_that_half_a_commit_took_out_of_the_directory_enter_it_again(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fold makes that half current, before another checkpoint; nor one that was under way (beside)."""
    world = World(60)
    space, commit = world.engine.keyspaces[0], world.catalog.commit

    def half(*what: Any) -> None:
        commit(*what)
        raise FlushError("whether this took place is not known")

    for number in range(TIER):
        space.put(b"%d" % number, b"v")
        if not number:
            space.put(b"key", b"1")
        world.checkpoint()
    fold = world.engine.maintenance.compact()
    if beside:
        next(fold)
    space.delete(b"key")
    with monkeypatch.context() as patch, pytest.raises(FlushError):
        patch.setattr(world.catalog, "commit", half)
        world.checkpoint()
    exhaust(fold)
    assert not world.engine.maintenance.compactions
    space.put(b"key", b"2")
    again = world.reopen()
    for engine in (world.engine, again):
        exhaust(engine.maintenance.checkpoint())
        exhaust(engine.maintenance.compact())
        assert dict(engine.keyspaces[0].scan())[b"key"] == b"2" and engine.maintenance.compactions


def test_a_clear_between_the_choice_of_a_fold_and_its_start() -> None:
    world = World(60)
    for first in range(0, 10 * TIER, 10):
        fill(world.engine, first, 10)
        world.checkpoint()
    fold = world.engine.maintenance._compactor._compact(world.engine.maintenance._compactor._choose(is_idle=False))
    world.engine.clear_all()
    world.engine.drop_table("t")
    expected = contents(world.engine)
    exhaust(fold)
    assert contents(world.engine) == contents(world.reopen()) == expected == {}
