"""Rows a second: 4,096 rows of 64 f4 a request, TABLE.GET by pmkv_client against redis-py's MGET of as many values.

redis-py reads with hiredis, its fastest parser, keys are made ahead, and its list of values is not made an array.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import redis

import pmkv_client

from . import servers
from .measure import Comparison, Run, in_pairs
from .network import PAUSE

ROWS, BATCH, REQUESTS = 500_000, 4_096, 200
FLOOR = 5.0
Request = Callable[[], object]


def batches(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, ROWS, BATCH) for _ in range(REQUESTS)]


def rows_a_second(name: str, requests: list[Request]) -> Run:
    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        for request in requests:
            request()
        return {name: len(requests) * BATCH / (time.perf_counter() - start)}

    return one_round


def fill_table(table: pmkv_client.Table, rows: np.ndarray) -> None:
    for start in range(0, ROWS, BATCH):
        ids = np.arange(start, min(start + BATCH, ROWS))
        table.put(ids, rows[ids])


def fill_redis(client: redis.Redis, rows: np.ndarray) -> None:
    for start in range(0, ROWS, BATCH):
        client.mset({b"row:%d" % i: rows[i].tobytes() for i in range(start, min(start + BATCH, ROWS))})


def section(folder: Path, rounds: int) -> list[Comparison]:
    rows = np.random.default_rng(1).standard_normal((ROWS, 64), dtype="f4")
    name = f"{BATCH} rows of 64 f4 a request"
    with (
        servers.pmkv(folder / "pmkv", "--durability", "interval") as ours,
        servers.redis(folder / "redis", "everysec") as theirs,
        pmkv_client.connect(f"pmkv://127.0.0.1:{ours}") as client,
        redis.Redis("127.0.0.1", theirs) as other,
    ):
        table = client.create_table("rows", dtype=("f4", 64))
        fill_table(table, rows)
        fill_redis(other, rows)
        ids = batches(2)
        keys = [[b"row:%d" % i for i in batch] for batch in ids]
        assert np.array_equal(table.get(ids[0]), rows[ids[0]])
        assert other.mget(keys[0]) == [rows[i].tobytes() for i in ids[0]]
        time.sleep(PAUSE)
        get = [lambda batch=batch: table.get(batch) for batch in ids]
        mget = [lambda batch=batch: other.mget(batch) for batch in keys]
        return in_pairs(rows_a_second(name, get), rows_a_second(name, mget), rounds, "rows/s", {name: FLOOR})
