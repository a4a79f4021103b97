"""Probing and entering, against a dict: one sub-table and several, wrapping round, crowded, of ids and of keys."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pmkv.kernels.hashing import place_of
from pmkv.kernels.probe import (
    collect,
    find_ids,
    find_keys,
    hash_keys,
    insert_ids,
    insert_keys,
    pick_new,
    reinsert,
)

U = np.uint64
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python
SEED, DELETE = U(77), U(1 << 47)
NOTHING = np.empty((0, 2), np.int64)


class Index:
    """Sub-tables of 16 slots in a small heap; sub-table 1 and 3 share the places that begin with 01 and 1."""

    def __init__(self, depth: int = 0, slots: int = 16) -> None:
        self.heap = np.zeros(256, np.uint64)
        self.depth, self.alive = depth, 0
        if depth == 0:
            self.directory = np.zeros(1, np.int64)
            self.subs = np.array([[32, slots, 0, 0]], np.int64)
        else:
            self.directory = np.array([0, 1, 2, 2], np.int64)  # 00, 01, 1
            self.subs = np.array([[0, slots, 0, 2], [64, slots, 0, 2], [128, slots, 0, 1]], np.int64)

    @property
    def shape(self) -> tuple:
        return self.heap, self.directory, self.subs, self.depth, SEED

    def insert(self, ids: list[int], locations: list[int], start: int = 0) -> tuple[int, list[int]]:
        before = np.zeros(len(ids), np.uint64)
        done, alive = insert_ids(*self.shape, np.array(ids, np.int64), np.array(locations, np.uint64), before, start)
        self.alive += alive
        return done, before.tolist()

    def find(self, ids: list[int], pending: np.ndarray = NOTHING) -> tuple[list[int], int]:
        found = np.zeros(len(ids), np.uint64)
        waiting = find_ids(*self.shape, np.array(ids, np.int64), pending, found)
        return found.tolist(), waiting


def test_ids_are_found_as_in_a_dict() -> None:
    rng = random.Random(3)
    for depth in (0, 2):
        index, model = Index(depth), {}
        for _ in range(40):
            ids = [rng.choice((0, 1, -1, 2**63 - 1, -(2**63), 5, 6, 7, 8)) for _ in range(rng.randrange(1, 6))]
            locations = [rng.randrange(1, 1 << 40) for _ in ids]
            done, before = index.insert(ids, locations)
            assert done == len(ids)
            for i, where, old in zip(ids, locations, before, strict=True):
                assert old == model.get(i, 0)
                model[i] = where
        probed = [*model, 99, -99]
        assert index.find(probed)[0] == [model.get(i, 0) for i in probed]
        assert index.subs[:, 2].sum() == len(model)


def test_a_crowded_sub_table_stops_the_insert_and_keeps_what_it_has() -> None:
    index = Index()
    ids = list(range(100, 120))
    done, _ = index.insert(ids, [i + 1 for i in ids])
    assert done == 14, "seven eighths of 16"
    assert index.find(ids)[0] == [i + 1 if i < 114 else 0 for i in ids]
    # what is there already is replaced, however crowded
    assert index.insert([100, 113, 200], [7, 8, 9]) == (2, [101, 114, 0])
    assert index.find([100, 113, 200])[0] == [7, 8, 0]


def test_an_insert_goes_on_from_where_it_stopped() -> None:
    index = Index()
    assert index.insert([1, 2, 3], [11, 12, 13], start=1)[0] == 3
    assert index.find([1, 2, 3])[0] == [0, 12, 13]


def test_pending_are_those_within_the_intervals() -> None:
    index = Index()
    index.insert([1, 2, 3], [1000, 2000, 3000 | 1 << 47])
    pending = np.array([[1000, 1500], [2500, 3500]], np.int64)
    assert index.find([1, 2, 3, 4], pending)[1] == 2, "the delete too, the absent one not"


def test_what_stands_at_the_beginning_and_belongs_to_the_end_is_collected_last() -> None:
    index = Index()
    last = [i for i in range(1, 1000) if place_of(U(i), SEED) >> U(60) == U(15)][:4]
    first = [i for i in range(1, 1000) if place_of(U(i), SEED) >> U(60) <= U(2)][:3]
    index.insert(last + first, [i * 10 for i in last + first])
    assert int(index.heap[32]) in last, "probing went around the end"
    places, words, locations = (np.zeros(7, np.uint64) for _ in range(3))
    assert collect(index.heap, 32, 16, 0, SEED, U(0), places, words, locations) == 7
    assert words.tolist() == sorted(last + first, key=lambda i: int(place_of(U(i), SEED)))
    assert (locations == 10 * words).all()


def test_collect_and_reinsert_move_a_sub_table() -> None:
    index = Index()
    ids = list(range(1, 13))
    index.insert(ids, [i * 10 for i in ids])
    places, words, locations = (np.zeros(12, np.uint64) for _ in range(3))
    assert collect(index.heap, 32, 16, 0, SEED, U(0), places, words, locations) == 12
    assert {int(w): int(where) for w, where in zip(words, locations, strict=True)} == {i: i * 10 for i in ids}
    assert [int(place) for place in places] == [int(place_of(word, SEED)) for word in words]
    assert (places[:-1] < places[1:]).all(), "in their order"
    assert collect(index.heap, 32, 16, 0, SEED, places[6], places, words, locations) == 6

    index.subs[0] = (128, 24, 0, 0)
    reinsert(index.heap, 32, 16, index.directory, index.subs, 0, SEED)
    assert index.subs[0, 2] == 12
    assert index.find(ids)[0] == [i * 10 for i in ids]


def write_keys(keys: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(the pool's bytes with a record a key, their locations, the keys joined, their bounds)."""
    data, locations, at = np.zeros(4096, np.uint8), [], 64
    for key in keys:
        record = (len(key) << 32).to_bytes(8, "little") + bytes(8) + key
        data[at : at + len(record)] = np.frombuffer(record, np.uint8)
        locations.append(at)
        at += len(record) + 8
    ends = np.cumsum([len(key) for key in keys])
    bounds = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)
    joined = np.frombuffer(b"".join(keys) + b"\0", np.uint8)
    return data, np.array(locations, np.uint64), joined, np.ascontiguousarray(bounds)


KEYS = [b"", b"a", b"b", b"aaaaaaaa", b"aaaaaaab", b"aaaaaaaab", b"\0", b"\0\0"]


def find_each(index: Index, data: np.ndarray, words: np.ndarray, joined: np.ndarray, bounds: np.ndarray) -> list[int]:
    found = np.zeros(words.size, np.uint64)
    find_keys(*index.shape, data, words, joined, bounds, NOTHING, U(0), False, found)
    return found.tolist()


def test_keys_are_told_apart_by_their_bytes_even_if_their_hashes_are_equal() -> None:
    data, locations, joined, bounds = write_keys(KEYS)
    real = np.zeros(len(KEYS), np.uint64)
    hash_keys(joined, bounds, U(1), U(2), real)
    assert len(set(real.tolist())) == len(KEYS)
    for words in (real, np.full(len(KEYS), 42, np.uint64)):
        index, before = Index(), np.ones(len(KEYS), np.uint64)
        assert find_each(index, data, words, joined, bounds) == [0] * len(KEYS)
        done = insert_keys(*index.shape, data, words, joined, bounds, locations, before, 0)
        assert done == (len(KEYS), len(KEYS))
        assert not before.any()
        assert find_each(index, data, words, joined, bounds) == locations.tolist()
        again = insert_keys(*index.shape, data, words[:2], joined, bounds[:2], locations[:2] | DELETE, before[:2], 0)
        assert again == (2, -2)
        assert before[:2].tolist() == locations[:2].tolist()
        assert find_each(index, data, words, joined, bounds)[:2] == (locations[:2] | DELETE).tolist()


def test_a_crowded_sub_table_stops_keys_too() -> None:
    keys = [b"%02d" % i for i in range(20)]
    data, locations, joined, bounds = write_keys(keys)
    words, before, index = np.zeros(20, np.uint64), np.zeros(20, np.uint64), Index()
    hash_keys(joined, bounds, U(1), U(2), words)
    assert insert_keys(*index.shape, data, words, joined, bounds, locations, before, 0) == (14, 14)
    assert find_each(index, data, words, joined, bounds) == [*locations[:14].tolist(), *[0] * 6]


def test_those_alive_are_counted_by_what_lived_before() -> None:
    a, b, gone = 10, 20, 10 | int(DELETE)
    for before, after, change in ((0, a, 1), (a, b, 0), (a, gone, -1), (gone, b, 1), (gone, gone, 0), (0, gone, 0)):
        index = Index()
        if before:
            index.insert([7], [before])
        index.alive = 0
        index.insert([7], [after])
        assert index.alive == change
    index = Index()
    index.insert([1, 1, 2, 2, 3], [a, gone, a, b, gone])
    assert index.alive == 1


def test_new_words_are_picked() -> None:
    before, words, locations = (
        np.array(some, np.uint64) for some in ([0, 7, 0, DELETE], [4, 3, 2, 1], [10, 20, 30, 40])
    )
    picked, at = np.zeros(4, np.uint64), np.zeros(4, np.uint64)
    assert pick_new(before, words, locations, picked, at) == 2
    assert picked.tolist() == [4, 2, 0, 0] and at.tolist() == [10, 30, 0, 0]
