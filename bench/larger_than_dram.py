"""A table larger than memory: lookups a second of pmkv, a memory map, LMDB, and NumPy in DRAM and in swap.

Each side runs in a process of its own under a memory limit (NumPy in DRAM without one). Ids are drawn by Zipf's law
from a random permutation, in batches of 3,328 (26 tables of 128). Files are taken out of the page cache first. The
second half of each run counts. The limit is for data; PROGRAM_BYTES more are for Python and the draws.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import numpy as np

import pmkv

from .measure import Comparison
from .memory_limit import memory_limit

WIDTH, BATCH = 64, 26 * 128  # f4 in a row, ids in a batch
LOAD_IDS = 1 << 15  # rows that are written at once
DRAWN = 64  # batches that are drawn at once
EXPONENTS = (0.99, 1.05, 1.2)
DRAM_SHARE = 2  # pmkv is given one part in so many of the limit as `dram`; the rest is for pages and Python
PROGRAM_BYTES = 192 << 20  # of Python, NumPy and the draws, which every side has beside the limit
SIDES = ("memmap", "LMDB", "swap", "DRAM")
Lookup = Callable[[np.ndarray], np.ndarray]


def rows_of(ids: np.ndarray) -> np.ndarray:
    """Return rows that tell their id."""
    return np.repeat(ids.astype("f4")[:, None], WIDTH, axis=1)


def load(folder: Path, rows: int) -> None:
    """Write the table for all sides that read files."""
    plain = np.lib.format.open_memmap(folder / "rows.npy", "w+", "f4", (rows, WIDTH))
    tree = lmdb.open(str(folder / "lmdb"), map_size=rows * WIDTH * 16, sync=False, writemap=True)
    with pmkv.open(folder / "pmkv", capacity=rows * WIDTH * 5 + (1 << 28), durability="interval") as store:
        table = store.create_table("rows", ("f4", WIDTH), rows=rows)
        for first in range(0, rows, LOAD_IDS):
            ids = np.arange(first, min(first + LOAD_IDS, rows))
            plain[ids] = rows_of(ids)
            table.put(ids, rows_of(ids))
            with tree.begin(write=True) as transaction:
                cursor = transaction.cursor()
                cursor.putmulti([(b"%012d" % id, row.tobytes()) for id, row in zip(ids, rows_of(ids))], append=True)
        store.checkpoint()
    plain.flush()
    tree.sync(True)
    tree.close()


def forget(folder: Path) -> None:
    """Take all files below a folder out of the page cache: pages that others read would be free hits."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def open_side(side: str, folder: Path, rows: int, dram: int) -> Lookup:
    """Return the function that looks ids up."""
    if side == "pmkv":
        return pmkv.open(folder / "pmkv", dram=dram, readonly=True).table("rows").get
    if side == "LMDB":
        transaction = lmdb.open(str(folder / "lmdb"), readonly=True, readahead=False, lock=False).begin(buffers=True)
        return lambda ids: np.stack([np.frombuffer(transaction.get(b"%012d" % id), "f4") for id in ids])
    if side == "memmap":
        plain = np.load(folder / "rows.npy", mmap_mode="r")
        plain._mmap.madvise(mmap.MADV_RANDOM)
        return lambda ids: plain[ids]
    memory = np.empty((rows, WIDTH), "f4")
    for first in range(0, rows, LOAD_IDS):
        ids = np.arange(first, min(first + LOAD_IDS, rows))
        memory[ids] = rows_of(ids)
    return lambda ids: memory[ids]


def run(
    side: str, folder: Path, rows: int, dram: int, exponent: float, seconds: float, group: Path | None,
    answer: Connection,
) -> None:  # fmt: skip
    """Look batches up for some seconds and send the lookups a second of the second half. Runs in its own process."""
    shares = np.cumsum(1 / np.arange(1, rows + 1) ** exponent)
    random = np.random.default_rng(1)
    order = random.permutation(rows)
    if group is not None:
        group.write_text(f"{os.getpid()}\n")
    lookup = open_side(side, folder, rows, dram)
    spent, counted, taken = 0.0, 0, 0.0
    while spent < seconds:
        for ids in order[np.searchsorted(shares, random.random((DRAWN, BATCH)) * shares[-1])]:
            begin = time.perf_counter()
            found = lookup(ids)
            took = time.perf_counter() - begin
            assert (found[:, -1] == ids.astype("f4")).all(), f"{side} has other rows"
            spent += took
            if spent > seconds / 2:
                counted, taken = counted + ids.size, taken + took
            if spent > seconds:
                break
    answer.send(counted / taken)


def measured(*arguments: object) -> float | None:
    """Run one side in a process of its own; return None if the process ended without a result."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None
    finally:
        process.join()


def has_swap(nbytes: int) -> bool:
    """Return whether the system has so much free swap space."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SwapFree:"):
            return int(line.split()[1]) * 1024 > nbytes
    return False


def section(
    folder: Path, rounds: int, table: int = 1 << 30, limit: int = 256 << 20, seconds: float = 10.0,
    exponents: tuple[float, ...] = EXPONENTS,
) -> list[Comparison]:  # fmt: skip
    """Compare pmkv with each of the other sides. A side that cannot run here is left out, and that is said."""
    rows = table // (4 * WIDTH)
    sides = [side for side in SIDES if side != "swap" or has_swap(table)]
    if "swap" not in sides:
        print(f"swap is left out: the system has less than {table:,} bytes of free swap space")
    with memory_limit(limit + PROGRAM_BYTES) as group:
        load(folder, rows)
        found: list[Comparison] = []
        for exponent in exponents:
            rates: dict[str, float] = {}
            for side in ("pmkv", *sides):
                forget(folder)
                limited = None if side == "DRAM" else group
                rate = measured(side, folder, rows, limit // DRAM_SHARE, exponent, seconds, limited)
                if rate is None:
                    print(f"{side} ended without a result at Zipf {exponent}")
                else:
                    rates[side] = rate
            what = f"{table / limit:g} times the limit, Zipf {exponent}"
            found += [Comparison(what, "lookups/s", [rates["pmkv"]], [rate], sides=("pmkv", side))
                      for side, rate in rates.items() if side != "pmkv"]  # fmt: skip
    chart(folder.parent / "larger_than_dram.png", found)
    return found


def chart(path: Path, found: list[Comparison]) -> None:
    """Draw lookups a second of all sides by skew; without matplotlib say that there is no chart."""
    try:
        from matplotlib.figure import Figure as Drawing
    except ImportError:
        print("no chart: matplotlib is not installed (pip install pmkv[bench])")
        return
    drawing = Drawing(figsize=(8, 4.5))
    axes = drawing.subplots()
    skews = list(dict.fromkeys(one.name for one in found))
    lines = {"pmkv": {one.name: one.ours[0] for one in found}}
    for one in found:
        lines.setdefault(one.sides[1], {})[one.name] = one.theirs[0]
    for side, rates in lines.items():
        axes.plot([skews.index(name) for name in rates], list(rates.values()), marker="o", label=side)
    axes.set_xticks(range(len(skews)), [name.rpartition(", ")[2] for name in skews])
    axes.set(yscale="log", ylabel="lookups a second", title=f"A table of {skews[0].rpartition(',')[0]}")
    axes.grid(alpha=0.3)
    axes.legend()
    drawing.savefig(path, dpi=120)
    print(f"chart: {path}")
