"""Readers of `main` over the network while others snapshot, branch, promote and roll back, and while a bulk load goes
into a branch: their p99 over that of the same reads without, in stretches of seconds that take turns. The same load
into another server on this machine says how much of it is shared cores and a shared disk.

Server, reader and publisher are processes of their own, and in earnest would stand on several machines. Here they share
cores: so the publisher steps back, as a job in the background should; else a reader who is woken on the core that it
holds waits for it to be done, which says nothing of the server. How often others publish matters, as a publisher, too,
needs its part of a core and of the server's loop, and is said.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pmkv_client
from pmkv.runtime.scheduling import lower_priority

from . import servers
from .maintenance import LOADED
from .measure import Figure, Ratio

BATCH = 256  # rows a read
STRETCH, LONGER = 2.0, 10.0  # seconds of reads without or with others; where these publish once a second
STRETCHES = 4  # pairs of short ones in a round
AFTERMATH = 1.0  # seconds behind a stretch with others, for what they leave to be done: it counts for neither side
WIDTH, WRITTEN = 64, 100  # bytes a row; rows that a publisher writes to its branch
PAUSE, SHORT_PAUSE = 1.0, 0.1  # seconds between two times of publishing
ROW, PIECE, LONG_PIECE = 256, 2_048, 65_536  # bytes a row of a bulk load, rows in one command (0.5 and 16 MiB)
PUBLISHING, LOADING = 1.2, 1.5  # the bars
GO, REST, END = "go", "rest", "end"  # what those beside are told


def turns(wishes: Connection, pause: float = 0.0) -> Iterator[None]:
    """In a process of its own: as long as it may go on, each time after a pause; rests while it is to rest."""
    wish = wishes.recv()
    while wish != END:
        if wish == GO:
            yield
        if wish == REST or wishes.poll(pause):
            wish = wishes.recv()


def publish(port: int, name: str, pause: float, wishes: Connection) -> None:
    """In a process of its own: snapshot, branch, write to it, promote, roll back; again after a pause. Answers with how
    often."""
    random, rows, count = np.random.default_rng(1), np.ones((WRITTEN, WIDTH), "u1"), 0
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client:
        size = len(client.table("rows"))
        wishes.send(None)
        for count, _ in enumerate(turns(wishes, pause), 1):
            kept, new = f"{name}-kept-{count}", f"{name}-new-{count}"
            client.snapshot(kept)
            with client.branch(new) as branch:
                branch.table("rows").put(random.integers(0, size, WRITTEN), rows)
            client.promote(new)
            client.rollback(kept)
            client.delete_view(kept)
            client.delete_view(new)
    wishes.send(count)


def load(port: int, name: str, size: int, piece: int, wishes: Connection) -> None:
    """In a process of its own: rows of so many bytes into a branch. Answers with bytes a second."""
    rows, taken = np.random.default_rng(2).integers(0, 256, (piece, ROW), "u1"), 0.0
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client, client.branch(name) as branch:
        table = branch.table("loaded")
        wishes.send(None)
        for first, _ in zip(range(0, size // ROW, piece), turns(wishes)):  # in this order: at the end nothing is wished
            start = time.perf_counter()
            table.put(np.arange(first, first + piece), rows)
            taken += time.perf_counter() - start
        wishes.send(size / taken)
        client.delete_view(name)


def in_background(function: Callable[..., None], *arguments: object) -> None:
    """With the lowest priority, and interrupted by whoever wakes up."""
    lower_priority(19)
    function(*arguments)


@contextlib.contextmanager
def beside(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """The function in a process of its own, once it is ready."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_background, args=(function, *arguments, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield ours
    except (EOFError, BrokenPipeError):
        raise servers.BenchError(f"{function.__name__} ended before its time; its error is shown above") from None
    finally:
        process.join()


Read = tuple[float, float]  # p99 and maximum of a stretch of reads, in milliseconds
Pair = tuple[Read, Read]  # without others, and with them


class Reader:
    """Reads batches of random rows of `main`, one after another."""

    def __init__(self, client: pmkv_client.Client, ids: int) -> None:
        self.table, self.ids, self.random = client.table("rows"), ids, np.random.default_rng(3)

    def read(self, seconds: float, done: Callable[[], bool] = lambda: False) -> Read:
        """For so long, or until it is done."""
        taken: list[float] = []
        end = time.monotonic() + seconds
        while not taken or (time.monotonic() < end and not done()):
            some = self.random.integers(0, self.ids, BATCH)
            start = time.perf_counter()
            self.table.get(some)
            taken.append((time.perf_counter() - start) * 1e3)
        return float(np.percentile(taken, 99)), max(taken)

    def pair(self, wishes: Connection, seconds: float) -> Pair:
        """A stretch without others, then one with them, and what comes of that."""
        without = self.read(seconds)
        wishes.send(GO)
        among = self.read(seconds, wishes.poll)
        with contextlib.suppress(BrokenPipeError):  # a load may have ended
            wishes.send(REST)
        self.read(AFTERMATH)
        return without, among


def while_publishing(
    reader: Reader, port: int, pairs: int, pause: float, bar: float | None, seconds: float
) -> list[Figure]:
    with beside(publish, port, f"every-{pause:g}", pause) as wishes:
        measured = [reader.pair(wishes, seconds) for _ in range(pairs)]
        wishes.send(END)
        often = wishes.recv() / (pairs * seconds)
    how = "back to back" if not pause else f"every {1e3 * pause:g} ms"
    return [
        *figures(f"reads of {BATCH} rows, publishing {how}", measured, bar),
        Figure(f"snapshot, branch, promote and rollback {how}: each", "/s", [often]),
    ]


def while_loading(
    reader: Reader, port: int, size: int, where: str = "a branch", bar: float | None = LOADING, piece: int = PIECE
) -> list[Figure]:
    measured = []
    with beside(load, port, "load", size, piece) as wishes:
        while not wishes.poll():
            measured.append(reader.pair(wishes, STRETCH))
        speed = wishes.recv()
    puts = f"{piece * ROW / (1 << 20):.2g} MiB a put"
    what = f"reads of {BATCH} rows while {size / (1 << 30):.2g} GiB load into {where}, {puts}"
    return [*figures(what, measured, bar), Figure(f"loaded meanwhile, {puts}", "MB/s", [speed / 1e6])]


def figures(what: str, measured: list[Pair], bar: float | None) -> list[Figure]:
    """Of p99 and maximum, without and with, pair by pair."""
    return [
        Figure(f"{what}: p99", "ms", [p99 for _, (p99, _) in measured]),
        Ratio(f"{what}: p99 over without", "x", [p99 / before for (before, _), (p99, _) in measured], bar),
        Figure(f"{what}: slowest", "ms", [slowest for _, (_, slowest) in measured]),
        Figure(f"{what}: slowest without", "ms", [slowest for (_, slowest), _ in measured]),
    ]


def section(folder: Path, rounds: int, ids: int, size: int) -> list[Figure]:
    capacity = f"{4 + (3 * size + 2 * ids * WIDTH) // (1 << 30)}GiB"
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
        reader.read(AFTERMATH)
        short = STRETCHES * rounds
        return [
            *while_publishing(reader, port, rounds, PAUSE, PUBLISHING, LONGER),
            *while_publishing(reader, port, short, SHORT_PAUSE, PUBLISHING, STRETCH),
            *while_publishing(reader, port, short, 0.0, None, STRETCH),
            *while_loading(reader, port, size),
            *while_loading(reader, port, size, piece=LONG_PIECE),
            *while_loading(reader, other, size, "another server", None),
        ]
