"""What checkpoints and folds cost: throughput and bytes written of sustained updates, latency of GET beside them."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import pmkv
import pmkv_client

from . import servers
from .measure import Comparison, Figure, in_pairs

MILLION = 1_000_000
BATCH, LOADED = 2_000, 50_000
WIDTH = 64
THROUGHPUT, WRITTEN, SLOWER = 0.6, 3.0, 1.5  # the bars
SWITCH = 0.0003  # seconds a thread keeps the interpreter, as the server has it
KEYS, SAVED, BESIDE = 10_000, 150, 1_500  # keys; batches before a checkpoint; GETs without one


def written_bytes() -> int:
    """What this process had written to disks."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise OSError("/proc/self/io has no line 'write_bytes:'")


def update_when_asked(folder: Path, ids: int, wishes: Connection) -> None:
    """In a process of its own: load, then answer each number of batches with the seconds they took. At the end, None,
    answer with the bytes written for each byte acknowledged, all that closing writes included."""
    sys.setswitchinterval(SWITCH)
    random, rows = np.random.default_rng(ids), np.ones((BATCH, WIDTH), "u1")
    with pmkv.open(folder / "data", capacity=f"{6 + 4 * ids * 80 // (1 << 30)}GiB") as store:
        table = store.create_table("rows", dtype=("u1", WIDTH))
        for first in range(0, ids, LOADED):
            some = np.arange(first, min(first + LOADED, ids))
            table.put(some, np.zeros((some.size, WIDTH), "u1"))
        store.checkpoint()
        settle(store)
        wishes.send(0.0)
        before, acknowledged = written_bytes(), 0
        for count in iter(wishes.recv, None):
            start = time.perf_counter()
            for _ in range(count):
                table.put(random.integers(0, ids, BATCH), rows)
            acknowledged += count * BATCH * (8 + WIDTH)
            wishes.send(time.perf_counter() - start)
    wishes.send((written_bytes() - before) / max(acknowledged, 1))


def settle(store: pmkv.Store) -> None:
    """Return when what loading left to be folded is folded, and nothing is being written any more: a fold of many
    ids takes long."""
    before, done = None, (-1, 0)
    while done != before:
        before = done
        time.sleep(1.0)
        done = store.stats().compactions, written_bytes() >> 20


class Updater:
    """The other end of it."""

    def __init__(self, folder: Path, ids: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._answers, theirs = context.Pipe()
        self._process = context.Process(target=update_when_asked, args=(folder, ids, theirs))
        self._process.start()
        theirs.close()
        self._answers.recv()

    def ask(self, count: int | None) -> float:
        self._answers.send(count)
        return self._answers.recv()

    def end(self) -> float:
        amplification = self.ask(None)
        self._process.join()
        return amplification


def updates(folder: Path, rounds: int, ids: int) -> list[Comparison | Figure]:
    """A round is as many batches as make up a quarter of the ids."""
    batches, name = max(200, min(ids, 10 * MILLION) // 4 // BATCH), "updates, batches of 2,000 random ids"
    large, small = Updater(folder / "large", ids), Updater(folder / "small", MILLION)

    def run(updater: Updater) -> Callable[[], dict[str, float]]:
        return lambda: {name: batches * BATCH / updater.ask(batches)}

    compared = in_pairs(run(large), run(small), rounds, "rows/s", {name: THROUGHPUT})
    for one in compared:
        one.sides = f"{ids:,} ids", f"{MILLION:,} ids"
    written = [(size, updater.end()) for size, updater in ((ids, large), (MILLION, small))]
    return [
        *compared,
        *(Figure(f"bytes written a byte acknowledged, {n:,} ids", "B/B", [ratio], WRITTEN) for n, ratio in written),
    ]


# GET beside a checkpoint


@contextlib.contextmanager
def connected(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Send a command, wait for a reply of one piece."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(command: bytes) -> bytes:
            connection.sendall(command)
            return connection.recv(65_536)

        yield ask


def gets(ask: Callable[[bytes], bytes], random: Any, until: Callable[[int], bool]) -> list[float]:
    """Milliseconds of GETs, one after another."""
    taken: list[float] = []
    while not until(len(taken)):
        command = b"GET key:%d\r\n" % random.integers(0, KEYS)
        start = time.perf_counter()
        reply = ask(command)
        taken.append((time.perf_counter() - start) * 1e3)
        if not reply.startswith(b"$"):
            raise servers.BenchError(f"GET was answered with {reply[:100]!r}")
    return taken


def beside_a_checkpoint(port: int, ask: Callable[[bytes], bytes], random: Any) -> list[float]:
    done = threading.Event()

    def save() -> None:
        with connected(port) as other:
            other(b"SAVE\r\n")
            done.set()

    saving = threading.Thread(target=save)
    saving.start()
    taken = gets(ask, random, lambda _: done.is_set())
    saving.join()
    return taken


def gets_beside_checkpoints(folder: Path, rounds: int) -> list[Figure]:
    """Checkpoints of 300,000 rows in a table of a million, four a round; p99 of all GETs of all rounds."""
    random, without, beside = np.random.default_rng(4), [], []
    with (
        servers.pmkv(folder) as port,
        connected(port) as ask,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        client.mset({f"key:{i}": bytes(64) for i in range(KEYS)})
        table, rows = client.create_table("rows", dtype=("u1", WIDTH)), np.ones((BATCH, WIDTH), "u1")
        for _ in range(4 * rounds):
            time.sleep(2.0)  # whatever was due is done, and folded: a store at rest checkpoints by itself
            without += gets(ask, random, lambda count: count == BESIDE)
            for _ in range(SAVED):
                table.put(random.integers(0, MILLION, BATCH), rows)
            beside += beside_a_checkpoint(port, ask, random)
    p99 = [float(np.percentile(taken, 99)) for taken in (without, beside)]
    return [
        Figure(f"p99 of {len(without):,} GETs without a checkpoint", "ms", [p99[0]]),
        Figure(f"p99 of {len(beside):,} GETs during one", "ms", [p99[1]]),
        Figure("p99 of GET during a checkpoint over without", "x", [p99[1] / p99[0]], SLOWER),
    ]
