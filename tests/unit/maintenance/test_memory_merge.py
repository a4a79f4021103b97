"""Folds in DRAM: a store without files stays what it is, however many versions come and go."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.maintenance.compaction_policy import TIER
from tests.engines import Clock, contents, reopen, small_engine

FAR = 4_000_000_000_000


@pytest.fixture
def engine() -> Engine:
    return small_engine(segments=200, now=Clock())


@pytest.mark.parametrize("kept", [0, 3])
def test_what_versions_leave_is_folded(engine: Engine, kept: int) -> None:
    rng = np.random.default_rng(1)
    space, table = engine.keyspaces[0], engine.create_table("t", "i8")
    keys: dict[bytes, tuple[bytes, int]] = {}
    rows: dict[int, int] = {}
    shown = {}
    for number in range(100):
        for key in (b"%d" % rng.integers(0, 30), b"new %d" % number):
            keys[key] = b"%d" % number, FAR + number if number % 3 == 0 else 0
            space.put(key, keys[key][0], expire_at=keys[key][1] or None)
        for ids in rng.integers(0, 50, 3).tolist():
            rows[ids] = number
            table.put([ids], [number])
        gone, lost = b"%d" % rng.integers(0, 30), int(rng.integers(0, 50))
        assert space.delete(gone) == (keys.pop(gone, None) is not None)
        assert table.delete([lost]) == (rows.pop(lost, None) is not None)
        engine.versions.snapshot(f"s{number}")
        if number % 40 or not kept:
            engine.versions.delete_view(f"s{number}")
        else:
            shown[f"s{number}"] = dict(keys), dict(rows)
        assert len(space) == len(keys) and len(table) == len(rows)
    assert len(table.chain.closed) < 5 * TIER + kept and engine.dram.heap.used < 1 << 18
    for one in (engine, reopen(engine)):
        assert contents(one)[0] == keys
        assert {id: int.from_bytes(row, "little") for id, row in contents(one)["t"].items()} == rows
        for name, (its_keys, its_rows) in shown.items():
            view = contents(one.view(name))
            assert view[0] == its_keys and set(view["t"]) == set(its_rows)
        one.check()
    engine.log.now.now = FAR + 50
    assert len(space) == sum(expiry == 0 or expiry > FAR + 50 for _, expiry in keys.values())


def test_all_memory_comes_back(engine: Engine) -> None:
    table = engine.create_table("t", "i8")
    for number in range(50):
        table.put([number], [number])
        engine.versions.snapshot(f"s{number}")
    for number in range(50):
        engine.versions.delete_view(f"s{number}")
    engine.drop_table("t")
    assert engine.dram.heap.used == 0
