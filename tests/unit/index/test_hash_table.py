"""The hash index beyond its contract: growth, splitting, memory, keys with equal hashes."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.engine.byte_batch import join
from pmkv.index.arena import Arena
from pmkv.index.hash_table import LARGEST_SUB, PAGE_SLOTS, HashTable
from pmkv.kernels.records import FLAG_DELETE, write_records

NOTHING = np.empty((0, 2), np.int64)


def test_it_grows_a_sub_table_at_a_time_within_its_budget() -> None:
    arena = Arena()
    index = HashTable(arena, 7)
    rng = np.random.default_rng(0)
    total, largest_step = 0, 0
    for _ in range(120):
        ids = rng.integers(-(2**63), 2**63 - 1, 5000)
        slots = index.subs[:, 1].copy()
        index.insert(ids, np.full(ids.size, 9, np.uint64))
        total += ids.size
        largest_step = max(largest_step, int(slots.max()))
        if total > 20_000:
            assert arena.used * 8 <= 40 * total, f"{arena.used * 8 / total:.1f} bytes an id at {total}"
    assert index.live == total and len(index.subs) > 16 and index.depth >= 4
    assert largest_step <= LARGEST_SUB * 3 // 2
    assert np.count_nonzero(index.find(rng.integers(-(2**63), 2**63 - 1, 1000), NOTHING)[0]) == 0
    index.check()


@pytest.mark.parametrize("order", ["up", "down", "inwards"])
@pytest.mark.parametrize("batch", [100, 4000])
def test_keys_may_come_in_the_order_of_their_hashes(order: str, batch: int) -> None:
    """As of a program that writes or deletes what it scans: when a sub-table was split, all of it went to one half,
    which was too small, so that the search for a free slot never ended."""
    index, filled = HashTable(Arena(), 7), HashTable(Arena(), 7)
    filled.insert(np.arange(100_000), np.full(100_000, 9, np.uint64))
    ids = np.concatenate([key64s for _, key64s, _ in filled.walk()]).view(np.int64)
    ids = {"up": ids, "down": ids[::-1].copy(), "inwards": np.stack([ids[:50_000], ids[:49_999:-1]], 1).reshape(-1)}[
        order
    ]
    for first in range(0, ids.size, batch):
        index.insert(ids[first : first + batch], np.full(batch, 9, np.uint64))
    index.check()
    assert index.count == 100_000 and index.nbytes < 28 * 100_000 * 2
    assert (index.find(ids, NOTHING)[0] == 9).all()


class Watched:
    """A lock; whenever somebody lets go of it, and when they take it, readers find what was there."""

    def __init__(self, index: HashTable, there: np.ndarray) -> None:
        self.index, self.there, self.taken, self.held = index, there, 0, False

    def __enter__(self) -> None:
        assert not self.held
        self._look()
        self.held = True
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self._look()
        self.held = False

    def _look(self) -> None:
        assert (self.index.find(self.there, NOTHING)[0] == 9).all()


@pytest.mark.parametrize("size", [0, 100, 400, 20_000, 300_000])
def test_room_is_made_while_others_read_and_then_nothing_moves(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arena, rng = Arena(), np.random.default_rng(size)
    index = HashTable(arena, 7)
    there, ids = rng.permutation(size + 50_000)[:size], rng.permutation(size + 50_000)[size // 2 : size // 2 + 20_000]
    index.insert(there, np.full(size, 9, np.uint64))
    lock = Watched(index, there)
    index.make_room(ids.view(np.uint64), lock)
    assert lock.taken and not lock.held
    index.check()
    index.make_room(ids, lock := Watched(index, there))
    assert not lock.taken, "there is room already"
    monkeypatch.setattr(index, "_enlarge", None)
    index.insert(ids, np.ones(ids.size, np.uint64))
    assert arena.used * 8 <= 40 * index.count + (1 << 17)
    index.check()


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_ids_in_a_row_spread(seed: int) -> None:
    index = HashTable(Arena(), seed)
    ids = np.arange(200_000)
    index.insert(ids, np.ones(ids.size, np.uint64))
    taken = index.subs[:, 2]
    assert taken.max() < 4 * taken.mean()
    assert index.find(ids, NOTHING)[0].all()


def test_equal_hashes_are_only_candidates() -> None:
    data, keys = np.zeros(1 << 14, np.uint8), [b"one", b"two", b"three", b"o"]
    blob, bounds = join(keys)
    locations = np.empty(4, np.uint64)
    owner = np.uint64(3)
    none = np.zeros(4, np.int64)
    write_records(data, 64, owner, blob, bounds, *join([b"v"] * 4), none, none, locations)
    index = HashTable(Arena(), 5)
    same = np.full(4, 77, np.uint64)
    assert index.insert_keys(data, same, blob, bounds, locations).tolist() == [0] * 4
    found, waiting = index.find_keys(data, same, blob, bounds, NOTHING, owner, True)
    assert found.tolist() == locations.tolist() and waiting == 0 and index.live == 4
    place = next(index.walk())[0][0]
    assert sorted(index.at(int(place)).tolist()) == sorted(locations.tolist()) and index.at(int(place) - 1).size == 0
    other, its_bounds = join([b"tw"])
    assert index.find_keys(data, same[:1], other, its_bounds, NOTHING, owner, True)[0].tolist() == [0]
    write_records(data, 4096, owner, blob, bounds, *join([b""] * 4), none, none + FLAG_DELETE, locations)
    index.insert_keys(data, same, blob, bounds, locations)
    assert index.live == 0
    index.check()


@pytest.mark.parametrize("expected", [0, 1, 300, 12_000, 14_000, 100_000, 300_000])
def test_what_was_expected_fits_and_more_does_too(expected: int) -> None:
    arena = Arena()
    index = HashTable(arena, 7, expected)
    index.check()
    assert index.nbytes <= max(4096, 16 * 2 * expected)
    before, ids = arena.used, np.arange(expected)
    for some in np.array_split(ids, 10):
        index.insert(some, some.astype(np.uint64) * 64 + 8)
    assert arena.used == before or expected < 2 * PAGE_SLOTS, "it did not grow"
    more = np.arange(expected, 2 * expected + 500)
    index.insert(more, more.astype(np.uint64) * 64 + 8)
    assert index.find(more, NOTHING)[0].tolist() == (more * 64 + 8).tolist()
    index.check()
    index.clear()
    assert arena.used == 0
