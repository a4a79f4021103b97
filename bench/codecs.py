"""Rows a second that are pooled: 26 batches of 4,096 ids in bags of 8, a table of each codec against one of f4."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import pmkv
from pmkv.engine.table import Table

from .measure import Comparison, Run, in_pairs

ROWS, BATCH, BATCHES, BAG = 100_000, 4_096, 26, 8
CODECS = ("f2", "bfloat16", "float8_e4m3fn", "int8", "int4")
BARS = {"int8": 1.0, "bfloat16": 0.8}


def rows_a_second(name: str, table: Table, batches: list[np.ndarray]) -> Run:
    offsets = np.arange(0, BATCH, BAG)

    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        for ids in batches:
            table.pool(ids, offsets)
        return {name: BATCHES * BATCH / (time.perf_counter() - start)}

    return one_round


def section(folder: Path, rounds: int) -> list[Comparison]:
    random = np.random.default_rng(1)
    rows = random.standard_normal((ROWS, 64), "f4")
    batches = [random.integers(0, ROWS, BATCH) for _ in range(BATCHES)]
    found: list[Comparison] = []
    with pmkv.open(folder / "data", capacity="1GiB", durability="interval") as store:
        tables = {name: store.create_table(name or "f4", ("f4", 64), codec=name) for name in (None, *CODECS)}
        for table in tables.values():
            table.put(np.arange(ROWS), rows)
        store.checkpoint()
        for name in CODECS:
            ours, plain = (rows_a_second(name, tables[one], batches) for one in (name, None))
            found += in_pairs(ours, plain, 4 * rounds, "rows/s", BARS)
    for one in found:
        one.name, one.sides = f"pool of rows in {one.name}", ("codec", "f4")
    return found
