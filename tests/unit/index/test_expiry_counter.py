"""Times are counted as a sorted list would, however many were added at once."""

from __future__ import annotations

import random

import pytest

from pmkv.index import expiry_counter
from pmkv.index.expiry_counter import ExpiryCounter


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_a_sorted_list(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry_counter, "RECENT", 8)
    monkeypatch.setattr(expiry_counter, "SORTED_TOGETHER", 64)
    rng, counter, times = random.Random(seed), ExpiryCounter(), []
    assert not counter and counter.count_until(1 << 62) == 0 and counter.values().size == 0
    while len(times) < 1000:
        some = [rng.randrange(50) for _ in range(rng.choice((0, 1, 3, 20, 100)))]
        counter.add(list(some))
        times += some
        now = rng.randrange(-1, 51)
        assert counter.count_until(now) == sum(time <= now for time in times)
        assert sorted(counter.values().tolist()) == sorted(times) and bool(counter) == bool(times)


def test_few_arrays_are_searched_and_none_is_long() -> None:
    counter = ExpiryCounter()
    for i in range(300):
        counter.add(list(range(i, i + 1100)))
    arrays = counter._parts[0]
    assert sum(array.size for array in arrays) == 330_000
    assert len(arrays) < 12 and max(array.size for array in arrays) <= 2 * expiry_counter.SORTED_TOGETHER
