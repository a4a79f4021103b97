"""Rows in DRAM: pools of 26 tables beside torch's EmbeddingBag, reads beside numpy.take, several tables in a call.

As recommendation models ask: 26 tables of 64 f4, batches of 512 with 8 ids a table, one thread, ids uniform. Each is
measured through the row cache ("cached") and with pinned tables ("pinned"). Outputs are compared to the last bit first.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import pmkv
import pmkv_client

from . import servers
from .measure import Comparison, Figure, Run, in_pairs

TABLES, ROWS, DIM = 26, 100_000, 64
LARGE, LARGE_ROWS = "large", 1 << 21  # a table of 512 MiB, for reads of rows
BATCH, POOLING = 512, 8
FEW_IDS, MANY_IDS = 64, 4_096
REQUESTS, CALLS = 8, 300
WARM_PASSES = 10  # reads of all rows, after which nearly all are in the row cache
POOL_BARS = {"cached": 0.25, "pinned": 0.5}
GET_BARS = {"cached": 0.7, "pinned": 0.9}
EMBEDDED_BAR_MS, NETWORK_BAR_MS = 0.35, 0.6
NAMES = [f"t{i}" for i in range(TABLES)]


def rates(name: str, calls: list[Callable[[], Any]], ids: int) -> Run:
    """Return a run that makes all calls, and tells how many ids a second they asked for."""

    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        for call in calls:
            call()
        return {name: len(calls) * ids / (time.perf_counter() - start)}

    return one_round


def median_ms(calls: list[Callable[[], Any]]) -> float:
    """Return the median time of a call."""
    times = []
    for call in itertools.islice(itertools.cycle(calls), CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def fill(store: pmkv.Store) -> None:
    random = np.random.default_rng(1)
    for name in (*NAMES, LARGE):
        table = store.create_table(name, ("f4", DIM), rows=LARGE_ROWS if name == LARGE else ROWS)
        for ids in np.array_split(np.arange(table.rows), table.rows // 10_000):
            table.put(ids, random.standard_normal((ids.size, DIM), "f4"))
    store.checkpoint()


def warm(store: pmkv.Store, kind: str) -> None:
    """Bring all rows to DRAM, through the row cache or pinned."""
    random = np.random.default_rng(2)
    for table in map(store.table, (*NAMES, LARGE)):
        table.set_dram("all" if kind == "pinned" else None)
        for _ in range(WARM_PASSES if kind == "cached" else 1):
            for ids in np.array_split(random.permutation(table.rows), table.rows // 8192):
                table.get(ids)


def bags(torch: Any, store: pmkv.Store) -> list[Any]:
    """Return torch's modules with the same rows."""
    weights = [torch.from_numpy(store.table(name).get(np.arange(ROWS))) for name in NAMES]
    return [torch.nn.EmbeddingBag.from_pretrained(weight, mode="sum") for weight in weights]


def pooled(torch: Any, store: pmkv.Store, kind: str, rounds: int) -> list[Comparison]:
    """Compare pools of all tables with torch's modules."""
    random, offsets = np.random.default_rng(3), np.arange(0, BATCH * POOLING, POOLING)
    requests = [{name: (random.integers(0, ROWS, BATCH * POOLING), offsets) for name in NAMES} for _ in range(REQUESTS)]
    modules, starts = bags(torch, store), torch.from_numpy(offsets)
    tensors = [[torch.from_numpy(ids) for ids, _ in request.values()] for request in requests]

    def forward(inputs: list[Any]) -> list[Any]:
        with torch.no_grad():
            return [module(ids, starts) for module, ids in zip(modules, inputs)]

    for request, inputs in zip(requests, tensors):
        for ours, theirs in zip(store.pool(request).values(), forward(inputs)):
            assert ours.tobytes() == theirs.numpy().tobytes(), "torch adds other rows, or in another order"
    name, ids = f"pool of {TABLES} tables, {kind}", TABLES * BATCH * POOLING
    ours = rates(name, [lambda one=one: store.pool(one) for one in requests], ids)
    theirs = rates(name, [lambda one=one: forward(one) for one in tensors], ids)
    found = in_pairs(ours, theirs, rounds, "ids/s", {name: POOL_BARS[kind]})
    for one in found:
        one.sides = "pmkv", "torch"
    return found


def gathered(store: pmkv.Store, kind: str, rounds: int) -> list[Comparison]:
    """Compare reads of rows into one array with numpy.take."""
    table, random = store.table(LARGE), np.random.default_rng(4)
    rows, out = table.get(np.arange(LARGE_ROWS)), np.empty((MANY_IDS, DIM), "f4")
    requests = [random.integers(0, LARGE_ROWS, MANY_IDS) for _ in range(100)]
    name = f"get of {MANY_IDS} rows, {kind}"
    ours = rates(name, [lambda one=one: table.get(one, out=out) for one in requests], MANY_IDS)
    takes = [lambda one=one: rows.take(one, axis=0, out=out, mode="clip") for one in requests]
    found = in_pairs(ours, rates(name, takes, MANY_IDS), rounds, "rows/s", {name: GET_BARS[kind]})
    for one in found:
        one.sides = "pmkv", "numpy.take"
    return found


def section(folder: Path, rounds: int) -> list[Comparison | Figure]:
    try:
        import torch
    except ImportError:
        raise servers.BenchError("torch is not installed: make ml") from None
    torch.set_num_threads(1)
    random = np.random.default_rng(5)
    requests = [{name: random.integers(0, ROWS, FEW_IDS) for name in NAMES} for _ in range(REQUESTS)]
    found: list[Comparison | Figure] = []
    with pmkv.open(folder / "data", capacity="4GiB", dram="5GiB", durability="interval") as store:
        fill(store)
        for kind in POOL_BARS:
            warm(store, kind)
            found += [*pooled(torch, store, kind, rounds), *gathered(store, kind, rounds)]
            calls = [lambda one=one: store.gather(one) for one in requests]
            name = f"gather of {TABLES} x {FEW_IDS} rows, embedded, {kind}: median of a call"
            found.append(Figure(name, "ms", [median_ms(calls) for _ in range(rounds)], EMBEDDED_BAR_MS))
    with (
        servers.pmkv(folder, "--dram", "5GiB", "--durability", "interval") as port,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        for name in NAMES:
            client.table(name).get(np.arange(ROWS)[::-1])  # in another order than a walk, which warms nothing
        calls = [lambda one=one: client.gather(one) for one in requests]
        name = f"gather of {TABLES} x {FEW_IDS} rows, by network, pinned: median of a call"
        found.append(Figure(name, "ms", [median_ms(calls) for _ in range(rounds)], NETWORK_BAR_MS))
    return found
