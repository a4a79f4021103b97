"""The kernels of the row cache on a few sets: who is found, who gets in, who is evicted, growing and shrinking."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.kernels import location
from pmkv.kernels.hashing import check16
from pmkv.kernels.row_cache import (
    SET_META_WORDS,
    WAYS,
    add_sets,
    admit_rows,
    cached_ids,
    copy_rows,
    drop_changed,
    find_rows,
    forget_rows,
    remove_sets,
    set_of,
    take_rows,
)

U = np.uint64
SEED, OWNER = U(77), U(3)
WIDTH, STRIDE = 20, 24  # rows are padded to a multiple of 8
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python


def row_of(id: int) -> np.ndarray:
    return np.full(WIDTH, id % 251, np.uint8)


class Sets:
    """A cache of up to `most` sets, of which `sets` are in use."""

    def __init__(self, sets: int = 1, most: int = 8) -> None:
        self.meta, self.rows = np.zeros(most * SET_META_WORDS, np.uint64), np.zeros(most * WAYS * STRIDE, np.uint8)
        self.sets, self.floor, self.stamp = sets, 1, 1
        self.marks = np.zeros(64, np.uint64)

    @property
    def shape(self) -> tuple[int, int, U, int]:
        return self.sets, (1 << (self.sets - 1).bit_length()) - 1, SEED, self.floor

    def admit(self, *ids: int, damaged: bool = False) -> tuple[int, int, int]:
        source = np.concatenate([row_of(id) for id in ids])
        checks = [check16(source, i * WIDTH, WIDTH, OWNER, U(np.int64(id))) for i, id in enumerate(ids)]
        locations = np.array([location.make(4096, U(check)) for check in checks], np.uint64)
        source[0] ^= damaged
        told = admit_rows(
            self.meta, self.rows, STRIDE, WIDTH, *self.shape, self.marks, np.array(ids), locations, OWNER,
            np.arange(len(ids)), source, self.stamp,
        )  # fmt: skip
        self.stamp += told[0]
        return told

    def look(self, *ids: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return found, slots and stamps."""
        found, slots, missed = np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        stamps = np.zeros(len(ids), np.uint64)
        hits, missing = find_rows(self.meta, *self.shape, np.array(ids), found, slots, stamps, missed)
        assert hits == np.count_nonzero(found) and missed[:missing].tolist() == np.flatnonzero(found == 0).tolist()
        return found, slots, stamps

    def copy(self, found: np.ndarray, slots: np.ndarray, stamps: np.ndarray) -> np.ndarray:
        out = np.full(found.size * WIDTH, 255, np.uint8)
        lost = copy_rows(self.meta, self.rows, STRIDE, WIDTH, slots, stamps, found, out)
        assert lost <= np.count_nonzero(found == 0)
        return out.reshape(-1, WIDTH)

    def here(self, *ids: int) -> list[int]:
        """Return which of the ids are here, after a look at their rows."""
        found, slots, stamps = self.look(*ids)
        rows = self.copy(found, slots, stamps)
        for i, id in enumerate(ids):
            assert (rows[i] == (row_of(id) if found[i] else 255)).all()
        return [id for id, one in zip(ids, found) if one]

    def ids(self) -> list[int]:
        ids = np.zeros(100, np.int64)
        return sorted(ids[: cached_ids(self.meta, self.sets, self.floor, ids)].tolist())


def test_a_free_slot_takes_any_row_and_a_full_set_one_that_is_offered_again() -> None:
    cache = Sets()
    assert cache.admit(*range(-4, 4)) == (8, 0, 0)
    assert cache.here(*range(-5, 5)) == list(range(-4, 4)), "0 and negative ids are ids as any other"
    cache = Sets()
    cache.admit(*range(8))
    assert cache.admit(8, 9) == (0, 0, 2) and cache.here(8, 9) == []
    assert cache.admit(9) == (1, 1, 1) and cache.here(9) == [9] and len(cache.ids()) == 8


def test_a_row_that_is_known_is_left_as_it_is() -> None:
    cache = Sets()
    cache.admit(5)
    assert cache.admit(5, 5) == (0, 0, 0) and cache.ids() == [5]


def test_a_row_that_was_used_is_not_evicted() -> None:
    cache = Sets()
    cache.admit(*range(8))
    for _ in range(3):
        cache.look(*(id for id in range(8) if id != 6))
    cache.admit(100)
    assert cache.admit(100) == (1, 1, 1)
    assert cache.ids() == [0, 1, 2, 3, 4, 5, 7, 100]


def test_a_row_that_disagrees_with_its_check_is_not_admitted() -> None:
    cache = Sets()
    assert cache.admit(1, 2, damaged=True) == (1, 0, 0)
    assert cache.here(1, 2) == [2]


def test_what_is_forgotten_is_gone() -> None:
    cache = Sets(3)
    cache.admit(*range(12))
    assert forget_rows(cache.meta, *cache.shape, np.array([3, 5, 77, 3])) == 2
    assert cache.here(*range(12)) == [id for id in range(12) if id not in (3, 5)]
    assert cache.admit(3) == (1, 0, 0)


def test_a_slot_that_changed_after_the_look_is_not_served() -> None:
    cache = Sets()
    cache.admit(1, 2, 3)
    found, slots, stamps = cache.look(1, 2, 3)
    forget_rows(cache.meta, *cache.shape, np.array([1, 2]))
    cache.admit(2)  # the same id again, in another slot or the same: a new stamp
    cache.copy(found, slots, stamps)
    assert found.tolist() == [0, 0, 1]


def test_few_rows_are_taken_at_once() -> None:
    cache = Sets()
    cache.admit(1, 2, 3)
    ids, found = np.array([3, 9, 1, 2, 1]), np.array([0, 0, 0, 4096, 0], np.uint64)
    slots, missed, out = np.zeros(5, np.int64), np.zeros(5, np.int64), np.full(5 * WIDTH, 255, np.uint8)
    told = take_rows(cache.meta, cache.rows, STRIDE, WIDTH, *cache.shape, ids, found, slots, missed, out)
    assert told == (3, 1) and missed[0] == 1 and found.tolist() == [1, 0, 1, 4096, 1]
    rows = out.reshape(-1, WIDTH)
    assert (rows[[0, 2, 4]] == [row_of(3), row_of(1), row_of(1)]).all() and (rows[[1, 3]] == 255).all()


def test_rows_that_were_read_in_place_are_dropped_if_their_slots_changed() -> None:
    cache = Sets()
    cache.admit(1, 2, 3)
    found, slots, stamps = cache.look(1, 2, 3)
    assert drop_changed(cache.meta, slots, stamps, found) == 0
    forget_rows(cache.meta, *cache.shape, np.array([1, 2]))
    cache.admit(2)
    cache.look(3)
    assert drop_changed(cache.meta, slots, stamps, found) == 2 and found.tolist() == [0, 0, 1]


def test_a_use_after_the_look_does_no_harm() -> None:
    cache = Sets()
    cache.admit(1)
    found, slots, stamps = cache.look(1)
    cache.look(1)
    assert (cache.copy(found, slots, stamps)[0] == row_of(1)).all() and found.tolist() == [1]


def test_a_higher_floor_frees_all_slots() -> None:
    cache = Sets()
    cache.admit(*range(8))
    cache.floor = cache.stamp
    assert cache.ids() == [] and cache.here(*range(8)) == []
    assert cache.admit(*range(8, 16)) == (8, 0, 0) and cache.ids() == list(range(8, 16))


def test_what_is_in_memory_already_is_not_looked_up() -> None:
    cache = Sets()
    cache.admit(1, 2)
    found, missed = np.array([4096, 0, 0], np.uint64), np.zeros(3, np.int64)
    told = find_rows(
        cache.meta, *cache.shape, np.array([1, 2, 9]), found, np.zeros(3, np.int64), np.zeros(3, np.uint64), missed
    )
    assert told == (1, 1) and found.tolist() == [4096, 1, 0] and missed[0] == 2


@pytest.mark.parametrize("steps", [(1, 2, 3, 4, 5, 8), (1, 2, 4, 8), (5, 6, 7, 8)])
def test_growing_keeps_all_rows_and_shrinking_those_that_fit(steps: tuple[int, ...]) -> None:
    cache, ids = Sets(steps[0]), range(100, 108)
    cache.admit(*ids)
    for stop in steps[1:]:
        sets, cache.sets = cache.sets, stop
        add_sets(cache.meta, cache.rows, STRIDE, sets, stop, *cache.shape[1:])
        assert cache.here(*ids) == list(ids)
    for sets in steps[-2::-1]:
        stop, mask, cache.sets = cache.sets, cache.shape[1], sets
        assert remove_sets(cache.meta, cache.rows, STRIDE, sets, stop, mask, cache.floor) == 0
        assert cache.here(*ids) == list(ids)
        assert not cache.meta[sets * SET_META_WORDS + 1 :: 2].any(), "sets that are not in use are free"


def test_shrinking_drops_what_does_not_fit() -> None:
    cache = Sets(2)
    for id in range(100):
        cache.admit(id)
    before = cache.ids()
    cache.sets = 1
    dropped = remove_sets(cache.meta, cache.rows, STRIDE, 1, 2, 1, cache.floor)
    assert len(before) == 16 and dropped == 8 and len(cache.ids()) == 8 and set(cache.ids()) <= set(before)
    assert cache.here(*range(100)) == cache.ids()


def test_the_sets_of_a_hash() -> None:
    assert [set_of(U(h), 5, 7) for h in range(8)] == [0, 1, 2, 3, 4, 1, 2, 3]
    assert [set_of(U(h), 4, 3) for h in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert set_of(U(9), 1, 0) == 0
