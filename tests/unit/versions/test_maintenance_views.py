"""Checkpoints and folds beside views that come and go, step by step."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import PmkvError
from pmkv.kernels.location import DELETE
from pmkv.maintenance.checkpoint import only_deleted
from pmkv.maintenance.compaction_policy import MOST, TIER
from tests.engines import contents
from tests.unit.maintenance.test_checkpoint import World, exhaust, fill


def shown(engine: Engine) -> dict[str, Any]:
    """What every view has."""
    return {name: contents(engine.view(name)) for name in engine.views()}


def test_spans_let_reads_skip_many_snapshots() -> None:
    world = World(200)
    rng = np.random.default_rng(1)
    fill(world.engine, 0, 60)
    for number in range(40):
        world.engine.versions.snapshot(f"s{number}")
        ids = rng.integers(0, 70, 5)
        world.engine.table("t").put(ids, ids + number)
        world.engine.table("t").delete(rng.integers(0, 70, 2))
        world.engine.keyspaces[0].put(b"key %d" % rng.integers(0, 70), b"%d" % number)
        world.engine.keyspaces[0].delete(b"key %d" % rng.integers(0, 70))
        if number % 3 == 0:
            world.checkpoint()
            exhaust(world.engine.maintenance.compact())
    world.checkpoint()
    before = shown(world.engine)
    exhaust(world.engine.maintenance.compact())
    assert shown(world.engine) == before
    tree = world.engine.view_set.trees["table/1"]
    assert tree.skip_runs and len(world.engine.table("t").stack.runs) <= MOST + 2 < len(tree.layers)
    world.engine.check()
    again = world.reopen()
    assert shown(again) == before and again.recovery.records == 0
    again.check()
    for number in rng.permutation(40).tolist()[:30]:
        again.versions.delete_view(f"s{number}")
        del before[f"s{number}"]
        if number % 7 == 0:
            exhaust(again.maintenance.checkpoint())
            exhaust(again.maintenance.compact())
            assert shown(again) == before
            again.check()
    again.maintenance.remove_unneeded_files()
    assert set(again.maintenance.run_files.names()) == again.maintenance.manifest.files


@pytest.mark.parametrize("step", range(6))
def test_versions_beside_the_steps_of_checkpoints_and_folds(step: int) -> None:
    """Views come and go between any two steps."""
    world = World(200)
    for first in range(0, 10 * TIER, 10):
        fill(world.engine, first, 10)
        world.engine.versions.snapshot(f"s{first}")
        world.checkpoint()
    branch = world.engine.versions.branch("b", at="s10")
    branch.tables["t"].put([500], [5])

    def interfere() -> None:
        match step:
            case 0:
                world.engine.versions.promote("b", force=True)
            case 1:
                world.engine.versions.rollback("s20")
            case 2:
                for first in (0, 20, 30):
                    world.engine.versions.delete_view(f"s{first}")
            case 3:
                world.engine.versions.snapshot("new")
                world.engine.versions.delete_view("b")
            case 4:
                world.engine.versions.branch("c").keyspaces[0].put(b"mine", b"1")
                world.engine.versions.promote("c")
            case 5:
                world.engine.drop_table("t")
                world.engine.clear_all()
                world.engine.versions.rollback("s0", ["t"])

    for place in range(3):
        fill(world.engine, 3, 10)
        before = shown(world.engine)
        steps = world.engine.maintenance.checkpoint() if place < 2 else world.engine.maintenance.compact()
        for number, _ in enumerate(steps):
            if number == place:
                with contextlib.suppress(PmkvError):
                    interfere()
                before = shown(world.engine)
        assert shown(world.engine) == before == shown(world.reopen())
        world.engine.check()


def test_a_key_that_one_layer_deleted_and_one_above_put_again_stays_in_the_directory() -> None:
    world = World()
    space = world.engine.keyspaces[0]
    space.put_many({b"j": b"1", b"k": b"1"})
    world.checkpoint()
    space.delete(b"k")
    world.engine.versions.snapshot("s")
    world.engine.versions.delete_view("s")  # so no other view holds anything; but there are two layers
    space.put(b"k", b"2")
    world.checkpoint()
    for engine in (world.engine, world.reopen()):
        assert list(engine.keyspaces[0].scan()) == [(b"j", b"1"), (b"k", b"2")]
    space.delete(b"k")
    world.checkpoint()
    assert world.catalog.keys(0, b"", None, False, 9, lambda prefix, word: []) == [b"j"]


def test_spans_go_with_their_layers() -> None:
    world = World(60)
    for number in range(12):
        fill(world.engine, number, 5)
        world.engine.versions.snapshot(f"s{number}")
        world.checkpoint()
    exhaust(world.engine.maintenance.compact())
    assert world.engine.view_set.trees["table/1"].skip_runs
    world.engine.versions.rollback("s0")
    for name in list(world.engine.views())[1:]:
        world.engine.versions.delete_view(name)
    world.engine.check()
    assert not world.engine.view_set.trees["table/1"].skip_runs


def test_dead_keys_are_sought_only_among_hashes_that_were_deleted() -> None:
    words, locations = np.array([5, 5, 6, 7, 7], np.uint64), np.array([80, 90, 100, 110, 120], np.uint64)
    assert [some.size for some in only_deleted(words, locations)] == [0, 0]
    locations[4] |= DELETE
    kept, there = only_deleted(words, locations)
    assert kept.tolist() == [7, 7] and there.tolist() == locations[3:].tolist()
