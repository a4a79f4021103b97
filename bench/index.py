"""DRAM per id of a memtable, from smaps: a table of 1 to 8 million ids, measured at every quarter million.

Counted is the anonymous memory of the process, which holds the memtable and the bytes that wait for a flush; the pages
of the log belong to its file. Ids are random, as they come from a hash.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pmkv

from .measure import Figure

MILLION = 1_000_000
BATCH, STEP, MOST = 50_000, 250_000, 8 * MILLION
BAR = 40.0  # bytes an id


def anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/smaps_rollup has no line 'Anonymous:'")


def fill_and_ask(folder: Path, answer: Connection) -> None:
    """Fill a table and send the bytes per id. Runs in its own process, so that nothing else is counted."""
    random = np.random.default_rng(3)
    rows = np.zeros((BATCH, 2), "f4")
    with pmkv.open(folder / "data", capacity="4GiB", dram="64MiB", durability="interval") as store:
        table = store.create_table("t", dtype=("f4", 2))
        warm = store.create_table("warm", dtype=("f4", 2))
        warm.put(np.arange(BATCH), rows)
        warm.get(np.arange(BATCH)[::-1])
        before = anonymous_bytes()
        for count in range(BATCH, MOST + 1, BATCH):
            table.put(random.integers(-(2**63), 2**63 - 1, BATCH), rows)
            if count % STEP == 0 and count >= MILLION:
                answer.send((count, (anonymous_bytes() - before) / count))
    answer.send(None)


def section(folder: Path, rounds: int) -> list[Figure]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=fill_and_ask, args=(folder, theirs))
    process.start()
    theirs.close()
    found = dict(iter(ours.recv, None))
    process.join()
    whole = [found[size * MILLION] for size in (1, 2, 4, 8)]
    return [
        Figure("index at 1, 2, 4, 8 million ids", "B/id", whole, BAR),
        Figure(f"index at every {STEP:,} from 1 to 8 million ids", "B/id", list(found.values()), BAR),
    ]
