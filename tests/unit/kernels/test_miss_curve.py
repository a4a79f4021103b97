"""Reuse distances of a sample, against a list."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.kernels.hashing import mix
from pmkv.kernels.miss_curve import NEXT, TOTAL, note_ids

EDGES = np.array([10, 20, 40], np.int64)
SEED = np.uint64(5)
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python


class Noted:
    def __init__(self, numbers: int = 64) -> None:
        self.arrays = (
            np.zeros(2 * numbers, np.uint64), np.zeros(2 * numbers, np.int64), np.zeros(numbers, np.uint64),
            np.zeros(numbers, np.int64), np.zeros(numbers + 1, np.int64), np.zeros(2, np.int64),
        )  # fmt: skip
        self.counts = np.zeros(4, np.int64)

    def note(self, *ids: int, weight: int = 10, bits: int = 1) -> list[int]:
        before = self.counts.copy()
        note_ids(np.array(ids, np.int64), SEED, weight, bits, *self.arrays, EDGES, self.counts)
        return (self.counts - before).tolist()


def in_sample(count: int, bits: int = 1) -> list[int]:
    """Return the first ids that belong to the sample."""
    return [one for one in range(40 * count) if int(mix(np.uint64(one), SEED)) >> (64 - bits) == 0][:count]


def test_a_distance_is_the_bytes_of_distinct_ids_since() -> None:
    noted, (a, b, c, d) = Noted(), in_sample(4)
    assert noted.note(a, b, c, d) == [0, 0, 0, 4], "all are new"
    assert noted.note(d) == [1, 0, 0, 0] and noted.note(c) == [0, 1, 0, 0]
    assert noted.note(d, c, d) == [0, 3, 0, 0], "those that come again count once"
    assert noted.note(a) == [0, 0, 1, 0]
    assert noted.arrays[-1][TOTAL] == 40


def test_wide_rows_weigh_more() -> None:
    noted, (a, b) = Noted(), in_sample(2)
    noted.note(a)
    noted.note(b, weight=100)
    assert noted.note(a) == [0, 0, 0, 1] and noted.note(b, weight=100) == [0, 0, 0, 1]


def test_ids_outside_the_sample_do_not_count() -> None:
    ids = set(in_sample(20, bits=3))
    others = [one for one in range(100) if one not in ids]
    assert Noted().note(*others, bits=3) == [0, 0, 0, 0]


@pytest.mark.parametrize("numbers", [8, 16, 64])
def test_numbers_are_given_anew_in_order(numbers: int) -> None:
    noted, some = Noted(numbers), in_sample(4)
    rng, recent = np.random.default_rng(3), []
    for _ in range(300):
        id = int(rng.choice(some))
        expected = 3
        if id in recent:
            bytes_since = 10 * (len(recent) - recent.index(id))
            expected = int(np.searchsorted(EDGES, bytes_since))
            recent.remove(id)
        recent.append(id)
        assert noted.note(id)[expected] == 1
        assert noted.arrays[-1][NEXT] <= numbers


def test_the_oldest_ids_are_forgotten() -> None:
    noted, ids = Noted(8), in_sample(30)
    noted.note(*ids)
    assert noted.note(ids[0]) == [0, 0, 0, 1] and noted.note(ids[-1]) == [0, 1, 0, 0]
