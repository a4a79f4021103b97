"""What versions cost: snapshot, branch, promote and rollback in small and large stores, and writes, reads and bulk
loads beside them, all embedded; readers over the network are `bench.readers`. Every ratio is of two that took turns.

Processes of their own for each part. Stores checkpoint and fold as they do for everybody.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pmkv
from pmkv import data_directory
from pmkv.media import dax

from . import readers
from .maintenance import settle
from .measure import Comparison, Figure, Ratio, in_pairs
from .runs import WIDTH, in_process, put_all, reading, rows_of, warmed
from .servers import BenchError

IDS, LOAD, KEPT = 10_000_000, 1 << 30, 1_000
SMALL = 10_000
FEW, CYCLES = 100, 25  # rows written between two operations; operations of each kind in a round
OPERATIONS = ("snapshot", "branch", "promote", "rollback")
GROWTH, BEYOND, WRITTEN = 1.5, 1.0, 1024  # the bars: times; ms beyond a commit; bytes
DRAM, ON_DAX = "/dev/shm", 1.0  # a file system in DRAM; ms, the bar
BATCH, SECONDS, THROUGHPUT = 2_000, 5.0, 0.9
LAYERS, FOUR, SPANS = 4, 0.6, 0.5
PIECE, ROW, BULK = 65_536, 256, 0.5  # rows in a put of a bulk load (16 MiB), bytes a row, the bar


def opened(folder: Path, size: int, dram: str = "64MiB", **options: Any) -> pmkv.Store:
    """A store with room for that many bytes of rows, and what is beside them."""
    return pmkv.open(folder, capacity=f"{32 + 2 * size // (1 << 30)}GiB", dram=dram, **options)


def filled(folder: Path, ids: int, **options: Any) -> pmkv.Store:
    store = opened(folder, ids * WIDTH, **options)
    put_all(store.create_table("rows", dtype=("i8", WIDTH // 8)), np.arange(ids))
    store.checkpoint()
    settle(store)
    return store


# Operations


class Timed:
    """A store in which each operation is timed, each behind a commit of one key that is timed as well; in milliseconds,
    and bytes of the log."""

    def __init__(self, store: pmkv.Store, ids: int) -> None:
        self.store, self.ids, self.random = store, ids, np.random.default_rng(ids)
        self.taken: dict[str, list[float]] = {name: [] for name in ("commit", *OPERATIONS)}
        self.written: dict[str, list[int]] = {name: [] for name in OPERATIONS}
        self._numbers = itertools.count()

    def cycle(self) -> None:
        """Each operation once; there is always something for it to seal, or to exchange."""
        number = next(self._numbers)
        kept, new = f"kept-{number}", f"new-{number}"
        self._write(self.store)
        self._operate("snapshot", lambda: self.store.snapshot(kept))
        self._write(self.store)
        self._operate("branch", lambda: self.store.branch(new))
        self._write(self.store.view(new))
        self._operate("promote", lambda: self.store.promote(new))
        self._write(self.store)
        self._operate("rollback", lambda: self.store.rollback(kept))
        for name in (kept, new):
            self.store.delete_view(name)

    def _write(self, view: Any) -> None:
        some = self.random.integers(0, self.ids, FEW)
        view.table("rows").put(some, rows_of(some))

    def _operate(self, name: str, operation: Callable[[], object]) -> None:
        self._time("commit", lambda: self.store.put(b"key", bytes(WIDTH)))
        before = self.store._log.position
        self._time(name, operation)
        written = self.store._log.position - before
        if written > 0:  # else it went on in another segment
            self.written[name].append(written)

    def _time(self, name: str, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        self.taken[name].append((time.perf_counter() - start) * 1e3)

    def round(self) -> dict[str, float]:
        """Medians of a round."""
        for taken in self.taken.values():
            taken.clear()
        for _ in range(CYCLES):
            self.cycle()
        return {name: median(taken) for name, taken in self.taken.items()}


def time_operations(folder: Path, rounds: int, ids: int, answer: Connection) -> None:
    """Both sizes take turns; answer with figures."""
    with filled(folder / "small", SMALL) as one, filled(folder / "large", ids) as other:
        small, large = Timed(one, SMALL), Timed(other, ids)
        medians = [(small.round(), large.round()) for _ in range(rounds + 1)][1:]
    figures: list[Figure] = []
    for name in OPERATIONS:
        growth = [theirs[name] / ours[name] for ours, theirs in medians]
        beyond = [theirs[name] - theirs["commit"] for _, theirs in medians]
        figures += [
            Figure(f"{name}, {ids:,} rows", "ms", [theirs[name] for _, theirs in medians]),
            Ratio(f"{name}, {ids:,} rows over {SMALL:,}", "x", growth, GROWTH),
            Ratio(f"{name}, {ids:,} rows, beyond one commit", "ms", beyond, BEYOND),
            Figure(f"{name}, written to the pool", "B", [max(small.written[name] + large.written[name])], WRITTEN),
        ]
    answer.send(figures)


def time_on_dax(folder: Path, rounds: int, ids: int, answer: Connection) -> None:
    """The same by the medium of persistent memory, on a pool in DRAM: what is left when no operation waits for a disk.
    Nothing where libpmem is not installed."""
    os.environ["PMEM_IS_PMEM_FORCE"] = "1"
    figures = []
    with contextlib.suppress(dax.NotDaxError), tempfile.TemporaryDirectory(dir=DRAM) as pool:
        dax.libpmem()
        data_directory.DaxMedium = functools.partial(dax.DaxMedium, force=True)
        with filled(folder, ids, pool=Path(pool, "pool"), require="cache_line") as store:
            timed = Timed(store, ids)
            medians = [timed.round() for _ in range(rounds + 1)][1:]
        for name in OPERATIONS:
            title = f"{name}, {ids:,} rows, persistent memory's medium on DRAM"
            figures.append(Figure(title, "ms", [taken[name] for taken in medians], ON_DAX))
    answer.send(figures)


# Writes


def updates(store: pmkv.Store, ids: int, each_second: Callable[[], object]) -> float:
    """Rows a second, written in batches for a while."""
    table, random, rows, count = store.table("rows"), np.random.default_rng(3), np.zeros((BATCH, WIDTH // 8), "i8"), 0
    start = time.perf_counter()
    due = start + 0.5
    while (now := time.perf_counter()) < start + SECONDS:
        if now >= due:
            each_second()
            due += 1
        table.put(random.integers(0, ids, BATCH), rows)
        count += BATCH
    return count / (time.perf_counter() - start)


def write_beside_snapshots(folder: Path, rounds: int, ids: int, answer: Connection) -> None:
    name = f"rows a second, batches of {BATCH:,} random ids of {ids:,}"
    with filled(folder, ids) as store:
        numbers = itertools.count()

        def with_snapshots() -> dict[str, float]:
            speed = updates(store, ids, lambda: store.snapshot(f"second-{next(numbers)}"))
            for view, info in store.views().items():
                if info.kind == "snapshot":
                    store.delete_view(view)
            return {name: speed}

        def without() -> dict[str, float]:
            return {name: updates(store, ids, lambda: None)}

        answer.send(named(in_pairs(with_snapshots, without, rounds, "rows/s", {name: THROUGHPUT}),
                          "a snapshot a second", "without"))  # fmt: skip


def named(compared: list[Comparison], ours: str, theirs: str) -> list[Comparison]:
    for one in compared:
        one.sides = ours, theirs
    return compared


# Reads


def read_layers(folder: Path, rounds: int, ids: int, answer: Connection) -> None:
    """A table in layers, one upon the other by snapshots, beside one that was written before the first of these."""
    shuffled = np.random.default_rng(5).permutation(ids)
    with opened(folder, 2 * ids * WIDTH, "64KiB") as store:
        one, four = (store.create_table(name, dtype=("i8", WIDTH // 8)) for name in ("one", "four"))
        put_all(one, shuffled)
        for number, part in enumerate(np.array_split(shuffled, LAYERS)):
            if number:
                store.snapshot(f"layer-{number}")
            put_all(four, part)
            store.checkpoint()
        answer.send(compare_reads(store, "four", "one", rounds, ids, (f"{LAYERS} layers", "one"), FOUR))


def read_kept(folder: Path, rounds: int, ids: int, kept: int, answer: Connection) -> None:
    """A table with many kept snapshots, between which a few rows changed, beside one that changed as much before."""
    random = np.random.default_rng(6)
    changes = [random.integers(0, ids, max(1, ids // 1_000)) for _ in range(kept)]
    with opened(folder, 4 * ids * WIDTH, "64KiB") as store:
        none, many = (store.create_table(name, dtype=("i8", WIDTH // 8)) for name in ("none", "many"))
        for table in (none, many):
            put_all(table, np.arange(ids))
        for some in changes:
            none.put(some, rows_of(some))
        for number, some in enumerate(changes):
            store.snapshot(f"kept-{number}")
            many.put(some, rows_of(some))
        answer.send(compare_reads(store, "many", "none", rounds, ids, (f"{kept:,} snapshots", "none"), SPANS))


def compare_reads(
    store: pmkv.Store, ours: str, theirs: str, rounds: int, ids: int, sides: tuple[str, str], bar: float
) -> list[Comparison]:
    """Once all is on file and folded."""
    store.checkpoint()
    settle(store)
    warmed(store)
    name = f"rows a second, batches of 4,096 of {ids:,} ids, none hot"
    runs = [reading(store.table(table), np.random.default_rng(7), ids, name) for table in (ours, theirs)]
    return named(in_pairs(*runs, 2 * rounds, "rows/s", {name: bar}), *sides)


# Bulk loads


def pieces(size: int) -> Iterator[np.ndarray]:
    """Ids of rows of so many bytes in all."""
    count = max(1, size // ROW)
    for first in range(0, count, PIECE):
        yield np.arange(first, min(first + PIECE, count))


def load_branches(folder: Path, rounds: int, size: int, answer: Connection) -> None:
    """Into a new branch each time, beside a plain file of as many bytes. The files stay until the end: blocks that were
    written before are twice as fast on some disks, and the pool has never used those that it takes."""
    name = f"{size / (1 << 30):.2g} GiB of rows of {ROW} bytes"
    rows = np.random.default_rng(8).integers(0, 256, (PIECE, ROW), "u1")
    numbers = itertools.count()
    with opened(folder / "data", (rounds + 1) * size) as store:
        store.create_table("rows", dtype=("u1", ROW))

        def load() -> dict[str, float]:
            branch = f"load-{next(numbers)}"
            table = store.branch(branch).table("rows")
            start = time.perf_counter()
            for ids in pieces(size):
                table.put(ids, rows[: ids.size])
            taken = time.perf_counter() - start
            store.delete_view(branch)
            return {name: size / taken / 1e6}

        def write() -> dict[str, float]:
            path = folder / f"plain-{next(numbers)}"
            start = time.perf_counter()
            with path.open("wb", buffering=0) as file:
                for ids in pieces(size):
                    file.write(rows[: ids.size].data)
                os.fdatasync(file.fileno())
            taken = time.perf_counter() - start
            return {name: size / taken / 1e6}

        answer.send(named(in_pairs(load, write, rounds, "MB/s", {name: BULK}), "into a branch", "a plain file"))


def section(folder: Path, rounds: int, ids: int = IDS, load: int = LOAD, kept: int = KEPT) -> list[Comparison | Figure]:
    room, needed = shutil.disk_usage(folder).free, (2 * rounds + 4) * load + 8 * ids * WIDTH
    if room < needed:
        raise BenchError(f"{folder} has {room >> 30} GiB of room; needed are about {needed >> 30}: see --load, --ids")
    parts: list[tuple[Any, ...]] = [
        (time_operations, rounds, ids),
        (time_on_dax, rounds, max(SMALL, ids // 10)),
        (write_beside_snapshots, rounds, max(SMALL, ids // 10)),
        (read_layers, rounds, ids),
        (read_kept, rounds, max(SMALL, ids // 10), kept),
        (load_branches, rounds, load),
    ]
    measured: list[Comparison | Figure] = []
    for function, *arguments in parts:
        place = folder / function.__name__
        place.mkdir()
        measured += in_process(function, place, *arguments)
        shutil.rmtree(place)
    return measured + readers.section(folder / "readers", rounds, max(SMALL, ids // 10), load)
