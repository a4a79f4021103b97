"""The kernels of pinned rows, on ten ids."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.kernels import location
from pmkv.kernels.pinned_rows import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    copy_pinned,
    drop_changed_pinned,
    fill_pinned,
    find_pinned,
    forget_pinned,
    ids_in_state,
    take_pinned,
)
from pmkv.kernels.records import locate_rows

U, OWNER = np.uint64, np.uint64(3)
WIDTH, STRIDE, COUNT = 20, 24, 10
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python


class Pinned:
    def __init__(self) -> None:
        self.words, self.rows = np.zeros(COUNT, np.uint64), np.zeros(COUNT * STRIDE, np.uint8)
        self.floor = self.stamp = 1

    def fill(self, *ids: int, absent: tuple[int, ...] = (), limit: int = COUNT, damaged: bool = False) -> int:
        """Enter rows whose bytes are their ids."""
        every = np.array([*ids, *absent], np.int64)
        source, locations = np.repeat(every.astype(np.uint8), WIDTH), np.empty(every.size, np.uint64)
        locate_rows(source, 0, every, WIDTH, OWNER, locations)
        locations[len(ids) :] = [0, location.DELETE | U(64)][: len(absent)]
        source[0] ^= damaged
        which = np.arange(every.size)
        filled = fill_pinned(
            self.words, self.rows, STRIDE, WIDTH, self.floor, limit, every, locations, OWNER, which, source, self.stamp
        )
        self.stamp += filled
        return filled

    def look(self, *ids: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return found, stamps, and the positions of unknown ids."""
        found, stamps, missed = np.zeros(len(ids), U), np.zeros(len(ids), U), np.zeros(len(ids), np.int64)
        hits, missing = find_pinned(self.words, self.floor, np.array(ids), found, stamps, missed)
        assert hits == np.count_nonzero(found)
        return found, stamps, missed[:missing].tolist()

    def take(self, *ids: int) -> list[int]:
        """Return the first byte of each row, 255 for none."""
        found, missed, out = np.zeros(len(ids), U), np.zeros(len(ids), np.int64), np.full(len(ids) * WIDTH, 255, "u1")
        take_pinned(self.words, self.rows, STRIDE, WIDTH, self.floor, np.array(ids), found, missed, out)
        assert found.tolist() == self.look(*ids)[0].tolist()
        return out.reshape(-1, WIDTH).max(axis=1).tolist()


def test_what_is_known_and_what_is_not() -> None:
    pinned = Pinned()
    assert pinned.fill(4, 7, absent=(2, 3)) == 4
    found, _, missed = pinned.look(7, 2, 0, 4, -1, 10, 3)
    assert found.tolist() == [1, 0, 0, 1, 0, 0, 0] and missed == [2], "ids outside are known to be absent"
    assert pinned.take(7, 2, 0, 4, -1, 10) == [7, 255, 255, 4, 255, 255]


def test_what_a_memtable_has_is_not_looked_up() -> None:
    pinned = Pinned()
    pinned.fill(1, 2)
    found, missed = np.array([4096, 0], U), np.zeros(2, np.int64)
    assert find_pinned(pinned.words, 1, np.array([1, 2]), found, np.zeros(2, U), missed) == (1, 0)
    assert found.tolist() == [4096, 1]


def test_what_is_known_is_left_as_it_is_and_what_has_no_memory_left_out() -> None:
    pinned = Pinned()
    assert pinned.fill(1, absent=(2,)) == 2
    assert pinned.fill(1, 2) == 0 and pinned.fill(5, 6, limit=6) == 1
    assert pinned.take(1, 2, 5, 6) == [1, 255, 5, 255]


def test_a_row_that_disagrees_with_its_check_is_not_entered() -> None:
    pinned = Pinned()
    assert pinned.fill(1, 2, damaged=True) == 1
    assert pinned.look(1, 2)[2] == [0]


def test_what_is_forgotten_is_unknown() -> None:
    pinned = Pinned()
    pinned.fill(1, 2, absent=(3,))
    assert forget_pinned(pinned.words, 1, np.array([1, 3, 3, 8, -5, 100])) == 2
    assert pinned.look(1, 2, 3)[2] == [0, 2]
    pinned.floor = pinned.stamp
    assert pinned.look(2)[2] == [0], "a higher floor forgets all"


def test_a_row_that_changed_after_the_look_is_not_served() -> None:
    pinned = Pinned()
    pinned.fill(1, 2, 3)
    ids = np.array([1, 2, 3])
    found, stamps, _ = pinned.look(1, 2, 3)
    again = found.copy()
    assert drop_changed_pinned(pinned.words, ids, stamps, again) == 0
    forget_pinned(pinned.words, 1, ids[:2])
    pinned.fill(2)  # the same row again: a new stamp
    out = np.zeros(3 * WIDTH, np.uint8)
    assert copy_pinned(pinned.words, pinned.rows, STRIDE, WIDTH, ids, stamps, found, out) == 2
    assert drop_changed_pinned(pinned.words, ids, stamps, again) == 2
    assert found.tolist() == again.tolist() == [0, 0, 1] and (out.reshape(3, WIDTH)[2] == 3).all()


def test_ids_by_what_is_known_of_them() -> None:
    pinned, ids = Pinned(), np.zeros(3, np.int64)
    pinned.fill(4, 7, absent=(2, 3))
    assert ids_in_state(pinned.words, 1, 0, COUNT, PRESENT, ids) == (2, COUNT) and ids[:2].tolist() == [4, 7]
    assert ids_in_state(pinned.words, 1, 0, COUNT, ABSENT, ids) == (2, COUNT) and ids[:2].tolist() == [2, 3]
    assert ids_in_state(pinned.words, 1, 1, COUNT, UNKNOWN, ids) == (3, 8) and ids.tolist() == [1, 5, 6]
