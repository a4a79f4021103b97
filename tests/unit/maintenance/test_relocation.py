"""Moving the records of one layer: new locations, weights, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.errors import CorruptionError
from pmkv.kernels.location import DELETE, OFFSET_MASK
from pmkv.maintenance.relocation import Relocation
from tests.unit.maintenance.test_checkpoint import World


def relocation(world: World, name: str, lists: bool = True) -> Relocation:
    engine = world.engine
    emptied = np.zeros(engine.pool.count, bool)
    emptied[engine.pool.taken[0]] = True
    return Relocation(engine.log, engine.view_set.trees[name], 0, 1, emptied, {}, lists)


def entries(world: World, name: str) -> tuple[np.ndarray, np.ndarray]:
    (run,) = next(iter(world.engine.view_set.trees[name].layers.values())).runs
    slot_hashes, locations = zip(*run.entries())
    return np.concatenate(slot_hashes), np.concatenate(locations)


def moved(world: World, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Old and new locations, and the change of weights."""
    slot_hashes, old = entries(world, name)
    weights = np.zeros(world.engine.pool.count, np.int64)
    new, weights = relocation(world, name)(slot_hashes, old, np.ones(old.size, np.uint8), weights)
    return old, new, weights


def world_with(*tables: int) -> World:
    world = World(40)
    for number, width in enumerate(tables):
        world.engine.create_table(f"t{number}", ("f4", width)).put(np.arange(9), np.arange(9 * width).reshape(9, width))
        world.engine.table(f"t{number}").delete([3])
    world.engine.keyspaces[0].put_many({b"k%d" % i: b"v" * i for i in range(9)})
    world.engine.keyspaces[0].delete(b"k3")
    world.checkpoint()
    return world


@pytest.mark.parametrize("name", ["table/1", "keyspace/0"])
def test_records_are_copied_byte_for_byte_under_their_old_checks(name: str) -> None:
    world = world_with(4)
    old, new, weights = moved(world, name)
    live = (old & DELETE) == 0
    assert (old[live] >> np.uint64(48) == new[live] >> np.uint64(48)).all()
    segments = (new[live] & OFFSET_MASK).astype(np.int64) // world.engine.pool.segment_size
    assert set(segments.tolist()) == set(world.engine.pool.moved)
    assert weights.sum() == 0 and weights[world.engine.pool.moved].sum() == -weights[world.engine.pool.taken[0]] > 0
    data, width = world.engine.log.data, 16
    for a, b in zip((old[live] & OFFSET_MASK).tolist(), (new[live] & OFFSET_MASK).tolist()):
        assert data[a : a + width].tobytes() == data[b : b + width].tobytes()


def test_what_need_not_move_stays() -> None:
    world = world_with(4)
    slot_hashes, old = entries(world, "table/1")
    one = relocation(world, "table/1")
    new, _ = one(slot_hashes, old, np.zeros(old.size, np.uint8), np.zeros(40, np.int64))
    assert new is old and one.records == 0 and not world.engine.pool.moved


@pytest.mark.parametrize("name", ["table/1", "keyspace/0"])
def test_a_damaged_record_is_not_moved(name: str) -> None:
    world = world_with(4)
    _, old = entries(world, name)
    at = int(old[(old & DELETE) == 0][0] & OFFSET_MASK)
    world.engine.log.data[at] ^= 1
    with pytest.raises(CorruptionError, match=f"what {name} has at offset {at:,} of the pool is damaged"):
        moved(world, name)


def test_chunks_that_several_records_list_are_moved_once() -> None:
    world = World(40)
    value = bytes(range(256)) * 40
    world.engine.keyspaces[0].put(b"long", value)
    world.checkpoint()
    slot_hashes, old = entries(world, "keyspace/0")
    one = relocation(world, "keyspace/0")
    keep, weights = np.ones(old.size, np.uint8), np.zeros(40, np.int64)
    first, _ = one(slot_hashes, old, keep, weights)
    written = world.engine.log.mover.written
    second, _ = one(slot_hashes, old, keep, weights)
    assert world.engine.log.mover.written - written < 500 < written, "the record alone"
    for location in (first, second):
        _, raw, chunks = one._list_at(int(location[0]))
        assert int.from_bytes(raw[:8], "little") == len(value) and not one._are_emptied(chunks).any()
