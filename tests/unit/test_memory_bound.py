"""Memory of a process in a control group with a limit: whatever is read and written, it stays within the budget."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import pmkv
from bench.memory_limit import memory_limit
from bench.servers import BenchError

LIMIT, DRAM, WIDTH = 512 << 20, 128 << 20, 64
ROWS = 4 * LIMIT // (4 * WIDTH)  # four times the limit
SECONDS = float(os.environ.get("PMKV_SOAK_SECONDS", "600"))
ALLOWED = 200 << 20  # beside `dram` and the indexes: Python, NumPy, kernels, what a request takes
PIECE = 1 << 13


def anonymous_bytes() -> int:
    """The resident memory of this process without cached pages of files, which the system takes back."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) << 10


def fill(folder: Path) -> None:
    with pmkv.open(folder, capacity="8GiB", durability="interval") as store:
        table = store.create_table("t", ("f4", WIDTH))
        for first in range(0, ROWS, PIECE):
            ids = np.arange(first, first + PIECE)
            table.put(ids, np.repeat(ids.astype("f4")[:, None], WIDTH, 1))


def work(folder: Path, group: Path, seconds: float, answer: Connection) -> None:
    """Read and write in the group, and tell the most bytes beyond `dram` and the indexes."""
    group.write_text(f"{os.getpid()}\n")
    rng, most, rounds, end = np.random.default_rng(1), 0, 0, time.monotonic() + seconds
    with pmkv.open(folder, dram=DRAM, durability="interval") as store:
        table, keys = store.table("t"), store.keyspace(0)
        while time.monotonic() < end:
            hot = (ROWS * rng.random(3328) ** 6).astype(np.int64)
            found = table.get(hot)
            assert (found[:, 0] == hot).all()
            table.put(hot[:256], np.repeat(hot[:256].astype("f4")[:, None], WIDTH, 1))
            keys.put_many({b"%d" % id: b"v" * 100 for id in hot[:100].tolist()})
            assert table.pool(rng.integers(0, ROWS, 1024), np.arange(0, 1024, 8)).shape == (128, WIDTH)
            rounds += 1
            if rounds % 8 == 0:
                most = max(most, anonymous_bytes() - DRAM - store.stats().index_bytes)
            if rounds % 500 == 0:
                store.checkpoint()
    answer.send((most, rounds))


@pytest.mark.long
def test_memory_stays_within_the_budget_whatever_is_asked(tmp_path: Path) -> None:
    fill(tmp_path / "store")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    try:
        with memory_limit(LIMIT) as group:
            process = context.Process(target=work, args=(tmp_path / "store", group, SECONDS, theirs))
            process.start()
            theirs.close()
            try:
                most, rounds = ours.recv()
            except EOFError:
                process.join()
                pytest.fail(f"the process ended with {process.exitcode} in its group of {LIMIT:,} bytes")
            process.join()
    except BenchError as error:
        pytest.skip(f"no memory limit can be set here: {error}")
    print(f"\n{rounds:,} rounds, at most {most / (1 << 20):,.0f} MiB beside dram and indexes")
    assert most <= ALLOWED and rounds > 0
