"""The hot-set index's kernels on one block and on two: who gets in, who is pushed out, what moves, growing."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.kernels.location_cache import SET_WORDS, SLOTS, admit, find_hot, find_hot_keys, forget, spread
from pmkv.kernels.probe import hash_keys
from tests.unit.kernels.test_probe import KEYS, write_keys

U = np.uint64
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python
SEED = U(77)


class Block:
    """Blocks of so many sets, one behind the other, in a small heap, and a doorkeeper."""

    def __init__(self, sets: int = 1, depth: int = 0, marks: int = 64) -> None:
        self.marks = np.zeros(marks, np.uint64)
        blocks = 1 << depth
        self.heap = np.zeros(blocks * sets * SET_WORDS, np.uint64)
        self.directory = np.arange(blocks)
        self.subs = np.array([[i * sets * SET_WORDS, sets, 0, depth] for i in range(blocks)], np.int64)
        self.depth = depth

    @property
    def shape(self) -> tuple:
        return self.heap, self.directory, self.subs, self.depth, SEED

    def admit(self, *ids: int, add: int = 1) -> tuple[int, int]:
        return admit(*self.shape, self.marks, np.array(ids), np.array([i + add for i in ids], np.uint64))

    def find(self, *ids: int) -> list[int]:
        found = np.zeros(len(ids), np.uint64)
        asked, hits = find_hot(*self.shape, np.array(ids), found)
        assert (asked, hits) == (len(ids), np.count_nonzero(found))
        return found.tolist()

    def order(self) -> list[int]:
        """The words of the first set, front to back."""
        slots = self.heap[:SET_WORDS].reshape(SLOTS, 2)
        taken = np.count_nonzero(slots[:, 1])
        assert slots[:taken, 1].all(), "those taken stand in front"
        return slots[:taken, 0].tolist()


def test_a_word_gets_in_when_it_is_offered_again() -> None:
    block = Block()
    assert block.admit(0, 5) == (0, 0)
    assert block.find(0, 5) == [0, 0], "0 is a word as any other"
    assert block.admit(0, 5) == (2, 0)
    assert block.find(0, 5, 6) == [1, 6, 0]
    assert block.admit(5, add=9) == (0, 0)
    assert block.find(5) == [14], "the newest location holds"


def test_the_doorkeeper_remembers_the_last_four_offers_of_a_place() -> None:
    block = Block(marks=1)
    block.admit(0, 1, 2, 3)
    assert block.admit(0, 3) == (2, 0)
    block.admit(100)
    assert block.find(0, 1, 2, 3, 100) == [1, 0, 0, 4, 0]
    block.admit(1)
    assert block.find(1) == [2], "the fourth last"
    block.admit(200, 2)
    assert block.find(2) == [3], "letting in does not note again"
    block = Block(marks=1)
    assert block.admit(0, 1, 2, 3, 4, 0) == (0, 0), "the fifth last is forgotten"


def test_a_location_of_zero_is_passed_over() -> None:
    block = Block()
    for _ in range(3):
        assert admit(*block.shape, block.marks, np.array([7]), np.zeros(1, np.uint64)) == (0, 0)
    assert not block.heap.any() and not block.marks.any()


def test_new_ones_take_the_last_slot_and_hits_move_forward() -> None:
    block = Block()
    words = list(range(SLOTS))
    block.admit(*words, *words)
    assert block.order() == words
    block.find(SLOTS - 1)
    assert block.order() == [*words[:-2], words[-1], words[-2]]
    assert block.admit(50, 50) == (1, 1) and block.subs[0, 2] == 1
    assert block.order() == [*words[:-2], words[-1], 50]


def test_what_was_found_before_is_left_alone() -> None:
    block = Block()
    block.admit(1, 2, 1, 2)
    found = np.array([9, 0, 0], np.uint64)
    assert find_hot(*block.shape, np.array([1, 2, 3]), found) == (2, 1)
    assert found.tolist() == [9, 3, 0]


def test_the_forgotten_are_gone_and_the_others_stay() -> None:
    block = Block()
    words = list(range(SLOTS))
    block.admit(*words, *words)
    assert forget(*block.shape, np.array([0, 99])) == 1
    assert block.order() == words[1:]
    assert block.find(*words) == [0, *[i + 1 for i in words[1:]]]
    assert forget(*block.shape, np.array(words)) == SLOTS - 1 and block.order() == []


def test_keys_are_told_apart_by_their_bytes() -> None:
    data, locations, joined, bounds = write_keys(KEYS)
    words, block = np.zeros(len(KEYS), np.uint64), Block(sets=64)
    hash_keys(joined, bounds, U(1), U(2), words)
    for _ in range(2):
        admit(*block.shape, block.marks, words.view(np.int64), locations)
    found = np.zeros(len(KEYS), np.uint64)
    assert find_hot_keys(*block.shape, data, words, joined, bounds, found) == (len(KEYS), len(KEYS))
    assert found.tolist() == locations.tolist()
    # with one hash for all, the one let in is found by its own key alone
    same, block = np.full(len(KEYS), 42, np.uint64), Block()
    admit(*block.shape, block.marks, same[:2].view(np.int64), locations[3:4].repeat(2))
    found = np.zeros(len(KEYS), np.uint64)
    assert find_hot_keys(*block.shape, data, same, joined, bounds, found) == (len(KEYS), 1)
    assert np.flatnonzero(found).tolist() == [3]


@pytest.mark.parametrize("splits", [False, True])
def test_a_spread_block_keeps_words_and_their_order(splits: bool) -> None:
    ids = np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 60)
    old = Block(sets=16)
    for _ in range(2):
        admit(*old.shape, old.marks, ids, np.arange(1, 61, dtype=np.uint64))
    new = Block(sets=16, depth=1) if splits else Block(sets=32)
    size = new.heap.size
    new.heap = np.concatenate([new.heap, old.heap])
    spread(new.heap, size, 16, new.directory, new.subs, new.depth, SEED)
    sets = new.heap[:size].reshape(-1, SLOTS, 2)
    rank = {int(word): i for i, word in enumerate(old.heap[::2])}
    for words in sets[:, :, 0]:
        ranks = [rank[int(word)] for word in words if word]
        assert ranks == sorted(ranks)
    before, after = np.zeros(60, np.uint64), np.zeros(60, np.uint64)
    find_hot(*old.shape, ids, before)
    find_hot(*new.shape, ids, after)
    assert before.tolist() == after.tolist() and np.count_nonzero(before) > 40
