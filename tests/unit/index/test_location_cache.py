"""The hot-set index: hit rates, scans, growth within the budget, coherence against a dict, what it costs to grow."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.index.arena import PAGE_WORDS, Arena
from pmkv.index.location_cache import (
    BLOCK_BYTES,
    LARGEST,
    LOOKUPS_PER_SLOT,
    OFFERS_PER_ADMIT,
    OFFERS_PER_RELEASE,
    CacheBudget,
    LocationCache,
)
from pmkv.kernels import location
from pmkv.kernels.hashing import place_of
from pmkv.kernels.location_cache import SLOTS
from pmkv.kernels.probe import hash_keys
from tests.unit.kernels.test_probe import KEYS, write_keys

BATCH = 4096


def make(budget: int) -> LocationCache:
    return LocationCache(Arena(), CacheBudget(budget), 7)


def read(index: LocationCache, ids: np.ndarray) -> int:
    """Ask for ids in batches, offer what is missing; returns the hits."""
    before = index.hits
    for start in range(0, ids.size, BATCH):
        part = ids[start : start + BATCH]
        found = np.zeros(part.size, np.uint64)
        index.find(part, found)
        missing = part[found == 0]
        assert (found[found != 0] == part[found != 0] + 1).all()
        index.admit(missing, (missing + 1).astype(np.uint64))
    return index.hits - before


def test_offers_are_taken_seldom_where_nothing_is_found() -> None:
    budget = 64 << 10
    index, ids = make(budget), np.random.default_rng(1).permutation(1 << 22)
    limit = LOOKUPS_PER_SLOT * budget // 16
    assert all(index.wants() for _ in range(100))
    read(index, ids[: limit - BATCH])
    assert all(index.wants() for _ in range(100)), "not before far more was asked for than can be hot"
    read(index, ids[limit : 2 * limit])
    assert [index.wants() for _ in range(2 * OFFERS_PER_ADMIT)].count(True) == 2
    few, asked = ids[: budget // 64], index.hits + index.misses
    while OFFERS_PER_ADMIT * index.hits <= index.hits + index.misses:
        if index.wants():
            read(index, few)
        else:
            index.find(few, np.zeros(few.size, np.uint64))
        assert index.hits + index.misses < 2 * asked, "what is asked for often gets in all the same"
    assert all(index.wants() for _ in range(100))


def test_it_begins_empty_and_leaves_everything() -> None:
    arena, budget = Arena(), CacheBudget(1 << 20)
    at_rest = budget.used
    index = LocationCache(arena, budget, 7)
    found = np.array([0, 5], np.uint64)
    assert index.find(np.array([1, 2]), found) == 0 and found.tolist() == [0, 5]
    assert (index.hits, index.misses, index.nbytes, budget.used) == (0, 1, 0, at_rest)
    index.forget(np.array([1]))
    read(index, np.arange(50_000).repeat(2))
    assert len(index) and index.nbytes == budget.used - at_rest == arena.used * 8 - budget.kept
    index.check()
    index.clear()
    assert (len(index), index.nbytes, budget.used, arena.used * 8) == (0, 0, at_rest, budget.kept)
    index.check()
    assert read(index, np.array([1])) == 0


def test_without_a_budget_nothing_is_kept() -> None:
    index = make(0)
    assert read(index, np.zeros(100, np.int64)) == 0 and index.misses == 100 and not index.nbytes


def test_a_budget_is_shared_and_never_overdrawn() -> None:
    arena, budget = Arena(), CacheBudget(3 << 20)
    indexes = [LocationCache(arena, budget, seed) for seed in range(3)]
    rng = np.random.default_rng(1)
    for _ in range(60):
        for index in indexes:
            read(index, rng.integers(0, 400_000, BATCH).repeat(2))
            each = sum(index.nbytes for index in indexes)
            assert budget.used == budget.marks.nbytes + each == budget.marks.nbytes + arena.used * 8 - budget.kept
            assert budget.used + budget.kept <= budget.size
    assert budget.used > budget.size - (1 << 18)
    for index in indexes:
        index.check()


def test_what_a_large_index_left_is_used_again_or_given_back_in_steps() -> None:
    arena, budget = Arena(), CacheBudget(32 << 20)
    large, other = LocationCache(arena, budget, 1), LocationCache(arena, budget, 2)
    at_rest = budget.used
    for _ in range(2):
        read(large, np.arange(1_000_000))
    while large.nbytes < 20 << 20:
        read(large, np.arange(1_000_000))
    large.clear()
    assert not large.nbytes and 20 << 20 < budget.kept == arena.used * 8 and budget.used == at_rest
    before = arena.used * 8
    while other.nbytes < 1 << 20:
        read(other, np.arange(100_000))
    assert arena.used * 8 < before + BLOCK_BYTES, "blocks that were left are used"
    other.check()
    kept = budget.kept
    for _ in range(OFFERS_PER_RELEASE):
        read(other, np.arange(1))
    assert budget.kept == kept - BLOCK_BYTES
    other.clear()
    assert budget.take(budget.size - at_rest), "whoever needs it does not wait"
    budget.make_room()
    assert not budget.kept and not arena.used
    budget.give(budget.size - at_rest)
    read(other, np.arange(10))
    assert budget.used - at_rest == arena.used * 8 == other.nbytes


def test_an_index_that_nobody_reads_gives_way_to_one_that_is_read() -> None:
    arena, budget = Arena(), CacheBudget(4 << 20)
    idle, busy = LocationCache(arena, budget, 1), LocationCache(arena, budget, 2)
    rng, ids = np.random.default_rng(6), np.arange(300_000)
    for _ in range(4):
        read(idle, rng.permutation(ids))
    assert idle.nbytes > 3 << 20 and not busy.nbytes
    for _ in range(12):
        read(busy, rng.permutation(ids))
    assert busy.nbytes > 2 * idle.nbytes and budget.used + budget.kept <= budget.size
    for index in (idle, busy):
        index.check()
    size = idle.nbytes
    read(idle, np.arange(10**9, 10**9 + 300_000))
    assert idle.nbytes <= size, "a scan takes nothing back"


def test_equals_do_not_take_from_each_other_for_ever() -> None:
    arena, budget = Arena(), CacheBudget(4 << 20)
    both = [LocationCache(arena, budget, seed) for seed in (1, 2)]
    rng, sizes = np.random.default_rng(6), []
    for _ in range(200):
        for index in both:
            read(index, (rng.random(BATCH) ** 3 * 400_000).astype(np.int64))
        sizes.append(both[0].nbytes)
    assert len(set(sizes[-50:])) == 1 and min(index.nbytes for index in both) > 1 << 20


def test_a_scan_does_not_push_out_what_is_read_all_the_time() -> None:
    index = make(1 << 20)
    slots = (1 << 20) // 16
    rng, hot = np.random.default_rng(2), np.arange(slots // 5)
    for _ in range(40):
        read(index, rng.permutation(hot))
    before = read(index, rng.permutation(hot)) / hot.size
    assert before > 0.95
    for start in range(10**9, 10**9 + 10 * slots, hot.size):  # ten times what fits, the hot ones read among it
        read(index, np.arange(start, start + hot.size))
        assert read(index, rng.permutation(hot)) / hot.size > before - 0.01


def test_a_scan_makes_nothing_grow() -> None:
    index = make(1 << 24)
    read(index, np.arange(1_000_000))
    assert index.nbytes <= 2 * PAGE_WORDS * 8 and index.admitted < 1_000


@pytest.mark.parametrize("skew", [0.8, 1.0, 1.2])
def test_zipf_like_reads_reach_most_of_the_ideal_hit_rate(skew: float) -> None:
    names, index = 200_000, make(1 << 20)
    rng = np.random.default_rng(3)
    shares = 1 / np.arange(1, names + 1) ** skew
    shares = np.cumsum(shares / shares.sum())
    ids = rng.permutation(names)[np.minimum(np.searchsorted(shares, rng.random(2_000_000)), names - 1)]
    read(index, ids[:1_000_000])
    hits = read(index, ids[1_000_000:])
    held = index.nbytes // 16
    assert hits / 1_000_000 > 0.85 * shares[held - 1], f"ideal: {shares[held - 1]:.3f}"
    index.check()


def test_it_grows_until_it_covers_what_is_read() -> None:
    index = make(1 << 26)
    rng, ids = np.random.default_rng(4), np.arange(100_000)
    for _ in range(20):
        read(index, rng.permutation(ids))
    assert len(index.subs) > 1 and index.subs[:, 1].max() == LARGEST
    assert read(index, rng.permutation(ids)) > 0.9 * ids.size
    assert index.nbytes < 80 * ids.size
    size = index.nbytes
    for _ in range(20):
        read(index, rng.permutation(ids))
    assert index.nbytes <= 2 * size, "it stops where more would not help"
    index.check()


@pytest.mark.parametrize("others", [0, 500])
def test_some_words_too_many_in_one_set_make_it_grow_only_if_they_are_a_good_part(others: int) -> None:
    index = make(1 << 20)
    ids = np.array([i for i in range(2_000) if int(place_of(np.uint64(i), index.seed)) >> 58 == 0][: SLOTS + 1])
    for _ in range(400):
        for i in ids:
            read(index, np.full(1, i))
        read(index, np.full(others, ids[0] + 10_000))
    assert index.evicted >= 128 and (index.nbytes > PAGE_WORDS * 8) == (others == 0)


def test_it_is_never_stale() -> None:
    index, model, offered = make(1 << 18), {}, set()
    rng = np.random.default_rng(5)
    for step in range(1, 400):
        ids = rng.integers(-100, 1_000, 30)
        if rng.random() < 0.3:
            index.forget(ids)
            model.update(dict.fromkeys(ids.tolist(), step | int(location.DELETE) * int(rng.random() < 0.2)))
        if rng.random() < 0.01:
            index.clear()
        found = np.zeros(ids.size, np.uint64)
        index.find(ids, found)
        assert all(where in (0, model.get(i, 0)) for i, where in zip(ids.tolist(), found.tolist(), strict=True))
        index.admit(ids, np.array([model.get(i, 0) for i in ids.tolist()], np.uint64))
        offered.update(ids.tolist())
    index.check()
    assert index.hits > 2_000 and 0 < len(index) <= len(offered)


def test_keys_are_compared() -> None:
    data, locations, joined, bounds = write_keys(KEYS)
    words, index = np.zeros(len(KEYS), np.uint64), make(1 << 20)
    hash_keys(joined, bounds, np.uint64(1), np.uint64(2), words)
    found = np.zeros(len(KEYS), np.uint64)
    assert index.find_keys(data, words, joined, bounds, found) == 0
    for _ in range(2):
        index.admit(words, locations)
    assert index.find_keys(data, words, joined, bounds, found) == len(KEYS)
    assert found.tolist() == locations.tolist() and (index.hits, index.misses) == (len(KEYS), len(KEYS))
    index.check()
