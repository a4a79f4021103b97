"""The simulation of cleaning: it keeps all records, and costs what theory says at least."""

from __future__ import annotations

import numpy as np
import pytest

from bench import cleaning_simulation as simulation


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "SEGMENTS", 40)
    monkeypatch.setattr(simulation, "RECORDS", 16)


def test_every_record_stands_in_one_segment() -> None:
    pool = simulation.PoolModel(300, np.random.default_rng(1))
    for record in np.random.default_rng(2).integers(0, 300, 2000).tolist():
        if not pool.room["log"]:
            pool.clean_if_due()
        pool.put(record, "log")
    assert pool.live.sum() == 300 and (np.bincount(pool.where, minlength=40) == pool.live).all()
    assert pool.passes > 5 and len(pool.free) + len(pool.order) == 40


@pytest.mark.parametrize("skew", simulation.SKEWS)
def test_a_fuller_pool_costs_more(skew: str) -> None:
    half, most = simulation.simulate(50, skew), simulation.simulate(75, skew)
    assert 0 < half.moved < most.moved
    rewritten, relocated = simulation.index_bytes(most, 56)
    assert rewritten == pytest.approx(most.passes * 20 / 64) and relocated == pytest.approx(most.moved * 60 / 64)
