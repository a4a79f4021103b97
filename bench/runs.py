"""Reads of a table that stands in four runs beside one in a single run, with and without hot words; bytes of an index
on file; and reads where the system has half the memory that the index takes.

A store with two tables, in processes of their own: `one` was written before its only checkpoint, `four` in four parts
with a checkpoint behind each. Nothing is folded until that is what is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import pmkv
from pmkv.maintenance import compaction_policy as fold
from pmkv.maintenance import scheduler

from .measure import Comparison, Figure, in_pairs
from .servers import BenchError

BATCH, LOADED, REQUESTS = 4_096, 50_000, 50
WIDTH = 64
FEW = 100_000  # ids that hot words cover
FOUR, HOT, INDEX = 0.6, 0.9, 24.0  # the bars: of one run, of one run, bytes an id
SLACK = 32 << 20  # what a process takes beside its index
CGROUPS = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]


def rows_of(ids: np.ndarray) -> np.ndarray:
    rows = np.empty((ids.size, WIDTH // 8), "i8")
    rows[:] = ids[:, None]
    return rows


@contextlib.contextmanager
def opened(folder: Path, ids: int, dram: str) -> Iterator[pmkv.Store]:
    """The store, which checkpoints and folds only when it is told to."""
    scheduler.CHECKPOINT_DUE_S, fold.compactable = float("inf"), lambda layer, sealed, at_rest: ()
    with pmkv.open(folder, capacity=f"{4 + 2 * ids * 80 // (1 << 30)}GiB", dram=dram) as store:
        yield store


def put_all(table: pmkv.Table, ids: np.ndarray) -> None:
    for some in np.array_split(ids, max(1, ids.size // LOADED)):
        table.put(some, rows_of(some))


def load(folder: Path, ids: int, answer: Connection) -> None:
    """Make the store; answer with nothing."""
    shuffled = np.random.default_rng(5).permutation(ids)
    with opened(folder, ids, "64MiB") as store:
        one, four = (store.create_table(name, dtype=("i8", WIDTH // 8)) for name in ("one", "four"))
        put_all(one, shuffled)
        for part in np.array_split(shuffled, 4):
            put_all(four, part)
            store.checkpoint()
    answer.send(None)


def reading(table: pmkv.Table, random: Any, ids: int, name: str) -> Callable[[], dict[str, float]]:
    def one_round() -> dict[str, float]:
        wanted = [random.integers(0, ids, BATCH) for _ in range(REQUESTS)]
        start = time.perf_counter()
        found = [table.get(some) for some in wanted]
        taken = time.perf_counter() - start
        assert all((rows[:, 0] == some).all() for rows, some in zip(found, wanted))
        return {name: REQUESTS * BATCH / taken}

    return one_round


def warmed(store: pmkv.Store) -> None:
    while store.stats().is_cold:
        time.sleep(0.05)


def make_hot(table: pmkv.Table) -> None:
    """Read the few ids until all but one of a hundred are hot."""
    hot = table.stack.rows or table.stack.cache
    assert hot is not None, "a table on file has a cache"
    for _ in range(200):
        missed = hot.misses
        for some in np.array_split(np.arange(FEW), max(1, FEW // BATCH)):
            table.get(some)
        if hot.misses - missed <= FEW // 100:
            return
    raise BenchError(f"{hot.misses - missed:,} of {FEW:,} ids are not hot after having been read 200 times")


def compare(folder: Path, ids: int, rounds: int, answer: Connection) -> None:
    """Four runs beside one, neither with hot words; then four with all of what is read hot."""
    random, compared = np.random.default_rng(6), []
    for dram, among, bar, name in (
        ("64KiB", ids, FOUR, f"rows of {ids:,} ids, none hot"),
        ("256MiB", FEW, HOT, f"rows of {FEW:,} ids, all hot on the left"),
    ):
        with opened(folder, ids, dram) as store:
            warmed(store)
            one, four = store.table("one"), store.table("four")
            one.stack.cache = one.stack.rows = None
            assert (len(one.stack.runs), len(four.stack.runs)) == (1, 4)
            if among == FEW:
                make_hot(four)
            sides = [reading(table, random, among, name) for table in (four, one)]
            compared += in_pairs(*sides, 2 * rounds, "rows/s", {name: bar})
    answer.send(compared)


def fold_all(folder: Path, ids: int, answer: Connection) -> None:
    """Make `four` one run; answer with its bytes an id, and those of all files of runs."""
    with opened(folder, ids, "64KiB") as store:
        fold.compactable = lambda layer, sealed, at_rest: layer.runs if len(layer.runs) > 1 else ()
        store.checkpoint()
        four = store.table("four").stack
        deadline = time.monotonic() + 120
        while len(four.runs) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        [run] = four.runs
        size = run.nbytes / ids
    files = sum(path.stat().st_size for path in (folder / "runs").iterdir())
    answer.send((size, files / ids / 2))


def squeezed(folder: Path, ids: int, limit: int, rounds: int, answer: Connection) -> None:
    """Rows a second, the system having `limit` bytes for all that this process reads from now on; 0: as many as
    there are. In a control group of its own, entered before anything of the store is read."""
    group = None
    if limit:
        group, setting = control_group()
        Path(group, setting).write_text(str(limit))
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    for path in (folder / "pool", *(folder / "runs").iterdir()):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    with opened(folder, ids, "64KiB") as store:
        warmed(store)
        run = reading(store.table("one"), np.random.default_rng(7), ids, "rows")
        run()
        answer.send([run()["rows"] for _ in range(rounds)])
    if group:
        parent = Path(group).parent
        Path(parent, "cgroup.procs").write_text(str(os.getpid()))
        Path(group).rmdir()


def control_group() -> tuple[str, str]:
    """A new one, and the file in it that limits memory. OSError: none may be made."""
    for place, setting in CGROUPS:
        group = Path(place, f"pmkv-bench-{os.getpid()}")
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / setting).exists():
                return str(group), setting
            group.rmdir()
    raise OSError("no control group for memory can be made: run as root, where /sys/fs/cgroup may be written")


def limits_are_possible() -> bool:
    try:
        Path(control_group()[0]).rmdir()
    except OSError:
        return False
    return True


def in_process(function: Callable[..., None], *arguments: Any) -> Any:
    """What the function answers, run in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def reads(folder: Path, rounds: int, ids: int) -> list[Comparison | Figure]:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    in_process(load, data, ids)
    compared = in_process(compare, data, ids, rounds)
    for one in compared:
        one.sides = "four runs", "one run"
    size, files = in_process(fold_all, data, ids)
    figures = [
        Figure("index on file, one folded run", "B/id", [size], INDEX),
        Figure("all files of runs of both tables", "B/id", [files], INDEX),
    ]
    if limits_are_possible():
        figures.append(slower(data, ids, rounds, int(size * ids / 2) + SLACK))
    return [*compared, *figures]


def slower(data: Path, ids: int, rounds: int, limit: int) -> Figure:
    plenty, scarce = (in_process(squeezed, data, ids, size, rounds) for size in (0, limit))
    ratios = [many / few for many, few in zip(plenty, scarce)]
    return Figure(f"correct reads in {limit / (1 << 20):.0f} MiB, half the index: times slower", "x", ratios)
