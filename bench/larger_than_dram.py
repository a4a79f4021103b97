"""Tables larger than memory: a recommendation model on pmkv, torch in swap and on a memory map, LMDB and RocksDB.

Each side runs in a process of its own under a memory limit (`all in DRAM` without one): inferences in batches of 128,
of which each looks up one row in each of 26 tables, by Zipf's law from a random permutation. Files are taken out of the
page cache first. The second half of each run counts. All sides must give the same outputs as `all in DRAM`, to the last
bit. The limit is for data; PROGRAM_BYTES more are for what a batch takes. What a process has before it opens its tables
(Python, torch, the model) does not count.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from . import larger_chart
from .dlrm import BATCH, ROW_BYTES, TABLES, WIDTH, Model, Requests
from .larger_sides import DRAM, LMDB, PMKV, RANDOM, ROCKSDB, SIDES, SWAP, forget, has_rocksdb, load, open_side, warm
from .measure import Comparison
from .memory_limit import memory_limit
from .servers import BenchError
from .swap_file import swap_file

EXPONENTS = (0.99, 1.05, 1.2)
TIMES = (0.5, 1.0, 2.0, 4.0, 8.0)  # sizes of all tables together, as multiples of the limit
SKEW, SIZE = 1.05, 4.0  # of the runs along the sizes, and along the exponents
PROGRAM_BYTES = 32 << 20
CHART = Path("build/larger_than_dram.png")
LOOKUP_BARS = {(SWAP, 1.05): 8.0, (RANDOM, 1.05): 8.0, (LMDB, 1.05): 3.0, (ROCKSDB, 1.05): 3.0, (SWAP, 1.2): 10.0}
INFERENCE_BARS = {(SWAP, 1.05): 6.0}


@dataclass(frozen=True)
class Job:
    """One run: a side, the folder of its files, the rows of each table, the exponent, seconds, the memory limit, and
    the file by which a process joins the group that has it."""

    side: str
    folder: Path
    rows: int
    exponent: float
    seconds: float
    limit: int
    group: Path | None


@dataclass
class Result:
    """What one run gave: seconds of each batch and of its lookups, second half only, and the checksum of the outputs of
    each batch from the first on."""

    batches: list[float] = field(default_factory=list)
    lookups: list[float] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)

    @property
    def inferences(self) -> float:
        """Inferences a second."""
        return BATCH * len(self.batches) / sum(self.batches)

    @property
    def looked_up(self) -> float:
        """Rows looked up a second, the time of the model not counted."""
        return TABLES * BATCH * len(self.lookups) / sum(self.lookups)

    def milliseconds(self, percentile: float) -> float:
        """Return a percentile of the time of a batch."""
        return 1000 * float(np.percentile(self.batches, percentile))


def run(job: Job, answer: Connection) -> None:
    """Infer for some seconds, and send the result. Runs in a process of its own."""
    import torch

    model, requests = Model(torch), iter(Requests(job.rows, job.exponent))
    ids, dense = next(requests)
    model.predict(dense, torch.zeros(TABLES, BATCH, WIDTH))  # what torch makes at the first call is no data
    if job.side == PMKV:
        warm()
    if job.group is not None:
        job.group.write_text(f"{os.getpid()}\n")
    result, spent = Result(), 0.0
    with open_side(job.side, torch, job.folder, job.rows, job.limit, job.group) as lookup:
        while spent < job.seconds:
            begin = time.perf_counter()
            rows = lookup(ids)
            found = time.perf_counter()
            outputs = model.predict(dense, rows)
            took = time.perf_counter() - begin
            spent += took
            result.sums.append(zlib.crc32(outputs.tobytes()))
            if spent > job.seconds / 2:
                result.batches.append(took)
                result.lookups.append(found - begin)
            ids, dense = next(requests)
    answer.send(result)


def measured(job: Job) -> Result | None:
    """Run one side in a process of its own; return None if the process ended without a result."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(job, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None
    finally:
        process.join()


def compare_outputs(side: str, sums: Sequence[int], expected: Sequence[int]) -> None:
    """Raise BenchError unless a side gave the outputs of `all in DRAM`, as far as both went."""
    for number, (one, other) in enumerate(zip(sums, expected)):
        if one != other:
            raise BenchError(f"{side} gives other outputs than all in DRAM in batch {number}")


def sides_here(folder: Path, swap_bytes: int) -> list[str]:
    """Return the sides that can run here, `all in DRAM` first; say which cannot, and why."""
    sides = [DRAM, *(side for side in SIDES if side not in (DRAM, SWAP, ROCKSDB))]
    if has_rocksdb():
        sides.append(ROCKSDB)
    else:
        print("RocksDB is left out: pip install rocksdict")
    try:
        with swap_file(folder / "swap", swap_bytes):
            sides.append(SWAP)
    except BenchError as error:
        print(f"swap is left out: {error}")
    return sides


def section(
    folder: Path, rounds: int, limit: int = 256 << 20, seconds: float = 10.0,
    times: Sequence[float] = TIMES, exponents: Sequence[float] = EXPONENTS,
) -> list[Comparison]:  # fmt: skip
    """Compare pmkv with each of the other sides. A side that cannot run here is left out, and that is said."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise BenchError("torch is not installed: make ml") from None
    print("ids are drawn by Zipf's law; a histogram of reuse from Meta is not at hand")
    results: dict[tuple[float, float, str], Result] = {}
    swap_bytes = int(max(times) * limit) + (1 << 28)
    sides = sides_here(folder, swap_bytes)
    with memory_limit(limit + PROGRAM_BYTES) as group:
        for size in times:
            place = folder / f"{size:g}"
            place.mkdir()
            rows = int(size * limit) // (TABLES * ROW_BYTES)
            load(place, rows)
            for exponent in exponents if size == SIZE else (SKEW,):
                for side in sides:
                    forget(place)
                    limited = None if side == DRAM else group
                    with swap_file(folder / "swap", swap_bytes) if side == SWAP else contextlib.nullcontext():
                        result = measured(Job(side, place, rows, exponent, seconds, limit, limited))
                    if result is None:
                        print(f"{side} ended without a result at {size:g} times the limit, Zipf {exponent}")
                        continue
                    results[size, exponent, side] = result
                    if (size, exponent, DRAM) in results:
                        compare_outputs(side, result.sums, results[size, exponent, DRAM].sums)
                    print(row_of(size, exponent, side, result), flush=True)
            shutil.rmtree(place)
    command = f'make bench ARGS="larger_than_dram --limit {limit >> 20}MiB --seconds {seconds:g}"'
    larger_chart.draw(CHART, results, larger_chart.caption_of(command, limit, seconds), SKEW)
    return comparisons(results)


def row_of(size: float, exponent: float, side: str, result: Result) -> str:
    """Return a row of a Markdown table."""
    times = " | ".join(f"{result.milliseconds(percentile):.3g}" for percentile in (50, 99))
    return f"| {size:g} | {exponent:g} | {side} | {result.inferences:,.0f} | {result.looked_up:,.0f} | {times} |"


def comparisons(results: dict[tuple[float, float, str], Result]) -> list[Comparison]:
    """Compare pmkv with the other sides in all runs, with the bars of a table of SIZE times the limit."""
    found = []
    for (size, exponent, side), theirs in results.items():
        ours = results.get((size, exponent, PMKV))
        if side == PMKV or ours is None:
            continue
        what = f"{size:g} times the limit, Zipf {exponent:g}"
        for unit, bars, rates in (
            ("lookups/s", LOOKUP_BARS, (ours.looked_up, theirs.looked_up)),
            ("inferences/s", INFERENCE_BARS, (ours.inferences, theirs.inferences)),
        ):
            bar = bars.get((side, exponent)) if size == SIZE else None
            found.append(Comparison(what, unit, [rates[0]], [rates[1]], bar, ("pmkv", side)))
    return found
