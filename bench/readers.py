"""Readers of `main` over the network while others snapshot, branch, promote and roll back, and while a bulk load goes
into a branch: their p99 over that of the same reads just before, round by round. The same load into another server on
this machine says how much of it is shared cores and a shared disk.

Server, reader and publisher are processes of their own, and in earnest would stand on several machines. Here they share
cores: so the publisher has the lowest priority, as a job in the background should; else a reader who is woken on the
core that it holds waits for it to be done, which says nothing of the server. How often others publish matters, as a
publisher, too, needs its part of a core and of the server's loop, and is said.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pmkv_client

from . import servers
from .measure import Figure, Ratio
from .upkeep import LOADED

BATCH, SECONDS = 256, 4.0  # rows a read; of reads in a stretch
LONGER = 10.0  # seconds of reads while somebody publishes once a second
WIDTH, WRITTEN = 64, 100  # bytes a row; rows that a publisher writes to its branch
PAUSE, SHORT_PAUSE = 1.0, 0.1  # seconds between two times of publishing
ROW, PIECE = 256, 2_048  # bytes a row of a bulk load, rows in one command
PUBLISHING, LOADING = 1.2, 1.5  # the bars


def publish(port: int, name: str, pause: float, wishes: Connection) -> None:
    """In a process of its own: snapshot, branch, write to it, promote, roll back; again after a pause, until told to
    stop. Answers with how often."""
    random, rows, count = np.random.default_rng(1), np.ones((WRITTEN, WIDTH), "u1"), 0
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client:
        size = len(client.table("rows"))
        wishes.send(None)
        while not wishes.poll(pause):
            kept, new = f"{name}-kept-{count}", f"{name}-new-{count}"
            client.snapshot(kept)
            with client.branch(new) as branch:
                branch.table("rows").put(random.integers(0, size, WRITTEN), rows)
            client.promote(new)
            client.rollback(kept)
            client.delete_view(kept)
            client.delete_view(new)
            count += 1
    wishes.send(count)


def load(port: int, name: str, size: int, wishes: Connection) -> None:
    """In a process of its own: rows of so many bytes into a branch. Answers with bytes a second."""
    rows = np.random.default_rng(2).integers(0, 256, (PIECE, ROW), "u1")
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client, client.branch(name) as branch:
        table = branch.table("loaded")
        wishes.send(None)
        start = time.perf_counter()
        for first in range(0, size // ROW, PIECE):
            table.put(np.arange(first, first + PIECE), rows)
        wishes.send(size / (time.perf_counter() - start))
        client.delete_view(name)


def in_background(function: Callable[..., None], *arguments: object) -> None:
    """With the lowest priority."""
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    function(*arguments)


@contextlib.contextmanager
def beside(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """The function in a process of its own, once it says that it begins."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_background, args=(function, *arguments, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield ours
    except EOFError:
        raise servers.BenchError(f"{function.__name__} ended before its time; its error is shown above") from None
    finally:
        process.join()


class Reader:
    """Reads batches of random rows of `main`, one after another."""

    def __init__(self, client: pmkv_client.Client, ids: int) -> None:
        self.table, self.ids, self.random = client.table("rows"), ids, np.random.default_rng(3)

    def read(self, done: Callable[[], bool]) -> tuple[float, float]:
        """p99 and maximum of the reads until then, in milliseconds."""
        taken: list[float] = []
        while not done():
            some = self.random.integers(0, self.ids, BATCH)
            start = time.perf_counter()
            self.table.get(some)
            taken.append((time.perf_counter() - start) * 1e3)
        return float(np.percentile(taken, 99)), max(taken)

    def read_for(self, seconds: float) -> tuple[float, float]:
        end = time.monotonic() + seconds
        return self.read(lambda: time.monotonic() >= end)


def while_publishing(
    reader: Reader, port: int, rounds: int, pause: float, bar: float | None, seconds: float = SECONDS
) -> list[Figure]:
    measured, times = [], []
    for number in range(rounds):
        without = reader.read_for(seconds)
        with beside(publish, port, f"p{number}-{pause:g}", pause) as wishes:
            measured.append((without, reader.read_for(seconds)))
            wishes.send(None)
            times.append(wishes.recv() / seconds)
    often = "back to back" if not pause else f"every {1e3 * pause:g} ms"
    return [
        *figures(f"reads of {BATCH} rows, publishing {often}", measured, bar),
        Figure(f"snapshot, branch, promote and rollback {often}: each", "/s", times),
    ]


def while_loading(
    reader: Reader, port: int, rounds: int, size: int, where: str = "branches", bar: float | None = LOADING
) -> list[Figure]:
    measured, speeds = [], []
    for number in range(rounds):
        without = reader.read_for(SECONDS)
        with beside(load, port, f"load-{number}", max(ROW * PIECE, size // rounds)) as wishes:
            measured.append((without, reader.read(wishes.poll)))
            speeds.append(wishes.recv() / 1e6)
    what = f"reads of {BATCH} rows while {size / (1 << 30):.2g} GiB load into {where}"
    return [*figures(what, measured, bar), Figure("loaded meanwhile", "MB/s", speeds)]


def figures(
    what: str, measured: list[tuple[tuple[float, float], tuple[float, float]]], bar: float | None
) -> list[Figure]:
    """Of p99 and maximum, without and with, round by round."""
    return [
        Figure(f"{what}: p99", "ms", [p99 for _, (p99, _) in measured]),
        Ratio(f"{what}: p99 over without", "x", [p99 / before for (before, _), (p99, _) in measured], bar),
        Figure(f"{what}: slowest", "ms", [slowest for _, (_, slowest) in measured]),
        Figure(f"{what}: slowest without", "ms", [slowest for (_, slowest), _ in measured]),
    ]


def section(folder: Path, rounds: int, ids: int, size: int) -> list[Figure]:
    capacity = f"{4 + 2 * (size + ids * WIDTH) // (1 << 30)}GiB"
    with (
        servers.pmkv(folder / "read", "--capacity", capacity) as port,
        servers.pmkv(folder / "other", "--capacity", capacity) as other,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        table = client.create_table("rows", dtype=("u1", WIDTH))
        for one in (port, other):
            with pmkv_client.connect(f"pmkv://127.0.0.1:{one}") as somebody:
                somebody.create_table("loaded", dtype=("u1", ROW))
        for first in range(0, ids, LOADED):
            some = np.arange(first, min(first + LOADED, ids))
            table.put(some, np.zeros((some.size, WIDTH), "u1"))
        reader = Reader(client, ids)
        reader.read_for(SECONDS / 4)
        return [
            *while_publishing(reader, port, rounds, PAUSE, PUBLISHING, LONGER),
            *while_publishing(reader, port, rounds, SHORT_PAUSE, PUBLISHING),
            *while_publishing(reader, port, rounds, 0.0, None),
            *while_loading(reader, port, rounds, size),
            *while_loading(reader, other, rounds, size, "another server", None),
        ]
