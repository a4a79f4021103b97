"""What a mutable index of ids promises, against a dict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmkv.index.arena import Arena
from pmkv.index.hash_table import HashTable
from pmkv.kernels import location

ROWS = 20_000
NOTHING = np.empty((0, 2), np.int64)
DELETE = int(location.DELETE)
Make = Callable[[], HashTable]


@pytest.fixture
def make() -> Make:
    arena = Arena()
    return lambda: HashTable(arena, 12345)


def words(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


def test_an_empty_index_finds_nothing(make: Make) -> None:
    index = make()
    found, waiting = index.find(np.arange(5), NOTHING)
    assert found.tolist() == [0] * 5 and waiting == 0 and index.live == 0
    assert sum(ids.size for ids, _, _ in index.walk()) == 0
    index.check()


def test_insert_tells_what_stood_there(make: Make) -> None:
    index = make()
    assert index.insert(np.array([3, 4, 3]), words([10, 20, 30])).tolist() == [0, 0, 10]
    assert index.insert(np.array([3]), words([40 | DELETE])).tolist() == [30]
    assert index.find(np.array([3, 4]), NOTHING)[0].tolist() == [40 | DELETE, 20]
    assert index.live == 1
    index.insert(np.array([3]), words([50]))
    assert index.live == 2
    index.check()


def test_pending_counts_those_within_the_intervals(make: Make) -> None:
    index = make()
    index.insert(np.arange(4), words([100, 200, 300 | DELETE, 400]))
    pending = np.array([[100, 101], [250, 400]], np.int64)
    assert index.find(np.arange(6), pending)[1] == 2  # 100 and the delete at 300


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_it_is_a_dict(data: st.DataObject) -> None:
    index = HashTable(Arena(), data.draw(st.integers(0, 2**64 - 1)))
    model: dict[int, int] = {}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 6))):
        ids = rng.integers(0, ROWS, int(rng.integers(1, 9000)))
        where = rng.integers(1, 1 << 40, ids.size).astype(np.uint64)
        where[rng.random(ids.size) < 0.2] |= np.uint64(DELETE)
        expected = []
        for one, place in zip(ids.tolist(), where.tolist(), strict=True):
            expected.append(model.get(one, 0))
            model[one] = place
        assert index.insert(ids, where).tolist() == expected
    asked = rng.integers(0, ROWS, 3000)
    assert index.find(asked, NOTHING)[0].tolist() == [model.get(one, 0) for one in asked.tolist()]
    walked = {int(a): int(b) for _, some, places in index.walk() for a, b in zip(some, places, strict=True)}
    assert walked == model
    assert index.live == sum(not place & DELETE for place in model.values())
    index.check()


def test_a_walk_can_be_taken_up_behind_any_place(make: Make) -> None:
    index = make()
    ids = np.random.default_rng(1).permutation(ROWS)[:9000]
    index.insert(ids, (ids + 1).astype(np.uint64))
    whole = [int(place) for places, _, _ in index.walk() for place in places]
    assert whole == sorted(whole) and len(whole) == 9000
    for start in (whole[17], whole[4500] + 1, whole[-1], whole[-1] + 1):
        rest = [int(place) for places, _, _ in index.walk(start) for place in places]
        assert rest == [place for place in whole if place >= start]


def test_clear_gives_the_memory_back(make: Make) -> None:
    index = make()
    arena = index._arena
    index.insert(np.arange(ROWS), np.arange(1, ROWS + 1).astype(np.uint64))
    assert arena.used * 8 >= index.nbytes > ROWS * 8
    index.clear()
    assert arena.used == 0
