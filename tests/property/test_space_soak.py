"""A store under mixed load for a long time: nothing that it takes grows, and nothing is lost."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pmkv

SECONDS = float(os.environ.get("PMKV_SOAK_S", "1800"))
SAMPLE_S = 0.5
CAPACITY, SMALL = 64 << 20, 32 << 20
ROWS, DIM, BATCH = 40_000, 64, 256
KEYS = 4_000
# How much more the last quarter may take at most than the second: a part, and bytes.
GROWTH, SLACK = 1.1, {"rss": 24 << 20, "pool": 2 << 20, "runs": 2 << 20, "catalog": 1 << 20}


class Load:
    """The writes of a day, and what they should have left."""

    def __init__(self, store: pmkv.Store, seed: int) -> None:
        self.store, self.rng, self.random = store, random.Random(seed), np.random.default_rng(seed)
        self.table = store.create_table("rows", f"({DIM},)f4")
        self.rows: dict[int, float] = {}
        self.keys: dict[bytes, bytes] = {}
        self.views = list[str]()
        self.count = 0

    def step(self) -> None:
        self.count += 1
        dice = self.rng.random()
        if dice < 0.5:
            self.put_rows(self.table)
        elif dice < 0.6:
            ids = self.random.integers(0, ROWS, BATCH // 4)
            self.table.delete(ids)
            for id in ids.tolist():
                self.rows.pop(id, None)
        elif dice < 0.9:
            self.put_keys()
        elif dice < 0.97:
            for key in self.rng.sample(sorted(self.keys), min(20, len(self.keys))):
                assert self.store.delete(key)
                del self.keys[key]
        elif dice < 0.99:
            self.keep_a_snapshot()
        else:
            self.promote_a_branch()

    def put_rows(self, table: pmkv.Table) -> None:
        ids = np.unique(self.random.integers(0, ROWS, BATCH))
        table.put(ids, np.full((ids.size, DIM), self.count, "f4"))
        self.rows.update(dict.fromkeys(ids.tolist(), float(self.count)))

    def put_keys(self) -> None:
        pairs = {
            b"key:%d" % self.rng.randrange(KEYS): b"%d " % self.count * self.rng.randrange(1, 200) for _ in range(20)
        }
        self.store.put_many(pairs)
        self.keys.update(pairs)

    def keep_a_snapshot(self) -> None:
        """Keep the last three."""
        self.views.append(f"v{self.count}")
        self.store.snapshot(self.views[-1])
        if len(self.views) > 3:
            self.store.delete_view(self.views.pop(0))

    def promote_a_branch(self) -> None:
        branch = self.store.branch(name := f"b{self.count}")
        self.put_rows(branch.table("rows"))
        self.store.promote(name)
        self.store.delete_view(name)
        self.store.delete_view("undo")

    def check(self) -> None:
        ids = np.array(sorted(self.rows), np.int64)
        rows, found = self.table.get(ids, return_found=True)
        assert found.all() and len(self.table) == ids.size
        assert rows[:, 0].tolist() == rows[:, -1].tolist() == [self.rows[id] for id in ids.tolist()]
        assert dict(self.store.scan()) == self.keys


def figures(store: pmkv.Store, folder: Path) -> dict[str, int]:
    stats, status = store.stats(), Path("/proc/self/status").read_text()
    return {
        "rss": int(re.search(r"RssAnon:\s+(\d+)", status)[1]) << 10,
        "pool": stats.space.used,
        "runs": stats.run_bytes,
        "catalog": sum(file.stat().st_blocks * 512 for file in folder.glob("catalog/*")),
    }


def most(samples: list[dict[str, int]], name: str) -> int:
    return max(sample[name] for sample in samples)


def soak(folder: Path, capacity: int, is_over: Callable[[int, float], bool]) -> tuple[int, list[dict[str, int]]]:
    """Load a store until it is over, by operations and seconds; check that nothing is lost, also after a restart.
    Return how many operations that were, and samples of what the store takes."""
    samples: list[dict[str, int]] = []
    with pmkv.open(folder, capacity=capacity, dram="32MiB", durability="interval") as store:
        load = Load(store, seed=1)
        begun = time.monotonic()
        while not is_over(load.count, now := time.monotonic() - begun):
            load.step()
            if now > len(samples) * SAMPLE_S:
                samples.append(figures(store, folder))
        load.check()
    with pmkv.open(folder) as store:
        load.store, load.table = store, store.table("rows")
        load.check()
    return load.count, samples


@pytest.mark.long
def test_nothing_grows_in_half_an_hour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, samples = soak(tmp_path / "d", CAPACITY, lambda _, seconds: seconds > SECONDS)
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    found = {name: (most(second, name), most(last, name)) for name in SLACK}
    with capsys.disabled():
        print(f"\n  {count:,} operations in {SECONDS:.0f} s; the most in the second and the last quarter:")
        for name, (before, after) in found.items():
            print(f"  {name}: {before:,} and {after:,} bytes")
    for name, (before, after) in found.items():
        assert after <= before * GROWTH + SLACK[name], f"{name} grows: {before:,}, then {after:,} bytes"


def test_nothing_is_lost_while_the_pool_is_filled_again_and_again(tmp_path: Path) -> None:
    soak(tmp_path / "d", SMALL, lambda count, _: count == 1_200)
