"""The miss-ratio curve: what it says of skewed lookups is near what an LRU cache does."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest

from pmkv.cache import miss_curve
from pmkv.cache.miss_curve import SAMPLE_BITS_MIN, SIZES, MissCurve

ROW = 64


@dataclass
class Cached:
    """Rows of a table."""

    owner: np.uint64
    row_bytes: int = ROW


def lru(ids: np.ndarray, rows: int) -> float:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for id in ids.tolist():
        if id in cache:
            hits += 1
            cache.move_to_end(id)
        else:
            cache[id] = None
            if len(cache) > rows:
                cache.popitem(last=False)
    return hits / ids.size


def test_it_is_near_what_an_lru_cache_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miss_curve, "SAMPLE_BITS_MIN", 3)
    shares = np.cumsum(1 / np.arange(1, 30_001) ** 0.9)
    rng = np.random.default_rng(1)
    ids = rng.permutation(30_000)[np.searchsorted(shares, rng.random(120_000) * shares[-1])]
    curve = MissCurve(2000 * ROW)
    for first in range(0, ids.size, 1000):
        curve.note(ids[first : first + 1000], Cached(np.uint64(7)))
    ratios = curve.ratios()
    assert list(ratios) == list(SIZES) and sorted(ratios.values()) == list(ratios.values())
    for size in SIZES:
        assert ratios[size] == pytest.approx(lru(ids, int(2000 * size)), abs=0.06)


def test_nothing_is_told_of_few_lookups() -> None:
    curve = MissCurve(1 << 20)
    curve.note(np.arange(10_000), Cached(np.uint64(7)))
    assert curve.ratios() == {}


def test_tables_are_told_apart_and_old_lookups_count_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miss_curve, "SAMPLES_MIN", 1)
    monkeypatch.setattr(miss_curve, "SAMPLES_MAX", 50)
    ids, curve = np.arange(1 << 13), MissCurve(1 << 22)
    for seed in (1, 2):
        curve.note(ids, Cached(np.uint64(seed)))
    assert curve.ratios()[1.0] < 0.3
    for _ in range(20):
        curve.note(ids, Cached(np.uint64(1)))
    assert curve.ratios()[1.0] > 0.8 and curve._counts.sum() < 200


def test_the_sample_of_a_large_cache_is_smaller() -> None:
    assert MissCurve(1 << 20).bits == SAMPLE_BITS_MIN < MissCurve(1 << 38).bits
