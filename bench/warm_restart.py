"""Warm after a restart: how long after kill -9 the row cache answers nearly as many lookups as before.

A process reads rows by Zipf's law until its row cache is full, takes a checkpoint, and is killed. Its files are taken
out of the page cache. Another one opens the store and reads on, while the rows of before are loaded in the background.
The bar: WARM_SHARE of the hit ratio of before, within the time in which the disk reads the bytes of the row cache once,
one after the other, and ALLOWED_S more.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pmkv

from .larger_sides import forget
from .measure import Figure

ROWS, WIDTH, BATCH = 1 << 22, 64, 3328
DRAM = 128 << 20
EXPONENT, WARM_BATCHES, COUNTED = 1.05, 1500, 20  # COUNTED: the latest batches, of which a hit ratio is
WARM_SHARE, ALLOWED_S, LIMIT_S = 0.9, 2.0, 120.0
LOADED = 1 << 14


def fill(folder: Path) -> None:
    """Write the table."""
    with pmkv.open(folder / "pmkv", capacity=ROWS * WIDTH * 4 + (1 << 30), durability="interval") as store:
        table = store.create_table("t", ("f4", WIDTH), rows=ROWS)
        for first in range(0, ROWS, LOADED):
            ids = np.arange(first, first + LOADED)
            table.put(ids, np.repeat(ids.astype("f4")[:, None], WIDTH, 1))


def batches(seed: int) -> Iterator[np.ndarray]:
    """Yield batches of ids for ever; the hot ones are the same for every seed."""
    shares = np.cumsum(1 / np.arange(1, ROWS + 1) ** EXPONENT)
    order, random = np.random.default_rng(1).permutation(ROWS), np.random.default_rng(seed)
    while True:
        yield order[np.searchsorted(shares, random.random(BATCH) * shares[-1])]


def read(folder: Path, seed: int, until: float, most: int, answer: Connection) -> None:
    """Read until the hit ratio of the latest batches is `until`, or so many batches; send the seconds since the store
    was opened, and the hit ratio. Then wait to be killed."""
    some = batches(seed)
    next(some)
    begin, counts = time.perf_counter(), [(0, 0)]
    store = pmkv.open(folder / "pmkv", dram=DRAM)
    table, ratio = store.table("t"), 0.0
    for number, ids in zip(range(most), some):
        table.get(ids)
        rows = table.stack.rows
        counts.append((rows.hits, rows.hits + rows.misses))
        (hits, asked), (hits_before, asked_before) = counts[-1], counts[-1 - min(COUNTED, number + 1)]
        ratio = (hits - hits_before) / max(asked - asked_before, 1)
        if ratio >= until or time.perf_counter() - begin > LIMIT_S:
            break
    took = time.perf_counter() - begin
    store.checkpoint()  # which keeps the ids
    answer.send((took, ratio))
    time.sleep(LIMIT_S)


def run(folder: Path, seed: int, until: float, most: int) -> tuple[float, float]:
    """Read in a process of its own, and kill it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=read, args=(folder, seed, until, most, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def disk_seconds(path: Path, nbytes: int) -> float:
    """Return the time in which the disk reads so many bytes of a file, past the page cache."""
    buffer, done = mmap.mmap(-1, 1 << 20), 0
    with open(os.open(path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file:
        begin = time.perf_counter()
        while done < nbytes and (count := file.readinto(buffer)):
            done += count
        return time.perf_counter() - begin


def section(folder: Path, rounds: int) -> list[Figure]:
    """Measure the time until the row cache is warm, a round after the other."""
    fill(folder)
    _, before = run(folder, 2, 2.0, WARM_BATCHES)
    took, bars = [], []
    for number in range(min(rounds, 3)):
        ids = (folder / "pmkv" / "row_ids").read_bytes()
        forget(folder)
        (folder / "pmkv" / "row_ids").write_bytes(ids)
        bars.append(disk_seconds(next((folder / "pmkv").glob("pool*")), DRAM) + ALLOWED_S)
        seconds, ratio = run(folder, 3 + number, WARM_SHARE * before, 1 << 30)
        took.append(seconds)
        print(f"hit ratio {before:.3f} before, {ratio:.3f} after {seconds:.1f} s; the disk: {bars[-1]:.1f} s")
        with contextlib.suppress(OSError):
            (folder / "pmkv" / "row_ids").write_bytes(ids)
    cold = cold_seconds(folder, before)
    name = f"kill -9 to {WARM_SHARE:g} of the hit ratio before"
    return [Figure(name, "s", took, max(bars)), Figure(f"{name}, without the ids of before", "s", [cold])]


def cold_seconds(folder: Path, before: float) -> float:
    """Return the time that a restart takes that does not know which rows were hot."""
    forget(folder)
    return run(folder, 9, WARM_SHARE * before, 1 << 30)[0]
