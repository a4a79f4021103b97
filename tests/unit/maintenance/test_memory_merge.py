"""Merging memtables: a store without files stays what it is, however many versions come and go; and many small frozen
memtables are merged before a checkpoint writes them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import CorruptionError
from pmkv.kernels.location import OFFSET_MASK
from pmkv.maintenance import memory_merge
from pmkv.maintenance.compaction_policy import TIER
from tests.engines import Clock, contents, reopen, small_engine
from tests.unit.maintenance.test_checkpoint import FAR, World, fill


@pytest.fixture
def engine() -> Engine:
    return small_engine(segments=200, now=Clock())


@pytest.mark.parametrize("kept", [0, 3])
def test_what_versions_leave_is_folded(engine: Engine, kept: int) -> None:
    rng = np.random.default_rng(1)
    space, table = engine.keyspaces[0], engine.create_table("t", "i8")
    keys: dict[bytes, tuple[bytes, int]] = {}
    rows: dict[int, int] = {}
    shown = {}
    for number in range(100):
        for key in (b"%d" % rng.integers(0, 30), b"new %d" % number):
            keys[key] = b"%d" % number, FAR + number if number % 3 == 0 else 0
            space.put(key, keys[key][0], expire_at=keys[key][1] or None)
        for ids in rng.integers(0, 50, 3).tolist():
            rows[ids] = number
            table.put([ids], [number])
        gone, lost = b"%d" % rng.integers(0, 30), int(rng.integers(0, 50))
        assert space.delete(gone) == (keys.pop(gone, None) is not None)
        assert table.delete([lost]) == (rows.pop(lost, None) is not None)
        engine.versions.snapshot(f"s{number}")
        if number % 40 or not kept:
            engine.versions.delete_view(f"s{number}")
        else:
            shown[f"s{number}"] = dict(keys), dict(rows)
        assert len(space) == len(keys) and len(table) == len(rows)
    assert len(table.stack.frozen) < 5 * TIER + kept and engine.dram.arena.used < 1 << 18
    for one in (engine, reopen(engine)):
        assert contents(one)[0] == keys
        assert {id: int.from_bytes(row, "little") for id, row in contents(one)["t"].items()} == rows
        for name, (its_keys, its_rows) in shown.items():
            view = contents(one.view(name))
            assert view[0] == its_keys and set(view["t"]) == set(its_rows)
        one.check()
    engine.log.now.now = FAR + 50
    assert len(space) == sum(expiry == 0 or expiry > FAR + 50 for _, expiry in keys.values())


def test_all_memory_comes_back(engine: Engine) -> None:
    table = engine.create_table("t", "i8")
    for number in range(50):
        table.put([number], [number])
        engine.versions.snapshot(f"s{number}")
    for number in range(50):
        engine.versions.delete_view(f"s{number}")
    engine.drop_table("t")
    assert engine.dram.arena.used == 0


def many_closed(engine: Engine, rounds: int = 40) -> tuple[dict[bytes, bytes], dict[int, int]]:
    """Versions that come and go leave closed runs in one layer, of which newer ones hide what is in older ones. Returns
    what is there then."""
    rng = np.random.default_rng(rounds)
    space, table = engine.keyspaces[0], engine.table("t")
    keys = {b"key %d" % i: b"value %d" % i for i in range(50)}
    rows = {i: i for i in range(50)}
    for number in range(rounds):
        for i in rng.integers(0, 80, 4).tolist():
            space.put(b"key %d" % i, b"%d" % number, expire_at=FAR + number if i % 3 == 0 else None)
            table.put([i], [number])
            keys[b"key %d" % i], rows[i] = b"%d" % number, number
        gone = int(rng.integers(0, 80))
        assert space.delete(b"key %d" % gone) == (keys.pop(b"key %d" % gone, None) is not None)
        assert table.delete([gone]) == (rows.pop(gone, None) is not None)
        engine.versions.snapshot("one")
        engine.versions.delete_view("one")
    return keys, rows


@pytest.mark.parametrize("small", [1, 4, 1 << 14])
@pytest.mark.parametrize("is_above", [False, True])
def test_many_small_closed_runs_are_joined(monkeypatch: pytest.MonkeyPatch, small: int, is_above: bool) -> None:
    monkeypatch.setattr(memory_merge, "SMALL_ENTRIES", small)
    world = World(100)
    engine, space = world.engine, world.engine.keyspaces[0]
    fill(engine)
    if is_above:
        world.checkpoint()
    keys, rows = many_closed(engine)
    assert len(engine.table("t").stack.frozen) > 30
    used = engine.dram.arena.used
    world.checkpoint()
    assert engine.dram.arena.used < used and not engine.table("t").stack.frozen
    for one in (engine, world.reopen()):
        assert len(one.keyspaces[0]) == len(keys) and len(one.table("t")) == len(rows)
        assert dict(one.keyspaces[0].scan()) == keys
        assert {id: int.from_bytes(row, "little") for id, row in contents(one)["t"].items()} == rows
        one.check()
    world.clock.now = FAR + 100
    assert len(space) == sum(int(key[4:]) % 3 != 0 or not value.isdigit() for key, value in keys.items())


def test_neighbours_are_joined_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(*counts: int) -> list[list[int]]:
        runs = tuple(SimpleNamespace(index=SimpleNamespace(count=count)) for count in counts)
        return [[one.index.count for one in group] for group in memory_merge.group_small(runs)]

    monkeypatch.setattr(memory_merge, "MANY_MEMTABLES", 3)
    monkeypatch.setattr(memory_merge, "SMALL_ENTRIES", 10)
    monkeypatch.setattr(memory_merge, "GROUP_ENTRIES", 25)
    assert groups() == [] and groups(5) == [[5]]
    assert groups(1, 2, 3) == [[1], [2], [3]], "these are few"
    assert groups(1, 2, 3, 4) == [[1, 2, 3, 4]]
    assert groups(5, 11, 10, 9, 6, 1) == [[5], [11], [10, 9, 6], [1]]
    assert groups(0, 11, 0, 11) == [[0], [11], [0], [11]]


def test_a_checkpoint_that_is_given_up_gives_the_memory_of_what_it_joined_back() -> None:
    world = World(100)
    fill(world.engine)
    keys, _ = many_closed(world.engine)
    used, left = world.engine.dram.arena.used, 0
    while True:
        steps = world.engine.maintenance.checkpoint()
        if sum(1 for _ in zip(range(left), steps)) < left:
            break
        steps.close()
        left += 1
        assert world.engine.dram.arena.used == used
        assert dict(world.engine.keyspaces[0].scan()) == keys
    assert left > 10
    assert dict(world.reopen().keyspaces[0].scan()) == keys


@pytest.mark.parametrize("which", ["the length of its key", "its key", "its value"])
def test_a_damaged_record_is_met_before_an_older_one(which: str) -> None:
    """It would else be taken for another key's, and the older value be shown."""
    world = World(100)
    fill(world.engine)
    keys, _ = many_closed(world.engine)
    space = world.engine.keyspaces[0]
    space.put(b"key 7", b"damaged")
    world.engine.versions.snapshot("one")
    world.engine.versions.delete_view("one")
    _, _, locations = next(space.stack.frozen[0].index.walk())
    at = int(locations[0] & OFFSET_MASK)
    world.engine.log.data[at + {"the length of its key": 6, "its key": 16, "its value": 21}[which]] ^= 1
    world.checkpoint()
    assert not space.stack.frozen
    with pytest.raises(CorruptionError, match="damaged"):
        space.get(b"key 7")
    keys.pop(b"key 7", None)
    assert space.get_many(list(keys)) == list(keys.values())
